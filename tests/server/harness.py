"""Servers on real loopback sockets, and a client that checks every response with h11."""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from hypercorn.config import Config

from agentic_trio.server.asgi_server import serve_asgi
from agentic_trio.server.limits import ConnectionLimits
from tests.http_client import PATIENCE, Connection
from tests.sockets import reset_on_close


def make_config(**settings: Any) -> Config:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    for name, value in settings.items():
        setattr(config, name, value)
    return config


@dataclass
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    http_version: bytes = b"1.1"


class Client(Connection):
    """One connection; requests are raw bytes, responses must be valid for h11."""

    def __init__(self, stream: Any, tcp: trio.SocketStream) -> None:
        super().__init__(stream)
        self.tcp = tcp

    async def response(self, method: str = "GET", patience: float = PATIENCE) -> Response:
        """The next response, whole. Raises h11.RemoteProtocolError if it is cut short."""
        reader = await self.read_response(method, patience)
        assert reader.head is not None
        return Response(reader.status, dict(reader.head.headers), reader.body, reader.head.http_version)

    async def read_until(self, end: bytes) -> bytes:
        """Bytes as they come, until ``end`` is among them."""
        data = b""
        with trio.fail_after(PATIENCE):
            while end not in data:
                more = await self.stream.receive_some()
                assert more, data
                data += more
        return data

    async def request(self, data: bytes, method: str = "GET") -> Response:
        await self.send(data)
        return await self.response(method)

    async def reset(self) -> None:
        reset_on_close(self.tcp)
        await self.stream.aclose()

    async def half_close(self) -> None:
        await self.tcp.send_eof()


@dataclass
class Server:
    """Starts servers in the test's nursery, and clients to the last one started.

    ``certificate`` is a file; its key's name ends in ``.key``. Without one, there is no TLS.
    """

    nursery: trio.Nursery
    certificate: Path | None = None
    port: int = 0
    clients: list[Client] = field(default_factory=list)
    stop: trio.Event = field(default_factory=trio.Event)
    stopped: trio.Event = field(default_factory=trio.Event)

    async def start(self, app: Any, limits: ConnectionLimits | None = None, **settings: Any) -> None:
        if self.certificate is not None:
            settings |= {"certfile": str(self.certificate), "keyfile": f"{self.certificate}.key"}
        limits = limits or ConnectionLimits()
        run = partial(serve_asgi, limits=limits, shutdown_trigger=self.stop.wait)
        urls = await self.nursery.start(self._run, partial(run, app, make_config(**settings)))
        self.port = int(urls[0].rsplit(":", 1)[1])

    async def _run(
        self, serve: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[list[str]]
    ) -> None:
        await serve(task_status=task_status)
        self.stopped.set()

    async def connect(self, **tls: Any) -> Client:
        """A client. ``tls`` are options of its TLS."""
        stream: Any = await trio.open_tcp_stream("127.0.0.1", self.port)
        client = Client(stream, stream)
        if self.certificate is not None:
            context = ssl.create_default_context(cafile=str(self.certificate))
            context.set_alpn_protocols(tls.get("protocols", []))
            client.stream = trio.SSLStream(
                stream, context, server_hostname="localhost", https_compatible=True
            )
        self.clients.append(client)
        return client

    def close_clients(self) -> None:
        for client in self.clients:
            client.tcp.socket.close()
