"""Trio streams as the server uses them."""

from __future__ import annotations

import socket
import struct
from typing import Final

import trio

from agentic_trio.streams import DirectStream

WRITE_PIECE: Final = 64 * 1024
BODY_PIECE: Final = 64 * 1024
MAX_READ: Final = 64 * 1024


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


class ReplayStream:
    """A socket stream whose first bytes were read before.

    Not a :class:`trio.SocketStream`: hypercorn asks for ``socket`` only, and tells
    TLS apart by ``do_handshake``.
    """

    def __init__(self, stream: DirectStream | trio.SocketStream, replay: bytes) -> None:
        self._stream = stream
        self._replay = replay
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read the replayed bytes first.

        Cancellation: nothing is lost.
        """
        if not self._replay:
            return await self._stream.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        data, self._replay = self._replay[:max_bytes], self._replay[len(self._replay[:max_bytes]) :]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send.

        Cancellation: part of the data may be on its way.
        """
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """Shut the sending side.

        Cancellation: nothing happened.
        """
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close.

        Cancellation: closed all the same.
        """
        await self._stream.aclose()
