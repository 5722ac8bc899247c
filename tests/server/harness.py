"""Servers on real loopback sockets, and a client that checks every response with h11."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.utils import wrap_app

from agentic_trio.server.fallback import BoundedTCPServer
from agentic_trio.server.limits import ConnectionLimits
from agentic_trio.server.listen import serve_asgi
from agentic_trio.server.worker import ServerContext
from tests.http_client import PATIENCE, Connection


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

    async def response(self, method: str = "GET", patience: float = PATIENCE) -> Response:
        """The next response, whole. Raises h11.RemoteProtocolError if it is cut short."""
        reader = await self.read_response(method, patience)
        assert reader.head is not None
        return Response(reader.status, dict(reader.head.headers), reader.body, reader.head.http_version)

    async def request(self, data: bytes, method: str = "GET") -> Response:
        await self.send(data)
        return await self.response(method)


@dataclass
class Server:
    """Starts servers in the test's nursery, and clients to the last one started."""

    nursery: trio.Nursery
    kind: str = "ours"
    port: int = 0
    clients: list[Client] = field(default_factory=list)
    stop: trio.Event = field(default_factory=trio.Event)
    stopped: trio.Event = field(default_factory=trio.Event)

    async def start(self, app: Any, limits: ConnectionLimits | None = None, **settings: Any) -> None:
        limits = limits or ConnectionLimits()
        config = make_config(**settings)
        if self.kind == "stock":
            self.port = await self.nursery.start(_serve_stock, app, config, limits)
        else:
            run = partial(serve_asgi, limits=limits, shutdown_trigger=self.stop.wait)
            urls = await self.nursery.start(self._run, partial(run, app, config))
            self.port = int(urls[0].rsplit(":", 1)[1])

    async def _run(
        self, serve: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[list[str]]
    ) -> None:
        await serve(task_status=task_status)
        self.stopped.set()

    async def connect(self) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    def close_clients(self) -> None:
        for client in self.clients:
            client.stream.socket.close()


async def _serve_stock(
    app: Any, config: Config, limits: ConnectionLimits, task_status: trio.TaskStatus[int]
) -> None:
    config.include_server_header = False
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    context = ServerContext(config)

    async def handle(stream: trio.SocketStream) -> None:
        await BoundedTCPServer(wrapped, config, context, {}, stream, limits=limits)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        task_status.started(listeners[0].socket.getsockname()[1])
