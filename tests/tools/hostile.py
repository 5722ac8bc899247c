"""An MCP server that a test makes up byte by byte."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve

from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Json = dict[str, Any]

TOOL: Json = {"name": "run", "description": "Run.", "inputSchema": {"type": "object"}}


@dataclass
class Answer:
    """An HTTP answer: its body comes piece by piece; where one can be awaited, it is."""

    body: Any
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class Hostile:
    """A server of an older protocol version.

    Attributes:
        url: where it is.
        tools: what it lists.
        answers: JSON-RPC method -> what it answers: a result, or a function of the request.
        seen: method, headers and body of each request.
    """

    url: str = ""
    tools: Any = field(default_factory=lambda: [TOOL])
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str], Json]] = field(default_factory=list)

    def called(self) -> int:
        """How many calls of tools came."""
        return sum(body.get("method") == "tools/call" for _, _, body in self.seen)

    def answer(self, request: Json) -> Answer:
        method = request.get("method", "")
        given = self.answers.get(method)
        if callable(given):
            given = given(request)
        if isinstance(given, Answer):
            return given
        if "id" not in request:
            return Answer([b""], 202)
        if given is None:
            given = self._usual(method)
        if given is None:
            error = {"code": -32601, "message": "Method not found"}
            return Answer([json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode()])
        return Answer([result(request, given)])

    def _usual(self, method: str) -> Json | None:
        if method == "initialize":
            info = {"name": "hostile", "version": "1"}
            return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
        if method == "tools/list":
            return {"tools": self.tools}
        return {"content": [{"type": "text", "text": "done"}]} if method == "tools/call" else None


def result(request: Json, value: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": value}).encode()


def event(data: Any) -> bytes:
    return b"event: message\ndata: " + json.dumps(data).encode() + b"\n\n"


def _app(state: Hostile) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = json.loads(body) if body else {}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        state.seen.append((scope["method"], headers, request))
        answer = state.answer(request) if scope["method"] == "POST" else Answer([b""], 405)
        fields = [(b"content-type", answer.content_type.encode()), *answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": fields})
        for piece in answer.body:
            data = await piece() if callable(piece) else piece
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


@asynccontextmanager
async def open_hostile() -> AsyncIterator[Hostile]:
    """The server, for as long as the block lasts."""
    state = Hostile()
    config = HypercornConfig()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.1
    stop = trio.Event()
    async with open_inner_nursery() as nursery:
        listen = partial(serve, _app(state), config, shutdown_trigger=stop.wait, mode="asgi")
        (url,) = await nursery.start(listen)
        state.url = f"{url}/mcp"
        try:
            yield state
        finally:
            stop.set()
            nursery.cancel_scope.cancel()
