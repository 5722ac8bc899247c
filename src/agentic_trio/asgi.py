"""The gateway as an ASGI app, configured by the environment: ``hypercorn -k trio agentic_trio.asgi:app``.

The gateway is open for as long as the server's lifespan lasts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from quart_trio.asgi import TrioASGILifespan

from agentic_trio.config import Config, log_sources
from agentic_trio.errors import ConfigError
from agentic_trio.gateway.gateway import open_gateway
from agentic_trio.server.metrics_port import open_metrics_port
from agentic_trio.telemetry.observer import Observer
from agentic_trio.telemetry.process_log import lines_held, open_log
from agentic_trio.web.app import attach, create_app

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

    from agentic_trio.web.dispatch import GatewayApp


class GatewayLifespan(TrioASGILifespan):
    """Opens the gateway when the server starts and closes it when it stops, in one task."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        try:
            with lines_held():
                config = Config.from_env()
                log = open_log(config.log_format, config.log_level)
            log_sources(config)
            observer = Observer.of(config, log)
            async with (
                open_gateway(config, observer=observer) as gateway,
                open_metrics_port(observer.metrics, config),
            ):
                attach(cast("GatewayApp", self.app), gateway, listens=False)
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except ConfigError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


app = create_app()
app.asgi_lifespan_class = GatewayLifespan
