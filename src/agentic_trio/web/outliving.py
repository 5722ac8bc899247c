"""Whether a turn goes on when its client has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.wire import checks

if TYPE_CHECKING:
    from agentic_trio.web.scope import RequestScope

_on_disconnect = checks.one_of("cancel", "finish")


def outlives(request: RequestScope) -> bool:
    """Whether a turn goes on without its client: by this request's header, or as configured."""
    policy = request.header(b"x-on-disconnect")
    if policy is None:
        policy = request.gateway.config.on_disconnect
    else:
        _on_disconnect(policy, "x-on-disconnect")
    return policy == "finish"
