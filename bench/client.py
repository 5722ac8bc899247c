"""A load client on raw sockets: cheap, so that the server is what is measured, and it reads all it gets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import httptools
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READ_SIZE = 256 * 1024
REQUEST_TIMEOUT = 120.0
"""Seconds that one exchange may take."""


class Failure(Exception):
    """An exchange that can't be measured: the connection broke off, or it took too long."""


@dataclass(slots=True)
class Reply:
    """An answer, and when it came. Times in seconds from the moment the request was written.

    Attributes:
        first: until the first byte of the body.
        total: until the last one.
    """

    status: int
    body: bytes
    first: float
    total: float


class Client:
    """One keep-alive connection; opened by ``async with``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._stream: trio.SocketStream | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._body: list[bytes] = []
        self._first = 0.0
        self._done = False

    async def __aenter__(self) -> Self:
        self._stream = await trio.open_tcp_stream(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    async def get(self, path: str) -> Reply:
        """GET a path."""
        return await self.exchange(self.request("GET", path, b""))

    async def post(self, path: str, body: bytes) -> Reply:
        """POST JSON to a path."""
        return await self.exchange(self.request("POST", path, body))

    def request(self, method: str, path: str, body: bytes) -> bytes:
        """A request's bytes."""
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\nhost: {self._host}\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{head}\r\n".encode() + body

    async def exchange(self, request: bytes, on_body: Callable[[], None] | None = None) -> Reply:
        """Send a request's bytes and read the whole answer.

        Raises:
            Failure: it broke off, or took longer than ``REQUEST_TIMEOUT``.
        """
        assert self._stream is not None
        self._parser = httptools.HttpResponseParser(self)
        self._body, self._first, self._done = [], 0.0, False
        began = time.perf_counter()
        with trio.move_on_after(REQUEST_TIMEOUT):
            await self._stream.send_all(request)
            while not self._done:
                data = await self._stream.receive_some(READ_SIZE)
                if not data:
                    raise Failure(f"the connection broke off: {b''.join(self._body)[-300:]!r}")
                self._parser.feed_data(data)
                if on_body is not None and self._body:
                    on_body()
            ended = time.perf_counter()
            first = (self._first or ended) - began
            return Reply(self._parser.get_status_code(), b"".join(self._body), first, ended - began)
        raise Failure("no answer in time")

    # httptools calls these.

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._done = True


async def load(
    url: str, clients: int, requests: int, exchange: Callable[[Client], Awaitable[Reply]]
) -> tuple[list[Reply], float]:
    """Have so many clients make so many requests in all.

    Returns:
        the answers without their bodies, and how many seconds it took.
    """
    left = requests
    replies: list[Reply] = []

    async def work() -> None:
        nonlocal left
        async with Client(url) as client:
            while left > 0:
                left -= 1
                reply = await exchange(client)
                reply.body = b""
                replies.append(reply)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(min(clients, requests)):
            nursery.start_soon(work)
    return replies, time.perf_counter() - began
