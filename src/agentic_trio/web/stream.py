"""A turn's events on their way to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.gateway.log import FellBehind
from agentic_trio.web.reply import Chunks, Reply
from agentic_trio.wire import sse
from agentic_trio.wire.dialect import encode

if TYPE_CHECKING:
    from agentic_trio.gateway.log import EventLog

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

KEEP_ALIVE = b": keep-alive\n\n"

_fell_behind = FellBehind()

FELL_BEHIND = sse.encode(
    "error", encode({"type": "error", "code": _fell_behind.code, "message": _fell_behind.message})
)
"""The last event for a reader whose events the log has dropped. It isn't the turn's: it has no number."""


def event_stream(log: EventLog, position: int = 0) -> Reply:
    """A log's events from a position on, as they come. Proxies are asked to keep and hold back nothing."""
    return Reply(EventBody(log, position), headers=list(STREAM_HEADERS))


class EventBody(Chunks):
    """A reader of a log: everything new in one chunk."""

    def __init__(self, log: EventLog, position: int) -> None:
        self._log = log
        self._position = position
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            events = await self._log.read(self._position)
        except FellBehind as error:
            self._ended, self.error = True, error
            return FELL_BEHIND
        self._position += len(events)
        self._ended = self._log.exhausted(self._position)
        if self._ended:
            return b"".join((*events, sse.DONE))
        return b"".join(events) or KEEP_ALIVE
