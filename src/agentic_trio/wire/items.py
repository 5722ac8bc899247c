"""Items that clients send: checked, normalised to the form in which OpenAI stores them, and paired.

An item of a type that is not known here is kept as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire import checks
from agentic_trio.wire.bodies import invalid_json
from agentic_trio.wire.checks import shortened
from agentic_trio.wire.dialect import JsonObject, encode, normal_part
from agentic_trio.wire.ids import CHECKED_PREFIXES, MintId, item_prefix, names_another_type
from agentic_trio.wire.tools import without_secrets

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

ROLES = ("assistant", "system", "developer", "user")
INPUT_PARTS = ("input_text", "input_image", "input_file", "input_audio")
OUTPUT_PARTS = ("output_text", "refusal")
MAX_ID_LENGTH = 128

MAX_INPUT_ITEMS = 10_000
"""How many items one request may contain. Checking that many takes a tenth of a second."""

MAX_PARTS = 2000
"""How many content parts one message may contain."""

CALLS = {"function_call": "function call", "custom_tool_call": "custom tool call"}
"""Types of calls that need an output -> what OpenAI's messages call them."""

OUTPUTS = {"function_call_output": "function call", "custom_tool_call_output": "custom tool call"}
"""Types of outputs -> what OpenAI's messages call the calls that they belong to."""

REQUIRED = {
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
}
"""Item type -> the members that it requires."""


@dataclass(frozen=True, slots=True)
class InputItem:
    """An item of a request.

    Attributes:
        id: the client's id, or one of ours if it gave none.
        type: the item's type. An ``item_reference`` stands for a stored item and has no data of its own.
        data: the item's JSON text, including the id.
        named: whether the client gave the id.
        call_id: the ``call_id`` of a call or of its output.
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
"""Item type -> the members that OpenAI knows. Others are refused with ``strict``."""

_NULL = msgspec.Raw(b"null")

AGENT_MEMBERS = frozenset({"internal_chat_message_metadata_passthrough"})


class _Routed(msgspec.Struct, gc=False):
    """The members of an input item that decide whether it can be relayed."""

    type: Any = None
    role: Any = None
    id: Any = None
    encrypted_content: msgspec.Raw = _NULL


_decode_routed = msgspec.json.Decoder(list[_Routed]).decode


def needs_gateway(value: bytes, rendered: Collection[str]) -> bool:
    """Whether a request's ``input``, as JSON text, holds what no model server could make sense of.

    That is a reference to a stored item, an item with encrypted content, and an item of a type that is
    ``rendered`` for model servers. Decoding decides, as JSON text can spell one word in many ways
    (``"item_\\u0072eference"``).
    """
    if not value.startswith(b"["):
        return False
    try:
        items = _decode_routed(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return any(
        _is_reference(item.type, item.role, item.id)
        or (isinstance(item.type, str) and item.type in rendered)
        or bytes(item.encrypted_content) != b"null"
        for item in items
    )


def _is_reference(type: Any, role: Any, id: Any) -> bool:
    return type == "item_reference" or (type is None and role is None and id is not None)


def parse_input(value: Any, mint: MintId, *, strict: bool = False) -> list[InputItem]:
    """Parse a request's ``input``. A string is one user message.

    Raises:
        InvalidRequest: worded as OpenAI's API words it.
    """
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, "input[0]", mint)] if value else []
    checks.array(value, "input", MAX_INPUT_ITEMS, "one of a string or array of input items")
    return parse_items(value, "input", mint, strict=strict)


def parse_items(values: Sequence[Any], path: str, mint: MintId, *, strict: bool = False) -> list[InputItem]:
    """Check and normalise the items of a list. Raises InvalidRequest."""
    return [parse_item(value, f"{path}[{index}]", mint, strict=strict) for index, value in enumerate(values)]


def parse_item(value: Any, path: str, mint: MintId, *, strict: bool = False) -> InputItem:
    """Check and normalise one item. ``path`` names it in messages. Raises InvalidRequest."""
    try:
        return _parsed(value, path, mint, strict)
    except RecursionError:
        raise invalid_json() from None


def _parsed(value: Any, path: str, mint: MintId, strict: bool) -> InputItem:
    if not isinstance(value, dict):
        raise checks.invalid_type(path, "an input item", value)
    type = value.get("type")
    # Of a type that isn't known here, clients may require members that are null.
    kept = type not in MEMBERS if isinstance(type, str) else False
    members = {
        name: member
        for name, member in value.items()
        if member is not None or (kept and name not in ("id", "type"))
    }
    if type is None:
        reference = _is_reference(None, members.get("role"), members.get("id"))
        type = "item_reference" if reference else "message"
    elif not isinstance(type, str):
        raise checks.invalid_type(f"{path}.type", "a string", type)
    if strict and type in MEMBERS:
        for name in members.keys() - MEMBERS[type] - AGENT_MEMBERS:
            raise checks.unknown_parameter(f"{path}.{shortened(name)}")
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
    if isinstance(members.get("tools"), list):
        # An item may bring tools as a request does (tool_search_output, additional_tools).
        members["tools"] = without_secrets(members["tools"])
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
    if prefix is not None and not id.startswith(prefix) and names_another_type(id):
        raise InvalidRequest(
            f"Invalid '{path}.id': '{shortened(id)}'. Expected an ID that begins with '{prefix}'.",
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
    checks.array(content, f"{path}.content", MAX_PARTS, "one of a string or array of content parts")
    if not content and role == "assistant":
        # vLLM fails with 500 on a history that contains an assistant message without content.
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
    """Follow calls and outputs through new input, and return the ids of the calls without an output.

    Args:
        open_calls: the ids of the calls without an output at the end of the history.
        items: the new input, with references resolved.
        history: the history's items. Clients repeat outputs that they sent before, so that an output's
            call may be in any of them.

    Raises:
        InvalidRequest: an output whose call is nowhere in the context.
    """
    waiting = set(open_calls)
    called = set(open_calls)
    orphans: dict[str, str] = {}
    for item in items:
        if item.call_id is None:
            continue
        if item.type in CALLS:
            waiting.add(item.call_id)
            called.add(item.call_id)
        elif item.type in OUTPUTS:
            waiting.discard(item.call_id)
            if item.call_id not in called:
                orphans.setdefault(item.call_id, item.type)
        elif not item.type.endswith("_output"):
            # A function may answer a call of another type: a tool search that the client executes.
            called.add(item.call_id)
    refuse_orphans(orphans, history)
    return frozenset(waiting)


def refuse_orphans(outputs: Mapping[str, str], history: Sequence[bytes]) -> None:
    """Refuse outputs whose calls are nowhere in the history. Raises InvalidRequest.

    Args:
        outputs: call id -> type of its output.
        history: stored items. They are searched once for all ids.
    """
    if not outputs:
        return
    missing = {encode(call_id): call_id for call_id in outputs}
    for item in history:
        if not missing:
            return
        missing.pop(_call_id_text(item), None)
    for call_id in missing.values():
        type = outputs[call_id]
        raise InvalidRequest(
            f"No tool call found for {OUTPUTS[type]} output with call_id {shortened(call_id)}.",
            param="input",
        )


_CALL_ID = b'"call_id":"'
"""How a stored item spells the member; we wrote its text."""


def _call_id_text(item: bytes) -> bytes:
    """Return the JSON text of a stored item's ``call_id``, or an empty one.

    It is cut out of the item's text, which is quicker than decoding each item of a long history. An item
    that has the member twice (the other time inside of another member) is decoded.
    """
    start = item.find(_CALL_ID)
    if start < 0:
        return b""
    end = item.find(b'"', start + len(_CALL_ID))
    text = item[start + len(_CALL_ID) - 1 : end + 1]
    if b"\\" in text or item.find(_CALL_ID, end) >= 0:
        call_id = decode_kind(item).call_id
        return b"" if call_id is None else encode(call_id)
    return text


def refuse_dangling(waiting: frozenset[str], items: Iterable[InputItem]) -> None:
    """Refuse a context in which a call has no output. Raises InvalidRequest."""
    if not waiting:
        return
    kinds = {item.call_id: CALLS[item.type] for item in items if item.type in CALLS}
    call_id = min(waiting)
    raise InvalidRequest(
        f"No tool output found for {kinds.get(call_id, 'function call')} {shortened(call_id)}.",
        param="input",
    )


def opened_calls(items: Iterable[JsonObject]) -> frozenset[str]:
    """Return the ``call_id`` of each call among output items."""
    return frozenset(
        item["call_id"]
        for item in items
        if item.get("type") in CALLS and isinstance(item.get("call_id"), str)
    )


KEPT_SHARE = 0.75
"""The share of a context that was too long, in bytes, that is tried next."""


def without_oldest(items: Sequence[bytes]) -> list[bytes]:
    """Drop the oldest items of a context that was too long, and the outputs whose calls were dropped.

    Args:
        items: stored items, oldest first.

    Returns:
        Fewer items; an empty list if no more can be dropped.
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


class ItemKind(NamedTuple):
    """The members of a stored item that decide how it pairs with others."""

    type: str
    call_id: str | None


class _Kind(msgspec.Struct, gc=False):
    type: str = ""
    call_id: Any = None


_decode_kind = msgspec.json.Decoder(_Kind).decode


def decode_kind(data: bytes) -> ItemKind:
    """Read how a stored item pairs with others. A type that is not known may have any ``call_id``."""
    item = _decode_kind(data)
    return ItemKind(item.type, item.call_id if isinstance(item.call_id, str) else None)
