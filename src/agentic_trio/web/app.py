"""The Quart-Trio app: its routes, its errors, and CORS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import request
from quart_cors import cors
from werkzeug.exceptions import HTTPException

from agentic_trio.web import conversations, docs, exposition, health, openapi, relay, responses
from agentic_trio.web.callers import Callers
from agentic_trio.web.dispatch import GatewayApp, refuse, this_request
from agentic_trio.web.proxies import Proxies
from agentic_trio.web.responses_socket import ResponsesSocket

if TYPE_CHECKING:
    from quart import Response

    from agentic_trio.gateway.gateway import Gateway

METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS")
PREFLIGHT_SECONDS = 600


def create_app(gateway: Gateway | None = None, *, listens: bool = True) -> GatewayApp:
    """An ASGI app that serves a gateway.

    Args:
        gateway: without one, whoever serves the app sets ``app.gateway`` before the first request.
        listens: as for ``attach``.
    """
    app = GatewayApp("agentic_trio", static_folder=None)
    # Otherwise a doubled slash is answered with a redirect: an HTML page that repeats the Host header.
    app.url_map.merge_slashes = False
    app.config["RESPONSE_TIMEOUT"] = None
    app.direct, app.public = {}, set()
    for routes in (
        responses.routes,
        conversations.routes,
        relay.routes,
        health.routes,
        openapi.routes,
        exposition.routes,
        docs.routes,
    ):
        app.register_blueprint(routes)
        app.direct |= routes.direct
        app.public |= routes.public
    for kind in (HTTPException, Exception):
        app.register_error_handler(kind, _error_response)
    app.asgi_websocket_class = ResponsesSocket
    app.before_request(_authenticate_the_lost)
    app.after_request(_name_request)
    if gateway is not None:
        attach(app, gateway, listens=listens)
    return app


def attach(app: GatewayApp, gateway: Gateway, *, listens: bool = True) -> None:
    """Give an app its gateway, and the settings that come with it.

    Args:
        app: has none yet.
        gateway: an open one.
        listens: whether the app is served on the configuration's ``host``, not by another server.
    """
    app.gateway = gateway
    app.callers = Callers(gateway.config, listens=listens)
    app.proxies = Proxies(gateway.config)
    origins = gateway.config.cors_allowed_origins
    if origins:
        cors(
            app,
            allow_origin="*" if "*" in origins else list(origins),
            allow_headers=["*"],
            allow_methods=list(METHODS),
            expose_headers=["X-Request-Id", "Retry-After"],
            max_age=PREFLIGHT_SECONDS,
        )


async def _authenticate_the_lost() -> None:
    """Ask who calls what isn't there, too: a stranger learns of no path. Routes ask by themselves."""
    if request.routing_exception is not None and request.method != "OPTIONS":
        await this_request().authenticate()


async def _name_request(response: Response) -> Response:
    answered = this_request()
    response.headers["x-request-id"] = answered.request_id
    response.headers["server-timing"] = answered.timing().decode()
    return response


async def _error_response(error: Exception) -> Response:
    return (await refuse(this_request(), error)).response()
