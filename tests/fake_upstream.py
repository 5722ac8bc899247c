"""A fake vLLM: scripted answers over HTTP/1.1, byte for byte in the dialects of real servers.

In a test::

    async with open_fake_upstream() as upstream:
        ...                                   # POST to f"{upstream.url}/v1/responses"
        assert upstream.last.json["input"] == "hi"

By itself (prints its URL)::

    python tests/fake_upstream.py --port 0 --dialect vllm --deltas 208 --interval 0.002

What it answers is a :class:`Script`. The first of these that is there decides: ``upstream.script(fn)``;
a directive in the request's last user text, ``!{"deltas": 5, "cut_after": 7} and the text``; the server's
default. Without an ``output`` the answer is a function of the request, so that a test sees that the
history arrived: ``"echo: <number of input items>; last: <text of the last item>"``, or, when the text
says ``call NAME {...}`` and a tool has that name, a call of it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import re
import socket
import struct
import time
from collections import OrderedDict
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import uuid4

import httptools
import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

DATA = Path(__file__).with_name("data")

Dialect: TypeAlias = Literal["vllm", "llama_cpp", "transformers"]
Pieces: TypeAlias = str | tuple[str, ...]


# --------------------------------------------------------------------------- scripts


class Item(msgspec.Struct, frozen=True, tag_field="type"):
    """One output item. Where a member is a tuple of strings, each string is one delta."""


class Text(Item, tag="text"):
    text: Pieces


class Refusal(Item, tag="refusal"):
    refusal: Pieces


class Call(Item, tag="call"):
    name: str
    arguments: Pieces = "{}"


class CustomCall(Item, tag="custom_call"):
    name: str
    input: Pieces = ""


class Reasoning(Item, tag="reasoning"):
    """Reasoning text, then one summary part for each of ``summary``."""

    text: Pieces = ""
    summary: tuple[str, ...] = ()


class Unknown(Item, tag="unknown"):
    """An item of a type that nobody knows yet, sent as it is; ``id`` is added when absent."""

    item: dict[str, Any]


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one request is answered. Positions ("after k") count the events that were sent before.

    A JSON answer (``stream: false``) is one event: ``cut_after=0`` promises a body and sends none of it.
    """

    # The answer.
    dialect: Dialect = "vllm"
    output: tuple[Text | Refusal | Call | CustomCall | Reasoning | Unknown, ...] = ()
    stop: Literal["stop", "length"] = "stop"
    ids: Literal["fresh", "repeated"] = "fresh"
    response: dict[str, Any] = {}
    """Members put over those of the final response, e.g. ``{"usage": None}``."""
    replay: str = ""
    """Send this file of ``tests/data`` verbatim."""
    raw: bytes | None = None
    """Send this body verbatim (base64 in a directive)."""
    body: str | None = None
    """Send this text as body verbatim."""

    # Its pace.
    deltas: int | None = None
    """Exactly so many deltas a text (padded with filler words); None: one a word."""
    delay: float = 0.0
    """Seconds before the head of the answer."""
    interval: float = 0.0
    """Seconds before each event; 0: everything at once, in one write."""
    writes: Literal["event", "burst", "byte", "utf8"] | tuple[int, ...] | None = None
    """How the bytes are cut into writes: one an event, one in all, one a byte, a cut inside each multi-byte
    character, or by these lengths in turn. None: ``event`` with an interval, else ``burst``."""

    # Refusals.
    status: int = 200
    headers: dict[str, str] = {}
    error: str = "The fake upstream refuses."
    error_type: str | None = None
    error_param: str | None = None

    # Faults.
    hang: bool = False
    """Say nothing at all until :meth:`FakeUpstream.release`."""
    stall_after: int | None = None
    """Stop after k events until :meth:`FakeUpstream.release`."""
    cut_after: int | None = None
    """Close the connection after k events, in the middle of the body."""
    reset_after: int | None = None
    """The same with a TCP reset."""
    cut_bytes: int = 0
    """So many bytes of the next event still leave before a stall or a cut."""
    endless_after: int | None = None
    """After k events, one line without an end."""
    insert_after: int | None = None
    insert: str = ""
    """Put these bytes after k events: garbage (as surrogate escapes), a comment, another event."""
    fail_after: int | None = None
    """After k events the model fails: the rest is ``failure``."""
    failure: tuple[Literal["error", "response.failed"], ...] = ("response.failed",)
    failure_code: str = "server_error"
    terminal: bool = True
    """False: the body ends cleanly without a terminal event."""
    tail: str = ""
    """Bytes after the terminal event."""
    done: bool = False
    """End with ``data: [DONE]``, as other servers do."""

    # The wire.
    content_type: str | None = None
    newline: Literal["\n", "\r\n", "\r"] = "\n"
    comments: bool = False
    """A comment before each event."""
    multiline: bool = False
    """Each event's JSON in two ``data:`` lines."""
    unfinished: bool = False
    """The last event lacks its blank line."""
    close: bool = False
    """``connection: close`` after this answer."""

    def varied(self, **changes: Any) -> Script:
        return msgspec.structs.replace(self, **changes)


def directive(text: str, default: Script) -> tuple[Script, str]:
    """Take ``!{...}`` from the start of a text: the script it makes of ``default``, and the rest."""
    if not text.startswith("!{"):
        return default, text
    changes, end = json.JSONDecoder().raw_decode(text, 1)
    merged = msgspec.to_builtins(default) | changes
    return msgspec.convert(merged, Script), text[end:].strip()


# --------------------------------------------------------------------------- requests


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case; of a repeated one, the last."""
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def items(self) -> list[dict[str, Any]]:
        """``input`` as a list of items."""
        given = self.json["input"]
        return [{"role": "user", "content": given}] if isinstance(given, str) else given

    @property
    def state(self) -> list[str]:
        """What of this request asks the upstream to keep or find state. It should be nothing."""
        body = self.json
        named = [key for key in STATE_KEYS if body.get(key) is not None]
        if body.get("store") is not False:
            named.append("store")
        named += ["item_reference" for item in self.items if item.get("type") == "item_reference"]
        return named


STATE_KEYS = ("previous_response_id", "conversation", "conversation_id", "background")


def text_of(item: dict[str, Any]) -> str:
    """The text of a message or of a tool's output."""
    content = item.get("content", item.get("output", ""))
    if isinstance(content, list):
        return "".join(str(part.get("text", part.get("refusal", ""))) for part in content)
    return content if isinstance(content, str) else ""


def last_text(items: list[dict[str, Any]]) -> str:
    """The text of the last item that is a user's message or a tool's output."""
    for item in reversed(items):
        if item.get("role") == "user" or str(item.get("type")).endswith("call_output"):
            return text_of(item)
    return ""


_CALL = re.compile(r"\bcall (\w+)\s*(\{[^{}]*\})?")


def answer(body: dict[str, Any], items: list[dict[str, Any]], text: str) -> tuple[Item, ...]:
    """The default answer: the calls that the text asks for, or an echo."""
    tools = {tool["name"]: tool["type"] for tool in body.get("tools") or () if "name" in tool}
    calls = [
        CustomCall(name, given) if tools[name] == "custom" else Call(name, given or "{}")
        for name, given in _CALL.findall(text)
        if name in tools
    ]
    return tuple(calls) or (Text(f"echo: {len(items)} items; last: {text}"),)


def vllm_error(status: int, message: str, kind: str | None = None, param: str | None = None) -> bytes:
    """vLLM's error body (``code`` is an integer)."""
    kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
    error = {
        "message": message,
        "type": kind or kinds.get(status, "Error"),
        "param": param,
        "code": status,
    }
    return _json({"error": error})


class Refused(Exception):
    """The request is refused as vLLM refuses it."""

    def __init__(self, status: int, message: str, kind: str | None = None, param: str | None = None) -> None:
        self.status = status
        self.body = vllm_error(status, message, kind, param)


def _invalid(param: str, kind: str, message: str) -> Refused:
    detail = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{param}', 'msg': '{message}'}}"
    return Refused(400, detail, "Bad Request", param)


def validate_json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        raise _invalid("body.0", "json_invalid", "JSON decode error") from None
    if not isinstance(body, dict):
        raise _invalid("body", "model_attributes_type", "Input should be a valid dictionary or object")
    if not isinstance(body.get("model", ""), str | None):
        raise _invalid("body.model", "string_type", "Input should be a valid string")
    if str(body.get("model")).startswith("nope"):
        message = f"The model `{body['model']}` does not exist. Valid aliases: tiny."
        raise Refused(404, message, "NotFoundError", "model")
    return body


def validate_response_request(raw: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What vLLM 0.32 checks before it answers, in its order and words (observed).

    It takes an empty string as input, a missing model, ``conversation`` and any unknown key.
    """
    body = validate_json(raw)
    if "input" not in body:
        raise _invalid("body.input", "missing", "Field required")
    given = body["input"]
    if not isinstance(given, str | list):
        raise _invalid("body.input", "string_type", "Input should be a valid string")
    if name := body.get("previous_response_id"):
        message = f"Response with id '{name}' not found."
        raise Refused(404, message, "invalid_request_error", "response_id")
    if given == []:
        raise Refused(
            400, "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for item in items:
        _validate_item(item)
    return body, items


def _validate_item(item: Any) -> None:
    if not isinstance(item, dict):
        raise _invalid("body.input", "string_type", "Input should be a valid string")
    kind = item.get("type")
    if kind in ("item_reference", "compaction"):
        raise Refused(
            400, f"Unsupported input item type: {kind} (parameter=input)", "BadRequestError", "input"
        )
    if kind == "reasoning" and item.get("encrypted_content"):
        raise Refused(
            400, "Encrypted content is not supported. (parameter=input)", "BadRequestError", "input"
        )
    parts = item.get("content")
    if kind == "message" and isinstance(parts, list) and parts and parts[0].get("type") == "refusal":
        raise Refused(500, "'ResponseOutputRefusal' object has no attribute 'text'", "InternalServerError")


# --------------------------------------------------------------------------- dialects

# Ids and times of a rendered answer are these marks, replaced for each request: rendering is done once.
_NONCE = "nonceNONCE12"
_CREATED = 1234509876
_REPEATED = "0123456789ab"

_encoder = msgspec.json.Encoder()


def _json(value: Any) -> bytes:
    return _encoder.encode(value)


def pieces_of(given: Pieces, deltas: int | None) -> list[str]:
    """Cut a text into deltas: as given, one a word, or exactly ``deltas`` of them (padded)."""
    if not isinstance(given, str):
        return list(given)
    words = re.findall(r"\s*\S+|\s+$", given)
    if deltas is None:
        return words
    if len(words) < deltas:
        return words + [f" word{number}" for number in range(len(words), deltas)]
    kept = words[: max(deltas - 1, 0)]
    return [*kept, "".join(words[len(kept) :])] if deltas else []


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
        return f"{prefix}_{_NONCE}{len(self.output):04x}"

    def response_id(self) -> str:
        return f"resp_{_NONCE}ffff"

    def call_id(self) -> str:
        return f"chatcmpl-tool-{_NONCE}{len(self.output):04x}"

    def encode(self, kind: str, members: dict[str, Any]) -> bytes:
        members["sequence_number"] = len(self.events)
        members["type"] = kind
        ordered = {key: members[key] for key in sorted(members) if key != "name"}
        if "name" in members:
            ordered["name"] = members["name"]
        return b"event: " + kind.encode() + b"\ndata: " + _json(ordered) + b"\n\n"

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
            "created_at": _CREATED,
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
            encoded = _json(piece)
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


class LlamaCpp(Rendering):
    """llama.cpp: no numbers, no indices, three members at first, and all ends of items at the very end.

    Reasoning has no content parts; calls have no ``arguments.done`` (its ``server-task.cpp``).
    """

    _DROPPED = ("output_index", "content_index", "summary_index", "logprobs", "name")
    _UNSAID = ("response.function_call_arguments.done", "response.reasoning_text.done")
    _STARTED = ("content", "id", "role", "status", "type")
    _ENDED = ("type", "status", "id", "content", "role")

    def __init__(self, script: Script, body: dict[str, Any]) -> None:
        super().__init__(script, body)
        self.ends: list[tuple[str, dict[str, Any]]] = []

    def id(self, prefix: str) -> str:
        return f"{prefix}_{_NONCE}{len(self.output):04x}gguf" + 12 * "0"

    def response_id(self) -> str:
        return f"resp_{_NONCE}ffffgguf" + 12 * "0"

    def call_id(self) -> str:
        return self.id("call")

    def encode(self, kind: str, members: dict[str, Any]) -> bytes:
        kept = {key: members[key] for key in ("item_id",) if key in members}
        kept |= _without(members, *self._DROPPED)
        return b"event: " + kind.encode() + b"\ndata: " + _json({"type": kind} | kept) + b"\n\n"

    def text_part(self, text: str, *, done: bool) -> dict[str, Any]:
        if not done:
            return {"type": "output_text", "text": ""}
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}

    def item(self, item: dict[str, Any]) -> dict[str, Any]:
        item = _without(item, *_VLLM_ONLY)
        if item["type"] == "reasoning":
            item |= {"content": item["content"] or [], "encrypted_content": ""}
            return item if item["status"] == "in_progress" else _without(item, "status")
        order = self._STARTED if item.get("status") == "in_progress" else self._ENDED
        return {key: item[key] for key in order if key in item} | item

    def add(self, kind: str, /, **members: Any) -> None:
        if kind in self._UNSAID or members.get("part", {}).get("type") == "reasoning_text":
            return
        (self.ends if kind.endswith(".done") else self.events).append(self.encode(kind, members))

    def close(self) -> None:
        self.events += self.ends
        super().close()

    def envelope(self, status: str) -> dict[str, Any]:
        envelope: dict[str, Any] = {"id": self.response_id(), "object": "response"}
        if status == "in_progress":
            return envelope | {"status": status}
        return envelope | {
            "created_at": _CREATED,
            "status": "completed" if status == "incomplete" else status,
            "model": self.body.get("model", "gemma-3-270m"),
            "output": self.output,
            "usage": self.usage(),
        }

    def final(self) -> dict[str, Any]:
        return self.envelope("completed") | self.script.response

    def usage(self) -> dict[str, Any]:
        usage = super().usage()
        details = {"cached_tokens": 0}
        return {key: usage[key] for key in ("input_tokens", "output_tokens", "total_tokens")} | {
            "input_tokens_details": details
        }


class Transformers(Rendering):
    """transformers serve: ``data:`` lines only, begins ``queued``, one UUID for a response and its items."""

    def id(self, prefix: str) -> str:
        return f"{prefix}_71eafe46-774c-4f3f-88e6-{_NONCE}"

    def response_id(self) -> str:
        return self.id("resp")

    def encode(self, kind: str, members: dict[str, Any]) -> bytes:
        members.pop("name", None)
        return super().encode(kind, members).partition(b"\n")[2]

    def text_part(self, text: str, *, done: bool) -> dict[str, Any]:
        return {"annotations": [], "text": text, "type": "output_text"}

    def item(self, item: dict[str, Any]) -> dict[str, Any]:
        kept = _without(item, *_VLLM_ONLY)
        if item["type"] == "message" and item["status"] == "completed":
            kept["annotations"] = []
        return kept

    def open(self) -> None:
        self.add("response.created", response=self.envelope("queued"))
        self.add("response.in_progress", response=self.envelope("in_progress"))

    def envelope(self, status: str) -> dict[str, Any]:
        envelope = {
            "id": self.response_id(),
            "created_at": _CREATED + 0.1479762,
            "model": f"{self.body.get('model', 'tiny')}@main",
            "object": "response",
            "output": [] if status in ("queued", "in_progress") else self.output,
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
            "status": "completed" if status == "incomplete" else status,
        }
        return envelope | ({"usage": self.usage()} if envelope["output"] else {})

    def usage(self) -> dict[str, Any]:
        usage = super().usage()
        return usage | {
            "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }


_DIALECTS = {"vllm": Rendering, "llama_cpp": LlamaCpp, "transformers": Transformers}


_VLLM_ONLY = ("phase", "async", "caller", "namespace")


def _without(given: dict[str, Any], *keys: str) -> dict[str, Any]:
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


# --------------------------------------------------------------------------- other endpoints


def _chat_id(prefix: str = "chatcmpl-") -> str:
    return f"{prefix}{_NONCE}0000"


def _usage_chat(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": 11, "total_tokens": 11 + tokens, "completion_tokens": tokens}


def _data(value: Any) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def render_chat(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    messages = body.get("messages") or []
    cut = pieces_of(_text_answer(script, messages), script.deltas)
    base = {"id": _chat_id(), "created": _CREATED, "model": body.get("model", "tiny")}
    if not stream:
        message = {"role": "assistant", "content": "".join(cut), "refusal": None, "tool_calls": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        answer_ = base | {"object": "chat.completion", "choices": [choice], "usage": _usage_chat(len(cut))}
        return [_json(answer_)]
    base["object"] = "chat.completion.chunk"
    steps = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in cut)]
    events = [
        _data(
            base
            | {
                "choices": [
                    {
                        "index": 0,
                        "delta": step,
                        "logprobs": None,
                        "finish_reason": "stop" if last else None,
                    }
                ]
            }
        )
        for step, last in _marked_last(steps)
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(_data(base | {"choices": [], "usage": _usage_chat(len(cut))}))
    return [*events, b"data: [DONE]\n\n"]


def render_completion(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    prompt = body.get("prompt", "")
    cut = pieces_of(_text_answer(script, [{"role": "user", "content": str(prompt)}]), script.deltas)
    base = {"id": _chat_id("cmpl-"), "object": "text_completion", "created": _CREATED}
    base["model"] = body.get("model", "tiny")
    choice = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    if not stream:
        whole = {"choices": [choice | {"text": "".join(cut)}], "usage": _usage_chat(len(cut))}
        return [_json(base | whole)]
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
        return [_json(message | {"content": content, "stop_reason": "end_turn", "usage": usage})]
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
    whole = {"id": _chat_id("embd-"), "object": "list", "created": _CREATED, "data": data, "usage": usage}
    return [_json(whole | {"model": body.get("model", "tiny")})]


def render_token_count(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    return [_json({"input_tokens": 11, "context_management": {"original_input_tokens": 11}})]


def render_response(script: Script, body: dict[str, Any], *, stream: bool) -> list[bytes]:
    rendering = _DIALECTS[script.dialect](script, body)
    rendering.run()
    if stream:
        return [*rendering.events, b"data: [DONE]\n\n"] if script.done else rendering.events
    if script.fail_after is not None:
        error = {"code": script.failure_code, "message": script.error}
        return [_json(rendering.envelope("failed") | {"error": error, "output": []})]
    return [_json(rendering.final())]


def _text_answer(script: Script, messages: list[dict[str, Any]]) -> Pieces:
    for item in script.output:
        if isinstance(item, Text):
            return item.text
    _, text = directive(last_text(messages), script)
    return f"echo: {len(messages)} items; last: {text}"


def _marked_last(values: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    given = list(values)
    return ((value, index == len(given) - 1) for index, value in enumerate(given))


_RENDERERS: dict[str, Callable[..., list[bytes]]] = {
    "/v1/responses": render_response,
    "/v1/chat/completions": render_chat,
    "/v1/completions": render_completion,
    "/v1/messages": render_message,
    "/v1/embeddings": render_embedding,
    "/v1/messages/count_tokens": render_token_count,
}


# --------------------------------------------------------------------------- bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A rendered answer; ids and times are still marks in it."""

    script: Script
    status: int
    headers: dict[str, str]
    events: list[bytes]
    chunked: bool


def split_events(body: bytes) -> list[bytes]:
    """Cut a recorded body into its events, blank lines kept."""
    return [event for event in re.split(rb"(?<=\n\n)", body) if event]


def dress(script: Script, events: list[bytes]) -> list[bytes]:
    """Apply what a script says about the form of events."""
    if script.insert_after is not None:
        given = script.insert.encode(errors="surrogateescape")
        events = [*events[: script.insert_after], given, *events[script.insert_after :]]
    if script.multiline:
        events = [event.replace(b"data: {", b"data: {\ndata: ", 1) for event in events]
    if script.comments:
        events = [b": keep-alive\n\n" + event for event in events]
    if script.newline != "\n":
        events = [event.replace(b"\n", script.newline.encode()) for event in events]
    if script.unfinished:
        events = [*events[:-1], events[-1].rstrip(b"\r\n")]
    return [*events, script.tail.encode()] if script.tail else events


def cut_writes(script: Script, events: list[bytes]) -> list[bytes]:
    """Cut the bytes of events into the pieces that are written one by one."""
    how = script.writes or ("event" if script.interval else "burst")
    if how == "event":
        return events
    whole = b"".join(events)
    if how == "burst":
        return [whole] if whole else []
    if how == "byte":
        return [whole[i : i + 1] for i in range(len(whole))]
    if how == "utf8":
        return [piece for piece in re.split(rb"(?<=[\xc0-\xff])", whole) if piece]
    return list(_by_lengths(whole, how))


def _by_lengths(whole: bytes, lengths: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for length in cycle(lengths):
        if at >= len(whole):
            return
        yield whole[at : at + length]
        at += length


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests"}


def head(status: int, headers: dict[str, str]) -> bytes:
    reason = _REASONS.get(status, "Status")
    lines = [f"HTTP/1.1 {status} {reason}", "date: Mon, 23 Nov 2026 00:00:00 GMT", "server: uvicorn"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_bytes(answer: Answer) -> bytes:
    """A whole answer as one write."""
    body = b"".join(answer.events)
    if not answer.chunked:
        return _head_of(answer) + body
    return _head_of(answer) + (_chunk(body) if body else b"") + b"0\r\n\r\n"


def _head_of(answer: Answer) -> bytes:
    framing = {"transfer-encoding": "chunked"}
    if not answer.chunked:
        framing = {"content-length": str(sum(map(len, answer.events)))}
    if answer.script.close:
        framing["connection"] = "close"
    return head(answer.status, answer.headers | framing)


def plain(status: int, body: bytes, script: Script | None = None, **headers: str) -> Answer:
    """A JSON answer that is ready."""
    named = {"content-type": "application/json", "vary": "Origin"} | headers
    return Answer(script or Script(), status, named, [body], chunked=False)


MODEL = {"id": "tiny", "object": "model", "created": 1795392026, "owned_by": "vllm", "root": "tiny"}
MODEL |= {"parent": None, "max_model_len": 4096, "permission": []}


# --------------------------------------------------------------------------- the server


class FakeUpstream:
    """The server's state. Positions in ``requests`` and all counts are of the whole server."""

    def __init__(self, default: Script, *, record: bool = True, keep_alive: float = float("inf")) -> None:
        self.default = default
        self.record = record
        self.keep_alive = keep_alive
        """Seconds after which an idle connection is closed (uvicorn: 5)."""
        self.url = ""
        self.requests: list[Recorded] = []
        self.live = 0
        """Requests that are being answered now (by a model: not /v1/models, not refusals)."""
        self.aborted = 0
        """Requests whose client left before the end of the answer."""
        self.stalled = 0
        """Requests that hang or stall now."""
        self.connections = 0
        """Connections accepted so far."""
        self._choose: Callable[[Recorded], Script | None] | None = None
        self._released = trio.Event()
        self._life = trio.CancelScope()
        self._waiters = trio.lowlevel.ParkingLot()
        self._cache: OrderedDict[tuple[str, bytes], Answer] = OrderedDict()

    # For tests.

    @property
    def last(self) -> Recorded:
        return self.requests[-1]

    def script(self, choose: Callable[[Recorded], Script | None] | Script | None) -> None:
        """Decide how requests are answered from now on (None from the function: as if there were none)."""
        if isinstance(choose, Script):
            always = choose
            self._choose = lambda _: always
        else:
            self._choose = choose

    def release(self) -> None:
        """Let everything that hangs or stalls go on."""
        self._released.set()
        self._released = trio.Event()

    async def wait_requests(self, count: int) -> None:
        """Wait until so many requests have come in all."""
        await self._wait(lambda: len(self.requests) >= count)

    async def wait_live(self, count: int) -> None:
        """Wait until exactly so many requests are being answered."""
        await self._wait(lambda: self.live == count)

    async def wait_aborted(self, count: int) -> None:
        """Wait until so many clients in all have left too early."""
        await self._wait(lambda: self.aborted >= count)

    async def wait_stalled(self, count: int) -> None:
        """Wait until so many requests hang or stall."""
        await self._wait(lambda: self.stalled >= count)

    def assert_stateless(self) -> None:
        """No request to /v1/responses asked this server for state."""
        for number, request in enumerate(self.requests):
            if (request.method, request.path) == ("POST", "/v1/responses"):
                assert not request.state, f"request {number} asks for state: {request.state}\n{request.json}"

    async def _wait(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._waiters.park()

    def changed(self) -> None:
        self._waiters.unpark_all()

    def kill(self) -> None:
        """The process dies: connections are cut, new ones refused."""
        self._life.cancel()

    # For connections.

    async def listen(self, port: int, task_status: trio.TaskStatus[None]) -> None:
        """Serve a port of loopback (0: any) until killed; ``url`` is set when this has started."""
        async with trio.open_nursery() as nursery:
            serve = functools.partial(trio.serve_tcp, self.serve, port, host="127.0.0.1")
            listeners = await nursery.start(serve)
            self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            self._life = nursery.cancel_scope
            task_status.started()

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection until it ends."""
        self.connections += 1
        async with stream:
            await _Connection(self, stream).run()

    def answer(self, request: Recorded) -> Answer:
        """Choose and render the answer to a request."""
        if request.method != "POST" or request.path not in _RENDERERS:
            return self._elsewhere(request)
        if self._choose and (script := self._choose(request)):
            return self._render(request, script)
        key = (request.path, request.body)
        if key not in self._cache:
            self._cache[key] = self._render(request, self.default)
            if len(self._cache) > 64:
                self._cache.popitem(last=False)
        return self._cache[key]

    def _elsewhere(self, request: Recorded) -> Answer:
        where = (request.method, request.path)
        if where == ("GET", "/v1/models"):
            return plain(200, _json({"object": "list", "data": [MODEL]}))
        if where == ("GET", "/health"):
            return plain(200, b"")
        if where == ("GET", "/metrics"):
            running = f'vllm:num_requests_running{{model_name="tiny"}} {float(self.live)}\n'
            return plain(200, running.encode(), **{"content-type": "text/plain"})
        if where[1] in (*_RENDERERS, "/v1/models", "/health"):
            return plain(405, b'{"detail":"Method Not Allowed"}')
        return plain(404, b'{"detail":"Not Found"}')

    def _render(self, request: Recorded, script: Script) -> Answer:
        try:
            if request.path == "/v1/responses":
                body, items = validate_response_request(request.body)
                script, text = directive(last_text(items), script)
                if not script.output:
                    script = script.varied(output=answer(body, items, text))
            else:
                body = validate_json(request.body)
                script, _ = directive(last_text(body.get("messages") or []), script)
        except Refused as refusal:
            return plain(refusal.status, refusal.body)
        if script.status != 200 and script.body is None and script.raw is None:
            error = vllm_error(script.status, script.error, script.error_type, script.error_param)
            return plain(script.status, error, script, **script.headers)
        return _rendered(_RENDERERS[request.path], script, body)


def _rendered(render: Callable[..., list[bytes]], script: Script, body: dict[str, Any]) -> Answer:
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


class _Cut(Exception):
    """The script ends the connection here."""


class _Connection:
    """One client connection: a task reads requests, so that a client who leaves is noticed at once."""

    def __init__(self, server: FakeUpstream, stream: trio.abc.HalfCloseableStream) -> None:
        self.server = server
        self.stream = stream
        self.left = False
        self.generating = False
        self.finished = False
        self.answering: trio.CancelScope | None = None
        self.into, self.arrived = trio.open_memory_channel[Recorded](100)
        self.parser = httptools.HttpRequestParser(self)

    # httptools calls these.

    def on_message_begin(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        method = self.parser.get_method().decode()
        body = b"".join(self.parts)
        self.into.send_nowait(Recorded(method, self.target.decode("latin-1"), self.headers, body))

    # Tasks.

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read)
            with contextlib.suppress(_Cut, trio.EndOfChannel, trio.BrokenResourceError, trio.TooSlowError):
                while True:
                    with trio.fail_after(self.server.keep_alive):
                        request = await self.arrived.receive()
                    await self.exchange(request)
            nursery.cancel_scope.cancel()

    async def read(self) -> None:
        with self.into, contextlib.suppress(trio.BrokenResourceError, httptools.HttpParserError):
            while data := await self.stream.receive_some(65536):
                self.parser.feed_data(data)
        self.left = True
        if self.answering:
            self.answering.cancel()

    async def exchange(self, request: Recorded) -> None:
        server = self.server
        if server.record:
            server.requests.append(request)
            server.changed()
        answer = server.answer(request)
        if request.method == "HEAD":
            await self.stream.send_all(_head_of(answer))
        elif answer.status != 200 and not answer.script.hang and not answer.script.delay:
            await self.stream.send_all(answer_bytes(answer))
        else:
            await self.generate(answer)
        if answer.script.close or request.headers.get("connection", "").lower() == "close":
            raise _Cut

    async def generate(self, answer: Answer) -> None:
        server = self.server
        server.live += 1
        server.changed()
        self.generating, self.finished = True, False
        try:
            with trio.CancelScope() as self.answering:
                if self.left:
                    self.answering.cancel()
                await self.deliver(answer)
        except trio.BrokenResourceError:
            self.left = True
            raise
        finally:
            self.answering = None
            self.generated()
            server.aborted += self.left and not self.finished
            server.changed()

    def generated(self) -> None:
        """Count the request as over: before its last bytes leave, so that who has them all finds it so."""
        self.server.live -= self.generating
        self.generating = False
        self.server.changed()

    async def deliver(self, answer: Answer) -> None:
        script = answer.script
        if script.hang:
            await self.stall()
        pause = script.delay + (0 if answer.chunked else script.interval * (script.deltas or 1))
        if pause:
            await trio.sleep(pause)
        answer = stamped(answer)
        stop = _stop(script)
        paced = script.interval and answer.chunked
        if stop is None and not paced and script.writes in (None, "burst"):
            self.generated()
            await self.stream.send_all(answer_bytes(answer))
            self.finished = True
            return
        await self.stream.send_all(_head_of(answer))
        first, rest = _parted(answer.events, stop, script.cut_bytes)
        await self.write(answer, first)
        if stop is not None:
            await self.misbehave(script)
        await self.write(answer, rest)
        self.finished = True
        self.generated()
        if answer.chunked:
            await self.stream.send_all(b"0\r\n\r\n")

    async def write(self, answer: Answer, events: list[bytes]) -> None:
        interval = answer.script.interval if answer.chunked else 0
        due = trio.current_time()
        for piece in cut_writes(answer.script, events):
            if interval:
                due += interval
                await trio.sleep_until(due)
            await self.stream.send_all(_chunk(piece) if answer.chunked else piece)

    async def misbehave(self, script: Script) -> None:
        if script.stall_after is not None:
            await self.stall()
            return
        self.finished = script.endless_after is None
        if script.endless_after is not None:
            await self.stream.send_all(_chunk(b"data: "))
            while True:
                await self.stream.send_all(_chunk(b"x" * 65536))
        if script.reset_after is not None and isinstance(self.stream, trio.SocketStream):
            linger = struct.pack("ii", 1, 0)
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise _Cut

    async def stall(self) -> None:
        self.server.stalled += 1
        self.server.changed()
        try:
            await self.server._released.wait()
        finally:
            self.server.stalled -= 1


def _stop(script: Script) -> int | None:
    """After how many events something happens."""
    given = (script.stall_after, script.cut_after, script.reset_after, script.endless_after)
    return next((after for after in given if after is not None), None)


def _parted(events: list[bytes], stop: int | None, extra: int) -> tuple[list[bytes], list[bytes]]:
    if stop is None:
        return events, []
    first, rest = events[:stop], events[stop:]
    if extra and rest:
        first, rest = [*first, rest[0][:extra]], [rest[0][extra:], *rest[1:]]
    return first, rest


def stamped(answer: Answer) -> Answer:
    """Give an answer the ids and the time of this request."""
    nonce = (_REPEATED if answer.script.ids == "repeated" else uuid4().hex[:12]).encode()
    old, mark, now = _NONCE.encode(), b"%d" % _CREATED, b"%d" % time.time()
    if answer.script.replay or answer.script.raw is not None:
        return answer
    whole = b"".join(answer.events).replace(old, nonce).replace(mark, now)
    at, events = 0, []
    for event in answer.events:
        events.append(whole[at : at + len(event)])
        at += len(event)
    return Answer(answer.script, answer.status, answer.headers, events, answer.chunked)


@contextlib.asynccontextmanager
async def open_fake_upstream(
    default: Script | None = None,
    *,
    port: int = 0,
    record: bool = True,
    keep_alive: float = float("inf"),
    **script: Any,
) -> AsyncIterator[FakeUpstream]:
    """Serve a fake upstream on loopback; ``script`` are members of its default :class:`Script`.

    An exception of the block leaves as it is, not in a group.
    """
    upstream = FakeUpstream((default or Script()).varied(**script), record=record, keep_alive=keep_alive)
    failure = None
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.listen, port)
        try:
            yield upstream
        except (trio.Cancelled, GeneratorExit):
            raise
        except BaseException as error:  # pytest's outcomes among them
            failure = error
        nursery.cancel_scope.cancel()
    if failure:
        raise failure


async def main() -> None:
    parser = argparse.ArgumentParser(description="A fake vLLM.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dialect", default="vllm", choices=list(_DIALECTS))
    parser.add_argument("--deltas", type=int)
    parser.add_argument("--interval", type=float, default=0.0)
    parser.add_argument("--script", default="{}", help="further members of the script, as JSON")
    options = parser.parse_args()
    given = {"dialect": options.dialect, "deltas": options.deltas, "interval": options.interval}
    script = msgspec.convert(given | json.loads(options.script), Script)
    async with open_fake_upstream(script, port=options.port, record=False) as upstream:
        print(upstream.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
