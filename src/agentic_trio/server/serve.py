"""Serve a gateway over HTTP."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
from hypercorn.config import Config as HypercornConfig

from agentic_trio.errors import ConfigError
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.server.asgi_server import serve_asgi
from agentic_trio.server.limits import ConnectionLimits
from agentic_trio.server.metrics_port import open_metrics_port
from agentic_trio.web.app import create_app
from agentic_trio.web.callers import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from hypercorn.config import Sockets

    from agentic_trio.config import Config
    from agentic_trio.gateway.gateway import Gateway

KEEP_ALIVE_TIMEOUT = 75.0
"""Seconds; longer than the pools of common clients keep a connection, so that the client closes first."""

FAREWELL = 1.0
"""Seconds after the grace in which turns that were ended tell their clients so."""


async def serve(
    gateway: Gateway,
    *,
    sockets: Sockets | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a gateway on its configuration's ``host`` and ``port`` until told to stop.

    When the trigger returns, nothing more is accepted; requests have ``graceful_timeout`` to finish,
    then their turns are ended, recorded, and their clients told. The gateway takes no more turns afterwards.

    Args:
        gateway: an open one.
        sockets: what :func:`bound` has bound; without them the address is bound here.
        shutdown_trigger: its return starts the shutdown.
        task_status: gets the URLs that are being listened on.

    Raises:
        ConfigError: strangers could reach the address, and nobody has to say who they are.
        OSError: the address can't be bound.

    Cancellation: connections are closed at once; turns are recorded as ``cancelled``.
    """
    config = gateway.config
    check_exposure(config, authenticates=gateway.authenticator is not None)
    async with open_metrics_port(gateway.observer.metrics, config), open_inner_nursery() as nursery:

        async def told_to_stop() -> None:
            if shutdown_trigger is None:
                await trio.sleep_forever()
            else:
                await shutdown_trigger()
            gateway.admission.closed = True
            nursery.start_soon(_end_turns, gateway, trio.current_time() + config.graceful_timeout)

        await serve_asgi(
            create_app(gateway),
            hypercorn_config(config),
            limits=ConnectionLimits(
                max_connections=config.max_connections, write_timeout=config.write_timeout
            ),
            sockets=sockets,
            observer=gateway.observer,
            shutdown_trigger=told_to_stop,
            task_status=task_status,
        )


@contextmanager
def bound(config: Config) -> Iterator[Sockets]:
    """Bind a gateway's address before there is a gateway. Nobody can connect until it is served.

    Raises:
        OSError: the address can't be bound.
    """
    sockets = hypercorn_config(config).create_sockets()
    try:
        yield sockets
    finally:
        for each in sockets.insecure_sockets:
            each.close()


def check_exposure(config: Config, *, authenticates: bool) -> None:
    """Refuse to let in whoever reaches an address, unless that was asked for.

    Raises:
        ConfigError: ``host`` isn't loopback's, nobody has to say who they are, and ``open`` is off.
    """
    if not authenticates and not config.open and not is_loopback(config.host):
        raise ConfigError(
            f"host is {config.host}, where everyone who reaches it could read and use everything: set auth "
            "(--auth keys), or open (--open) if that is meant"
        )


async def _end_turns(gateway: Gateway, deadline: float) -> None:
    """Let turns finish, those in the background included, then end the rest."""
    await gateway.turns.drain(deadline)
    gateway.turns.end_all()


def hypercorn_config(config: Config) -> HypercornConfig:
    """hypercorn's settings for a gateway."""
    settings = HypercornConfig()
    host = f"[{config.host}]" if ":" in config.host else config.host
    settings.bind = [f"{host}:{config.port}"]
    settings.backlog = 1024
    settings.graceful_timeout = config.graceful_timeout + FAREWELL
    settings.keep_alive_timeout = KEEP_ALIVE_TIMEOUT
    settings.keep_alive_max_requests = 1_000_000
    settings.accesslog = None
    return settings
