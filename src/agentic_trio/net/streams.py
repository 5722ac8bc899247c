"""Plain sockets on Trio, without what a general stream costs.

``trio.SocketStream`` takes a lock, a context manager for errors and two checkpoints for each call. On the
busy path each of a request's handful of calls would cost as much as parsing its head.
"""

from __future__ import annotations

import math
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from agentic_trio.net.deadlines import Deadlines

WRITE_PIECE: Final = 64 * 1024
BODY_PIECE: Final = 64 * 1024
MAX_READ: Final = 64 * 1024

READS_BEFORE_YIELD = 8
"""Reads in a row that find bytes waiting, before other tasks get their turn."""


class DirectStream(trio.abc.HalfCloseableStream):
    """A connected socket: reads and writes go to it at once, and wait only when it isn't ready.

    One task may read while another writes. A call that needn't wait is no checkpoint, but for each
    ``READS_BEFORE_YIELD``-th read; each call notices that it has been cancelled.

    Attributes:
        interrupted: the last read was ended by ``interrupt``, or is about to be.

    Args:
        stream: owns the socket, and closes it.
        deadlines: end the waits that are bounded.
    """

    def __init__(self, stream: trio.SocketStream, deadlines: Deadlines) -> None:
        self._stream = stream
        self.socket = stream.socket
        self._deadlines = deadlines
        self._reads = 0
        self.interrupted = False

    async def receive_some(
        self, max_bytes: int | None = None, within: float = math.inf, *, patient: bool = False
    ) -> bytes:
        """Read what is there, waiting for the first byte; empty at the end.

        ``patient`` waits without a look first, which would be in vain between the pieces of a slow stream.

        Raises:
            trio.TooSlowError: nothing came ``within`` so many seconds, or the wait was interrupted.
            trio.BrokenResourceError: the connection broke.
            trio.ClosedResourceError: this side closed it.

        Cancellation: nothing is lost.
        """
        self.interrupted = False
        if patient:
            self._descriptor()
            await self._wait_readable(within)
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._reads += 1
        if self._reads >= READS_BEFORE_YIELD:
            self._reads = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return os.read(self._descriptor(), max_bytes or 65536)
            except BlockingIOError:
                await self._wait_readable(within)
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def _wait_readable(self, seconds: float) -> None:
        self._reads = 0
        if self.interrupted:
            # While others had their turn.
            raise trio.TooSlowError
        self._deadlines.set(self, trio.current_time() + seconds)
        try:
            await trio.lowlevel.wait_readable(self.socket)
        except trio.ClosedResourceError:
            if self.socket.fileno() < 0:
                raise
        finally:
            self._deadlines.clear(self)
        if self.interrupted:
            raise trio.TooSlowError

    def is_quiet(self) -> bool:
        """Whether the connection is open and nothing has come. What has come is lost."""
        try:
            os.read(self._descriptor(), 1)
        except BlockingIOError:
            return True
        except (OSError, trio.ClosedResourceError):
            return False
        return False

    def interrupt(self) -> None:
        """End a read that waits for bytes as if its time were over. Without one, it does nothing."""
        self.interrupted = True
        trio.lowlevel.notify_closing(self.socket)

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
        """Write what the kernel takes at once; answers how much that was. Raises as ``send_all`` does."""
        if not data:
            return 0
        try:
            return os.write(self._descriptor(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    def _descriptor(self) -> int:
        # Asked for each time: once the socket is closed its number may be another's.
        descriptor: int = self.socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("this side closed the connection")
        return descriptor

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes more. Cancellation: nothing happened."""
        self._descriptor()
        try:
            await trio.lowlevel.wait_writable(self.socket)
        except trio.ClosedResourceError:
            # Interrupting a read wakes this too; then nothing was closed, and who finds no room waits again.
            self._descriptor()

    async def send_eof(self) -> None:
        """Close the sending side. Cancellation: nothing happened."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the connection. Cancellation: closed all the same."""
        await self._stream.aclose()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option of the socket."""
        self._stream.setsockopt(level, option, value)


async def open_direct_stream(host: str, port: int, *, deadlines: Deadlines) -> DirectStream:
    """Connect to a TCP port. Raises OSError. Cancellation: nothing is left open."""
    return DirectStream(await trio.open_tcp_stream(host, port), deadlines)


async def send_within(stream: trio.abc.SendStream | DirectStream, data: bytes, timeout: float) -> None:
    """Send ``data``; the peer has ``timeout`` seconds for each 64 KiB of it.

    Raises:
        trio.TooSlowError: The peer didn't read; part of the data may be on its way.

    Cancellation: part of the data may be on its way, so the stream is good for nothing else.
    """
    sent = 0
    if isinstance(stream, DirectStream):
        # Nearly always the kernel takes all of it, and there is nothing to wait for.
        await trio.lowlevel.checkpoint_if_cancelled()
        sent = stream.send_nowait(data)
    view = memoryview(data)
    for start in range(sent, len(data), WRITE_PIECE):
        with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
            await stream.send_all(view[start : start + WRITE_PIECE])
        if scope.cancelled_caught:
            raise trio.TooSlowError


def reset_on_close(stream: DirectStream | trio.SocketStream) -> None:
    """Make closing the stream visible as a reset: for a response whose end is the close itself."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
