"""A WebSocket client for tests: JSON messages, or whatever bytes a test wants to send."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

Json = dict[str, Any]
PATH = "/v1/responses"

PATIENCE = 10.0
"""Seconds for which a server may say nothing."""

ENDINGS = ("response.completed", "response.incomplete", "response.failed", "error")


class Refused(Exception):
    """The handshake was refused.

    Attributes:
        status: the HTTP status.
        body: the JSON body.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body)
        self.status = status
        self.error: Json = json.loads(body)["error"]


class Socket:
    """An open socket.

    Attributes:
        code: the code with which the server closed; None while it has not.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.wire = WSConnection(ConnectionType.CLIENT)
        self.code: int | None = None
        self.pings = self.pongs = 0
        self._events: list[Any] = []

    async def open(self, host: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        request = Request(host=host, target=path, extra_headers=list(headers))
        await self.stream.send_all(self.wire.send(request))
        status, body = 0, b""
        while True:
            event = await self._event()
            if isinstance(event, AcceptConnection):
                return
            if isinstance(event, RejectConnection):
                status = event.status_code
            elif isinstance(event, RejectData):
                body += event.data
                if event.body_finished:
                    raise Refused(status, body)

    async def _event(self) -> Any:
        while not self._events:
            data = b""
            with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
                data = await self.stream.receive_some(65536)
            self.wire.receive_data(data or None)
            self._events = list(self.wire.events())
        return self._events.pop(0)

    async def send(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        await self.stream.send_all(self.wire.send(TextMessage(data=text)))

    async def create(self, input: Any = "hi", **members: Any) -> None:
        await self.send({"type": "response.create", "model": "tiny", "input": input, **members})

    async def receive(self) -> Json | None:
        """The next message; None when the server has closed."""
        text = ""
        while self.code is None:
            event = await self._event()
            if isinstance(event, Message):
                text += event.data
                if event.message_finished:
                    message: Json = json.loads(text)
                    return message
            elif isinstance(event, Ping):
                self.pings += 1
                await self.stream.send_all(self.wire.send(event.response()))
            elif isinstance(event, CloseConnection):
                self.code = event.code
                if self.wire.state.name == "REMOTE_CLOSING":
                    with suppress(trio.BrokenResourceError):
                        await self.stream.send_all(self.wire.send(event.response()))
            else:
                assert isinstance(event, Pong)
                self.pongs += 1
        return None

    async def wait_pong(self) -> None:
        """Wait for a pong; what is told before it is dropped."""
        while not isinstance(await self._event(), Pong):
            pass

    async def events(self) -> list[Json]:
        """The messages up to the one that ends a response, or says that there is none."""
        told: list[Json] = []
        while not told or told[-1]["type"] not in ENDINGS or _goes_on(told[-1]):
            message = await self.receive()
            assert message is not None, (self.code, told)
            told.append(message)
        return told

    async def respond(self, input: Any = "hi", **members: Any) -> Json:
        """The response to a request that succeeds."""
        await self.create(input, **members)
        told = await self.events()
        assert told[-1]["type"] == "response.completed", told[-1]
        response: Json = told[-1]["response"]
        return response

    async def refused(self, input: Any = "hi", **members: Any) -> Json:
        """The error frame of a request that is refused."""
        await self.create(input, **members)
        [frame] = await self.events()
        assert frame["type"] == "error"
        return frame

    async def close(self) -> None:
        await self.stream.send_all(self.wire.send(CloseConnection(code=1000)))
        assert await self.receive() is None


def _goes_on(message: Json) -> bool:
    """Whether an error is an event of a stream, which ``response.failed`` follows."""
    return message["type"] == "error" and "sequence_number" in message


@asynccontextmanager
async def open_socket(
    port: int, path: str = PATH, headers: Sequence[tuple[bytes, bytes]] = (), host: str = "127.0.0.1"
) -> AsyncIterator[Socket]:
    """A socket, which is cut if the block doesn't close it. Raises Refused."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        socket = Socket(stream)
        await socket.open(f"{host}:{port}", path, headers)
        yield socket
