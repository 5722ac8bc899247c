"""An HTTP/1.1 client whose socket a test can use and close as it likes.

`ResponseReader` parses a response without I/O, so the simulation's clients use it on streams of their own.
`Connection` sends any bytes and reads them back. `Exchange` is one request on a connection, whose response is
read as far as a test needs.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import h11
import trio

from tests.oracles import parse_sse
from tests.sockets import reset_on_close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE = 30.0
"""Seconds after which a test that waits for bytes has failed."""


class ResponseReader:
    """Parses one response as its bytes come; h11 checks the framing.

    Attributes:
        head: the final response's head, once it is here. Interim responses are skipped.
        body: as much of the body as is here; of a chunked one, its whole chunks. Where TCP cuts a chunk then
            makes no difference to a test.
        whole: whether the response has ended.
    """

    def __init__(self, method: str = "GET") -> None:
        self.head: h11.Response | None = None
        self.body = b""
        self.whole = False
        self._chunk = b""
        self._parser = h11.Connection(h11.CLIENT)
        # The parser must know the request: a response to HEAD has no body.
        self._parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._parser.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> None:
        """Take what was received, ``b""`` for its end. Raises h11.RemoteProtocolError if it is cut short."""
        self._parser.receive_data(data)
        while not self.whole:
            event = self._parser.next_event()
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.Response):
                self.head = event
            elif isinstance(event, h11.Data):
                self._take(event)
            elif isinstance(event, h11.EndOfMessage):
                self.whole = True

    def _take(self, data: h11.Data) -> None:
        self._chunk += data.data
        chunked = "transfer-encoding" in self.headers
        if data.chunk_end or not chunked:
            self.body += self._chunk
            self._chunk = b""

    @property
    def rest(self) -> bytes:
        """What has come after the response."""
        return self._parser.trailing_data[0]

    @property
    def status(self) -> int:
        assert self.head is not None
        return self.head.status_code

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case; of a repeated one, the last."""
        if self.head is None:
            return {}
        return {name.decode(): value.decode("latin-1") for name, value in self.head.headers}


class Connection:
    """A socket on which a test speaks HTTP, or something like it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.left = b""
        """What was received after the response that was read last."""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read_response(self, method: str = "GET", patience: float = PATIENCE) -> ResponseReader:
        """The next response, whole. Raises h11.RemoteProtocolError if it is cut short."""
        reader = ResponseReader(method)
        if self.left:
            reader.feed(self.left)
        with trio.fail_after(patience):
            while not reader.whole:
                reader.feed(await self.stream.receive_some())
        self.left = reader.rest
        return reader

    async def read_to_close(self, patience: float = PATIENCE) -> bytes:
        """All bytes until the server closes. A reset raises trio.BrokenResourceError."""
        parts, self.left = [self.left], b""
        with trio.fail_after(patience):
            while more := await self.stream.receive_some():
                parts.append(more)
        return b"".join(parts)

    async def read_rest(self) -> bytes:
        """All bytes until the connection ends, by whichever side and however."""
        parts = []
        with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
            while more := await self.stream.receive_some():
                parts.append(more)
        return b"".join(parts)

    async def is_closed(self, patience: float = PATIENCE) -> bool:
        """Wait until the server closes; whether it has sent nothing more."""
        return await self.read_to_close(patience) == b""

    # How a client leaves.

    async def fin(self) -> None:
        await self.stream.aclose()

    async def reset(self) -> None:
        reset_on_close(self.stream)
        await self.stream.aclose()

    async def half_close(self) -> None:
        await self.stream.send_eof()


class Exchange(Connection):
    """One request, and its response as far as it was read."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.reader = ResponseReader()

    async def request(self, method: str, target: str, body: Any = None, **headers: str) -> None:
        """Send a request with a JSON body. ``x_y`` names the header ``x-y``."""
        self.reader = ResponseReader(method)
        content = b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.send(request_bytes(method, target, {"host": "localhost"} | named, content))

    async def read_until(self, mark: bytes) -> None:
        """Read until the body contains ``mark``."""
        await self._read(lambda: mark in self.body)

    async def read_events(self, count: int) -> None:
        """Read until so many events are here."""
        await self._read(lambda: self.body.count(b"\n\n") >= count)

    async def read_head(self) -> None:
        await self._read(lambda: self.reader.head is not None)

    async def read(self) -> bytes:
        """Read the whole response; returns its body."""
        await self._read(lambda: self.reader.whole)
        return self.body

    async def _read(self, reached: Callable[[], bool]) -> None:
        with trio.fail_after(PATIENCE):
            while not reached():
                assert not self.reader.whole, self.body
                self.reader.feed(await self.stream.receive_some())

    @property
    def body(self) -> bytes:
        return self.reader.body

    @property
    def status(self) -> int:
        return self.reader.status

    @property
    def headers(self) -> dict[str, str]:
        return self.reader.headers

    @property
    def events(self) -> list[dict[str, Any]]:
        """The whole events that were read."""
        return parse_sse(self.body[: self.body.rfind(b"\n\n") + 2])[0]

    @property
    def id(self) -> str:
        """The id that was announced."""
        return str(self.events[0]["response"]["id"])


def request_bytes(method: str, target: str, headers: dict[str, str], body: bytes | None) -> bytes:
    """A request. Its length is added, unless it has no body."""
    fields = headers if body is None else headers | {"content-length": str(len(body))}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def parse_response(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of all that a connection said until it was closed."""
    reader = ResponseReader()
    reader.feed(data)
    if not reader.whole:
        reader.feed(b"")
    return reader.status, reader.headers, reader.body


async def exchange_bytes(port: int, data: bytes) -> bytes:
    """Send bytes on a connection of their own; everything that comes back until it is closed."""
    async with open_exchange(port) as connection:
        await connection.send(data)
        return await connection.read_to_close()


@asynccontextmanager
async def open_exchange(port: int) -> AsyncIterator[Exchange]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield Exchange(stream)


@asynccontextmanager
async def open_under_way(port: int, body: Any, mark: bytes, **headers: str) -> AsyncIterator[Exchange]:
    """A streamed response that has come as far as ``mark``."""
    async with open_exchange(port) as client:
        await client.request("POST", "/v1/responses", {"model": "tiny", "stream": True, **body}, **headers)
        await client.read_until(mark)
        yield client


@asynccontextmanager
async def open_at_event(port: int, body: Any, count: int, **headers: str) -> AsyncIterator[Exchange]:
    """A streamed response of which so many events have been read."""
    async with open_exchange(port) as client:
        await client.request("POST", "/v1/responses", body, **headers)
        await client.read_events(count)
        yield client
