"""A turn's events: one task writes them, any number of readers follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import trio

from agentic_trio.errors import GatewayError
from agentic_trio.wire.dialect import JsonObject, decode_object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Sink: TypeAlias = "Callable[[Sequence[bytes]], bool]"

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
        # A parked reader keeps up, however much is appended before it runs again.
        self._parked: dict[_Parked, None] = {}

    def extend(self, events: Sequence[bytes]) -> None:
        """Append events, and hand them to the readers that wait: to their sinks, or by waking them."""
        if not events:
            return
        end = self._append(events)
        for reader in self._parked:
            reader.offer(events, end)
        if self._size > self._max_bytes:
            self._forget()

    def append_last(self, events: Sequence[bytes]) -> None:
        """Append the last events. Readers are woken for them: the end of the log is to leave with them."""
        if events:
            end = self._append(events)
            for reader in self._parked:
                reader.wake_for(end)
            if self._size > self._max_bytes:
                self._forget()

    def _append(self, events: Sequence[bytes]) -> int:
        """Append events; return the position behind them."""
        self._quiet = False
        self._events.extend(events)
        self._size += sum(map(len, events))
        return self._first + len(self._events)

    def wake_if_quiet(self) -> bool:
        """Wake the readers with no events, if none have come since the last call; returns whether.

        One clock serves all streams: a deadline on each wait of each reader would be a cost of every event.
        """
        quiet, self._quiet = self._quiet, True
        if quiet:
            self._wake_all()
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
        self._wake_all()

    def _wake_all(self) -> None:
        for reader in self._parked:
            reader.woken.set()

    def _forget(self) -> None:
        """Drop the oldest events, but for those that a reader which keeps up has had no chance to take."""
        dropped = 0
        last = self._first + len(self._events) - 1
        most = min([last, *(reader.position for reader in self._parked)]) - self._first
        while self._size > self._max_bytes and dropped < most:
            self._size -= len(self._events[dropped])
            dropped += 1
        del self._events[:dropped]
        self._first += dropped

    def exhausted(self, position: int) -> bool:
        """Whether nothing follows ``position``, now or ever."""
        return self.closed.is_set() and position >= self._first + len(self._events)

    async def read(self, position: int, sink: Sink | None = None) -> Sequence[bytes]:
        """All events from ``position`` on, as soon as there are any; none if woken
        without any, or once the log is closed.

        Args:
            position: of the first event that is wanted.
            sink: while this waits, new events go to it, as soon as they are there and without waking the
                reader. It returns whether the reader may sleep on. In either case it has taken the events,
                and the reader's position is behind them. It must neither block nor raise.

        Raises:
            FellBehind: the events at ``position`` have been dropped.

        Cancellation: nothing is lost; read again from the same position.
        """
        events = self._from(position)
        if events or self.closed.is_set():
            return events
        reader = _Parked(position, sink)
        self._parked[reader] = None
        try:
            await reader.woken.wait()
        finally:
            del self._parked[reader]
        return self._from(reader.position)

    def _from(self, position: int) -> list[bytes]:
        if position < self._first:
            raise FellBehind
        return self._events[position - self._first :]


class _Parked:
    """A reader that waits for events.

    Attributes:
        position: of the next event that it wants.
        woken: it is about to run.
    """

    __slots__ = ("_sink", "position", "woken")

    def __init__(self, position: int, sink: Sink | None) -> None:
        self.position = position
        self.woken = trio.Event()
        self._sink = sink

    def offer(self, events: Sequence[bytes], end: int) -> None:
        """Take new events, which end at ``end``."""
        if self.position != end - len(events) or self._sink is None or self.woken.is_set():
            self.wake_for(end)
            return
        self.position = end
        if not self._sink(events):
            self.woken.set()

    def wake_for(self, end: int) -> None:
        """Wake the reader for new events, unless it wants only later ones."""
        if self.position < end:
            self.woken.set()


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
