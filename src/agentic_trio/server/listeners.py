"""The sockets that a server listens on: plain or under TLS, accepting while there is room."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from hypercorn.utils import repr_socket_addr

from agentic_trio.net.direct import DirectStream
from agentic_trio.net.streams import AdaptedStream, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLContext

    from hypercorn.config import Config, Sockets

    from agentic_trio.net.deadlines import Deadlines
    from agentic_trio.server.state import ServerState

    Adapt = Callable[[trio.SocketStream], Stream]


def open_listeners(
    config: Config, deadlines: Deadlines, sockets: Sockets | None = None
) -> tuple[Sequence[StreamListener], list[str]]:
    """Listen on what ``config`` binds.

    Args:
        config: hypercorn's.
        deadlines: end the waits of plain connections.
        sockets: what ``config`` binds, if that was done before.

    Returns:
        The listeners, and the URLs that they serve.

    Raises:
        OSError: an address can't be bound.
    """

    def plain(stream: trio.SocketStream) -> Stream:
        return DirectStream(stream, deadlines)

    sockets = sockets or config.create_sockets()
    groups: list[tuple[list[socket.socket], str, Adapt]] = [(sockets.insecure_sockets, "http", plain)]
    if (tls := config.create_ssl_context()) is not None:
        groups.insert(0, (sockets.secure_sockets, "https", _under_tls(tls)))
    listeners: list[StreamListener] = []
    urls = []
    for bound, scheme, adapt in groups:
        for sock in bound:
            sock.listen(config.backlog)
            listeners.append(StreamListener(trio.SocketListener(trio.socket.from_stdlib_socket(sock)), adapt))
            urls.append(f"{scheme}://{repr_socket_addr(sock.family, sock.getsockname())}")
    return listeners, urls


def _under_tls(context: SSLContext) -> Adapt:
    def adapt(stream: trio.SocketStream) -> Stream:
        # The handshake is part of the first read, and shares its deadline.
        return AdaptedStream(trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    return adapt


class StreamListener(trio.abc.Listener[Stream]):
    """Accepts connections as the streams that the server reads."""

    def __init__(self, listener: trio.SocketListener, adapt: Adapt) -> None:
        self._listener = listener
        self._adapt = adapt

    async def accept(self) -> Stream:
        """Accept a connection. Cancellation: none was accepted."""
        return self._adapt(await self._listener.accept())

    def accept_nowait(self) -> Stream | None:
        """Accept a connection that is there already; None if there is none."""
        with socket.socket(fileno=os.dup(self._listener.socket.fileno())) as listening:
            listening.setblocking(False)
            try:
                accepted, _ = listening.accept()
            except OSError:
                return None
        return self._adapt(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))

    async def aclose(self) -> None:
        """Close the listening socket. Cancellation: closed all the same."""
        await self._listener.aclose()


class BoundedListener(trio.abc.Listener[Stream]):
    """Accepts the next connection only when the last one has got a slot.

    Args:
        slots: one for each connection that may be served at once. Whoever serves a connection gives
            its slot back.
        server: told that it is crowded when there is none left.

    Attributes:
        late: connections that the kernel had accepted when the listener was closed. They own slots, too.
    """

    def __init__(self, listener: StreamListener, slots: trio.Semaphore, server: ServerState) -> None:
        self._listener = listener
        self._slots = slots
        self._server = server
        self.late: list[Stream] = []

    async def accept(self) -> Stream:
        """Accept a connection, which then owns a slot.

        Cancellation: a connection that was still waiting for its slot is closed.
        """
        stream = await self._listener.accept()
        try:
            await self._take_slot()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def _take_slot(self) -> None:
        with suppress(trio.WouldBlock):
            self._slots.acquire_nowait()
            if self._server.full.refused:
                self._server.full.admit()
            return
        self._server.crowded = not self._server.close_longest_idle()
        if self._server.crowded:
            self._server.full.refuse()
        try:
            await self._slots.acquire()
        finally:
            self._server.crowded = False

    async def aclose(self) -> None:
        """Close the listening socket. Cancellation: closed all the same.

        A client that the kernel has let in believes that it is connected. Closing the socket would reset
        its connection, although it may have sent a request.
        """
        with suppress(trio.WouldBlock):
            while True:
                self._slots.acquire_nowait()
                stream = self._listener.accept_nowait()
                if stream is None:
                    self._slots.release()
                    break
                self.late.append(stream)
        await self._listener.aclose()
