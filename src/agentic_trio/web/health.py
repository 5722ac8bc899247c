"""Whether the server lives, and whether it can work."""

from __future__ import annotations

import msgspec
import trio
from quart import Blueprint, Response

from agentic_trio.errors import GatewayError
from agentic_trio.web.dispatch import json_response, this_gateway

routes = Blueprint("health", __name__)

PROBE_TIMEOUT = 5.0


@routes.get("/health")
async def health() -> Response:
    """The process serves requests, whatever its upstream does."""
    return json_response(b'{"status":"ok"}')


@routes.get("/ready")
async def ready() -> Response:
    """The model server and the store answer; otherwise 503, and which does not."""
    if this_gateway().admission.closed:
        return _unavailable("The server is shutting down.")
    reason = "The model server or the store did not answer in time."
    with trio.move_on_after(PROBE_TIMEOUT):
        try:
            await this_gateway().probe()
        except GatewayError as error:
            reason = error.message
        else:
            return json_response(b'{"status":"ready"}')
    return _unavailable(reason)


def _unavailable(reason: str) -> Response:
    return json_response(msgspec.json.encode({"status": "unavailable", "reason": reason}), 503)


@routes.get("/")
async def root() -> Response:
    """Something to see for those who look whether anyone is there."""
    return json_response(b'{"name":"agentic-trio","status":"ok"}')
