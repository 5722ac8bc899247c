"""Plain sockets on Trio, without what a general stream costs.

``trio.SocketStream`` takes a lock, a context manager for errors and two checkpoints for each call. A request
makes only a handful of calls, and each would cost as much as parsing its head.
"""

from __future__ import annotations

import math
import os
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from agentic_trio.net.streams import MAX_READ, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.net.deadlines import Deadlines
    from agentic_trio.net.pump import Pump

SLICE = 0.005
"""Seconds for which a task may go on without a wait, before it lets other tasks run."""


class DirectStream(Stream):
    """A connected socket: reads and writes go to it at once, and wait only when it isn't ready.

    A call that needn't wait is no checkpoint, but it notices that it has been cancelled. A task whose reads
    find bytes each time lets others run whenever it has gone on for ``SLICE`` seconds.

    Args:
        stream: owns the socket, and closes it.
        deadlines: end the waits that are bounded.
        pump: reads the stream when it is followed; without one its own task does.
    """

    def __init__(self, stream: trio.SocketStream, deadlines: Deadlines, pump: Pump | None = None) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._deadlines = deadlines
        self._pump = pump
        self._slice_ends = perf_counter() + SLICE

    @property
    def socket(self) -> trio.socket.SocketType:
        return self._socket

    async def receive_some(
        self, max_bytes: int | None = None, within: float = math.inf, *, patient: bool = False
    ) -> bytes:
        self.interrupted = False
        if patient:
            self._descriptor()
            await self._wait_readable(within)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            data = self.receive_nowait(max_bytes or MAX_READ)
            if data is not None:
                await self.give_way()
                return data
            await self._wait_readable(within)

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """Read what has arrived: empty at the end, None if nothing has. Raises as ``receive_some`` does."""
        try:
            return os.read(self._descriptor(), max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def follow(self, take: Callable[[bytes], bool], within: float = math.inf) -> None:
        """See ``Stream.follow``. Cancellation: nothing is lost."""
        if self._pump is None:
            await super().follow(take, within)
        else:
            await self._pump.follow(self, take, within)

    async def give_way(self) -> None:
        if perf_counter() >= self._slice_ends:
            # Shielded, because the bytes that were just read would be lost. It doesn't wait.
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._slice_ends = perf_counter() + SLICE

    async def _wait_readable(self, seconds: float) -> None:
        self._deadlines.set(self, trio.current_time() + seconds)
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except trio.ClosedResourceError:
            if self._socket.fileno() < 0:
                raise
        finally:
            self._deadlines.clear(self)
        self._slice_ends = perf_counter() + SLICE
        if self.interrupted:
            raise trio.TooSlowError

    def interrupt(self) -> None:
        self.interrupted = True
        trio.lowlevel.notify_closing(self._socket)

    def is_readable(self) -> bool:
        return self._socket.fileno() < 0 or self._socket.is_readable()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it.

        Raises:
            trio.BrokenResourceError: the connection broke.
            trio.ClosedResourceError: this side closed it.

        Cancellation: part of the data may be on its way.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        sent = self.send_nowait(data)
        if sent < len(data):
            with memoryview(data) as view:
                while sent < len(data):
                    await self.wait_send_all_might_not_block()
                    sent += self.send_nowait(view[sent:])

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        if not data:
            return 0
        try:
            return os.write(self._descriptor(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _descriptor(self) -> int:
        # Look it up for each call: once the socket is closed its number may be another's.
        descriptor: int = self._socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("this side closed the connection")
        return descriptor

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes more. Cancellation: nothing happened."""
        self._descriptor()
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except trio.ClosedResourceError:
            # `interrupt()` wakes writers as well as the reader. If the socket is still open this was
            # such a wake-up: return, and the caller tries to write again.
            self._descriptor()

    async def send_eof(self) -> None:
        """Close the sending side. Cancellation: nothing happened."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection. Cancellation: closed all the same."""
        await self._stream.aclose()


async def open_direct_stream(
    host: str, port: int, *, deadlines: Deadlines, pump: Pump | None = None
) -> DirectStream:
    """Connect to a TCP port. Raises OSError. Cancellation: nothing is left open."""
    return DirectStream(await trio.open_tcp_stream(host, port), deadlines, pump)
