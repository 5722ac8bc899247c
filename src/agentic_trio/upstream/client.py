"""Calls to the model server. httpx's errors become the gateway's here."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Final

import httpx

from agentic_trio.errors import GatewayError, InvalidRequest, UpstreamError
from agentic_trio.telemetry.edges import event
from agentic_trio.upstream.answer import Answer, ReceivedChunks
from agentic_trio.upstream.faults import Outages, upstream_error
from agentic_trio.upstream.model_lists import MAX_LIST_BYTES, models_in
from agentic_trio.upstream.round_trip import OutgoingRequest, origin_of
from agentic_trio.wire.affinity import NO_AFFINITY
from agentic_trio.wire.dialect import refusal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from agentic_trio.context import RequestContext
    from agentic_trio.upstream.answer import Headers
    from agentic_trio.upstream.fleet import ServerState
    from agentic_trio.upstream.round_trip import Meanwhile, ResponseStream
    from agentic_trio.upstream.transport import StreamTransport
    from agentic_trio.wire.affinity import Affinity

logger = logging.getLogger(__name__)

_PATHS = frozenset(
    {
        "/health",
        "/v1/responses",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
    }
)
"""Paths whose targets are kept. Strangers choose the others, so keeping them would need a bound."""

OF_THE_BODY = frozenset({b"accept", b"content-type", b"idempotency-key"})
"""Headers that describe the client's own request. The one that asks for a response sets its own."""

MARK: Final = b"x-agentic-trio-via"
"""The header that names each gateway which has sent a request on."""

MAX_REFUSAL_BYTES = 64 * 1024
"""How much of a refusal's body is read: enough for any message."""


class Upstream:
    """Calls to one model server. Credentials come with each request; none are kept.

    Requests go directly to the transport. What ``httpx.AsyncClient`` would add (redirects, cookies, auth
    flows, headers of its own) a gateway must not do, and it would be most of the cost of a call.

    Args:
        origin: the model server's URL, to which paths are appended.
        transport: carries the requests.
        timeouts: httpx's, in seconds, by phase.

    Attributes:
        name: the server's address, without scheme.
        mark: names this gateway to itself, in ``MARK``.
        states: empty. Only of several servers the gateway keeps count.
    """

    states: Sequence[ServerState] = ()

    def __init__(self, origin: str, transport: StreamTransport, timeouts: dict[str, float | None]) -> None:
        self._base = origin
        self._origin = origin_of(httpx.URL(origin))
        self._transport = transport
        self._timeouts = timeouts
        self._targets: dict[str, bytes] = {}
        self._host = httpx.URL(origin).netloc
        self.name = origin.partition("://")[2]
        self._outages = Outages(self._host.decode("ascii"))
        self._loops = False
        self.mark = secrets.token_hex(8).encode()

    def _target(self, path: str, query: bytes) -> bytes:
        """The target of a request for a path. Those without variable parts are parsed once.

        Raises:
            InvalidRequest: a client's path and query make no URL.
        """
        if query or path not in _PATHS:
            # "http://server" + "@other/v1" is a URL of another server, which would be sent our key.
            if not path.startswith("/"):
                raise InvalidRequest("The request's path and query make no URL: it begins with no slash.")
            try:
                return httpx.URL(self._base + path, query=query or None).raw_path
            except httpx.InvalidURL as error:
                raise InvalidRequest(f"The request's path and query make no URL: {error}.") from None
        target = self._targets.get(path)
        if target is None:
            target = self._targets[path] = httpx.URL(self._base + path).raw_path
        return target

    def stream(
        self, body: bytes, context: RequestContext, meanwhile: Meanwhile, affinity: Affinity = NO_AFFINITY
    ) -> AbstractAsyncContextManager[Answer]:
        """Create a response; read it inside the block.

        ``meanwhile`` is awaited when the request has been sent, while the server works. What it raises ends
        the call and is raised. ``affinity`` decides among several servers.

        Raises:
            UpstreamError: the server could not be reached, refused, or broke off.

        Cancellation: closes the connection at once, so that the server stops generating.
        """
        headers = [
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
            *(field for field in context.headers if field[0] not in OF_THE_BODY),
        ]
        request = self._request("POST", "/v1/responses", b"", headers, body, context)
        return _CreateCall(self._transport, self._outages, request, meanwhile)

    def forward(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, context: RequestContext
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request as it is, with its context's authorization; read the response inside the block.

        Raises:
            UpstreamError: the server could not be reached, or broke off. A refusal is a response like others.

        Cancellation: closes the connection at once.
        """
        request = self._request(method, path, query, headers, body, context)
        return _Call(self._transport, self._outages, request)

    def refuse_own(self, headers: Headers) -> None:
        """Refuse a client's request that this gateway has sent: its model server leads back to it.

        Args:
            headers: of the client's request, names in lower case.

        Raises:
            GatewayError: 508. Otherwise each request would call the gateway until it has no slots left.
        """
        if (MARK, self.mark) not in headers:
            return
        if not self._loops:
            self._loops = True
            host = self._host.decode("ascii")
            logger.error(
                "the model server's address, %s, leads back to this gateway",
                host,
                extra=event("loop_detected", server=host),
            )
        raise GatewayError(
            "The model server's address leads back to this gateway.", status=508, code="loop_detected"
        )

    def _request(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, context: RequestContext
    ) -> OutgoingRequest:
        sent = [(b"host", self._host), (MARK, self.mark), *headers]
        if body or method != "GET":
            sent.append((b"content-length", b"%d" % len(body)))
        if context.authorization is not None:
            sent.append((b"authorization", context.authorization))
        if context.request_id:
            sent.append((b"x-request-id", context.request_id.encode()))
        target = self._target(path, query)
        return OutgoingRequest(method, self._origin, target, sent, httpx.ByteStream(body), self._timeouts)

    async def probe(self, context: RequestContext) -> None:
        """Check that the server is healthy and lists its models. Raises UpstreamError if not."""
        await self.look(context)

    async def look(self, context: RequestContext) -> frozenset[str] | None:
        """Check as ``probe`` does, and return the models that the server lists; None if it doesn't say."""
        # vLLM goes on listing its models when its engine has died, but reports that it is unhealthy. Other
        # servers have no /health. One that refuses for want of a key is there; clients bring the key.
        await self._get("/health", context, may_be_absent=True)
        status, body = await self._get("/v1/models", context)
        models = models_in(body) if status == 200 else None
        return None if models is None else frozenset(model["id"] for model in models)

    async def _get(
        self, path: str, context: RequestContext, *, may_be_absent: bool = False
    ) -> tuple[int, bytes]:
        headers = [(b"accept-encoding", b"identity")]
        async with self.forward("GET", path, b"", headers, b"", context) as answer:
            body = await answer.body(MAX_LIST_BYTES)
        if answer.status >= 500 or (answer.status == 404 and not may_be_absent):
            raise UpstreamError(f"The model server answers {path} with status {answer.status}.")
        return answer.status, body


class _Call:
    """One request, open while its response is read."""

    def __init__(
        self,
        transport: StreamTransport,
        outages: Outages,
        request: OutgoingRequest,
        meanwhile: Meanwhile | None = None,
    ) -> None:
        self._transport = transport
        self._outages = outages
        self._request = request
        self._meanwhile = meanwhile
        self._response: ResponseStream

    async def __aenter__(self) -> Answer:
        try:
            self._response = response = await self._transport.open(self._request, self._meanwhile)
        except httpx.HTTPError as error:
            self._outages.failed(error)
            raise upstream_error(error) from error
        self._outages.reached()
        return Answer(response.status, response.headers, ReceivedChunks(response))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._response.aclose()


class _CreateCall(_Call):
    """A call that raises a refusal instead of returning it."""

    async def __aenter__(self) -> Answer:
        answer = await super().__aenter__()
        if answer.status == 200:
            return answer
        try:
            words = await answer.beginning(MAX_REFUSAL_BYTES)
        finally:
            await self._response.aclose()
        status = answer.status if answer.status >= 400 else 502
        raise refusal(status, words, answer.header(b"retry-after"))
