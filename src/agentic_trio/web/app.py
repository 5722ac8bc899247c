"""The Quart-Trio app: its routes, its errors, and CORS."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from quart import Response, request
from quart_cors import cors
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from agentic_trio.errors import GatewayError, InvalidRequest, NotFound, RequestTooLarge
from agentic_trio.web import conversations, health, relay, responses
from agentic_trio.web.request import GatewayApp, json_response, this_gateway, this_request

if TYPE_CHECKING:
    from agentic_trio.gateway import Gateway

logger = logging.getLogger("agentic_trio")

METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS")
PREFLIGHT_SECONDS = 600


def create_app(gateway: Gateway | None = None) -> GatewayApp:
    """An ASGI app that serves a gateway.

    Args:
        gateway: without one, whoever serves the app sets ``app.gateway`` before the first request.
    """
    app = GatewayApp("agentic_trio", static_folder=None)
    # Otherwise a doubled slash is answered with a redirect: an HTML page that repeats the Host header.
    app.url_map.merge_slashes = False
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BODY_TIMEOUT"] = None
    for blueprint in (responses.routes, conversations.routes, relay.routes, health.routes):
        app.register_blueprint(blueprint)
    app.register_error_handler(GatewayError, _gateway_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    app.after_request(_name_request)
    if gateway is not None:
        attach(app, gateway)
    return app


def attach(app: GatewayApp, gateway: Gateway) -> None:
    """Give an app its gateway, and the settings that come with it."""
    app.gateway = gateway
    app.config["MAX_CONTENT_LENGTH"] = gateway.config.max_request_body_size
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


async def _name_request(response: Response) -> Response:
    response.headers["x-request-id"] = this_request().context.request_id
    return response


async def _gateway_error(error: GatewayError) -> Response:
    response = json_response(error.body(), error.status)
    response.headers.extend(error.headers)
    return response


async def _http_error(error: HTTPException) -> Response:
    """What routing and reading the body refuse, in the same envelope as all else."""
    status = error.code or 500
    where = f"{request.method} {request.path}"
    if isinstance(error, RequestEntityTooLarge):
        limit = this_gateway().config.max_request_body_size
        return await _gateway_error(RequestTooLarge(f"The request's body is larger than {limit} bytes."))
    if status == 404:
        return await _gateway_error(NotFound(f"Invalid URL ({where})", code="unknown_url"))
    message = f"Invalid method for URL ({where})" if status == 405 else error.name
    headers = {name: value for name, value in error.get_headers() if name.lower() == "allow"}
    return await _gateway_error(InvalidRequest(message, status=status, headers=headers))


async def _unexpected(error: Exception) -> Response:
    logger.error("request %s failed", this_request().context.request_id, exc_info=error)
    return await _gateway_error(GatewayError("The gateway failed.", code="internal_error"))
