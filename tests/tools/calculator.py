"""A real MCP server (PyPI's ``mcp``) in the test's own event loop, on a real socket."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve
from mcp.server import MCPServer
from mcp.types import ToolAnnotations

from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass
class Calculator:
    """A server with a few tools, and what it saw.

    Attributes:
        url: where it is.
        ran: each call that was begun, in order: the tool's name and its arguments.
        cancelled: the tools whose calls were cancelled.
        requests: method, JSON-RPC method and headers of each HTTP request.
        release: lets the calls of ``wait`` end.
    """

    url: str = ""
    ran: list[tuple[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    release: trio.Event = field(default_factory=trio.Event)
    began: trio.Event = field(default_factory=trio.Event)

    def methods(self) -> list[str]:
        """The JSON-RPC methods that it was asked, less those that set up a session."""
        return [name for _, name, _ in self.requests if name.startswith("tools/")]


def tools_of(state: Calculator) -> MCPServer:
    server = MCPServer("calculator")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        state.ran.append(("add", (a, b)))
        return str(a + b)

    @server.tool()
    def store(value: str) -> str:
        """Store a value."""
        state.ran.append(("store", value))
        return f"stored {value}"

    @server.tool()
    def fail(why: str = "no reason") -> str:
        """Fail."""
        state.ran.append(("fail", why))
        raise ValueError(why)

    @server.tool()
    async def wait(name: str = "") -> str:
        """Wait until released."""
        state.ran.append(("wait", name))
        state.began.set()
        try:
            await state.release.wait()
        except BaseException:
            state.cancelled.append(f"wait {name}".strip())
            raise
        return f"waited {name}".strip()

    @server.tool()
    def large(size: int) -> str:
        """Answer with much."""
        state.ran.append(("large", size))
        return "x" * size

    return server


def _seen(state: Calculator, app: Any) -> Any:
    async def recording(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = b""

        async def received() -> Any:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.request" and not message.get("more_body"):
                method = re.search(rb'"method":\s*"([^"]+)"', body)
                state.requests.append((scope["method"], method[1].decode() if method else "", headers))
            return message

        await app(scope, received, send)

    return recording


@asynccontextmanager
async def open_calculator() -> AsyncIterator[Calculator]:
    """The server, for as long as the block lasts."""
    state = Calculator()
    app = _seen(state, tools_of(state).streamable_http_app(stateless_http=False))
    config = HypercornConfig()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.1
    stop = trio.Event()
    async with open_inner_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait, mode="asgi"))
        state.url = f"{url}/mcp"
        try:
            yield state
        finally:
            stop.set()
            nursery.cancel_scope.cancel()
