"""Items that clients send: checked, brought to the form in which OpenAI stores them, and paired.

The form is also what goes upstream. A type that is not known here is kept as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire import checks
from agentic_trio.wire.dialect import JsonObject, decode_object, encode, normal_part
from agentic_trio.wire.ids import CHECKED_PREFIXES, MintId, item_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROLES = ("assistant", "system", "developer", "user")
INPUT_PARTS = ("input_text", "input_image", "input_file", "input_audio")
OUTPUT_PARTS = ("output_text", "refusal")
MAX_ID_LENGTH = 128

MAX_INPUT_ITEMS = 10_000
"""How many items one request may bring. Checking so many takes a tenth of a second, in which no other
request is served."""

CALLS = {"function_call": "function call", "custom_tool_call": "custom tool call"}
"""Item types that wait for an output, and what OpenAI's messages call them."""

OUTPUTS = {"function_call_output": "function call", "custom_tool_call_output": "custom tool call"}
"""Item types that answer a call."""

REQUIRED = {
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
}
"""Item type -> members that it can't do without."""


@dataclass(frozen=True, slots=True)
class InputItem:
    """An item of a request.

    Attributes:
        id: the client's, or ours if it gave none.
        type: ``item_reference`` stands for a stored item, and has no data of its own.
        data: its JSON text, id included.
        named: whether the client chose the id.
        call_id: of a call or of its output.
    """

    id: str
    type: str
    data: bytes
    named: bool
    call_id: str | None = None


MEMBERS = {
    "message": frozenset({"id", "type", "role", "content", "status", "phase"}),
    "function_call": frozenset({"id", "type", "call_id", "name", "arguments", "status", "namespace"}),
    "function_call_output": frozenset({"id", "type", "call_id", "output", "status"}),
    "reasoning": frozenset({"id", "type", "summary", "content", "encrypted_content", "status"}),
    "custom_tool_call": frozenset({"id", "type", "call_id", "name", "input", "status", "namespace"}),
    "custom_tool_call_output": frozenset({"id", "type", "call_id", "output", "status"}),
    "item_reference": frozenset({"id", "type"}),
}
"""Item type -> the members that OpenAI knows; others are refused where parameters are strict."""

AGENT_MEMBERS = frozenset({"internal_chat_message_metadata_passthrough"})


def parse_input(value: Any, mint: MintId, *, strict: bool = False) -> list[InputItem]:
    """The items of a request's ``input``: a string is one user message.

    Raises:
        InvalidRequest: in the words of OpenAI's API.
    """
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, "input[0]", mint)] if value else []
    checks.array(value, "input", MAX_INPUT_ITEMS, "one of a string or array of input items")
    return parse_items(value, "input", mint, strict=strict)


def parse_items(values: Sequence[Any], path: str, mint: MintId, *, strict: bool = False) -> list[InputItem]:
    """The items of a list, checked and normalised. Raises InvalidRequest."""
    return [_item(value, f"{path}[{index}]", mint, strict) for index, value in enumerate(values)]


def _item(value: Any, path: str, mint: MintId, strict: bool) -> InputItem:
    if not isinstance(value, dict):
        raise checks.invalid_type(path, "an input item", value)
    members = {name: member for name, member in value.items() if member is not None}
    type = members.get("type")
    if type is None:
        type = "item_reference" if "id" in members and "role" not in members else "message"
    elif not isinstance(type, str):
        raise checks.invalid_type(f"{path}.type", "a string", type)
    if strict and type in MEMBERS:
        for name in members.keys() - MEMBERS[type] - AGENT_MEMBERS:
            raise checks.unknown_parameter(f"{path}.{name}")
    _check_id(members.get("id"), type, path)
    if type == "message":
        return _message(members, path, mint)
    if type == "item_reference":
        if "id" not in members:
            raise checks.missing(f"{path}.id")
        return InputItem(members["id"], type, b"", named=True)
    for name in REQUIRED.get(type, ()):
        if name not in members:
            raise checks.missing(f"{path}.{name}")
        if name != "output" and not isinstance(members[name], str):
            raise checks.invalid_type(f"{path}.{name}", "a string", members[name])
    if type in OUTPUTS and not isinstance(members["output"], str | list):
        raise checks.invalid_type(
            f"{path}.output", "one of a string or array of content parts", members["output"]
        )
    if type in REQUIRED:
        members.setdefault("status", "completed")
    elif type == "reasoning":
        members.setdefault("summary", [])
    return _whole(members, type, mint)


def _whole(members: JsonObject, type: str, mint: MintId) -> InputItem:
    named = "id" in members
    id = members.pop("id") if named else mint(item_prefix(type))
    members.pop("type", None)
    call_id = members.get("call_id")
    return InputItem(
        id,
        type,
        encode({"id": id, "type": type, **members}),
        named,
        call_id if isinstance(call_id, str) else None,
    )


def _check_id(id: Any, type: str, path: str) -> None:
    if id is None:
        return
    if not isinstance(id, str):
        raise checks.invalid_type(f"{path}.id", "a string", id)
    prefix = CHECKED_PREFIXES.get(type)
    if prefix is not None and not id.startswith(prefix):
        shown = id if len(id) <= MAX_ID_LENGTH else id[:MAX_ID_LENGTH] + "..."
        raise InvalidRequest(
            f"Invalid '{path}.id': '{shown}'. Expected an ID that begins with '{prefix}'.",
            code="invalid_value",
            param=f"{path}.id",
        )
    _id_length(id, f"{path}.id")


_id_length = checks.string(MAX_ID_LENGTH)


def _message(members: JsonObject, path: str, mint: MintId) -> InputItem:
    if "role" not in members:
        raise checks.missing(f"{path}.role")
    role = members["role"]
    if not isinstance(role, str):
        raise checks.invalid_type(f"{path}.role", "a string", role)
    if role not in ROLES:
        raise checks.invalid_value(path, role, ROLES)
    if "content" not in members:
        raise checks.missing(f"{path}.content")
    content = members["content"]
    allowed = OUTPUT_PARTS if role == "assistant" else INPUT_PARTS
    if isinstance(content, str):
        content = [{"type": allowed[0], "text": content}]
    elif not isinstance(content, list):
        raise checks.invalid_type(f"{path}.content", "one of a string or array of content parts", content)
    if not content and role == "assistant":
        # vLLM answers a history that holds an answer without content with 500.
        content = [{"type": "output_text", "text": ""}]
    members["content"] = [
        _part(part, f"{path}.content[{index}]", allowed) for index, part in enumerate(content)
    ]
    members.setdefault("status", "completed")
    return _whole(members, "message", mint)


def _part(part: Any, path: str, allowed: tuple[str, ...]) -> JsonObject:
    checks.mapping(part, path)
    type = part.get("type")
    if type is None:
        raise checks.missing(f"{path}.type")
    if not isinstance(type, str):
        raise checks.invalid_type(f"{path}.type", "a string", type)
    if type not in allowed:
        known = type in INPUT_PARTS or type in OUTPUT_PARTS
        raise checks.invalid_value(path if known else f"{path}.type", type, allowed)
    member = "refusal" if type == "refusal" else "text"
    if type in ("input_text", *OUTPUT_PARTS):
        if part.get(member) is None:
            raise checks.missing(f"{path}.{member}")
        if not isinstance(part[member], str):
            raise checks.invalid_type(f"{path}.{member}", "a string", part[member])
    return normal_part(part)


def pair_calls(
    open_calls: frozenset[str], items: Iterable[InputItem], history: Sequence[bytes]
) -> frozenset[str]:
    """Follow calls and their outputs through new input; answer the calls that still wait for one.

    Args:
        open_calls: the calls that wait at the end of the history.
        items: the new input, references resolved.
        history: the history's items. An output may repeat one that was given before, so its call may
            be in any of them.

    Raises:
        InvalidRequest: an output whose call is nowhere in the context.
    """
    waiting = set(open_calls)
    called = set(open_calls)
    for item in items:
        if item.call_id is None:
            continue
        if item.type in CALLS:
            waiting.add(item.call_id)
            called.add(item.call_id)
        elif item.type in OUTPUTS:
            waiting.discard(item.call_id)
            if item.call_id not in called and not _mentioned(item.call_id, history):
                raise InvalidRequest(
                    f"No tool call found for {OUTPUTS[item.type]} output with call_id {item.call_id}.",
                    param="input",
                )
    return frozenset(waiting)


def _mentioned(call_id: str, history: Sequence[bytes]) -> bool:
    """Whether stored items name a call. Their text is ours, so the member has this one spelling."""
    member = b'"call_id":%b' % encode(call_id)
    return any(member in item for item in history)


def refuse_dangling(waiting: frozenset[str], items: Iterable[InputItem]) -> None:
    """Refuse to infer while a call waits for its output. Raises InvalidRequest."""
    if not waiting:
        return
    kinds = {item.call_id: CALLS[item.type] for item in items if item.type in CALLS}
    call_id = min(waiting)
    raise InvalidRequest(
        f"No tool output found for {kinds.get(call_id, 'function call')} {call_id}.", param="input"
    )


def opened_calls(items: Iterable[JsonObject]) -> frozenset[str]:
    """The ``call_id`` of each call among output items."""
    return frozenset(
        item["call_id"]
        for item in items
        if item.get("type") in CALLS and isinstance(item.get("call_id"), str)
    )


REFUSAL_PART = b'"type":"refusal"'
"""How a refusal reads in a stored item, whose spelling is ours."""


def refusals_as_text(data: bytes) -> bytes:
    """An item as model servers take it: vLLM answers a refusal in the context with 500."""
    if REFUSAL_PART not in data:
        return data
    item = decode_object(data)
    if item.get("type") == "message":
        item["content"] = [
            {"type": "output_text", "text": part["refusal"], "annotations": [], "logprobs": []}
            if part.get("type") == "refusal"
            else part
            for part in item["content"]
        ]
    return encode(item)


KEPT_SHARE = 0.75
"""How much of a context that was too long is tried next, by its bytes."""


def without_oldest(items: Sequence[bytes]) -> list[bytes]:
    """A context that was too long, without its oldest items, nor the outputs whose calls went with them.

    Args:
        items: stored items, oldest first.

    Returns:
        Fewer items; none if there is nothing left to drop.
    """
    keep = sum(map(len, items)) * KEPT_SHARE
    first = len(items) - 1
    size = len(items[first])
    while first > 1 and size + len(items[first - 1]) <= keep:
        first -= 1
        size += len(items[first])
    called: set[str | None] = set()
    kept = []
    for data in items[max(first, 1) :]:
        item = decode_kind(data)
        if item.type in CALLS:
            called.add(item.call_id)
        if item.type not in OUTPUTS or item.call_id in called:
            kept.append(data)
    return kept


class ItemKind(msgspec.Struct, gc=False):
    """What of a stored item decides how it pairs with others."""

    type: str = ""
    call_id: str | None = None


decode_kind = msgspec.json.Decoder(ItemKind).decode
