"""Protocol tests that read as a transcript: what the upstream said, and what the client was told.

    (
        Playbook()
        >> event("response.output_text.delta", delta="hi")
        << ["output_item.added 0 message in_progress", "content_part.added 0.0 output_text ''", ...]
    ).ends("response.completed")

A failure shows the difference. :func:`line` says how an event is written here.
"""

from __future__ import annotations

import difflib
import itertools
import json
from typing import TYPE_CHECKING, Any

from agentic_trio.wire import sse
from agentic_trio.wire.accumulator import Accumulator
from agentic_trio.wire.create_response import parse_create_response
from agentic_trio.wire.responses import Snapshot
from tests.oracles import check_event_stream, parse_sse

if TYPE_CHECKING:
    from agentic_trio.wire.ids import MintId

Json = dict[str, Any]

REQUEST: Json = {"model": "tiny", "input": "hi"}
NOW = 1_700_000_000.25
TEXTS = ("delta", "text", "refusal", "arguments", "input", "code")


def counted_ids() -> MintId:
    """Ids that say in which order they were made."""
    numbers = itertools.count()
    return lambda prefix: f"{prefix}_{next(numbers):048x}"


def new_response(request: Json = REQUEST) -> Accumulator:
    """A response that is about to begin, for a request, at a fixed time and with ids in order."""
    call = parse_create_response(json.dumps(request).encode(), counted_ids())
    return Accumulator(Snapshot("resp_" + "0" * 48, int(NOW), call.echo()), counted_ids(), lambda: NOW)


def event(kind: str, /, **members: Any) -> bytes:
    """An event of an upstream, with these members and no others."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def terminal(*output: Json, kind: str = "response.completed", **members: Any) -> bytes:
    """An upstream's last event."""
    usage = {"input_tokens": 2, "output_tokens": 3, "total_tokens": 5}
    status = kind.removeprefix("response.")
    response = {"id": "up", "status": status, "output": list(output), "usage": usage, **members}
    return event(kind, response=response)


def line(said: Json) -> str:
    """An event in short: its name, the place it is about, and its text, item or status."""
    words = [said["type"].removeprefix("response.")]
    if "output_index" in said:
        places = (said.get(key) for key in ("output_index", "content_index", "summary_index"))
        words.append(".".join(str(place) for place in places if place is not None))
    about = said.get("item") or said.get("part") or said
    if about is not said:
        words.append(about["type"])
    if "status" in about:
        words.append(about["status"])
    words.extend(repr(about[key]) for key in TEXTS if key in about)
    if "response" in said:
        words.append(said["response"]["status"])
    if said["type"] == "error":
        words.append(said["message"])
    return " ".join(words)


class Playbook:
    """An upstream's answer, event by event, against what the client is told meanwhile."""

    def __init__(self, request: Json = REQUEST) -> None:
        self.response = new_response(request)
        self._request = request
        self.raw = b"".join(self.response.begin())
        self._told = b""

    def __rshift__(self, chunk: bytes) -> Playbook:
        """The upstream says this."""
        self._tell(self.response.receive(chunk))
        return self

    def __lshift__(self, lines: list[str]) -> Playbook:
        """The client was told this, and nothing else, since it was last asked."""
        told, self._told = self._told, b""
        found = [line(each) for each in parse_sse(told)[0]]
        difference = "\n".join(difflib.ndiff(lines, found))
        assert found == lines, f"the client was told something else (+) than expected (-):\n{difference}"
        return self

    def close(self) -> Playbook:
        """The upstream's stream ends."""
        self._tell(self.response.end_of_stream())
        return self

    def ends(self, ending: str, *, interleaved: bool = False) -> list[Json]:
        """The upstream's stream ends; the client has then seen a legal stream, which is answered."""
        self.close()
        self._tell(self.response.terminal_events())
        return check_event_stream(self.raw + sse.DONE, self._request, ending=ending, interleaved=interleaved)

    def _tell(self, events: list[bytes]) -> None:
        told = b"".join(events)
        self._told += told
        self.raw += told
