"""HTTP/1.1 to the model server on Trio streams: one read is one chunk, cancelling closes the socket.

It is an httpx transport so that its contract is httpx's own, and is tested through ``httpx.AsyncClient``.
The gateway calls ``open`` instead, which leaves out what the client does around each request.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias

import httpx
import trio

from agentic_trio.http1.client_side import Head, encode_head
from agentic_trio.net.streams import AdaptedStream, Stream
from agentic_trio.upstream.round_trip import (
    BROKEN,
    Meanwhile,
    Origin,
    OutgoingRequest,
    ResponseStream,
    broken,
    close_now,
    no_progress,
    send_request,
)

if TYPE_CHECKING:
    import ssl

Connect: TypeAlias = Callable[[str, int], Awaitable[Stream]]


class StreamTransport(httpx.AsyncBaseTransport):
    """Carries httpx requests over HTTP/1.1 on Trio streams.

    Each socket read becomes at most one chunk of the body. Live connections are
    not limited. Idle ones are reused newest first, per origin (scheme, host, port).
    There is no lock and no background task.

    A request is sent twice only when no server can have processed it: its body is
    bytes, its connection was a reused one, the stream broke *before* it had taken
    the whole request, and not one byte of a response came. Then it goes out once
    more, on a fresh connection. A request whose bytes were all taken is never
    repeated, whatever its method. So that stale connections seldom cost a request,
    an idle socket that is readable (EOF, reset, surplus bytes) is closed unused.

    A connection is reused after a whole request and a whole HTTP/1.1 response
    without `Connection: close` or bytes behind its end; never after HEAD.

    Args:
        connect: opens a stream to (host, port); for https, TLS is put on top of it.
        max_idle_connections: idle connections kept over all origins; the oldest is closed first.
        keepalive_expiry: seconds an idle connection may be reused.
        max_header_bytes: bound on a response's headers, informational ones and trailers included.
        ssl_context: for https; httpx's default if None.
    """

    def __init__(
        self,
        *,
        connect: Connect,
        max_idle_connections: int = 256,
        keepalive_expiry: float = 30.0,
        max_header_bytes: int = 65536,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._max_idle = max_idle_connections
        self._expiry = keepalive_expiry
        self._max_header_bytes = max_header_bytes
        self._open = connect
        self._given_context = ssl_context
        self._idle: deque[tuple[float, Origin, Stream]] = deque()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """``open``, as httpx has it."""
        response = await self.open(OutgoingRequest.of(request))
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=response,
            extensions={
                "http_version": b"HTTP/" + response.version.encode(),
                "reason_phrase": response.reason,
            },
        )

    async def open(self, request: OutgoingRequest, meanwhile: Meanwhile | None = None) -> ResponseStream:
        """Send a request and return its response as soon as the head is there.

        ``meanwhile`` is awaited when the request has been sent, while the server works; not if the
        connection breaks before that. What it raises closes the connection and is raised.

        Raises:
            httpx.LocalProtocolError: the request can't be sent as one well-framed HTTP/1.1 request.
            httpx.RemoteProtocolError: the response is malformed, truncated, or its headers are too large.
            httpx.TransportError: connecting, writing or reading failed or took too long.

        Cancellation: the request's socket is closed at once.
        """
        origin = request.origin
        head = encode_head(request.method, request.target, request.headers)
        if (stream := await self._take_idle(origin)) is not None:
            try:
                return await self._run(stream, origin, request, head, meanwhile)
            except httpx.WriteError:
                if not isinstance(request.body, httpx.ByteStream):
                    raise
        stream = await self._connect_within(origin, request.timeouts.get("connect"))
        return await self._run(stream, origin, request, head, meanwhile)

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed when their responses are.

        Cancellation: neither waits nor is interrupted.
        """
        self._max_idle = 0
        await self._trim()

    async def _run(
        self,
        stream: Stream,
        origin: Origin,
        request: OutgoingRequest,
        head: Head,
        meanwhile: Meanwhile | None,
    ) -> ResponseStream:
        return await send_request(
            stream,
            request,
            head,
            max_header_bytes=self._max_header_bytes,
            meanwhile=meanwhile,
            give_back=partial(self._keep, origin),
        )

    async def _connect_within(self, origin: Origin, seconds: float | None) -> Stream:
        within = math.inf if seconds is None else seconds
        try:
            with trio.move_on_after(within):
                return await self._connect(origin)
        except BROKEN as error:
            raise broken(httpx.ConnectError, error) from error
        raise httpx.ConnectTimeout(no_progress(within))

    async def _connect(self, origin: Origin) -> Stream:
        scheme, host, port = origin
        stream = await self._open(host, port)
        if scheme == "http":
            return stream
        try:
            tls = trio.SSLStream(stream, self._ssl_context, server_hostname=host, https_compatible=True)
            await tls.do_handshake()
        except BaseException:
            await close_now(stream)
            raise
        return AdaptedStream(tls)

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return self._given_context or httpx.create_ssl_context()

    async def _keep(self, origin: Origin, stream: Stream) -> None:
        self._idle.append((trio.current_time() + self._expiry, origin, stream))
        await self._trim()

    async def _take_idle(self, origin: Origin) -> Stream | None:
        await self._trim()
        while (stream := self._pop_idle(origin)) is not None:
            if not stream.is_readable():
                return stream
            await close_now(stream)
        return None

    def _pop_idle(self, origin: Origin) -> Stream | None:
        for index in reversed(range(len(self._idle))):
            if self._idle[index][1] == origin:
                stream = self._idle[index][2]
                del self._idle[index]
                return stream
        return None

    async def _trim(self) -> None:
        now = trio.current_time()
        while self._idle and (len(self._idle) > self._max_idle or self._idle[0][0] <= now):
            await close_now(self._idle.popleft()[2])
