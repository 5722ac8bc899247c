"""The sockets that a server listens on: plain or under TLS, accepting while there is room."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from hypercorn.utils import repr_socket_addr

from agentic_trio.net.direct import DirectStream
from agentic_trio.net.streams import AdaptedStream, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from socket import socket
    from ssl import SSLContext

    from hypercorn.config import Config

    from agentic_trio.net.deadlines import Deadlines
    from agentic_trio.server.state import ServerState

    Listener = trio.abc.Listener[Stream]
    Adapt = Callable[[trio.SocketStream], Stream]


def open_listeners(config: Config, deadlines: Deadlines) -> tuple[Sequence[Listener], list[str]]:
    """Listen on what ``config`` binds.

    Returns:
        The listeners, and the URLs that they serve.

    Raises:
        OSError: an address can't be bound.
    """

    def plain(stream: trio.SocketStream) -> Stream:
        return DirectStream(stream, deadlines)

    sockets = config.create_sockets()
    groups: list[tuple[list[socket], str, Adapt]] = [(sockets.insecure_sockets, "http", plain)]
    if (tls := config.create_ssl_context()) is not None:
        groups.insert(0, (sockets.secure_sockets, "https", _under_tls(tls)))
    listeners: list[Listener] = []
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

    async def aclose(self) -> None:
        """Close the listening socket. Cancellation: closed all the same."""
        await self._listener.aclose()


class BoundedListener(trio.abc.Listener[Stream]):
    """Accepts the next connection only when the last one has got a slot.

    Args:
        slots: one for each connection that may be served at once. Whoever serves a connection gives
            its slot back.
        server: told that it is crowded when there is none left.
    """

    def __init__(self, listener: Listener, slots: trio.Semaphore, server: ServerState) -> None:
        self._listener = listener
        self._slots = slots
        self._server = server

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
            return
        self._server.crowded = not self._server.close_longest_idle()
        try:
            await self._slots.acquire()
        finally:
            self._server.crowded = False

    async def aclose(self) -> None:
        """Close the listening socket. Cancellation: closed all the same."""
        await self._listener.aclose()
