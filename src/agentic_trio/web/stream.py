"""A turn's events on their way to a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.gateway.log import FellBehind
from agentic_trio.web.reply import Chunks, Reply
from agentic_trio.wire import sse
from agentic_trio.wire.dialect import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.gateway.log import EventLog, Sink
    from agentic_trio.web.reply import SendNowait

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
    """A reader of a log: everything new in one chunk.

    Where the server takes bytes at any time, the writer of the log sends them on its own: this sleeps
    until there is more to do than that.
    """

    def __init__(self, log: EventLog, position: int) -> None:
        self._log = log
        self._position = position
        self._ended = False
        self._send_nowait: SendNowait | None = None
        self._sink: Sink | None = None
        self._unsent = False

    @property
    def ended(self) -> bool:
        return self._ended

    def attach(self, send_nowait: SendNowait) -> None:
        self._send_nowait = send_nowait

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            events = await self._log.read(self._position, self._sink)
        except FellBehind as error:
            self._ended, self.error = True, error
            return FELL_BEHIND
        # The head of the response leaves with the first chunk.
        self._sink = self._pass_on if self._send_nowait is not None else None
        self._position += len(events)
        self._ended = self._log.exhausted(self._position)
        if self._ended:
            return b"".join((*events, sse.DONE))
        unsent, self._unsent = self._unsent, False
        return b"".join(events) or (b"" if unsent else KEEP_ALIVE)

    def _pass_on(self, events: Sequence[bytes]) -> bool:
        assert self._send_nowait is not None
        self._position += len(events)
        self._unsent = not self._send_nowait(b"".join(events))
        return not self._unsent
