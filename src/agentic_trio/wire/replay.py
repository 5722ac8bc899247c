"""Replay a response whose stream was not kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.wire.accumulator import TERMINAL
from agentic_trio.wire.dialect import decode_object
from agentic_trio.wire.output_events import OutputEvents

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNDER_WAY: dict[str, Any] = {
    "status": "in_progress",
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "usage": None,
    "output": [],
}


def replayed(response: bytes) -> Sequence[bytes]:
    """Return the shortest legal stream that leads to a response, or nothing if it has not ended.

    Args:
        response: the whole Response object. Its items keep their ids.
    """
    final = decode_object(response)
    ending = TERMINAL.get(final["status"])
    if ending is None:
        return ()
    ids = iter([item["id"] for item in final["output"]])
    events = OutputEvents(lambda prefix: next(ids), 0)
    begun = {"response": final | _UNDER_WAY}
    sent = [events.event("response.created", begun)]
    if final["output"] or ending != "response.failed":
        sent.append(events.event("response.in_progress", begun))
    events.finish(final["output"], whole=True)
    sent += events.take_sent()
    # A response that was cancelled without an error has no terminal event, as in the first stream.
    if final["status"] != "cancelled" or final["error"] is not None:
        sent.append(events.event(ending, {"response": msgspec.Raw(response)}))
    return sent
