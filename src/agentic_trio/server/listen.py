"""Bind, accept, serve and shut down."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio
from hypercorn.utils import repr_socket_addr, wrap_app

from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.direct import DirectStream
from agentic_trio.net.disconnects import open_disconnects
from agentic_trio.server.application import Application
from agentic_trio.server.channel import Channel
from agentic_trio.server.connection import HTTPConnection
from agentic_trio.server.fallback import BoundedTCPServer
from agentic_trio.server.state import ServerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from ssl import SSLContext

    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper, ASGIFramework

    from agentic_trio.net.deadlines import Deadlines
    from agentic_trio.server.limits import ConnectionLimits

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def serve_asgi(
    app: ASGIFramework,
    config: Config,
    *,
    limits: ConnectionLimits,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI app on what ``config`` binds. No lifespan: open resources around it.

    When the trigger returns, nothing more is accepted, idle connections close at
    once and requests in flight have ``config.graceful_timeout`` seconds, then are
    cancelled. A client that has stopped reading a TLS, HTTP/2 or WebSocket connection
    can hold that up by ``limits.write_timeout`` at most.

    Args:
        app: An ASGI 3 callable.
        config: hypercorn's. The ``server`` header is off whatever it says.
        limits: What a client may cost.
        shutdown_trigger: Its return starts the shutdown; so does ``config.max_requests``.
        task_status: Gets the URLs that are being listened on.

    Raises:
        OSError: An address can't be bound.

    Cancellation: everything is cancelled at once, without the grace.
    """
    config = copy.copy(config)
    config.include_server_header = False
    context = ServerState(config)
    listeners, urls = _open_listeners(config)
    slots = trio.Semaphore(limits.max_connections)
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    async with (
        open_disconnects() as context.disconnects,
        open_deadlines() as deadlines,
        trio.open_nursery() as connections,
    ):
        handler = _Handler(wrapped, config, context, limits, slots, deadlines)
        async with trio.open_nursery() as accepting:
            stop = accepting.cancel_scope.cancel
            accepting.start_soon(_after, context.terminate.wait, stop)
            if shutdown_trigger is not None:
                accepting.start_soon(_after, shutdown_trigger, stop)
            bounded = [BoundedListener(listener, slots, context) for listener in listeners]
            accepting.start_soon(partial(trio.serve_listeners, handler, bounded, handler_nursery=connections))
            for url in urls:
                await config.log.info(f"Running on {url}")
            task_status.started(urls)
        connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        await context.shut_down()


async def _after(wait: Callable[[], Awaitable[None]], then: Callable[[], None]) -> None:
    await wait()
    then()


def _open_listeners(config: Config) -> tuple[list[trio.abc.Listener[Stream]], list[str]]:
    tls = config.create_ssl_context()
    sockets = config.create_sockets()
    listeners: list[trio.abc.Listener[Stream]] = []
    urls: list[str] = []
    for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
        sock.listen(config.backlog)
        secure = sock in sockets.secure_sockets
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        listeners.append(_over_tls(listener, tls) if secure else listener)
        scheme = "https" if secure else "http"
        urls.append(f"{scheme}://{repr_socket_addr(sock.family, sock.getsockname())}")
    return listeners, urls


def _over_tls(listener: trio.SocketListener, tls: SSLContext | None) -> trio.abc.Listener[Stream]:
    assert tls is not None  # hypercorn makes secure sockets only with a certificate
    return trio.SSLListener(listener, tls, https_compatible=True)


class BoundedListener(trio.abc.Listener[Stream]):
    """Accepts the next connection only when the last one has got a slot."""

    def __init__(
        self, listener: trio.abc.Listener[Stream], slots: trio.Semaphore, context: ServerState
    ) -> None:
        self._listener = listener
        self._slots = slots
        self._context = context

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
        self._context.crowded = not self._context.close_longest_idle()
        try:
            await self._slots.acquire()
        finally:
            self._context.crowded = False

    async def aclose(self) -> None:
        """Close the listening socket.

        Cancellation: closed all the same.
        """
        await self._listener.aclose()


@dataclass(frozen=True)
class _Handler:
    """Serves one accepted connection, and keeps its bugs from the others."""

    app: AppWrapper
    config: Config
    context: ServerState
    limits: ConnectionLimits
    slots: trio.Semaphore
    deadlines: Deadlines

    async def __call__(self, stream: Stream) -> None:
        try:
            if isinstance(stream, trio.SSLStream):
                await BoundedTCPServer(self.app, self.config, self.context, {}, stream, limits=self.limits)
            else:
                channel = Channel(DirectStream(stream, self.deadlines), self.limits)
                app = Application(self.app, self.config)
                await HTTPConnection(app, self.context, channel, self.app).run()
        except Exception:
            await self.config.log.exception("Error in a connection")
        finally:
            self.slots.release()
