"""What a handler returns: sent as it is, or turned into one of Quart's responses."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from quart import Response
from quart.wrappers.response import ResponseBody

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from hypercorn.typing import ASGISendCallable

    from agentic_trio.errors import GatewayError

    SendNowait = Callable[[bytes], bool]

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
        """The next chunk. By then the one before has been sent."""

    def attach(self, send_nowait: SendNowait) -> None:
        """Let the body send chunks while ``__anext__`` waits, but for the first.

        Args:
            send_nowait: returns whether the whole chunk has left. What is left of it leaves before the next
                chunk that ``__anext__`` returns, which may be empty.
        """


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
        send_nowait = getattr(send, "nowait", None)
        if send_nowait is not None:
            self.body.attach(send_nowait)
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
