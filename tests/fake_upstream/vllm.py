"""The events of an answer in vLLM's dialect, which the other dialects derive from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .encoding import CREATED, NONCE, encode, pieces_of
from .script import Call, CustomCall, Item, Reasoning, Refusal, Text, Unknown

if TYPE_CHECKING:
    from .script import Pieces, Script


class Rendering:
    """The events of one answer, in vLLM's words and order; subclasses say how others differ."""

    def __init__(self, script: Script, body: dict[str, Any]) -> None:
        self.script = script
        self.body = body
        self.events: list[bytes] = []
        self.output: list[dict[str, Any]] = []
        self.tokens = 0

    # What a dialect may change.

    def id(self, prefix: str) -> str:
        return f"{prefix}_{NONCE}{len(self.output):04x}"

    def response_id(self) -> str:
        return f"resp_{NONCE}ffff"

    def call_id(self) -> str:
        return f"chatcmpl-tool-{NONCE}{len(self.output):04x}"

    def encode(self, kind: str, members: dict[str, Any]) -> bytes:
        members["sequence_number"] = len(self.events)
        members["type"] = kind
        ordered = {key: members[key] for key in sorted(members) if key != "name"}
        if "name" in members:
            ordered["name"] = members["name"]
        return b"event: " + kind.encode() + b"\ndata: " + encode(ordered) + b"\n\n"

    def item(self, item: dict[str, Any]) -> dict[str, Any]:
        return item

    def text_part(self, text: str, *, done: bool) -> dict[str, Any]:
        return {"annotations": [], "text": text, "type": "output_text", "logprobs": None if done else []}

    def usage(self) -> dict[str, Any]:
        given = len(self.body.get("input") or "") + 12
        return {
            "input_tokens": given,
            "input_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 0,
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": self.tokens,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": given + self.tokens,
        }

    def envelope(self, status: str) -> dict[str, Any]:
        body, ended = self.body, status not in ("in_progress", "queued")
        tools = body.get("tools") or []
        reasons = {"incomplete": {"reason": "max_output_tokens"}}
        return {
            "id": self.response_id(),
            "created_at": CREATED,
            "incomplete_details": reasons.get(status),
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata"),
            "model": body.get("model", "tiny"),
            "object": "response",
            "output": self.output if ended else [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "temperature": float(_or(body.get("temperature"), 1.0)),
            "tool_choice": _or(body.get("tool_choice"), "auto") if tools else "none",
            "tools": [_vllm_tool(tool) for tool in tools],
            "top_p": float(_or(body.get("top_p"), 1.0)),
            "background": False,
            "max_output_tokens": _or(body.get("max_output_tokens"), 4087),
            "max_tool_calls": body.get("max_tool_calls"),
            "previous_response_id": None,
            "prompt": None,
            "reasoning": _filled(
                body.get("reasoning"), "context", "effort", "generate_summary", "mode", "summary"
            ),
            "service_tier": _or(body.get("service_tier"), "auto"),
            "status": status,
            "text": _filled(body.get("text"), "format", "verbosity"),
            "top_logprobs": body.get("top_logprobs"),
            "truncation": _or(body.get("truncation"), "disabled"),
            "usage": self.usage() if ended else None,
            "user": body.get("user"),
            "presence_penalty": float(_or(body.get("presence_penalty"), 0.0)),
            "frequency_penalty": float(_or(body.get("frequency_penalty"), 0.0)),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }

    def final(self) -> dict[str, Any]:
        status = "incomplete" if self.script.stop == "length" else "completed"
        return self.envelope(status) | self.script.response

    # The story.

    def add(self, kind: str, /, **members: Any) -> None:
        self.events.append(self.encode(kind, members))

    def run(self) -> None:
        self.open()
        for item in self.script.output:
            self.render(item)
        self.close()

    def open(self) -> None:
        self.add("response.created", response=self.envelope("in_progress"))
        self.add("response.in_progress", response=self.envelope("in_progress"))

    def close(self) -> None:
        script = self.script
        if script.fail_after is not None:
            del self.events[script.fail_after :]
            self.fail()
        elif script.terminal:
            self.add("response.completed", response=self.final())

    def fail(self) -> None:
        error = {"code": self.script.failure_code, "message": self.script.error}
        for kind in self.script.failure:
            if kind == "error":
                self.add("error", **error, param=None)
            else:
                self.add(kind, response=self.envelope("failed") | {"error": error, "output": []})

    def render(self, item: Item) -> None:
        match item:
            case Text(text):
                self.message(text)
            case Refusal(refusal):
                self.refusal(refusal)
            case Call(name, arguments):
                self.call(name, arguments)
            case CustomCall(name, given):
                self.custom_call(name, given)
            case Reasoning(text, summary):
                self.reasoning(text, summary)
            case Unknown(raw):
                self.unknown(raw)

    def added(self, item: dict[str, Any]) -> dict[str, int]:
        where = {"output_index": len(self.output)}
        self.add("response.output_item.added", item=self.item(item), **where)
        return where

    def done(self, item: dict[str, Any]) -> None:
        item = self.item(item)
        self.add("response.output_item.done", item=item, output_index=len(self.output))
        self.output.append(item)

    def deltas(self, kind: str, given: Pieces, **where: Any) -> str:
        """Add one event for each piece. One event is encoded; the others differ in two places."""
        cut = pieces_of(given, self.script.deltas)
        self.tokens += len(cut)
        sample = self.encode(kind, {"delta": "@delta@", **where})
        number = b'"sequence_number":%d' % len(self.events)
        head, middle, tail, numbered = _split(sample, b'"@delta@"', number)
        for piece in cut:
            encoded = encode(piece)
            if numbered:
                middle_, tail_ = middle, b'"sequence_number":%d' % len(self.events) + tail
                self.events.append(head + encoded + middle_ + tail_)
            else:
                self.events.append(head + encoded + tail)
        return "".join(cut)

    def message(self, given: Pieces) -> None:
        item = {"id": self.id("msg"), "content": [], "role": "assistant", "status": "in_progress"}
        item |= {"type": "message", "phase": None}
        where = {"item_id": item["id"], "content_index": 0} | self.added(item)
        self.add("response.content_part.added", part=self.text_part("", done=False), **where)
        text = self.deltas("response.output_text.delta", given, logprobs=[], **where)
        self.add("response.output_text.done", logprobs=[], text=text, **where)
        part = self.text_part(text, done=True)
        self.add("response.content_part.done", part=part, **where)
        self.done(item | {"content": [part], "status": "completed"})

    def refusal(self, given: Pieces) -> None:
        item = {"id": self.id("msg"), "content": [], "role": "assistant", "status": "in_progress"}
        item |= {"type": "message", "phase": None}
        where = {"item_id": item["id"], "content_index": 0} | self.added(item)
        self.add("response.content_part.added", part={"refusal": "", "type": "refusal"}, **where)
        text = self.deltas("response.refusal.delta", given, **where)
        self.add("response.refusal.done", refusal=text, **where)
        part = {"refusal": text, "type": "refusal"}
        self.add("response.content_part.done", part=part, **where)
        self.done(item | {"content": [part], "status": "completed"})

    def call(self, name: str, given: Pieces) -> None:
        item = {"arguments": "", "call_id": self.call_id(), "name": name, "type": "function_call"}
        item |= {"id": self.id("fc"), "async": None, "caller": None, "namespace": None}
        item["status"] = "in_progress"
        where = {"item_id": item["id"]} | self.added(item)
        arguments = self.arguments("response.function_call_arguments.delta", given, where)
        self.add("response.function_call_arguments.done", arguments=arguments, name=name, **where)
        self.done(item | {"arguments": arguments, "status": "completed"})

    def custom_call(self, name: str, given: Pieces) -> None:
        item = {"call_id": self.call_id(), "input": "", "name": name, "type": "custom_tool_call"}
        item |= {"id": self.id("ctc"), "caller": None, "namespace": None}
        where = {"item_id": item["id"]} | self.added(item)
        text = self.arguments("response.custom_tool_call_input.delta", given, where)
        self.add("response.custom_tool_call_input.done", input=text, **where)
        self.done(item | {"input": text})

    def arguments(self, kind: str, given: Pieces, where: dict[str, Any]) -> str:
        """Arguments must stay what they are: they are cut, never padded."""
        if isinstance(given, str):
            given = tuple(re.findall(r".{1,4}", given, re.DOTALL))
        return self.deltas(kind, given, **where)

    def reasoning(self, given: Pieces, summary: tuple[str, ...]) -> None:
        item: dict[str, Any] = {"id": self.id("rs"), "summary": [], "type": "reasoning", "content": None}
        item |= {"encrypted_content": None, "status": "in_progress"}
        where = {"item_id": item["id"]} | self.added(item)
        content = [self.reasoning_part(given, content_index=0, **where)] if given else None
        parts = [self.summary_part(text, summary_index=i, **where) for i, text in enumerate(summary)]
        self.done(item | {"content": content, "summary": parts, "status": "completed"})

    def reasoning_part(self, given: Pieces, **where: Any) -> dict[str, Any]:
        self.add("response.content_part.added", part={"text": "", "type": "reasoning_text"}, **where)
        text = self.deltas("response.reasoning_text.delta", given, **where)
        self.add("response.reasoning_text.done", text=text, **where)
        part = {"text": text, "type": "reasoning_text"}
        self.add("response.content_part.done", part=part, **where)
        return part

    def summary_part(self, given: str, **where: Any) -> dict[str, Any]:
        part = {"text": "", "type": "summary_text"}
        self.add("response.reasoning_summary_part.added", part=part, **where)
        text = self.deltas("response.reasoning_summary_text.delta", given, **where)
        self.add("response.reasoning_summary_text.done", text=text, **where)
        self.add("response.reasoning_summary_part.done", part=part | {"text": text}, **where)
        return part | {"text": text}

    def unknown(self, raw: dict[str, Any]) -> None:
        item = {"id": self.id("x"), **raw}
        self.added(item | ({"status": "in_progress"} if "status" in raw else {}))
        self.done(item)


VLLM_ONLY = ("phase", "async", "caller", "namespace")


def without(given: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in keys}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _filled(given: dict[str, Any] | None, *keys: str) -> dict[str, Any] | None:
    """vLLM echoes an object with all the keys that it knows."""
    return None if given is None else dict.fromkeys(keys) | given


def _vllm_tool(tool: dict[str, Any]) -> dict[str, Any]:
    own = ("name", "parameters", "strict", "type") if tool["type"] == "function" else ("name", "type")
    extras = ("allowed_callers", "async", "defer_loading", "description")
    last = "output_schema" if tool["type"] == "function" else "format"
    return {key: tool.get(key) for key in (*own, *extras, last)}


def _split(sample: bytes, delta: bytes, number: bytes) -> tuple[bytes, bytes, bytes, bool]:
    head, _, rest = sample.partition(delta)
    middle, found, tail = rest.partition(number)
    return (head, middle, tail, True) if found else (head, b"", rest, False)
