"""A rendered answer, and its bytes: head, framing, and how they are cut into writes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from .encoding import CREATED, NONCE, REPEATED
from .script import Script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


DATA = Path(__file__).parent.with_name("data")


@dataclass(frozen=True, slots=True)
class Answer:
    """A rendered answer; ids and times are still marks in it."""

    script: Script
    status: int
    headers: dict[str, str]
    events: list[bytes]
    chunked: bool


def plain(status: int, body: bytes, script: Script | None = None, **headers: str) -> Answer:
    """A JSON answer that is ready."""
    named = {"content-type": "application/json", "vary": "Origin"} | headers
    return Answer(script or Script(), status, named, [body], chunked=False)


def stamped(answer: Answer) -> Answer:
    """Give an answer the ids and the time of this request."""
    nonce = (REPEATED if answer.script.ids == "repeated" else uuid4().hex[:12]).encode()
    old, mark, now = NONCE.encode(), b"%d" % CREATED, b"%d" % time.time()
    if answer.script.replay or answer.script.raw is not None:
        return answer
    whole = b"".join(answer.events).replace(old, nonce).replace(mark, now)
    at, events = 0, []
    for event in answer.events:
        events.append(whole[at : at + len(event)])
        at += len(event)
    return Answer(answer.script, answer.status, answer.headers, events, answer.chunked)


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


def chunk(piece: bytes) -> bytes:
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
        return head_of(answer) + body
    return head_of(answer) + (chunk(body) if body else b"") + b"0\r\n\r\n"


def head_of(answer: Answer) -> bytes:
    framing = {"transfer-encoding": "chunked"}
    if not answer.chunked:
        framing = {"content-length": str(sum(map(len, answer.events)))}
    if answer.script.close:
        framing["connection"] = "close"
    return head(answer.status, answer.headers | framing)
