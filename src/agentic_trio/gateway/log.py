"""A turn's events: one task writes them, any number of readers follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import GatewayError
from agentic_trio.wire.dialect import JsonObject, decode_object

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LOG_BYTES = 16 * 1024 * 1024
"""How much of a live turn's events is kept for readers that lag behind."""


class FellBehind(GatewayError):
    """The reader wants events that the log no longer holds: it was too slow."""

    code: str | None = "stream_fell_behind"

    def __init__(self) -> None:
        super().__init__("The stream was read too slowly.")


class EventLog:
    """An append-only, bounded list of encoded events; the event at index ``n`` has sequence number ``n``.

    The writer never waits: a slow reader costs memory up to the bound, then itself falls behind.

    Attributes:
        closed: set once no more events will come.
    """

    def __init__(self, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._events: list[bytes] = []
        self._first = 0
        self._size = 0
        self._max_bytes = max_bytes
        self.closed = trio.Event()
        self._quiet = False
        self._wakes = 0
        self._readers = trio.lowlevel.ParkingLot()
        # Where each parked reader goes on. It keeps up, however much is appended before it runs again.
        self._parked: dict[object, int] = {}

    def extend(self, events: Sequence[bytes]) -> None:
        """Append events and wake the readers."""
        if not events:
            return
        self._quiet = False
        self._events.extend(events)
        self._size += sum(map(len, events))
        if self._size > self._max_bytes:
            self._forget()
        self._readers.unpark_all()

    def wake_if_quiet(self) -> bool:
        """Wake the readers with no events, if none have come since the last call; returns whether.

        One clock serves all streams: a deadline on each wait of each reader would be a cost of every event.
        """
        quiet, self._quiet = self._quiet, True
        if quiet:
            self._wakes += 1
            self._readers.unpark_all()
        return quiet

    @classmethod
    def of(cls, events: Sequence[bytes]) -> EventLog:
        """The closed log of a turn that has ended."""
        log = cls()
        log._events = list(events)
        log.close()
        return log

    def whole(self) -> Sequence[bytes] | None:
        """All events so far, or None if some had to be dropped."""
        return None if self._first else tuple(self._events)

    def close(self) -> None:
        """No more events will come."""
        self.closed.set()
        self._readers.unpark_all()

    def _forget(self) -> None:
        """Drop the oldest events, but for those that a reader which keeps up has had no chance to take."""
        dropped = 0
        most = min(self._parked.values(), default=self._first + len(self._events) - 1) - self._first
        while self._size > self._max_bytes and dropped < most:
            self._size -= len(self._events[dropped])
            dropped += 1
        del self._events[:dropped]
        self._first += dropped

    def exhausted(self, position: int) -> bool:
        """Whether nothing follows ``position``, now or ever."""
        return self.closed.is_set() and position >= self._first + len(self._events)

    async def read(self, position: int) -> Sequence[bytes]:
        """All events from ``position`` on, as soon as there are any; none if woken
        without any, or once the log is closed.

        Raises:
            FellBehind: the events at ``position`` have been dropped.

        Cancellation: nothing is lost; read again from the same position.
        """
        wakes = self._wakes
        events = self._from(position)
        # What wakes a reader that is ahead of the log isn't for it.
        while not events and not self.closed.is_set() and wakes == self._wakes:
            await self._park(position)
            events = self._from(position)
        return events

    async def _park(self, position: int) -> None:
        reader = object()
        self._parked[reader] = position
        try:
            await self._readers.park()
        finally:
            del self._parked[reader]

    def _from(self, position: int) -> list[bytes]:
        if position < self._first:
            raise FellBehind
        return self._events[position - self._first :]


class TurnEvents:
    """Reads a log for a program: one decoded event at a time, from a position until the log is closed.

    Raises ``FellBehind`` to a program that reads too slowly. Cancellation: no event is lost.
    """

    def __init__(self, log: EventLog, position: int = 0) -> None:
        self._log = log
        self._position = position
        self._ready: list[bytes] = []

    def __aiter__(self) -> TurnEvents:
        return self

    async def __anext__(self) -> JsonObject:
        while not self._ready:
            if self._log.exhausted(self._position):
                raise StopAsyncIteration
            self._ready = list(reversed(await self._log.read(self._position)))
            self._position += len(self._ready)
        event = self._ready.pop()
        return decode_object(event[event.index(b"\ndata: ") + 7 :])
