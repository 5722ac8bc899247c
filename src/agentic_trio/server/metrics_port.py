"""``/metrics`` on a port of its own, for whoever can reach that port."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from hypercorn.config import Config as HypercornConfig

from agentic_trio.errors import ConfigError, NotFound
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.server.asgi_server import serve_asgi
from agentic_trio.server.limits import ConnectionLimits
from agentic_trio.telemetry.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio
    from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

    from agentic_trio.config import Config
    from agentic_trio.telemetry.metrics import Metrics

MAX_SCRAPERS = 20
"""Connections to the port of the metrics; further ones wait."""


@asynccontextmanager
async def open_metrics_port(metrics: Metrics | None, config: Config) -> AsyncIterator[None]:
    """Serve metrics on ``metrics_host`` and ``metrics_port`` while the block lasts, if that is asked for.

    Raises:
        ConfigError: the address can't be bound.

    Cancellation: connections are closed at once.
    """
    if metrics is None or not config.metrics_port:
        yield
        return
    async with open_inner_nursery() as nursery:
        await nursery.start(_serve, metrics, config)
        yield
        nursery.cancel_scope.cancel()


async def _serve(metrics: Metrics, config: Config, *, task_status: trio.TaskStatus[list[str]]) -> None:
    settings = HypercornConfig()
    host = f"[{config.metrics_host}]" if ":" in config.metrics_host else config.metrics_host
    settings.bind = [f"{host}:{config.metrics_port}"]
    settings.accesslog = None
    limits = ConnectionLimits(max_connections=MAX_SCRAPERS, write_timeout=config.write_timeout)
    try:
        await serve_asgi(_app(metrics), settings, limits=limits, task_status=task_status)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"metrics can't be served on {host}:{config.metrics_port}: {reason}") from error


def _app(metrics: Metrics) -> ASGIFramework:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
            status, kind, body = 200, CONTENT_TYPE, metrics.text()
        else:
            error = NotFound("Only GET /metrics is here.", code="unknown_url")
            status, kind, body = error.status, "application/json", error.body()
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return app
