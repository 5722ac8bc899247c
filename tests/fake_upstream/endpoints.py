"""How each path renders an answer: a list of events, or of one JSON body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .answers import DATA, Answer, dress, split_events
from .encoding import CREATED, NONCE, encode, pieces_of
from .llama_cpp import LlamaCpp
from .requests import last_text
from .script import Pieces, Script, Text, directive
from .transformers import Transformers
from .vllm import Rendering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


DIALECTS = {"vllm": Rendering, "llama_cpp": LlamaCpp, "transformers": Transformers}


def render_response(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    rendering = DIALECTS[script.dialect](script, body)
    rendering.run()
    if stream:
        return [*rendering.events, b"data: [DONE]\n\n"] if script.done else rendering.events
    if script.fail_after is not None:
        error = {"code": script.failure_code, "message": script.error}
        return [encode(rendering.envelope("failed") | {"error": error, "output": []})]
    return [encode(rendering.final())]


def render_chat(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    messages = body.get("messages") or []
    cut = pieces_of(_text_answer(script, messages), script.deltas)
    base = {"id": _chat_id(), "created": CREATED, "model": body.get("model", "tiny")}
    if not stream:
        message = {"role": "assistant", "content": "".join(cut), "refusal": None, "tool_calls": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        answer_ = base | {"object": "chat.completion", "choices": [choice], "usage": _usage_chat(len(cut))}
        return [encode(answer_)]
    base["object"] = "chat.completion.chunk"
    steps = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in cut)]
    events = []
    for step, last in _marked_last(steps):
        choice = {"index": 0, "delta": step, "logprobs": None, "finish_reason": "stop" if last else None}
        events.append(_data(base | {"choices": [choice]}))
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(_data(base | {"choices": [], "usage": _usage_chat(len(cut))}))
    return [*events, b"data: [DONE]\n\n"]


def render_completion(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    prompt = body.get("prompt", "")
    cut = pieces_of(_text_answer(script, [{"role": "user", "content": str(prompt)}]), script.deltas)
    base = {"id": _chat_id("cmpl-"), "object": "text_completion", "created": CREATED}
    base["model"] = body.get("model", "tiny")
    choice = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    if not stream:
        whole = {"choices": [choice | {"text": "".join(cut)}], "usage": _usage_chat(len(cut))}
        return [encode(base | whole)]
    events = [
        _data(base | {"choices": [choice | {"text": piece, "finish_reason": "stop" if last else None}]})
        for piece, last in _marked_last(cut)
    ]
    return [*events, b"data: [DONE]\n\n"]


def render_message(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    cut = pieces_of(_text_answer(script, body.get("messages") or []), script.deltas)
    message = {"id": _chat_id(), "type": "message", "role": "assistant", "content": []}
    message |= {"model": body.get("model", "tiny"), "stop_reason": None, "stop_sequence": None}
    usage = {"input_tokens": 11, "output_tokens": len(cut)}
    if not stream:
        content = [{"type": "text", "text": "".join(cut)}]
        return [encode(message | {"content": content, "stop_reason": "end_turn", "usage": usage})]
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"usage": usage | {"output_tokens": 0}}},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0},
    ]
    events += [
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": piece}, "index": 0}
        for piece in cut
    ]
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": usage},
        {"type": "message_stop"},
    ]
    return [b"event: " + event["type"].encode() + b"\n" + _data(event) for event in events]


def render_embedding(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    given = body.get("input", "")
    count = len(given) if isinstance(given, list) else 1
    data = [{"index": i, "object": "embedding", "embedding": [0.6, 0.8]} for i in range(count)]
    usage = {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0}
    whole = {"id": _chat_id("embd-"), "object": "list", "created": CREATED, "data": data, "usage": usage}
    return [encode(whole | {"model": body.get("model", "tiny")})]


def render_token_count(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    return [encode({"input_tokens": 11, "context_management": {"original_input_tokens": 11}})]


def _chat_id(prefix: str = "chatcmpl-") -> str:
    return f"{prefix}{NONCE}0000"


def _usage_chat(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": 11, "total_tokens": 11 + tokens, "completion_tokens": tokens}


def _data(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def _text_answer(script: Script, messages: list[dict[str, Any]]) -> Pieces:
    for item in script.output:
        if isinstance(item, Text):
            return item.text
    _, text = directive(last_text(messages), script)
    return f"echo: {len(messages)} items; last: {text}"


def _marked_last(values: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    given = list(values)
    return ((value, index == len(given) - 1) for index, value in enumerate(given))


RENDERERS: dict[str, Callable[..., list[bytes]]] = {
    "/v1/responses": render_response,
    "/v1/chat/completions": render_chat,
    "/v1/completions": render_completion,
    "/v1/messages": render_message,
    "/v1/embeddings": render_embedding,
    "/v1/messages/count_tokens": render_token_count,
}


def rendered(render: Callable[..., list[bytes]], script: Script, body: dict[str, Any]) -> Answer:
    stream = body.get("stream") is True
    if script.replay:
        events = split_events((DATA / script.replay).read_bytes())
        stream = script.replay.endswith(".sse") or "transformers" in script.replay
    elif script.raw is not None or script.body is not None:
        events = split_events(script.raw if script.raw is not None else (script.body or "").encode())
    else:
        stream = render not in (render_embedding, render_token_count) and (
            stream or script.dialect == "transformers"
        )
        events = render(script, body, stream=stream)
    kind = "text/event-stream; charset=utf-8" if stream else "application/json"
    headers = {"content-type": script.content_type or kind, "vary": "Origin"} | script.headers
    if stream:
        events = dress(script, events)
    return Answer(script, script.status, headers, events, chunked=stream)
