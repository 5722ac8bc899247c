"""Whether the server lives, and whether it can work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from agentic_trio.errors import GatewayError
from agentic_trio.web.dispatch import Routes
from agentic_trio.web.reply import Reply

if TYPE_CHECKING:
    from agentic_trio.web.scope import RequestScope
    from agentic_trio.wire.dialect import JsonObject

routes = Routes("health")

PROBE_TIMEOUT = 5.0
"""Seconds that the model server and the store have to answer a probe."""


@routes.handle("GET", "/health", public=True)
async def health(request: RequestScope) -> Reply:
    """The process serves requests, whatever its model server does."""
    return Reply(b'{"status":"ok"}')


@routes.handle("GET", "/ready", public=True)
async def ready(request: RequestScope) -> Reply:
    """The store and a model server work; otherwise 503, and which of them doesn't.

    Of several model servers each one's state is listed. Anyone may ask, so they have numbers, not addresses.
    """
    if request.gateway.admission.closed:
        return _unavailable("The server is shutting down.", [])
    reason = "The model server or the store did not answer in time."
    with trio.move_on_after(PROBE_TIMEOUT):
        try:
            await request.gateway.probe()
        except GatewayError as error:
            reason = error.message
        else:
            return Reply(msgspec.json.encode({"status": "ready", **_listed(_states(request))}))
    return _unavailable(reason, _states(request))


def _unavailable(reason: str, servers: list[JsonObject]) -> Reply:
    body = {"status": "unavailable", "reason": reason, **_listed(servers)}
    return Reply(msgspec.json.encode(body), 503)


def _listed(servers: list[JsonObject]) -> JsonObject:
    return {"model_servers": servers} if servers else {}


def _states(request: RequestScope) -> list[JsonObject]:
    now = trio.current_time()
    return [
        {"server": server.number, "status": "ready"}
        if server.in_service(now)
        else {"server": server.number, "status": "unavailable", "reason": server.reason}
        for server in request.gateway.upstream.states
    ]


@routes.handle("GET", "/", public=True)
async def root(request: RequestScope) -> Reply:
    """Something to see for whoever looks whether anyone is there."""
    return Reply(b'{"name":"agentic-trio","status":"ok"}')
