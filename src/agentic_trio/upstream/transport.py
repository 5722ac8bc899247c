"""HTTP/1.1 for `httpx.AsyncClient` on Trio streams: one read is one chunk, cancelling closes the socket."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import httpx
import trio

from agentic_trio.http1.client_side import Head, Message, encode_head
from agentic_trio.net.streams import DirectStream

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
Connect: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
Origin: TypeAlias = tuple[str, str, int]
Meanwhile: TypeAlias = Callable[[], Awaitable[None]]
GiveBack: TypeAlias = Callable[[Origin, trio.abc.Stream], Awaitable[None]]

_READ_SIZE = 65536
_PORTS = {"http": 80, "https": 443}
_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)


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
        max_idle_connections: idle connections kept over all origins; the oldest is closed first.
        keepalive_expiry: seconds an idle connection may be reused.
        max_header_bytes: bound on a response's headers, informational ones and trailers included.
        connect: opens a byte stream to (host, port); for https, TLS is put on top of it.
        ssl_context: for https; httpx's default if None.
    """

    def __init__(
        self,
        *,
        max_idle_connections: int = 256,
        keepalive_expiry: float = 30.0,
        max_header_bytes: int = 65536,
        connect: Connect = trio.open_tcp_stream,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._max_idle = max_idle_connections
        self._expiry = keepalive_expiry
        self._max_header_bytes = max_header_bytes
        self._open = connect
        self._given_context = ssl_context
        self._idle: deque[tuple[float, Origin, trio.abc.Stream]] = deque()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """``open``, as httpx has it."""
        exchange = await self.open(request)
        version, reason = b"HTTP/" + exchange.version.encode(), exchange.reason
        return httpx.Response(
            exchange.status,
            headers=exchange.headers,
            stream=exchange,
            extensions={"http_version": version, "reason_phrase": reason},
        )

    async def open(self, request: httpx.Request, meanwhile: Meanwhile | None = None) -> Exchange:
        """Send a request and return its response as soon as the head is there.

        ``meanwhile`` is awaited when the request has been sent, while the server works; not if it answers
        before that. What it raises ends the exchange and is raised.

        Honours the connect, read and write timeouts (seconds) of `request.extensions`.

        Raises:
            httpx.LocalProtocolError: the request can't be sent as one well-framed HTTP/1.1 request.
            httpx.RemoteProtocolError: the response is malformed, truncated, or its headers are too large.
            httpx.TransportError: connecting, writing or reading failed or took too long.

        Cancellation: the request's socket is closed at once.
        """
        url = request.url
        port = url.port or _PORTS.get(url.scheme)
        if port is None:
            raise httpx.UnsupportedProtocol(f"unsupported URL scheme {url.scheme!r}")
        origin = (url.scheme, url.raw_host.decode("ascii"), port)
        head = encode_head(request)
        if (stream := await self._take_idle(origin)) is not None:
            try:
                return await self._run(stream, origin, request, head, meanwhile)
            except httpx.WriteError:
                if not isinstance(request.stream, httpx.ByteStream):
                    raise
        seconds = request.extensions.get("timeout", {}).get("connect")
        stream = await _within(self._connect(origin), seconds, httpx.ConnectTimeout, httpx.ConnectError)
        return await self._run(stream, origin, request, head, meanwhile)

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed when their responses are.

        Cancellation: neither waits nor is interrupted.
        """
        self._max_idle = 0
        await self._trim()

    async def _run(
        self,
        stream: trio.abc.Stream,
        origin: Origin,
        request: httpx.Request,
        head: Head,
        meanwhile: Meanwhile | None,
    ) -> Exchange:
        exchange = Exchange(stream, origin, self._give_back)
        await exchange.run(request, head, self._max_header_bytes, meanwhile)
        return exchange

    async def _connect(self, origin: Origin) -> trio.abc.Stream:
        scheme, host, port = origin
        stream = await self._open(host, port)
        if scheme == "http":
            return stream
        try:
            tls = trio.SSLStream(stream, self._ssl_context, server_hostname=host, https_compatible=True)
            await tls.do_handshake()
        except BaseException:
            await _close(stream)
            raise
        return tls

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return self._given_context or httpx.create_ssl_context()

    async def _give_back(self, origin: Origin, stream: trio.abc.Stream) -> None:
        self._idle.append((trio.current_time() + self._expiry, origin, stream))
        await self._trim()

    async def _take_idle(self, origin: Origin) -> trio.abc.Stream | None:
        await self._trim()
        while (stream := self._pop_idle(origin)) is not None:
            if stream.is_quiet() if isinstance(stream, DirectStream) else not _is_readable(stream):
                return stream
            await _close(stream)
        return None

    def _pop_idle(self, origin: Origin) -> trio.abc.Stream | None:
        for index in reversed(range(len(self._idle))):
            if self._idle[index][1] == origin:
                stream = self._idle[index][2]
                del self._idle[index]
                return stream
        return None

    async def _trim(self) -> None:
        now = trio.current_time()
        while self._idle and (len(self._idle) > self._max_idle or self._idle[0][0] <= now):
            await _close(self._idle.popleft()[2])


class Exchange(httpx.AsyncByteStream):
    """One request and its response on one stream; iterating it gives the response's body, and httpx's errors.

    Attributes:
        status: of the response, once its head is there.
        headers: its, in order; names in the server's spelling.
        reason: its reason phrase.
        version: ``1.0`` or ``1.1``.
    """

    def __init__(self, stream: trio.abc.Stream, origin: Origin, give_back: GiveBack) -> None:
        self._stream = stream
        self._origin = origin
        self._give_back = give_back
        self._body = b""
        self._answered = self._drained = self._reusable = self._closed = False

    async def run(
        self, request: httpx.Request, head: Head, max_header_bytes: int, meanwhile: Meanwhile | None
    ) -> None:
        """Send the request and read the response's head.

        Raises:
            httpx.WriteError: the stream broke before it took the whole request, and no response byte came.
        """
        self._timeouts = request.extensions.get("timeout", {})
        self._message = message = Message(request.method == "HEAD", max_header_bytes)
        try:
            failure = await self._send(request, head)
            # A request that was not taken may be sent once more; this is done once.
            if meanwhile is not None and failure is None:
                await meanwhile()
            await self._read_head(failure)
        except BaseException:
            await self._discard()
            raise
        self.status, self.headers = message.status, message.headers
        self.reason, self.version = message.reason, message.version

    @property
    def waits(self) -> bool:
        """Whether the next chunk of the body is still to come."""
        return not self._message.complete and not self._body

    @property
    def ended(self) -> bool:
        """Whether the whole body has been given."""
        return self._message.complete and not self._body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._closed:
            raise httpx.StreamClosed
        try:
            while not self._body and not self._message.complete:
                await self._receive()
        except BaseException:
            await self._discard()
            raise
        if not self._body:
            raise StopAsyncIteration
        body, self._body = self._body, b""
        return body

    async def aclose(self) -> None:
        if self._closed:
            return
        if not (self._reusable and self._message.complete and self._message.keep_alive):
            await self._discard()
            return
        self._end()
        await self._give_back(self._origin, self._stream)

    async def _discard(self) -> None:
        if not self._closed:
            self._end()
            await _close(self._stream)

    def _end(self) -> None:
        self._closed = True
        self._message.close()

    async def _send(self, request: httpx.Request, head: Head) -> httpx.TransportError | None:
        # An early response (a 413, say) may explain a failure: it is returned, and raised if there is none.
        try:
            await self._send_all(request, head)
        except (httpx.WriteError, httpx.WriteTimeout) as error:
            if isinstance(error, httpx.WriteTimeout) and not _is_readable(self._stream):
                raise
            return error
        self._reusable = not head.closes
        return None

    async def _send_all(self, request: httpx.Request, head: Head) -> None:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        unsent, chunked, left = head.data, head.chunked, head.length
        pieces = aiter(request.stream)
        try:
            async for piece in pieces:
                left -= len(piece)
                if left < 0 and not chunked:
                    raise httpx.LocalProtocolError("the request body is longer than its Content-Length")
                unsent += b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and piece else piece
                if unsent:
                    await self._write(unsent)
                unsent = b""
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
        if left > 0:
            raise httpx.LocalProtocolError("the request body is shorter than its Content-Length")
        if unsent or chunked:
            await self._write(unsent + (b"0\r\n\r\n" if chunked else b""))

    async def _write(self, data: bytes) -> None:
        if isinstance(self._stream, DirectStream):
            # Nearly always the kernel takes all of it, and there is nothing to wait for.
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                data = data[self._stream.send_nowait(data) :]
            except _BROKEN as error:
                raise httpx.WriteError(str(error)) from error
            if not data:
                return
        seconds = self._timeouts.get("write")
        await _within(self._stream.send_all(data), seconds, httpx.WriteTimeout, httpx.WriteError)

    async def _read_head(self, write_failure: httpx.TransportError | None) -> None:
        while self._message.status == 0:
            try:
                await self._receive()
            except httpx.TransportError:
                if write_failure is not None and not self._answered:
                    raise write_failure from None
                raise

    async def _receive(self) -> None:
        data = await self._read(self._timeouts.get("read"))
        if self._closed:
            raise httpx.StreamClosed
        if data:
            self._answered = True
            self._drained = len(data) < _READ_SIZE
            self._body = self._message.feed(bytes(data))
        else:
            self._message.feed_eof()

    async def _read(self, seconds: float | None) -> bytes | bytearray:
        if not isinstance(self._stream, DirectStream):
            reading = self._stream.receive_some(_READ_SIZE)
            return await _within(reading, seconds, httpx.ReadTimeout, httpx.ReadError)
        try:
            within = math.inf if seconds is None else seconds
            return await self._stream.receive_some(_READ_SIZE, within, patient=self._drained)
        except trio.TooSlowError:
            raise httpx.ReadTimeout(f"no progress within {seconds} s") from None
        except _BROKEN as error:
            raise _broken(httpx.ReadError, error) from error


async def _within(
    operation: Awaitable[T],
    seconds: float | None,
    timeout_error: type[httpx.TimeoutException],
    broken_error: type[httpx.NetworkError],
) -> T:
    try:
        with trio.move_on_after(math.inf if seconds is None else seconds):
            return await operation
    except _BROKEN as error:
        raise _broken(broken_error, error) from error
    raise timeout_error(f"no progress within {seconds} s")


def _broken(kind: type[httpx.NetworkError], error: Exception) -> httpx.NetworkError:
    return kind(str(error.__cause__ or error) or type(error).__name__)


async def _close(stream: trio.abc.Stream) -> None:
    # Shielded and cancelled: it closes at once, waits for nothing, and is never interrupted half-way.
    with trio.CancelScope(shield=True) as scope, suppress(*_BROKEN):
        scope.cancel()
        await stream.aclose()


def _is_readable(stream: trio.abc.Stream) -> bool:
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    is_readable = getattr(getattr(stream, "socket", None), "is_readable", None)
    return is_readable is not None and bool(is_readable())
