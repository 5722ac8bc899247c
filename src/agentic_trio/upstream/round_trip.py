"""One request and its response on one connection. What goes wrong is one of httpx's errors."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import httpx
import trio

from agentic_trio.http1.client_side import Head, Message
from agentic_trio.net.streams import MAX_READ, send_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.net.streams import Stream

Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host and port."""

Timeouts: TypeAlias = "dict[str, float | None]"

Meanwhile: TypeAlias = Callable[[], Awaitable[None]]
GiveBack: TypeAlias = Callable[["Stream"], Awaitable[None]]

HEAD_READ: Final = 4 * 1024
"""Bytes that are read at once until the head is there. The events behind it are handled in the task of
their turn, for as many turns as have one at that moment, while all other requests wait."""

LARGE_PIECE: Final = 64 * 1024
"""Bytes of a body's piece from which on it is written by itself, rather than copied behind the head."""

_PORTS: Final = {"http": 80, "https": 443}

BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
"""What a stream raises when it can't be read or written any more."""


@dataclass(slots=True)
class OutgoingRequest:
    """A request as it will be sent. An ``httpx.Request`` would check and copy each header first.

    Attributes:
        method: HTTP's.
        origin: scheme, host and port.
        target: path and query, encoded.
        headers: in order, ``host`` and what frames the body among them.
        body: its pieces.
        timeouts: httpx's, in seconds, by phase.
    """

    method: str
    origin: Origin
    target: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: httpx.AsyncByteStream
    timeouts: Timeouts

    @classmethod
    def of(cls, request: httpx.Request) -> OutgoingRequest:
        """The same as one of httpx's. Raises httpx.UnsupportedProtocol."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        return cls(
            request.method,
            origin_of(request.url),
            request.url.raw_path,
            request.headers.raw,
            request.stream,
            request.extensions.get("timeout", {}),
        )


def origin_of(url: httpx.URL) -> Origin:
    """Where a URL leads. Raises httpx.UnsupportedProtocol."""
    port = url.port or _PORTS.get(url.scheme)
    if port is None:
        raise httpx.UnsupportedProtocol(f"unsupported URL scheme {url.scheme!r}")
    return url.scheme, url.raw_host.decode("ascii"), port


async def send_request(
    stream: Stream,
    request: OutgoingRequest,
    head: Head,
    *,
    max_header_bytes: int,
    meanwhile: Meanwhile | None,
    give_back: GiveBack,
) -> ResponseStream:
    """Send a request and return its response as soon as the head is there.

    Args:
        stream: belongs to the response from now on. It is closed if there is none.
        request: its body and its timeouts.
        head: its head, encoded.
        max_header_bytes: see ``StreamTransport``.
        meanwhile: see ``StreamTransport.open``.
        give_back: takes the stream if it can be used for another request.

    Raises:
        httpx.WriteError: the stream broke before it took the whole request, and no response byte came.
        httpx.TransportError: the response didn't come, or is malformed.

    Cancellation: the stream is closed at once.
    """
    wire = _Wire(stream, request.timeouts)
    incoming = _Incoming(wire, Message(request.method == "HEAD", max_header_bytes))
    try:
        failure = await _write_request(wire, request, head)
        if failure is None:
            # A request that was taken is not sent again. A large body would be held while the server works.
            request.body = httpx.ByteStream(b"")
            if meanwhile is not None:
                await meanwhile()
        body = await _read_head(incoming, failure)
    except BaseException:
        await incoming.discard()
        raise
    return ResponseStream(incoming, body, None if head.closes or failure is not None else give_back)


async def _write_request(wire: _Wire, request: OutgoingRequest, head: Head) -> httpx.TransportError | None:
    # An early response (a 413, say) may explain a failure: it is returned, and raised if there is none.
    try:
        await _write_all(wire, request, head)
    except (httpx.WriteError, httpx.WriteTimeout) as error:
        if isinstance(error, httpx.WriteTimeout) and not wire.stream.is_readable():
            raise
        return error
    return None


async def _write_all(wire: _Wire, request: OutgoingRequest, head: Head) -> None:
    unsent, chunked, left = head.data, head.chunked, head.length
    pieces = aiter(request.body)
    try:
        async for piece in pieces:
            left -= len(piece)
            if left < 0 and not chunked:
                raise httpx.LocalProtocolError("the request body is longer than its Content-Length")
            piece = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and piece else piece
            if len(piece) > LARGE_PIECE:
                await wire.write(unsent)
                unsent = b""
            unsent = unsent + piece if unsent else piece
            if unsent:
                await wire.write(unsent)
            unsent = b""
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    if left > 0:
        raise httpx.LocalProtocolError("the request body is shorter than its Content-Length")
    if unsent or chunked:
        await wire.write(unsent + (b"0\r\n\r\n" if chunked else b""))


async def _read_head(incoming: _Incoming, write_failure: httpx.TransportError | None) -> bytes:
    body = b""
    while incoming.message.status == 0:
        try:
            body = await incoming.receive()
        except httpx.TransportError:
            if write_failure is not None and not incoming.answered:
                raise write_failure from None
            raise
    return body


class ResponseStream(httpx.AsyncByteStream):
    """A response whose head is there. Iterating it reads the body.

    Attributes:
        status: its HTTP status.
        headers: in order; names in the server's spelling.
        reason: the reason phrase.
        version: ``1.0`` or ``1.1``.
    """

    def __init__(self, incoming: _Incoming, body: bytes, give_back: GiveBack | None) -> None:
        message = incoming.message
        self.status, self.headers = message.status, message.headers
        self.reason, self.version = message.reason, message.version
        self._incoming = incoming
        self._message = message
        self._body = body
        self._give_back = give_back

    @property
    def waits(self) -> bool:
        """Whether the next chunk of the body is still to come."""
        return not self._message.complete and not self._body

    @property
    def ended(self) -> bool:
        """Whether the whole body has been returned."""
        return self._message.complete and not self._body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        incoming = self._incoming
        if incoming.closed:
            raise httpx.StreamClosed
        try:
            while not self._body and not self._message.complete:
                self._body = await incoming.receive()
        except BaseException:
            await incoming.discard()
            raise
        if not self._body:
            raise StopAsyncIteration
        body, self._body = self._body, b""
        return body

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        """Call ``take`` with each chunk of the body that is left, until it returns False or the body ends.

        ``take`` may be called in another task, so it must not block. What it raises closes the connection
        and is raised.

        Cancellation: closes the connection at once.
        """
        incoming = self._incoming
        if incoming.closed:
            raise httpx.StreamClosed
        try:
            body, self._body = self._body, b""
            if (not body or take(body)) and not self._message.complete:
                await incoming.follow(take)
        except BaseException:
            await incoming.discard()
            raise

    async def aclose(self) -> None:
        """Give the connection back if the whole response was read, or close it.

        Cancellation: neither waits nor is interrupted.
        """
        if self._incoming.closed:
            return
        if self._give_back is None or not (self._message.complete and self._message.keep_alive):
            await self._incoming.discard()
            return
        self._incoming.close()
        await self._give_back(self._incoming.wire.stream)


class _Incoming:
    """Reads a response off its connection.

    Attributes:
        answered: a byte of the response has come.
        closed: nothing is read any more.
    """

    def __init__(self, wire: _Wire, message: Message) -> None:
        self.wire = wire
        self.message = message
        self.answered = False
        self.closed = False
        self._drained = False

    async def receive(self) -> bytes:
        """Read once; return the bytes of the body in it, if any."""
        size = MAX_READ if self.message.status else HEAD_READ
        data = await self.wire.read(size, patient=self._drained)
        self._drained = len(data) < size
        return self._feed(data)

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        """Call ``take`` with each chunk of the body, until it returns False or the body ends."""

        def feed(data: bytes) -> bool:
            body = self._feed(data)
            return (not body or take(body)) and not self.message.complete

        await self.wire.follow(feed)

    def _feed(self, data: bytes) -> bytes:
        """Take what one read returned; return the bytes of the body in it, if any."""
        if self.closed:
            raise httpx.StreamClosed
        if not data:
            self.message.feed_eof()
            return b""
        self.answered = True
        return self.message.feed(data)

    async def discard(self) -> None:
        """Close the connection. Cancellation: neither waits nor is interrupted."""
        if not self.closed:
            self.close()
            await close_now(self.wire.stream)

    def close(self) -> None:
        self.closed = True
        self.message.close()


class _Wire:
    """A stream with a request's timeouts, and httpx's errors."""

    def __init__(self, stream: Stream, timeouts: Timeouts) -> None:
        self.stream = stream
        self._write_seconds = _or_forever(timeouts.get("write"))
        self._read_seconds = _or_forever(timeouts.get("read"))

    async def write(self, data: bytes) -> None:
        try:
            await send_within(self.stream, data, self._write_seconds)
        except trio.TooSlowError:
            raise httpx.WriteTimeout(no_progress(self._write_seconds)) from None
        except BROKEN as error:
            raise broken(httpx.WriteError, error) from error

    async def read(self, size: int, *, patient: bool) -> bytes:
        try:
            return await self.stream.receive_some(size, self._read_seconds, patient=patient)
        except (trio.TooSlowError, *BROKEN) as error:
            raise self._read_error(error) from error

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        try:
            await self.stream.follow(take, self._read_seconds)
        except (trio.TooSlowError, *BROKEN) as error:
            raise self._read_error(error) from error

    def _read_error(self, error: Exception) -> httpx.TransportError:
        if isinstance(error, trio.TooSlowError):
            return httpx.ReadTimeout(no_progress(self._read_seconds))
        return broken(httpx.ReadError, error)


def _or_forever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def no_progress(seconds: float) -> str:
    """What a timeout says."""
    return f"no progress within {seconds} s"


def broken(kind: type[httpx.NetworkError], error: Exception) -> httpx.NetworkError:
    """An error of a stream as one of httpx's."""
    return kind(str(error.__cause__ or error) or type(error).__name__)


async def close_now(stream: trio.abc.Stream) -> None:
    """Close a stream. Cancellation: neither waits nor is interrupted."""
    # Shielded and cancelled: it closes at once, waits for nothing, and is never interrupted half-way.
    with trio.CancelScope(shield=True) as scope, suppress(*BROKEN):
        scope.cancel()
        await stream.aclose()
