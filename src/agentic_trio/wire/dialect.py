"""Turn what model servers send into what OpenAI's contract says: items, content parts, usage, errors.

``docs/upstreams.md`` records what each server sends. The code here doesn't know which server it talks to:
it corrects a value wherever it came from, and keeps members that it doesn't know.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agentic_trio.errors import UpstreamError

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


def normal_item(item: JsonObject, id: str, status: str) -> JsonObject:
    """Return an output item with our id and the members that its type requires.

    Args:
        item: as the upstream sent it. Null members are dropped: they mean "not set".
        id: the id that the client knows.
        status: the status of an item that has none.
    """
    type = item.get("type")
    if not isinstance(type, str):
        type = "message"
    normal: JsonObject = {"id": id, "type": type}
    normal.update((name, value) for name, value in item.items() if value is not None and name not in normal)
    if type == "message":
        normal["role"] = "assistant"
        normal["status"] = _ended(normal.get("status"), status)
        content = normal.get("content")
        if isinstance(content, str):
            content = [{"type": "output_text", "text": content}]
        normal["content"] = _parts(content)
    elif type == "function_call":
        normal["status"] = _ended(normal.get("status"), status)
        normal["arguments"] = _text(normal.get("arguments"))
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


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    """Return a value as text: some servers send arguments as a JSON value instead of JSON text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else encode(value).decode()


def normal_usage(usage: Any) -> JsonObject | None:
    """Return token counts, all of them numbers: lists and missing details break strict clients."""
    if not isinstance(usage, dict):
        return None
    details_in = usage.get("input_tokens_details")
    details_out = usage.get("output_tokens_details")
    prompt = _count(usage, "input_tokens")
    generated = _count(usage, "output_tokens")
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": _count(details_in, "cached_tokens"),
            "cache_write_tokens": _count(details_in, "cache_write_tokens"),
        },
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": _count(details_out, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or prompt + generated,
    }


def _count(source: Any, name: str) -> int:
    value = source.get(name) if isinstance(source, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


CONTEXT_WORDS = (
    "maximum context length",
    "context length",
    "max_model_len",
    "exceed_context_size",
    "context size",
)
"""Words that servers use for a prompt that is too long (vLLM, SGLang, llama.cpp)."""


def refusal(status: int, body: bytes, retry_after: str | None = None) -> UpstreamError:
    """Return the upstream's refusal in our envelope: its status and words, OpenAI's codes.

    Args:
        status: the HTTP status, 400 or more.
        body: the body, in any shape.
        retry_after: the value of the header, if there was one.
    """
    message, code, param = error_members(body)
    if not message:
        message = f"The model server answered with status {status}."
    if status in (400, 413, 422) and any(words in message.lower() for words in CONTEXT_WORDS):
        status, code, param = 400, "context_length_exceeded", "input"
    elif status == 404 and code is None:
        code, param = "model_not_found", "model"
    elif not code:
        code = _CODES.get(status) or ("upstream_error" if status >= 500 else None)
    error = UpstreamError(
        message,
        status=status,
        type="server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error"),
        param=param,
        headers={"retry-after": retry_after} if retry_after else None,
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
    if isinstance(error, str):
        return error, None, None
    if not isinstance(error, dict):
        return "", None, None
    message = error.get("message") or error.get("detail") or ""
    code, param = error.get("code"), error.get("param")
    return (
        message if isinstance(message, str) else encode(message).decode(),
        code if isinstance(code, str) and not code.isdigit() else None,
        param if isinstance(param, str) else None,
    )
