"""A network in memory: byte streams with bounded buffers that break as TCP's do."""

from __future__ import annotations

import itertools
import math
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from agentic_trio.net.disconnects import Peer
from agentic_trio.net.streams import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from random import Random

    from agentic_trio.net.pump import Pump


_numbers = itertools.count(1000)
_open: dict[int, Way] = {}
"""Descriptor -> what comes in."""


def _nothing() -> None:
    pass


class Way:
    """One direction of a connection."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.ended = False
        """No more will come."""
        self.broken = False
        """Nobody will read."""
        self.lot = trio.lowlevel.ParkingLot()
        self.on_end: Callable[[], None] = _nothing
        self.on_bytes: Callable[[], None] = _nothing

    def end(self) -> None:
        self.ended = True
        self.lot.unpark_all()
        self.on_end()
        self.on_bytes()


class End(Stream):
    """One end of a connection. It is its own ``socket``, as far as a server looks at one."""

    family = socket.AF_INET

    def __init__(self, out: Way, into: Way, random: Random) -> None:
        self._out = out
        self._in = into
        self._random = random
        self._number = next(_numbers)
        self.closed = False
        self._waiting = trio.CancelScope()
        self.pump: Pump | None = None
        self.on_close: Callable[[], None] = _nothing
        self.on_gone: Callable[[], None] = _nothing

    @property
    def socket(self) -> End:
        return self

    def fileno(self) -> int:
        _open[self._number] = self._in
        return -1 if self.closed else self._number

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    getsockname = getpeername

    def setsockopt(self, *options: object) -> None:
        pass

    @property
    def is_over(self) -> bool:
        """Whether the other end has closed."""
        return self._in.ended

    def is_readable(self) -> bool:
        return bool(self._in.data) or self._in.ended

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        left = bytes(data)
        while left:
            if self.closed:
                raise trio.ClosedResourceError
            if self._out.broken or self._out.ended:
                raise trio.BrokenResourceError
            room = self._out.capacity - len(self._out.data)
            if room <= 0:
                await self._out.lot.park()
                continue
            self._out.data += left[:room]
            left = left[room:]
            self._out.lot.unpark_all()
            self._out.on_bytes()

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        if self.closed:
            raise trio.ClosedResourceError
        if self._out.broken or self._out.ended:
            raise trio.BrokenResourceError
        taken = bytes(data[: max(self._out.capacity - len(self._out.data), 0)])
        if taken:
            self._out.data += taken
            self._out.lot.unpark_all()
            self._out.on_bytes()
        return len(taken)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(
        self, max_bytes: int | None = None, within: float = math.inf, *, patient: bool = False
    ) -> bytes:
        self.interrupted = False
        with trio.CancelScope(deadline=trio.current_time() + within) as self._waiting:
            return await self._receive_some(max_bytes)
        raise trio.TooSlowError

    def interrupt(self) -> None:
        self.interrupted = True
        self._waiting.cancel()

    async def _receive_some(self, max_bytes: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._in.data and not self._in.ended:
            if self.closed:
                raise trio.ClosedResourceError
            await self._in.lot.park()
        return self._take(max_bytes)

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        if not self.closed and not self.is_readable():
            return None
        return self._take(max_bytes)

    async def follow(self, take: Callable[[bytes], bool], within: float = math.inf) -> None:
        if self.pump is None:
            await super().follow(take, within)
        else:
            await self.pump.follow(self, take, within)

    def _take(self, max_bytes: int | None) -> bytes:
        if self.closed:
            raise trio.ClosedResourceError
        if not self._in.data:
            if self._in.broken:
                raise trio.BrokenResourceError
            return b""
        size = min(max_bytes or 65536, len(self._in.data))
        if size > 1 and self._random.random() < 0.15:
            size = self._random.randint(1, size)
        found = bytes(self._in.data[:size])
        del self._in.data[:size]
        self._in.lot.unpark_all()
        return found

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._out.end()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The other end reads what was sent, then the end; what it sends breaks."""
        if self.closed:
            return
        self.closed = True
        self.on_close()
        _open.pop(self._number, None)
        self._in.on_end = _nothing
        self._in.broken = True
        self._in.data.clear()
        self._in.end()
        self._out.end()

    def reset(self) -> None:
        """The same, but what is on its way is lost, and the other end's reads break."""
        self._out.broken = True
        self._out.data.clear()
        self.close()


def connection(random: Random, out: int = 65536, back: int = 65536) -> tuple[End, End]:
    """Two ends. ``out`` and ``back`` are how many bytes are on their way at most, from the first and to it.

    An end's ``on_gone`` is called when the other one closes.
    """
    there, here = Way(out), Way(back)
    one, other = End(there, here, random), End(here, there, random)
    one.on_close = lambda: other.on_gone()
    other.on_close = lambda: one.on_gone()
    return one, other


class Ready:
    """Tells which ends can be read: what a pump asks the system for."""

    def __init__(self) -> None:
        self._watched: dict[int, Way] = {}
        self._lot = trio.lowlevel.ParkingLot()

    def add(self, descriptor: int) -> None:
        way = self._watched[descriptor] = _open[descriptor]
        way.on_bytes = self._lot.unpark_all
        self._lot.unpark_all()

    def remove(self, descriptor: int) -> None:
        self._watched.pop(descriptor).on_bytes = _nothing

    async def wait(self) -> list[int]:
        while True:
            await trio.lowlevel.checkpoint()
            found = [number for number, way in self._watched.items() if way.data or way.ended]
            if found:
                return found
            await self._lot.park()


class Disconnects:
    """Calls back when the other end has closed: what a server asks the system for."""

    def __init__(self) -> None:
        self._peers: dict[int, Peer] = {}
        self._gone: list[int] = []
        self._lot = trio.lowlevel.ParkingLot()

    def add(self, descriptor: int) -> Peer:
        if descriptor not in _open:
            raise OSError("bad file descriptor")
        peer = self._peers[descriptor] = Peer()
        way = _open[descriptor]
        way.on_end = lambda: self._ended(descriptor)
        if way.ended:
            self._ended(descriptor)
        return peer

    def _ended(self, descriptor: int) -> None:
        self._gone.append(descriptor)
        self._lot.unpark_all()

    def remove(self, descriptor: int, peer: Peer) -> None:
        del self._peers[descriptor]
        if descriptor in _open:
            _open[descriptor].on_end = _nothing

    async def run(self) -> None:
        while True:
            while self._gone:
                peer = self._peers.get(self._gone.pop(0))
                if peer is not None:
                    peer.leave()
            await self._lot.park()


@asynccontextmanager
async def open_disconnects() -> AsyncIterator[Disconnects]:
    disconnects = Disconnects()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disconnects.run)
        yield disconnects
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def no_disconnects() -> AsyncIterator[None]:
    """For a system that can't tell."""
    yield None


class Listener(trio.abc.Listener[End]):
    """Accepts what :meth:`connect` was given."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[End](100)

    def connect(self, end: End) -> None:
        """Raises OSError when nobody listens."""
        try:
            self._send.send_nowait(end)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.WouldBlock) as error:
            raise OSError("connection refused") from error

    async def accept(self) -> End:
        return await self._receive.receive()

    def accept_nowait(self) -> End | None:
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return None

    async def aclose(self) -> None:
        """What was not accepted is reset."""
        with suppress(trio.WouldBlock, trio.ClosedResourceError):
            while True:
                self._receive.receive_nowait().reset()
        self._receive.close()
        self._send.close()
        await trio.lowlevel.checkpoint()
