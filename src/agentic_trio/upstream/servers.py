"""The model servers of a configuration: one, or several that share the requests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

import httpx

from agentic_trio.context import RequestContext, bearer
from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.direct import open_direct_stream
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.net.pump import open_pump
from agentic_trio.upstream.balancer import Balancer
from agentic_trio.upstream.client import Upstream
from agentic_trio.upstream.transport import StreamTransport
from agentic_trio.wire.affinity import NO_AFFINITY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from agentic_trio.config import Config
    from agentic_trio.upstream.answer import Answer, Headers
    from agentic_trio.upstream.fleet import ServerState
    from agentic_trio.upstream.round_trip import Meanwhile
    from agentic_trio.wire.affinity import Affinity

KEEP_ALIVE_EXPIRY = 4.0
"""Seconds for which an idle connection is reused. uvicorn, which vLLM runs on, closes it after five."""


class ModelServers(Protocol):
    """One model server, or several. :class:`Upstream` documents the methods."""

    @property
    def states(self) -> Sequence[ServerState]: ...

    def stream(
        self, body: bytes, context: RequestContext, meanwhile: Meanwhile, affinity: Affinity = NO_AFFINITY
    ) -> AbstractAsyncContextManager[Answer]: ...

    def forward(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, context: RequestContext
    ) -> AbstractAsyncContextManager[Answer]: ...

    def refuse_own(self, headers: Headers) -> None: ...

    async def probe(self, context: RequestContext) -> None: ...


@asynccontextmanager
async def open_upstream(config: Config) -> AsyncIterator[ModelServers]:
    """The model servers of a configuration, for as long as the block lasts."""
    timeouts = httpx.Timeout(config.idle_timeout, connect=config.connect_timeout).as_dict()
    async with (
        open_deadlines() as deadlines,
        open_pump(deadlines) as pump,
        StreamTransport(
            keepalive_expiry=KEEP_ALIVE_EXPIRY,
            connect=partial(open_direct_stream, deadlines=deadlines, pump=pump),
        ) as transport,
    ):
        clients = [Upstream(origin, transport, timeouts) for origin in config.upstream_origins]
        if len(clients) == 1:
            yield clients[0]
            return
        async with open_inner_nursery() as nursery:
            balancer = Balancer(clients, RequestContext(authorization=bearer(config.openai_api_key)))
            nursery.start_soon(balancer.watch)
            yield balancer
            nursery.cancel_scope.cancel()
