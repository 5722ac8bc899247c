"""Calls to one of several model servers, and to another one if it fails before its answer begins."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httpx
import trio

from agentic_trio.errors import UpstreamError
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.telemetry.edges import event
from agentic_trio.upstream.fleet import Fleet, ServerState
from agentic_trio.upstream.model_lists import list_of_all
from agentic_trio.wire.affinity import NO_AFFINITY, Affinity, affinity_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from agentic_trio.context import RequestContext
    from agentic_trio.upstream.answer import Answer, Headers
    from agentic_trio.upstream.client import Upstream
    from agentic_trio.upstream.round_trip import Meanwhile

    Opens = Callable[[Upstream], AbstractAsyncContextManager[Answer]]

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 5.0
"""Seconds between two looks at a server: whether it works, and which models it has."""

LOOK_TIMEOUT = 5.0
"""Seconds that a server has to answer a look."""

ASK_INTERVAL = 1.0
"""Seconds between two looks at all servers for the sake of a model that none is known to have."""

NOT_OUTAGES = frozenset({501, 505})
"""Statuses from 500 on that say what a server can't do, not that it doesn't work."""

MODELS = "/v1/models"


class Balancer:
    """Several model servers behind the interface of one.

    A request goes to the server that :class:`~agentic_trio.upstream.fleet.Fleet` chooses. If that fails
    before its answer begins, the request goes to another one, once. A refusal (4xx) is an answer, and so is
    silence: a server that has been silent for ``idle_timeout`` may have done all that time's work.

    Args:
        clients: one for each server.
        own: the gateway's own context, with which it looks at the servers.
    """

    def __init__(self, clients: Sequence[Upstream], own: RequestContext) -> None:
        self._clients = clients
        self._own = own
        self._fleet = Fleet([ServerState(number, each.name) for number, each in enumerate(clients, 1)])
        self._asking = trio.Lock()
        self._asked_until = 0.0

    @property
    def states(self) -> Sequence[ServerState]:
        """Each server, as it is now, in the order of ``llm_api_base``."""
        return self._fleet.servers

    def stream(
        self, body: bytes, context: RequestContext, meanwhile: Meanwhile, affinity: Affinity = NO_AFFINITY
    ) -> AbstractAsyncContextManager[Answer]:
        """As :meth:`Upstream.stream`. ``meanwhile`` is awaited again if a second server is asked."""
        return _BalancedCall(self, affinity, lambda client: client.stream(body, context, meanwhile))

    def forward(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, context: RequestContext
    ) -> AbstractAsyncContextManager[Answer]:
        """As :meth:`Upstream.forward`. The list of models is that of all servers."""

        def opens(client: Upstream) -> AbstractAsyncContextManager[Answer]:
            return client.forward(method, path, query, headers, body, context)

        if path == MODELS:
            return list_of_all([opens(client) for client in self._clients], within=LOOK_TIMEOUT)
        if path.startswith(f"{MODELS}/"):
            return _BalancedCall(self, Affinity(unquote(path.removeprefix(f"{MODELS}/"))), opens)
        return _BalancedCall(self, affinity_of(body), opens)

    def refuse_own(self, headers: Headers) -> None:
        """As :meth:`Upstream.refuse_own`, whichever server leads back."""
        for client in self._clients:
            client.refuse_own(headers)

    async def probe(self, context: RequestContext) -> None:
        """Look at all servers. Raises UpstreamError if none works."""
        await self._look_at_all()
        if not any(server.healthy for server in self.states):
            reasons = dict.fromkeys(server.reason for server in self.states)
            raise UpstreamError(f"No model server works. {' '.join(reasons)}")

    async def watch(self) -> None:
        """Look at the servers every so often. Cancellation: stops looking."""
        while True:
            await self._look_at_all()
            await trio.sleep(LOOK_INTERVAL)

    async def place(self, affinity: Affinity) -> ServerState:
        """Choose the server for a request. All are asked once more for a model that none is known to have.

        Cancellation: nothing has been sent for the request.
        """
        if affinity.model is not None and not self._fleet.knows(affinity.model):
            async with self._asking:
                if trio.current_time() >= self._asked_until:
                    await self._look_at_all()
                    self._asked_until = trio.current_time() + ASK_INTERVAL
        server = self._fleet.choose(affinity, trio.current_time())
        assert server is not None, "a request without a server that has failed it is always placed"
        return server

    def instead_of(self, failed: ServerState, affinity: Affinity) -> ServerState | None:
        """Another server for a request that one has failed; None if none is in service."""
        return self._fleet.choose(affinity, trio.current_time(), instead_of=failed)

    def client_of(self, server: ServerState) -> Upstream:
        return self._clients[server.number - 1]

    async def _look_at_all(self) -> None:
        async with open_inner_nursery() as nursery:
            for server in self.states:
                nursery.start_soon(self._look_at, server)

    async def _look_at(self, server: ServerState) -> None:
        try:
            with trio.fail_after(LOOK_TIMEOUT):
                models = await self.client_of(server).look(self._own)
        except UpstreamError as error:
            self._looked_ill(server, error.message)
        except trio.TooSlowError:
            self._looked_ill(server, "The model server did not answer in time.")
        else:
            if not server.healthy:
                back = event("model_server_in_service", server=server.name)
                logger.info("the model server at %s is back in service", server.name, extra=back)
            server.looked_well(models)

    def _looked_ill(self, server: ServerState, reason: str) -> None:
        if server.healthy:
            out = event("model_server_out_of_service", server=server.name, reason=reason)
            logger.warning("the model server at %s is out of service: %s", server.name, reason, extra=out)
        server.looked_ill(reason)


class _BalancedCall:
    """One request: at one server, or at a second one if the first fails before its answer begins."""

    def __init__(self, balancer: Balancer, affinity: Affinity, opens: Opens) -> None:
        self._balancer = balancer
        self._affinity = affinity
        self._opens = opens
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Answer:
        server = await self._balancer.place(self._affinity)
        try:
            answer = await self._ask(server)
        except UpstreamError as error:
            other = self._other(server) if fails_the_server(error) else None
            if other is None:
                raise
        else:
            other = self._other(server) if is_outage(answer.status) else None
            if other is None:
                return answer
            await self._stack.aclose()
        return await self._ask(other)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def _other(self, server: ServerState) -> ServerState | None:
        return self._balancer.instead_of(server, self._affinity)

    async def _ask(self, server: ServerState) -> Answer:
        """Call a server, and note how that went. What it took is given back when the call is over."""
        async with AsyncExitStack() as taken:
            taken.enter_context(_under_way(server))
            try:
                answer = await taken.enter_async_context(self._opens(self._balancer.client_of(server)))
            except UpstreamError as error:
                if fails_the_server(error):
                    server.failed(trio.current_time(), error.message)
                raise
            if is_outage(answer.status):
                reason = f"The model server answered with status {answer.status}."
                server.failed(trio.current_time(), reason)
            else:
                server.succeeded()
            self._stack = taken.pop_all()
        answer.server = server
        return answer


@contextmanager
def _under_way(server: ServerState) -> Iterator[None]:
    server.requests += 1
    server.in_flight += 1
    try:
        yield
    finally:
        server.in_flight -= 1


def is_outage(status: int) -> bool:
    """Whether a status says that the server doesn't work, rather than what it makes of a request."""
    return status >= 500 and status not in NOT_OUTAGES


def fails_the_server(error: UpstreamError) -> bool:
    """Whether a call that ended so says that the server doesn't work.

    A server that took the request and was silent may work on long ones.
    """
    return is_outage(error.status) and not isinstance(error.__cause__, httpx.ReadTimeout)
