"""What a handler returns: sent as it is, or turned into one of Quart's responses."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from quart import Response
from quart.wrappers.response import ResponseBody

if TYPE_CHECKING:
    from types import TracebackType

    from hypercorn.typing import ASGISendCallable

    from agentic_trio.errors import GatewayError

JSON = (b"content-type", b"application/json")


class Chunks(ResponseBody):
    """A body that is its own iterator and owns nothing: a dropped generator can't be closed on Trio.

    Attributes:
        error: why it ended early, if its last chunk says so.
    """

    error: GatewayError | None = None

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the last chunk has been returned. If that isn't known, the next ``__anext__`` tells."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> bytes:
        """The next chunk."""


@dataclass(slots=True)
class Reply:
    """A status, headers (names in lower case) and a body: whole, or chunk by chunk."""

    body: bytes | Chunks
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
        """The same as one of Quart's responses."""
        response = Response(self.body, self.status)
        response.headers.remove("content-type")
        for name, value in self.headers:
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        response.timeout = None
        return response
