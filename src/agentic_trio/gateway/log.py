"""A turn's events: one task writes them, any number of readers follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LOG_BYTES = 16 * 1024 * 1024
"""How much of a live turn's events is kept for readers that lag behind."""


class FellBehind(GatewayError):
    """The reader wants events that the log no longer locks: it was too slow."""

    code: str | None = "stream_fell_behind"

    def __init__(self) -> None:
        super().__init__("The stream was read too slowly.")


class EventLog:
    """An append-only, bounded list of encoded events; the event at index ``n`` has sequence number ``n``.

    The writer never waits: a slow reader costs memory up to the bound, then itself falls behind.
    """

    def __init__(self, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._events: list[bytes] = []
        self._first = 0
        self._size = 0
        self._max_bytes = max_bytes
        self._closed = False
        self._quiet = False
        self._nudges = 0
        self._readers = trio.lowlevel.ParkingLot()

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

    def nudge(self) -> None:
        """Wake the readers with nothing, if nothing has come since the last nudge.

        One clock serves all streams: a deadline for each wait of each reader would be a cost of every event.
        """
        if self._quiet:
            self._nudges += 1
            self._readers.unpark_all()
        self._quiet = True

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
        self._closed = True
        self._readers.unpark_all()

    def _forget(self) -> None:
        dropped = 0
        while self._size > self._max_bytes and dropped < len(self._events) - 1:
            self._size -= len(self._events[dropped])
            dropped += 1
        del self._events[:dropped]
        self._first += dropped

    def exhausted(self, position: int) -> bool:
        """Whether nothing follows ``position``, now or ever."""
        return self._closed and position >= self._first + len(self._events)

    async def read(self, position: int) -> Sequence[bytes]:
        """All events from ``position`` on, as soon as there are any; none at a nudge, or once it is closed.

        Raises:
            FellBehind: the events at ``position`` have been dropped.

        Cancellation: nothing is lost; read again from the same position.
        """
        nudges = self._nudges
        events = self._from(position)
        # What wakes a reader that is ahead of the log isn't for it.
        while not events and not self._closed and nudges == self._nudges:
            await self._readers.park()
            events = self._from(position)
        return events

    def _from(self, position: int) -> list[bytes]:
        if position < self._first:
            raise FellBehind
        return self._events[position - self._first :]
