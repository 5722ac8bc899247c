"""HTTP to MCP servers: bounded, without cookies, and with addresses checked.

``mcp`` brings its own HTTP client, httpx2. Its transport here is a pool of httpcore2's, which unlike httpx's
of the model server keeps its slots when many requests are cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import httpcore2
import httpx2

from agentic_trio.tools.addresses import AllowedHosts, GuardedBackend

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

MAX_CONNECTIONS = 1000
"""Connections to MCP servers of one kind: those that the operator named, and those of requests."""

KEEP_ALIVE_EXPIRY = 4.0
"""Seconds for which an idle connection is used again. uvicorn closes it after five."""

MAX_IDLE = 32

_ERRORS: tuple[tuple[type[Exception], type[httpx2.HTTPError]], ...] = (
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.TimeoutException, httpx2.ReadTimeout),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.NetworkError, httpx2.ReadError),
    (httpcore2.ProtocolError, httpx2.RemoteProtocolError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
)


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        for theirs, ours in _ERRORS:
            if isinstance(error, theirs):
                raise ours(str(error)) from error
        raise


class Carriers:
    """The pools of connections, which all sessions share. A session's headers are its own.

    Attributes:
        named: to the servers that the operator named.
        asked: to those of requests, at addresses that are checked.
    """

    def __init__(self, allowed: AllowedHosts) -> None:
        # Loading the certificates takes tens of milliseconds.
        context = httpx2.create_ssl_context()
        self.named = _pool(context, httpcore2.TrioBackend())
        self.asked = _pool(context, GuardedBackend(allowed))


def _pool(context: ssl.SSLContext, backend: httpcore2.AsyncNetworkBackend) -> httpcore2.AsyncConnectionPool:
    return httpcore2.AsyncConnectionPool(
        ssl_context=context,
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=MAX_IDLE,
        keepalive_expiry=KEEP_ALIVE_EXPIRY,
        network_backend=backend,
    )


@asynccontextmanager
async def open_carriers(allowed: AllowedHosts) -> AsyncIterator[Carriers]:
    """The pools, for as long as the block lasts. Cancellation: the connections are closed."""
    carriers = Carriers(allowed)
    async with carriers.named, carriers.asked:
        yield carriers


class Trouble:
    """What HTTP said last that ``mcp`` doesn't repeat: a status of 400 or more, and its reason.

    Attributes:
        status: the status; None if there was none.
        reason: in words.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.reason = ""

    def note(self, status: int, reason: str) -> None:
        """Remember it."""
        self.status, self.reason = status, reason


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Carries one session's requests.

    Args:
        pool: the connections.
        limit: how many bytes one answer may have.
        trouble: is told what went wrong.
    """

    def __init__(self, pool: httpcore2.AsyncConnectionPool, limit: int, trouble: Trouble) -> None:
        self._pool = pool
        self._limit = limit
        self._trouble = trouble

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return its response with a body that is still to be read.

        Cancellation: the connection is closed.
        """
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        sent = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx_errors():
            response = await self._pool.handle_async_request(sent)
        if response.status >= 400 and request.method == "POST":
            # Servers may refuse the stream that is asked for with GET.
            reason = response.extensions.get("reason_phrase", b"").decode("ascii", "replace")
            self._trouble.note(response.status, reason[:200])
        if any(name.lower() == b"content-encoding" for name, _ in response.headers):
            # None was asked for, and a few bytes of one can become gigabytes.
            await response.aclose()
            self._trouble.note(502, "The answer is compressed")
            raise httpx2.ReadError("the answer is compressed")
        # A cookie would be state of the server's that we keep.
        headers = [field for field in response.headers if field[0].lower() != b"set-cookie"]
        body = _Body(response, self._limit, self._trouble)
        return httpx2.Response(response.status, headers=headers, stream=body, extensions=response.extensions)


class _Body(httpx2.AsyncByteStream):
    """An answer's body. Raises httpx2.ReadError for one that is too large."""

    def __init__(self, response: httpcore2.Response, limit: int, trouble: Trouble) -> None:
        assert isinstance(response.stream, AsyncIterable)
        self._response = response
        self._chunks = response.stream.__aiter__()
        self._left = limit
        self._trouble = trouble

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        with _as_httpx_errors():
            chunk = await anext(self._chunks)
        self._left -= len(chunk)
        if self._left < 0:
            self._trouble.note(502, "The answer is too large")
            raise httpx2.ReadError("the answer is too large")
        return chunk

    async def aclose(self) -> None:
        """Give the connection back, or close it if there is more of the body."""
        with _as_httpx_errors():
            await self._response.aclose()
