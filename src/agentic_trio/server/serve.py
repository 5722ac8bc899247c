"""Serve a gateway over HTTP."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio
from hypercorn.config import Config as HypercornConfig

from agentic_trio.errors import ConfigError
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.server.asgi_server import serve_asgi
from agentic_trio.server.binding import UDS_UMASK, Binding, load_certificate, tls_context, unix_socket
from agentic_trio.server.limits import ConnectionLimits
from agentic_trio.server.metrics_port import open_metrics_port
from agentic_trio.telemetry.edges import event
from agentic_trio.web.app import create_app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from ssl import SSLContext

    from hypercorn.config import Sockets

    from agentic_trio.config import Config
    from agentic_trio.gateway.gateway import Gateway

logger = logging.getLogger(__name__)

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
    check_exposure(gateway.config, authenticates=gateway.authenticator is not None)
    with unix_socket(None if sockets else Binding.of(gateway.config).uds):
        await _serve(gateway, sockets, shutdown_trigger or trio.sleep_forever, task_status)


async def _serve(
    gateway: Gateway,
    sockets: Sockets | None,
    shutdown_trigger: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[list[str]],
) -> None:
    config = gateway.config
    binding = Binding.of(config)
    settings = hypercorn_config(config, binding)
    if settings.certificates is not None:
        gateway.reloads.append(partial(load_certificate, settings.certificates))
    async with open_metrics_port(gateway.observer.metrics, config), open_inner_nursery() as nursery:

        async def told_to_stop() -> None:
            await shutdown_trigger()
            gateway.admission.close()
            stopping = event("stopping", turns=len(gateway.turns))
            logger.info("stopping: what runs has %g s", config.graceful_timeout, extra=stopping)
            nursery.start_soon(_end_turns, gateway, trio.current_time() + config.graceful_timeout)

        await serve_asgi(
            create_app(gateway, listens=binding.loopback),
            settings,
            limits=ConnectionLimits(
                max_connections=config.max_connections,
                write_timeout=config.write_timeout,
                max_message_bytes=config.max_request_body_size,
            ),
            websockets=True,
            sockets=sockets,
            observer=gateway.observer,
            shutdown_trigger=told_to_stop,
            task_status=task_status,
        )


@contextmanager
def bound(config: Config) -> Iterator[Sockets]:
    """Bind a gateway's address before there is a gateway. Nobody can connect until it is served.

    Raises:
        ConfigError: the certificate can't be used, or what is to be listened on is no socket.
        OSError: the address can't be bound.
    """
    binding = Binding.of(config)
    settings = hypercorn_config(config, binding)
    with unix_socket(binding.uds):
        sockets = settings.create_sockets()
        try:
            yield sockets
        finally:
            for each in (*sockets.insecure_sockets, *sockets.secure_sockets):
                each.close()


def check_exposure(config: Config, *, authenticates: bool) -> None:
    """Refuse to let in whoever reaches an address, unless that was asked for.

    Raises:
        ConfigError: ``host`` isn't loopback's, nobody has to say who they are, and ``open`` is off.
    """
    binding = Binding.of(config)
    if not authenticates and not config.open and binding.reachable is not None:
        raise ConfigError(
            f"host is {binding.reachable}, where everyone who reaches it could read and use everything: set "
            "auth (--auth keys), or open (--open) if that is meant"
        )


async def _end_turns(gateway: Gateway, deadline: float) -> None:
    """Let turns finish, those in the background included, then end the rest."""
    await gateway.turns.drain(deadline)
    gateway.turns.end_all()


class ServerConfig(HypercornConfig):
    """hypercorn's settings, with a TLS context that is kept, so that it can be given another certificate.

    Attributes:
        certificates: the context; None without TLS.
    """

    certificates: SSLContext | None = None

    @property
    def ssl_enabled(self) -> bool:
        return self.certificates is not None

    def create_ssl_context(self) -> SSLContext | None:
        return self.certificates


def hypercorn_config(config: Config, binding: Binding) -> ServerConfig:
    """hypercorn's settings for a gateway. Raises ConfigError."""
    settings = ServerConfig()
    settings.certificates = tls_context(config)
    settings.bind = binding.binds
    settings.umask = None if binding.uds is None else UDS_UMASK
    settings.backlog = 1024
    settings.graceful_timeout = config.graceful_timeout + FAREWELL
    settings.keep_alive_timeout = KEEP_ALIVE_TIMEOUT
    settings.keep_alive_max_requests = 1_000_000
    settings.accesslog = None
    return settings
