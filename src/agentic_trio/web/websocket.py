"""There is no WebSocket transport: a client that is told so at once falls back to HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart_trio.asgi import TrioASGIWebsocketConnection

from agentic_trio.errors import InvalidRequest
from agentic_trio.minting import mint_id

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable


class NoWebSocket(TrioASGIWebsocketConnection):
    """Answers every handshake with 426, after which Codex uses HTTP; after a 404 it tries seven times more.

    Not a route: routing, CORS and our error handlers want a request, and a handshake is none.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        error = InvalidRequest("There are no WebSockets here: use HTTP.", status=426)
        body = error.body()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", mint_id("req").encode()),
        ]
        await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
