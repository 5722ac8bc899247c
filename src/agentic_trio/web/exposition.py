"""``/metrics``, for whoever may see what all clients do together."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from agentic_trio.errors import InvalidRequest, NotFound
from agentic_trio.telemetry.metrics import CONTENT_TYPE
from agentic_trio.web.dispatch import Routes
from agentic_trio.web.reply import Reply

if TYPE_CHECKING:
    from agentic_trio.web.scope import RequestScope

routes = Routes("exposition")

_OF_PROXIES = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"})


@routes.handle("GET", "/metrics", scope="admin")
async def metrics(request: RequestScope) -> Reply:
    """Serve the metrics, to this machine or to an admin's key."""
    shown = request.gateway.observer.metrics
    if shown is None:
        raise NotFound("There are no metrics here: they are switched off.", code="unknown_url")
    if request.gateway.authenticator is None and not _is_local(request):
        raise InvalidRequest(
            "Metrics are for this machine, or for an admin's key. Others can read them on --metrics-port.",
            status=403,
            code="metrics_are_local",
        )
    return Reply(shown.text(), headers=[(b"content-type", CONTENT_TYPE.encode())])


def _is_local(request: RequestScope) -> bool:
    """Whether a program of this machine asks, and not a proxy for someone else."""
    client = request.scope["client"]
    if not _OF_PROXIES.isdisjoint(name for name, _ in request.headers):
        return False
    try:
        return client is None or ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        # A Unix socket has a path instead.
        return True
