"""What both sides of the gateway ask of a connection, and an adapter that gives it to any Trio stream."""

from __future__ import annotations

import math
import socket
import struct
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

WRITE_PIECE: Final = 64 * 1024
BODY_PIECE: Final = 64 * 1024
MAX_READ: Final = 64 * 1024


class Stream(trio.abc.HalfCloseableStream):
    """A connection whose reads are bounded in time and can be interrupted.

    One task may read while another writes.

    Attributes:
        interrupted: the last read was ended by ``interrupt``, or is about to be.
        secure: the connection is under TLS.
    """

    interrupted = False
    secure = False

    @property
    @abstractmethod
    def socket(self) -> trio.socket.SocketType:
        """The socket beneath."""

    @abstractmethod
    async def receive_some(
        self, max_bytes: int | None = None, within: float = math.inf, *, patient: bool = False
    ) -> bytes:
        """Read what is there, waiting for the first byte; empty at the end.

        Args:
            max_bytes: bound on what is returned; ``MAX_READ`` if None.
            within: bound on the wait, in seconds.
            patient: nothing is expected to be there yet, so a look before the wait would be in vain.

        Raises:
            trio.TooSlowError: nothing came ``within`` so many seconds, or the wait was interrupted.
            trio.BrokenResourceError: the connection broke.
            trio.ClosedResourceError: this side closed it.

        Cancellation: nothing is lost.
        """

    async def follow(self, take: Callable[[bytes], bool], within: float = math.inf) -> None:
        """Call ``take`` with what each read returns, until it returns False or has got the empty end.

        Args:
            take: may be called in another task than the caller's, so it must not block.
            within: bound on the wait for each read, in seconds.

        Raises what ``receive_some`` raises, and what ``take`` does.

        Cancellation: nothing is lost.
        """
        while take(data := await self.receive_some(MAX_READ, within, patient=True)) and data:
            pass

    @abstractmethod
    def interrupt(self) -> None:
        """End a read that waits for bytes as if its time were over. Without one, it does nothing."""

    @abstractmethod
    def is_readable(self) -> bool:
        """Whether bytes, the end or an error wait to be read. Nothing is lost by asking."""

    async def give_way(self) -> None:
        """Let other tasks run, if this one has gone on for long without a read that waited.

        Cancellation: is put off until the next call.
        """

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Write what is taken at once; return how many bytes that were. Raises as ``send_all`` does."""
        return 0

    def reset_on_close(self) -> None:
        """Make closing the stream visible as a reset: for a message whose end is the close itself."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class AdaptedStream(Stream):
    """Any other Trio stream, such as ``trio.SSLStream``.

    Args:
        stream: what is read and written; it is closed with this one.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.secure = isinstance(stream, trio.SSLStream)
        self._waiting = trio.CancelScope()

    @property
    def socket(self) -> trio.socket.SocketType:
        found: trio.socket.SocketType = self._beneath().socket
        return found

    def _beneath(self) -> Any:
        stream = self._stream
        while isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        return stream

    async def receive_some(
        self, max_bytes: int | None = None, within: float = math.inf, *, patient: bool = False
    ) -> bytes:
        self.interrupted = False
        with trio.CancelScope(deadline=trio.current_time() + within) as self._waiting:
            return bytes(await self._stream.receive_some(max_bytes or MAX_READ))
        raise trio.TooSlowError

    def interrupt(self) -> None:
        self.interrupted = True
        self._waiting.cancel()

    def is_readable(self) -> bool:
        is_readable = getattr(getattr(self._beneath(), "socket", None), "is_readable", None)
        return is_readable is not None and bool(is_readable())

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of it. Cancellation: part of the data may be on its way."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until more is taken. Cancellation: nothing happened."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Close the sending side, where the stream beneath can. Cancellation: nothing happened."""
        # TLS can't end one side alone. HTTP's peers take the end of the connection beneath it as its end.
        beneath = self._beneath()
        if isinstance(beneath, trio.abc.HalfCloseableStream):
            await beneath.send_eof()
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close the connection. Cancellation: closed all the same."""
        await self._stream.aclose()


async def send_within(stream: Stream, data: bytes | memoryview, seconds: float) -> None:
    """Send ``data``; the peer has ``seconds`` for each 64 KiB of it.

    Raises:
        trio.TooSlowError: the peer didn't read; part of the data may be on its way.
        trio.BrokenResourceError: the connection broke.
        trio.ClosedResourceError: this side closed it.

    Cancellation: part of the data may be on its way, so the stream is good for nothing else.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    # Nearly always the kernel takes all of it, and there is nothing to wait for.
    sent = stream.send_nowait(data)
    view = memoryview(data)
    for start in range(sent, len(data), WRITE_PIECE):
        with trio.CancelScope(deadline=trio.current_time() + seconds) as scope:
            await stream.send_all(view[start : start + WRITE_PIECE])
        if scope.cancelled_caught:
            raise trio.TooSlowError
        # A peer that reads as fast as this writes would otherwise keep all other tasks waiting.
        await stream.give_way()
