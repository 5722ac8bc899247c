"""HTTP to MCP servers: bounded, without cookies, and with addresses checked.

``mcp`` brings its own HTTP client, httpx2. Its transport here is a pool of httpcore2's, which unlike httpx's
of the model server keeps its slots when many requests are cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpcore2
import httpx2

from agentic_trio.tools.addresses import AllowedHosts, GuardedBackend

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

MAX_CONNECTIONS = 1000
"""Connections to MCP servers of one kind: those that the operator named, and those of requests."""

KEEP_ALIVE_EXPIRY = 4.0
"""Seconds for which an idle connection is used again. uvicorn closes it after five."""

MAX_IDLE = 32


class BrokenOff(httpx2.StreamError):
    """An answer's body can't be read to its end. ``mcp`` ends one request for it, and not the session."""

    def __init__(self) -> None:
        super().__init__("the answer broke off")


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
    """What was wrong with the last answer, which ``mcp`` doesn't repeat.

    Attributes:
        status: 400 or more; None if nothing was.
        reason: in words.
        ours: whether it was found here, and was not the server's own status.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """A new call begins."""
        self.status: int | None = None
        self.reason = ""
        self.ours = False

    def note(self, status: int, reason: str, *, ours: bool = True) -> None:
        """Remember it."""
        self.status, self.reason, self.ours = status, reason, ours


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
        if request.method == "GET" and "last-event-id" not in request.headers:
            # What a server says of its own accord has no place in a turn.
            return httpx2.Response(405)
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
        try:
            response = await self._pool.handle_async_request(sent)
        except httpcore2.TimeoutException:
            return self._failed(504, "The server did not answer in time.")
        except httpcore2.ConnectError:
            return self._failed(502, "The server can't be reached.")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            return self._failed(502, "The server broke off its answer.")
        return await self._checked(response)

    def _failed(self, status: int, reason: str) -> httpx2.Response:
        # An exception would end the session, and with it the calls beside this one.
        self._trouble.note(status, reason)
        return httpx2.Response(status)

    async def _checked(self, response: httpcore2.Response) -> httpx2.Response:
        if any(name.lower() == b"content-encoding" for name, _ in response.headers):
            # None was asked for, and a few bytes of one can become gigabytes.
            await response.aclose()
            return self._failed(502, "The answer is compressed.")
        if response.status >= 400:
            reason = response.extensions.get("reason_phrase", b"").decode("ascii", "replace")
            self._trouble.note(response.status, reason[:200], ours=False)
        # A cookie would be state of the server's that we keep.
        headers = [field for field in response.headers if field[0].lower() != b"set-cookie"]
        body = _Body(response, self._limit, self._trouble)
        return httpx2.Response(response.status, headers=headers, stream=body, extensions=response.extensions)


class _Body(httpx2.AsyncByteStream):
    """An answer's body. Raises BrokenOff for one that is too large, or that ends too early."""

    def __init__(self, response: httpcore2.Response, limit: int, trouble: Trouble) -> None:
        assert isinstance(response.stream, AsyncIterable)
        self._response = response
        self._chunks = response.stream.__aiter__()
        self._left = limit
        self._trouble = trouble

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError):
            self._trouble.note(502, "The server broke off its answer.")
            raise BrokenOff from None
        self._left -= len(chunk)
        if self._left < 0:
            self._trouble.note(502, "The answer is too large.")
            raise BrokenOff
        return chunk

    async def aclose(self) -> None:
        """Give the connection back, or close it if there is more of the body."""
        await self._response.aclose()
