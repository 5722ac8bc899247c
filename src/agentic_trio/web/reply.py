"""What a busy route answers: sent as it is, or turned into one of Quart's responses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quart import Response

if TYPE_CHECKING:
    from hypercorn.typing import ASGISendCallable

    from agentic_trio.web.body import PlainBody

JSON = (b"content-type", b"application/json")


@dataclass(slots=True)
class Reply:
    """A status, headers (names in lower case) and a body: whole, or chunk by chunk."""

    body: bytes | PlainBody
    status: int = 200
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])

    async def send(self, send: ASGISendCallable) -> None:
        """Send it as ASGI messages. Cancellation: it is cut short."""
        if isinstance(self.body, bytes):
            self.headers.append((b"content-length", b"%d" % len(self.body)))
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        if isinstance(self.body, bytes):
            await send({"type": "http.response.body", "body": self.body, "more_body": False})
            return
        async for chunk in self.body:
            # An end that is known leaves with the last chunk: a send of its own would cost as much again.
            await send({"type": "http.response.body", "body": chunk, "more_body": not self.body.ended})
            if self.body.ended:
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def response(self) -> Response:
        """The same as a response of Quart's."""
        response = Response(self.body, self.status)
        response.headers.remove("content-type")
        for name, value in self.headers:
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        response.timeout = None
        return response


def json_reply(body: bytes, status: int = 200) -> Reply:
    """A reply of JSON text."""
    return Reply(body, status)
