"""A client's connection as its requests use it: a stream, what was read off it, and its limits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from agentic_trio.net.streams import MAX_READ, send_within

if TYPE_CHECKING:
    from agentic_trio.net.streams import Stream
    from agentic_trio.server.limits import ConnectionLimits

# How long, and for how much, a client may go on sending a request that was answered before its end:
# closed at once, the reset could destroy the answer that the client hasn't read yet.
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 16 * 1024 * 1024


class Channel:
    """Reads into a buffer, sends within the write deadline.

    Attributes:
        stream: the connection.
        limits: what its client may cost.
        buffer: what was read and not used yet. Whoever uses bytes deletes them here.
    """

    def __init__(self, stream: Stream, limits: ConnectionLimits) -> None:
        self.stream = stream
        self.limits = limits
        self.buffer = bytearray()

    async def read(self, within: float = math.inf) -> bool:
        """Wait for bytes and put them into the buffer; False at the end of the stream.

        Raises what ``Stream.receive_some`` does.

        Cancellation: nothing is lost.
        """
        data = await self.stream.receive_some(MAX_READ, within)
        self.buffer += data
        return bool(data)

    async def send(self, data: bytes) -> None:
        """Send within ``write_timeout``. Raises, and can be cancelled, as ``send_within``."""
        await send_within(self.stream, data, self.limits.write_timeout)

    async def linger(self) -> None:
        """Read and drop what the client still sends, until it has read the answer and closes.

        Cancellation: the client may not get the end of the answer.
        """
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_SECONDS):
            await self.stream.send_eof()
            while left > 0 and (data := await self.stream.receive_some(MAX_READ)):
                left -= len(data)

    async def close(self) -> None:
        """Close the connection at once. Cancellation: closed all the same."""
        await trio.aclose_forcefully(self.stream)
