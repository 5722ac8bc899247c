"""A client of one request, on a socket that a test can close as it likes."""

from __future__ import annotations

import json
import struct
from contextlib import asynccontextmanager
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Any

import h11
import trio

from tests.oracles import parse_sse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = 10.0
"""Seconds after which a test that waits for bytes has failed."""


class RawClient:
    """One HTTP/1.1 exchange whose answer is read piece by piece, its framing checked by h11.

    Attributes:
        head: the answer's head, once it was read.
        body: what was read of its body.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.head: h11.Response | None = None
        self.body = b""
        self._parser = h11.Connection(h11.CLIENT)

    async def request(self, method: str, target: str, body: Any = None, **headers: str) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        fields = {"host": "localhost", "content-length": str(len(content))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = h11.Request(method=method, target=target, headers=list(fields.items()))
        data = self._parser.send(request) or b""
        data += self._parser.send(h11.Data(data=content)) or b""
        data += self._parser.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    async def _next(self) -> bool:
        """Take one event of the answer; False at its end."""
        event = self._parser.next_event()
        if event is h11.NEED_DATA:
            self._parser.receive_data(await self.stream.receive_some())
        elif isinstance(event, h11.Response):
            self.head = event
        elif isinstance(event, h11.Data):
            self.body += event.data
        return not isinstance(event, h11.EndOfMessage | h11.ConnectionClosed)

    async def read_until(self, mark: bytes) -> None:
        """Read until the body holds ``mark``. Raises h11.RemoteProtocolError if it is cut short."""
        with trio.fail_after(PATIENCE):
            while mark not in self.body:
                assert await self._next(), self.body

    async def read(self) -> bytes:
        """Read the whole answer."""
        with trio.fail_after(PATIENCE):
            while await self._next():
                pass
        return self.body

    @property
    def status(self) -> int:
        assert self.head is not None
        return self.head.status_code

    @property
    def headers(self) -> dict[str, str]:
        assert self.head is not None
        return {name.decode(): value.decode("latin-1") for name, value in self.head.headers}

    @property
    def events(self) -> list[dict[str, Any]]:
        """The whole events that were read."""
        return parse_sse(self.body[: self.body.rfind(b"\n\n") + 2])[0]

    @property
    def id(self) -> str:
        """The id that was announced."""
        return str(self.events[0]["response"]["id"])

    # How a client leaves.

    async def fin(self) -> None:
        await self.stream.aclose()

    async def reset(self) -> None:
        self.stream.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        await self.stream.aclose()

    async def half_close(self) -> None:
        await self.stream.send_eof()


@asynccontextmanager
async def open_raw(port: int) -> AsyncIterator[RawClient]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield RawClient(stream)


@asynccontextmanager
async def open_under_way(port: int, body: Any, mark: bytes, **headers: str) -> AsyncIterator[RawClient]:
    """A streamed response that has come as far as ``mark``."""
    async with open_raw(port) as client:
        await client.request("POST", "/v1/responses", {"model": "tiny", "stream": True, **body}, **headers)
        await client.read_until(mark)
        yield client
