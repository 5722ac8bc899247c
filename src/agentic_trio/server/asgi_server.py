"""A server for any ASGI app: accept connections, serve them, shut down."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import trio

from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.disconnects import open_disconnects
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.server.application import Application
from agentic_trio.server.channel import Channel
from agentic_trio.server.connection import HTTPConnection
from agentic_trio.server.listeners import BoundedListener, open_listeners
from agentic_trio.server.state import ServerState
from agentic_trio.telemetry.edges import event
from agentic_trio.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config, Sockets
    from hypercorn.typing import ASGIFramework

    from agentic_trio.net.streams import Stream
    from agentic_trio.server.limits import ConnectionLimits


logger = logging.getLogger(__name__)


async def serve_asgi(
    app: ASGIFramework,
    config: Config,
    *,
    limits: ConnectionLimits,
    websockets: bool = False,
    sockets: Sockets | None = None,
    observer: Observer | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI app over HTTP/1.1 on what ``config`` binds. No lifespan: open resources around it.

    When the trigger returns, nothing more is accepted. Idle connections close at once, but one that has just
    been accepted has a moment for its first request. Requests in flight have ``config.graceful_timeout``
    seconds before they are cancelled.

    Args:
        app: an ASGI 3 callable.
        config: hypercorn's. The ``server`` header is off, and HTTP/2 isn't offered, whatever it says:
            this is to stand behind a proxy, where HTTP/2 gains nothing and would need bounds of its own.
        limits: what a client may cost.
        websockets: whether the app is called for WebSockets; otherwise each handshake is refused with 426.
        sockets: what ``config`` binds, if that was done before.
        observer: is told of requests that are refused before the app sees them.
        shutdown_trigger: its return starts the shutdown; so does ``config.max_requests``.
        task_status: gets the URLs that are being listened on.

    Raises:
        OSError: an address can't be bound.

    Cancellation: everything is cancelled at once, without the grace.
    """
    config = _adapted(config)
    server = ServerState(config, observer or Observer(), websockets=websockets)
    slots = trio.Semaphore(limits.max_connections)
    async with (
        open_disconnects() as server.disconnects,
        open_deadlines() as deadlines,
        open_inner_nursery() as connections,
    ):
        server.observer.show(
            "connections", "Clients that are connected", lambda: limits.max_connections - slots.value
        )
        listeners, urls = open_listeners(config, deadlines, sockets)
        bounded = [BoundedListener(listener, slots, server) for listener in listeners]
        handler = _Handler(Application(app, config), server, limits, slots)
        serve = partial(trio.serve_listeners, handler, bounded, handler_nursery=connections)
        for url in urls:
            logger.debug("serving %s", url)
        task_status.started(urls)
        try:
            await _run_until(serve, server.wait_served_out, shutdown_trigger or trio.sleep_forever)
        finally:
            # Whoever cancels this has them closed by their handlers.
            for stream in chain.from_iterable(listener.late for listener in bounded):
                connections.start_soon(handler, stream)
        connections.cancel_scope.deadline = trio.current_time() + config.graceful_timeout
        server.shut_down()


def _adapted(config: Config) -> Config:
    config = copy.copy(config)
    config.include_server_header = False
    config.alpn_protocols = ["http/1.1"]
    return config


async def _run_until(serve: Callable[[], Awaitable[object]], *stops: Callable[[], Awaitable[None]]) -> None:
    """Run ``serve`` until one of ``stops`` returns, then cancel it."""

    async def stop_after(stop: Callable[[], Awaitable[None]]) -> None:
        await stop()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for stop in stops:
            nursery.start_soon(stop_after, stop)
        nursery.start_soon(serve)


@dataclass(frozen=True)
class _Handler:
    """Serves one accepted connection, and keeps its bugs from the others."""

    app: Application
    server: ServerState
    limits: ConnectionLimits
    slots: trio.Semaphore

    async def __call__(self, stream: Stream) -> None:
        try:
            await HTTPConnection(self.app, self.server, Channel(stream, self.limits)).run()
        except Exception:
            logger.exception("a connection failed", extra=event("bug"))
        finally:
            self.slots.release()
