"""What a test asks the fake upstream to do: a script, and how a request chooses one."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypeAlias

import msgspec

Dialect: TypeAlias = Literal["vllm", "llama_cpp", "transformers"]
Pieces: TypeAlias = str | tuple[str, ...]


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


_CALL = re.compile(r"\bcall (\w+)\s*(\{[^{}]*\})?")


def default_output(body: dict[str, Any], items: list[dict[str, Any]], text: str) -> tuple[Item, ...]:
    """The default answer: the calls that the text asks for, or an echo."""
    tools = {
        tool["name"]: tool["type"] for tool in body.get("tools") or () if isinstance(tool.get("name"), str)
    }
    calls = [
        CustomCall(name, given) if tools[name] == "custom" else Call(name, given or "{}")
        for name, given in _CALL.findall(text)
        if name in tools
    ]
    return tuple(calls) or (Text(f"echo: {len(items)} items; last: {text}"),)
