"""hypercorn's own connection class, with bounds on what a stalled client can hold up.

It serves TLS, HTTP/2 and WebSockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer

from agentic_trio.net.streams import AdaptedStream, send_within

if TYPE_CHECKING:
    from agentic_trio.net.streams import Stream
    from agentic_trio.server.limits import ConnectionLimits


class BoundedTCPServer(TCPServer):
    """A TCPServer whose shielded sends and closes have a deadline.

    hypercorn shields them without one: a client that stops reading would block
    shutdown for ever.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits) -> None:
        super().__init__(*args)
        self._limits = limits

    async def protocol_send(self, event: Event) -> None:
        """Send what the protocol produced.

        Cancellation: put off until the data is sent or the write deadline has passed.
        """
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                with trio.CancelScope(shield=True):
                    await send_within(AdaptedStream(self.stream), event.data, self._limits.write_timeout)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
            except trio.TooSlowError:
                await trio.aclose_forcefully(self.stream)
                await self.protocol.handle(Closed())

    async def _close(self) -> None:
        # On TLS a close is a write too; cancelled, it drops the socket.
        with trio.move_on_after(self._limits.write_timeout):
            await super()._close()

    async def _initiate_server_close(self) -> None:
        with trio.move_on_after(self._limits.write_timeout):
            await super()._initiate_server_close()


class ReplayStream:
    """A socket stream whose first bytes were read before.

    Not a :class:`trio.SocketStream`: hypercorn asks for ``socket`` only, and tells
    TLS apart by ``do_handshake``.
    """

    def __init__(self, stream: Stream, replay: bytes) -> None:
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
