"""Calls to the model server. httpx's errors become the gateway's here."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import httpx

from agentic_trio.errors import UpstreamError
from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.direct import open_direct_stream
from agentic_trio.upstream.transport import StreamTransport
from agentic_trio.wire.dialect import refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from agentic_trio.config import Config
    from agentic_trio.context import RequestContext
    from agentic_trio.upstream.round_trip import Meanwhile, ResponseStream

    Headers = Sequence[tuple[bytes, bytes]]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer that is read into memory as a whole."""

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
"""Paths whose parsed URLs are kept. Strangers choose the others, so keeping them would need a bound."""

KEEP_ALIVE_EXPIRY = 4.0
"""Seconds for which an idle connection is reused. uvicorn, which vLLM runs on, closes it after five."""

OF_THE_BODY = frozenset({b"accept", b"content-type", b"idempotency-key"})
"""Headers that describe the client's own request. The one that asks for a response sets its own."""

MAX_REFUSAL_BYTES = 64 * 1024
"""How much of a refusal's body is read: enough for any message."""


class Chunks(Protocol):
    """The chunks of a body, as they are read. Cancelling a read closes the connection."""

    @property
    def waits(self) -> bool:
        """Whether the next chunk is still to come."""

    @property
    def ended(self) -> bool:
        """Whether the last chunk has been returned. Until that is known it is False, and the next
        ``__anext__`` ends the iteration."""

    def __aiter__(self) -> Chunks: ...

    async def __anext__(self) -> bytes: ...


@dataclass(slots=True)
class Answer:
    """An upstream's response whose head has arrived.

    Attributes:
        status: its HTTP status.
        headers: as they came, names in the upstream's spelling.
        chunks: the body's bytes as they are read, content-encoding untouched.
    """

    status: int
    headers: Headers
    chunks: Chunks

    def header(self, name: bytes) -> str | None:
        """The first header of this (lower-case) name."""
        for key, value in self.headers:
            if key.lower() == name:
                return value.decode("latin-1")
        return None

    async def body(self, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """The whole body. Raises UpstreamError when it is larger than ``limit``."""
        with UpstreamErrors():
            parts = []
            size = 0
            async for chunk in self.chunks:
                size += len(chunk)
                if size > limit:
                    raise UpstreamError("The model server's answer is too large.")
                parts.append(chunk)
            return b"".join(parts)

    async def beginning(self, limit: int) -> bytes:
        """As much of the body as ``limit`` allows; less if it breaks off."""
        parts = []
        size = 0
        try:
            async for chunk in self.chunks:
                parts.append(chunk)
                size += len(chunk)
                if size >= limit:
                    break
        except httpx.HTTPError:
            pass  # The status is what matters; the message is a courtesy.
        return b"".join(parts)[:limit]


class Upstream:
    """Calls to the model server. Credentials come with each request; none are kept.

    Requests go directly to the transport. What ``httpx.AsyncClient`` would add (redirects, cookies, auth
    flows, headers of its own) a gateway must not do, and it would be most of the cost of a call.

    Args:
        origin: the model server's URL, to which paths are appended.
        transport: carries the requests.
        timeouts: httpx's, in seconds, by phase.
    """

    def __init__(self, origin: str, transport: StreamTransport, timeouts: dict[str, float | None]) -> None:
        self._origin = origin
        self._transport = transport
        self._extensions = {"timeout": timeouts}
        self._urls: dict[str, httpx.URL] = {}
        self._host = httpx.URL(origin).netloc

    def _url(self, path: str, query: bytes) -> httpx.URL:
        """The URL of a path. Those without variable parts are parsed once."""
        if query or path not in _PATHS:
            return httpx.URL(self._origin + path, query=query or None)
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self._origin + path)
        return url

    def stream(
        self, body: bytes, context: RequestContext, meanwhile: Meanwhile
    ) -> AbstractAsyncContextManager[Answer]:
        """Create a response; read it inside the block.

        ``meanwhile`` is awaited when the request has been sent, while the server works. What it raises ends
        the call and is raised.

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
        return _CreateCall(self._transport, request, meanwhile)

    def forward(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, context: RequestContext
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request as it is, with its context's authorization; read the response inside the block.

        Raises:
            UpstreamError: the server could not be reached, or broke off. A refusal is a response like others.

        Cancellation: closes the connection at once.
        """
        return _Call(self._transport, self._request(method, path, query, headers, body, context))

    def _request(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes, context: RequestContext
    ) -> httpx.Request:
        sent = [(b"host", self._host), *headers]
        if body or method != "GET":
            sent.append((b"content-length", b"%d" % len(body)))
        if context.authorization is not None:
            sent.append((b"authorization", context.authorization))
        if context.request_id:
            sent.append((b"x-request-id", context.request_id.encode()))
        # httpx adds no headers to a request whose body is a stream, and so looks none up.
        return httpx.Request(
            method,
            self._url(path, query),
            headers=sent,
            stream=httpx.ByteStream(body),
            extensions=self._extensions,
        )

    async def probe(self, context: RequestContext) -> None:
        """Check that the server is healthy and lists its models. Raises UpstreamError if not."""
        # vLLM goes on listing its models when its engine has died, but reports that it is unhealthy. Other
        # servers have no /health. One that refuses for want of a key is there; clients bring the key.
        for path, absent in (("/health", 404), ("/v1/models", None)):
            status = await self._status(path, context)
            if status != absent and (status >= 500 or status == 404):
                raise UpstreamError(f"The model server answers {path} with status {status}.")

    async def _status(self, path: str, context: RequestContext) -> int:
        headers = [(b"accept-encoding", b"identity")]
        async with self.forward("GET", path, b"", headers, b"", context) as answer:
            await answer.body()
            return answer.status


class _Call:
    """One request, open while its response is read."""

    def __init__(
        self, transport: StreamTransport, request: httpx.Request, meanwhile: Meanwhile | None = None
    ) -> None:
        self._transport = transport
        self._request = request
        self._meanwhile = meanwhile
        self._response: ResponseStream

    async def __aenter__(self) -> Answer:
        with UpstreamErrors():
            self._response = response = await self._transport.open(self._request, self._meanwhile)
        return Answer(response.status, response.headers, response)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._response.aclose()
        _raise_ours(error)


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


class UpstreamErrors:
    """Within this block httpx's errors are raised as UpstreamError."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _raise_ours(error)


def _raise_ours(error: BaseException | None) -> None:
    if isinstance(error, httpx.HTTPError):
        raise _upstream_error(error) from error


def _upstream_error(error: httpx.HTTPError) -> UpstreamError:
    if isinstance(error, httpx.TimeoutException):
        phase = "accept a connection" if isinstance(error, httpx.ConnectTimeout) else "answer"
        message = f"The model server did not {phase} in time."
        return UpstreamError(message, status=504, code="upstream_timeout")
    if isinstance(error, httpx.ConnectError):
        return UpstreamError("The model server can't be reached.", code="upstream_unreachable")
    return UpstreamError("The model server broke off its answer.")


@asynccontextmanager
async def open_upstream(config: Config) -> AsyncIterator[Upstream]:
    """The model server of a configuration, for as long as the block lasts."""
    timeouts = httpx.Timeout(config.idle_timeout, connect=config.connect_timeout)
    async with (
        open_deadlines() as deadlines,
        StreamTransport(
            keepalive_expiry=KEEP_ALIVE_EXPIRY, connect=partial(open_direct_stream, deadlines=deadlines)
        ) as transport,
    ):
        yield Upstream(config.upstream_origin, transport, timeouts.as_dict())
