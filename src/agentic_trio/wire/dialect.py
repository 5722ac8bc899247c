"""Turn what model servers send into what OpenAI's contract says: items, content parts, usage, errors.

``docs/upstreams.md`` records what each server sends. The code here doesn't know which server it talks to:
it corrects a value wherever it came from, and keeps members that it doesn't know.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Collection

JsonObject = dict[str, Any]

encode = msgspec.json.Encoder().encode
decode_object = msgspec.json.Decoder(JsonObject).decode


def normal_part(part: JsonObject) -> JsonObject:
    """Add the members to a content part that strict clients require (``annotations``, ``logprobs``)."""
    if part.get("type") == "output_text":
        part["text"] = _text(part.get("text"))
        part["annotations"] = _list(part.get("annotations"))
        part["logprobs"] = _list(part.get("logprobs"))
    elif part.get("type") in ("reasoning_text", "summary_text"):
        part["text"] = _text(part.get("text"))
    elif part.get("type") == "refusal":
        part["refusal"] = _text(part.get("refusal"))
    return part


def _parts(parts: Any) -> list[JsonObject]:
    return [
        normal_part(part)
        for part in _list(parts)
        if isinstance(part, dict) and isinstance(part.get("type"), str)
    ]


NORMALISED = frozenset({"message", "function_call", "custom_tool_call", "reasoning"})
"""The types of items whose members are put right; the others are kept as they came."""


def normal_item(item: JsonObject, id: str, status: str) -> JsonObject:
    """Return an output item with our id and the members that its type requires.

    Args:
        item: as the upstream sent it. Null members of the types that are normalised are dropped: they
            mean "not set" there. In other types clients may require them.
        id: the id that the client knows.
        status: the status of an item that has none.
    """
    type = item.get("type")
    if not isinstance(type, str):
        type = "message"
    normal: JsonObject = {"id": id, "type": type}
    keep = type not in NORMALISED
    normal.update(
        (name, value) for name, value in item.items() if (keep or value is not None) and name not in normal
    )
    if type == "message":
        normal["role"] = "assistant"
        normal["status"] = _ended(normal.get("status"), status)
        content = normal.get("content")
        if isinstance(content, str):
            content = [{"type": "output_text", "text": content}]
        normal["content"] = _parts(content)
    elif type == "function_call":
        normal["arguments"] = _text(normal.get("arguments"))
        normal["status"] = _call_ended(normal, status)
        normal["name"] = _text(normal.get("name"))
        normal["call_id"] = _text(normal.get("call_id")) or id
    elif type == "custom_tool_call":
        normal["status"] = _ended(normal.get("status"), status)
        normal["input"] = _text(normal.get("input"))
        normal["name"] = _text(normal.get("name"))
        normal["call_id"] = _text(normal.get("call_id")) or id
    elif type == "reasoning":
        normal["summary"] = _parts(normal.get("summary"))
        if "content" in normal:
            normal["content"] = _parts(normal["content"])
    return normal


def _ended(said: Any, status: str) -> str:
    """Return an item's status: the upstream's if it is a final one, else ``status``."""
    return said if said in ("completed", "incomplete") else status


def _call_ended(call: JsonObject, status: str) -> str:
    """Return a call's status: one that was left ``in_progress`` has ended, if its arguments are whole."""
    if call.get("status") != "in_progress" or status != "completed":
        return _ended(call.get("status"), status)
    try:
        msgspec.json.decode(call["arguments"] or "{}")
    except (msgspec.DecodeError, RecursionError):
        return "incomplete"
    return status


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    """Return a value as text: some servers send arguments as a JSON value instead of JSON text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else encode(value).decode()


def normal_usage(usage: Any) -> JsonObject | None:
    """Return token counts with all the members that clients require.

    Other numbers and objects of numbers are kept (costs, tool calls). Lists, texts and nulls are not:
    strict clients refuse the whole answer for them, and vLLM sends lists per turn.
    """
    if not isinstance(usage, dict):
        return None
    prompt = _count(usage, "input_tokens")
    generated = _count(usage, "output_tokens")
    return {
        "input_tokens": prompt,
        "input_tokens_details": _details(
            usage, "input_tokens_details", ("cached_tokens", "cache_write_tokens")
        ),
        "output_tokens": generated,
        "output_tokens_details": _details(usage, "output_tokens_details", ("reasoning_tokens",)),
        "total_tokens": _count(usage, "total_tokens") or prompt + generated,
        **_numbers(usage, _COUNTS),
    }


def summed_usage(before: JsonObject | None, more: JsonObject | None) -> JsonObject | None:
    """The token counts of several answers. A member that only one of them has keeps its value."""
    if before is None or more is None:
        return before or more
    total = dict(before)
    for name, value in more.items():
        known = total.get(name)
        if isinstance(value, dict):
            total[name] = summed_usage(known if isinstance(known, dict) else None, value)
        else:
            total[name] = value + known if isinstance(known, int | float) else value
    return total


_COUNTS = frozenset(
    {
        "input_tokens",
        "input_tokens_details",
        "output_tokens",
        "output_tokens_details",
        "total_tokens",
    }
)


def _details(usage: JsonObject, name: str, required: tuple[str, ...]) -> JsonObject:
    """Return the details of a count: all of them numbers, as @openai/agents requires."""
    details = usage.get(name)
    others = _numbers(details, required) if isinstance(details, dict) else {}
    return {each: _count(details, each) for each in required} | {
        each: value for each, value in others.items() if not isinstance(value, dict)
    }


def _numbers(value: JsonObject, besides: Collection[str] = ()) -> JsonObject:
    """Return the members of an object, besides some, that are numbers or objects of numbers."""
    kept: JsonObject = {}
    for name, member in value.items():
        if name in besides:
            continue
        if isinstance(member, dict):
            kept[name] = _numbers(member)
        elif isinstance(member, int | float) and not isinstance(member, bool):
            kept[name] = member
    return kept


def _count(source: Any, name: str) -> int:
    value = source.get(name) if isinstance(source, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


CONTEXT_WORDS = re.compile(
    r"context[ _]?(length|size|window|overflow)|when context the overflows|\bn_ctx\b"
    r"|maximum (model|input|allowed) length|maximum (input length|number of tokens allowed)"
    r"|max_(model_len|seq_len|input_len|num_tokens|position_embeddings|prompt_tokens_exceeded)"
    r"|(prompt|input)\b.{0,80}\b(is )?too long|inputs` (tokens|must have less)"
)
"""Words that servers use for a prompt that is too long, in lower case (vLLM, llama.cpp, SGLang, LM Studio,
Ollama, LiteLLM, TensorRT-LLM, TGI)."""

CONTEXT_STATUSES = frozenset({400, 413, 422, 500, 502})
"""The statuses under which servers report a prompt that is too long."""

MAX_ERROR_TEXT = 8192
"""How many characters of a model server's message are repeated."""


def refusal(status: int, body: bytes, retry_after: str | None = None) -> UpstreamError:
    """Return the upstream's refusal in our envelope: its status and words, OpenAI's codes.

    Args:
        status: the HTTP status, 400 or more.
        body: the body, in any shape.
        retry_after: the value of the header, if there was one.
    """
    message, code, param = error_members(body)
    return _worded(status, message, code, param, {"retry-after": retry_after} if retry_after else None)


def reports_error(members: JsonObject) -> bool:
    """Whether an answer or an event is an error, though its status is 200 or its type says nothing."""
    error = members.get("error")
    return (isinstance(error, dict | str) and bool(error)) or members.get("object") == "error"


def reported_error(members: JsonObject) -> UpstreamError:
    """Return the error that an event, a failed response or an answer with status 200 reports."""
    error = members.get("error")
    message, code, param = _error_parts(error if isinstance(error, dict | str) and error else members)
    status = _error_status(error.get("code") if isinstance(error, dict) else members.get("code"))
    return _worded(status, message or "The model server failed.", code, param)


def _worded(
    status: int,
    message: str,
    code: str | None,
    param: str | None,
    headers: dict[str, str] | None = None,
) -> UpstreamError:
    """Return an error of the upstream with the code that clients act on."""
    if not message:
        message = f"The model server answered with status {status}."
    said = f"{code} {message[:MAX_ERROR_TEXT]}".lower()
    if status in CONTEXT_STATUSES and CONTEXT_WORDS.search(said):
        status, code, param = 400, "context_length_exceeded", "input"
    elif status == 404 and code is None:
        code, param = "model_not_found", "model"
    elif not code:
        code = _CODES.get(status) or ("upstream_error" if status >= 500 else None)
    error = UpstreamError(
        message if len(message) <= MAX_ERROR_TEXT else f"{message[:MAX_ERROR_TEXT]}...",
        status=status,
        type="server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error"),
        param=param,
        headers=headers,
    )
    error.code = code
    return error


_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_TYPES = {429: "rate_limit_exceeded"}


def error_members(body: bytes) -> tuple[str, str | None, str | None]:
    """Return the message, code and param of an error body; the message is empty if it has none."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return "", None, None
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    return _error_parts(error)


def _error_parts(error: Any) -> tuple[str, str | None, str | None]:
    if isinstance(error, str):
        return error, None, None
    if not isinstance(error, dict):
        return "", None, None
    message = error.get("message") or error.get("detail") or ""
    param = error.get("param")
    return (
        message if isinstance(message, str) else encode(message).decode(),
        _error_code(error),
        param if isinstance(param, str) else None,
    )


_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CODE_AS_TYPE = re.compile(r"[a-z]+(_[a-z]+)+(?<!_error)|exceed_context_size_error")


def _error_code(error: JsonObject) -> str | None:
    """Return an error's code, which some servers have in ``type``, beside an HTTP status in ``code``."""
    code, type = error.get("code"), error.get("type")
    if isinstance(code, str) and _CODE.fullmatch(code) and not code.isdigit():
        return code
    return type if isinstance(type, str) and _CODE_AS_TYPE.fullmatch(type) else None


def _error_status(code: Any) -> int:
    """Return the HTTP status that an error has as its code, or else that of a bad gateway."""
    if isinstance(code, str) and code.isdigit() and len(code) == 3:
        code = int(code)
    return code if isinstance(code, int) and 400 <= code <= 599 else 502
