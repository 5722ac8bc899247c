"""Items as the model server is sent them, which is not how clients see them.

Model servers take messages, reasoning, and calls of functions and custom tools with their outputs. vLLM
answers any other type of item with 400, and a refusal or a message without text with 500, so that one such
item would make every later turn of its conversation fail. Here the other types become calls of functions
with the same content, or are left out where they would tell the model nothing.

The rendering of an item depends on the item alone (and, for a refused approval, on the request before it).
It must stay as it is: a model server recognises a conversation by its beginning, and computes all of it
anew when one old item is spelled differently. ``tests/data/rendering.json`` pins it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.wire.compaction import (
    COMPACTION,
    COMPACTION_TRIGGER,
    opened_compaction,
    summary_message,
)
from agentic_trio.wire.dialect import JsonObject, decode_object, encode
from agentic_trio.wire.tools import function_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from agentic_trio.wire.sealing import Seal

_HEAD = re.compile(rb'\{"id":"[^"\\]*(?:\\.[^"\\]*)*","type":"([a-z_]+)"')
"""How every stored item begins; we wrote its text."""

_OUR_ID = len(b'{"id":"msg_') + 48
_OUR_MESSAGE = b'","type":"message"'
_OUR_ROLE = _OUR_ID + len(_OUR_MESSAGE)
"""Where the id of a message ends that was made here, what follows, and where that ends."""

_NOT_THE_MODEL_S = (
    b',"role":"user"',
    b',"role":"system"',
    b',"role":"developer"',
    b',"content":[{"type":"input_',
)
"""What only messages that are not the model's go on with."""

NOT_COMPLETED = "Error: The call was not completed."


def rendered_context(items: Sequence[bytes], seal: Seal | None = None) -> bytes:
    """Return the items as they are sent, joined by commas. Arguments and errors as for ``rendered``."""
    return b",".join(items if _are_plain(items) else rendered(items, seal))


def _are_plain(items: Sequence[bytes]) -> bool:
    """Whether all items are messages that are sent as their own bytes.

    Nearly every long history is such a one. What it takes to look at each item by itself would cost more
    than all else that continuing a thousand turns does, so its text is searched as a whole.
    """
    if {data[_OUR_ID:_OUR_ROLE] for data in items} != {_OUR_MESSAGE}:
        return False
    others = [data for data in items if not data.startswith(_NOT_THE_MODEL_S, _OUR_ROLE)]
    text = b",".join(others)
    one_part_each = text.count(b'"type":"output_text"') == len(others) and b'"content":[]' not in text
    return one_part_each and b'"type":"refusal"' not in text


def rendered(items: Iterable[bytes], seal: Seal | None = None) -> Iterator[bytes]:
    """Return a context as it is sent: most items as their own bytes, the others in other words.

    Args:
        items: the JSON texts of stored items, oldest first.
        seal: opens compactions; None where nothing is sealed.

    Raises:
        InvalidRequest: a compaction that can't be opened. Leaving it out would forget a conversation.
    """
    approvals: dict[str, JsonObject] = {}
    for data in items:
        head = _HEAD.match(data)
        type = head[1].decode() if head is not None else ""
        if type in PASSED:
            if PASSED[type](data):
                yield from map(encode, RENDERED[type](decode_object(data)))
            else:
                yield data
        elif type == "mcp_approval_request":
            request = decode_object(data)
            approvals[request["id"]] = request
        elif type == "mcp_approval_response":
            yield from map(encode, _approval(decode_object(data), approvals))
        elif type == COMPACTION:
            yield encode(summary_message(opened_compaction(decode_object(data), seal)))
        elif type in RENDERED:
            yield from map(encode, RENDERED[type](decode_object(data)))
        else:
            yield data


def _message_differs(data: bytes) -> bool:
    # Several parts are told by what stands between two objects of a list: it is found quickly.
    several = b"},{" in data and data.count(b'"type":"output_text"') > 1
    return several or b'"type":"refusal"' in data


def _reasoning_differs(data: bytes) -> bool:
    empty = b'"summary":[]' in data and b'"text":"' not in data
    return empty or b'"encrypted_content":' in data or data.count(b'"type":"reasoning_text"') > 1


PASSED: dict[str, Callable[[bytes], bool]] = {
    "message": _message_differs,
    "reasoning": _reasoning_differs,
}
"""Types that are sent as their own bytes -> whether an item must be rendered after all."""


def _message(item: JsonObject) -> list[JsonObject]:
    """One text, since vLLM reads the first part of an assistant's message and fails on a refusal."""
    content = item.get("content")
    if item.get("role") == "assistant" and isinstance(content, list):
        text = _joined(content, "text", "refusal")
        item["content"] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return [item]


def _reasoning(item: JsonObject) -> list[JsonObject]:
    """Nothing encrypted: vLLM refuses it. Without it there may be nothing left to send."""
    item.pop("encrypted_content", None)
    content = item.get("content")
    if isinstance(content, list) and content:
        item["content"] = [{"type": "reasoning_text", "text": _joined(content, "text")}]
        return [item]
    return [item] if item.get("summary") else []


def _joined(parts: list[Any], *members: str, by: str = "") -> str:
    """Join the texts of parts, each in the first of ``members`` that is a text."""
    texts = []
    for part in parts:
        found = (
            [part[name] for name in members if isinstance(part.get(name), str)]
            if isinstance(part, dict)
            else []
        )
        texts += found[:1]
    return by.join(texts)


def _left_out(item: JsonObject) -> list[JsonObject]:
    return []


def _call(call_id: object, name: str, arguments: object) -> list[JsonObject]:
    """A call of a function; nothing if it can't be paired with an output."""
    if not isinstance(call_id, str):
        return []
    return [{"type": "function_call", "call_id": call_id, "name": name, "arguments": _arguments(arguments)}]


def _output(call_id: object, output: object) -> list[JsonObject]:
    if not isinstance(call_id, str):
        return []
    text = output if isinstance(output, str) else encode(output).decode()
    return [{"type": "function_call_output", "call_id": call_id, "output": text}]


def _pair(item: JsonObject, name: str, arguments: object, output: object) -> list[JsonObject]:
    """A call and its output, for an item that holds both."""
    return _call(item["id"], name, arguments) + _output(item["id"], output)


def _arguments(value: object) -> str:
    """The JSON text of an object: chat templates read arguments as one."""
    if isinstance(value, str):
        try:
            decode_object(value.encode())
        except (msgspec.DecodeError, RecursionError):
            return encode({"input": value}).decode() if value else "{}"
        return value
    return encode(value if isinstance(value, dict) else {}).decode()


def _mcp_call(item: JsonObject) -> list[JsonObject]:
    error = item.get("error")
    output = item.get("output")
    if error is not None:
        output = f"Error: {error_text(error)}"
    elif output is None:
        output = NOT_COMPLETED
    return _pair(item, _mcp_name(item), item.get("arguments"), output)


def _mcp_name(item: JsonObject) -> str:
    return function_name(str(item.get("server_label", "")), str(item.get("name", "")))


def error_text(error: Any) -> str:
    """Return the words of an error: a text, ``message``, or the texts of ``content``."""
    if isinstance(error, dict):
        words = error.get("message") or error.get("content") or error
        error = _joined(words, "text", by="\n") if isinstance(words, list) else words
    return error if isinstance(error, str) else encode(error).decode()


def _approval(item: JsonObject, requests: dict[str, JsonObject]) -> list[JsonObject]:
    """A refusal becomes the output of the call, or the model asks for the same again and again.

    A call that was approved is an item of its own.
    """
    request = requests.get(str(item.get("approval_request_id")))
    if request is None or item.get("approve") is not False:
        return []
    reason = item.get("reason")
    words = "The user did not approve this call."
    if isinstance(reason, str) and reason:
        words += f" {reason}"
    return _pair(request, _mcp_name(request), request.get("arguments"), words)


def _web_search(item: JsonObject) -> list[JsonObject]:
    action = item.get("action")
    asked = dict(action) if isinstance(action, dict) else {}
    found = item.get("results") or asked.pop("sources", None)
    return _pair(item, "web_search", asked, found) if found else []


def _file_search(item: JsonObject) -> list[JsonObject]:
    found = item.get("results")
    return _pair(item, "file_search", {"queries": item.get("queries")}, found) if found else []


def _code_interpreter(item: JsonObject) -> list[JsonObject]:
    outputs = item.get("outputs")
    if not isinstance(outputs, list) or not outputs:
        return []
    texts = [str(each.get("logs", "[image]")) for each in outputs if isinstance(each, dict)]
    return _pair(item, "code_interpreter", {"code": item.get("code")}, "\n".join(texts))


def _calls(name: str, member: str) -> Callable[[JsonObject], list[JsonObject]]:
    """Renders calls whose arguments are in ``member``, which may be an object or JSON text."""

    def render(item: JsonObject) -> list[JsonObject]:
        return _call(item.get("call_id"), name, item.get(member))

    return render


def _outputs(*members: str) -> Callable[[JsonObject], list[JsonObject]]:
    """Renders outputs whose content is in the first of ``members`` that there is."""

    def render(item: JsonObject) -> list[JsonObject]:
        content = next((item[name] for name in members if item.get(name) is not None), "")
        return _output(item.get("call_id"), content)

    return render


def _computer_call(item: JsonObject) -> list[JsonObject]:
    actions = item.get("actions") or [item.get("action")]
    return _call(item.get("call_id"), "computer", {"actions": actions})


def _computer_output(item: JsonObject) -> list[JsonObject]:
    return _output(item.get("call_id"), "[screenshot]")


def _local_shell_output(item: JsonObject) -> list[JsonObject]:
    """Its id is the call's id at OpenAI, where it has no ``call_id``."""
    return _output(item.get("call_id") or item["id"], item.get("output") or "")


RENDERED: dict[str, Callable[[JsonObject], list[JsonObject]]] = {
    "message": _message,
    "reasoning": _reasoning,
    "mcp_call": _mcp_call,
    "mcp_list_tools": _left_out,
    "web_search_call": _web_search,
    "file_search_call": _file_search,
    "code_interpreter_call": _code_interpreter,
    "image_generation_call": _left_out,
    "computer_call": _computer_call,
    "computer_call_output": _computer_output,
    "local_shell_call": _calls("local_shell", "action"),
    "local_shell_call_output": _local_shell_output,
    "shell_call": _calls("shell", "action"),
    "shell_call_output": _outputs("output"),
    "apply_patch_call": _calls("apply_patch", "operation"),
    "apply_patch_call_output": _outputs("output", "status"),
    "tool_search_call": _calls("tool_search", "arguments"),
    "tool_search_output": _outputs("tools"),
    "program": _calls("program", "code"),
    "program_output": _outputs("result"),
    "additional_tools": _left_out,
    "configuration_update": _left_out,
}
"""Type -> the items that are sent for one of it. Types that are not here are sent as they are."""

REFUSED = frozenset(
    (RENDERED.keys() - PASSED.keys())
    | {COMPACTION, COMPACTION_TRIGGER, "mcp_approval_request", "mcp_approval_response"}
)
"""The types of items that no model server takes as they are."""
