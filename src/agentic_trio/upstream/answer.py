"""The model server's response, whose body is read as it comes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import httpx

from agentic_trio.errors import UpstreamError
from agentic_trio.upstream.faults import upstream_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentic_trio.upstream.fleet import ServerState
    from agentic_trio.upstream.round_trip import ResponseStream

    Headers = Sequence[tuple[bytes, bytes]]

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer that is read into memory as a whole."""


class Chunks(Protocol):
    """The chunks of a body, as they are read. Cancelling a read closes the connection."""

    @property
    def waits(self) -> bool:
        """Whether the next chunk is still to come."""

    @property
    def ended(self) -> bool:
        """Whether the last chunk has been returned. Until that is known it is False, and the next
        ``__anext__`` ends the iteration."""

    def __aiter__(self) -> Chunks: ...

    async def __anext__(self) -> bytes: ...

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        """Call ``take`` with each chunk, until it returns False or the body ends.

        Where many bodies are followed, this costs less than the iteration does: one task reads them all, and
        calls ``take``, which must not block. What it raises is raised here.

        Cancellation: closes the connection.
        """


class ReceivedChunks:
    """The chunks of a response. Raises UpstreamError when it breaks off."""

    def __init__(self, response: ResponseStream) -> None:
        self._response = response

    @property
    def waits(self) -> bool:
        return self._response.waits

    @property
    def ended(self) -> bool:
        return self._response.ended

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._response.__anext__()
        except httpx.HTTPError as error:
            raise upstream_error(error) from error

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        try:
            await self._response.follow(take)
        except httpx.HTTPError as error:
            raise upstream_error(error) from error


@dataclass(slots=True)
class Answer:
    """A response of the model server whose head has arrived.

    Attributes:
        status: its HTTP status.
        headers: as they came, names in the upstream's spelling.
        chunks: the body's bytes as they are read, content-encoding untouched.
        server: which of several servers answers; None if there is one.
    """

    status: int
    headers: Headers
    chunks: Chunks
    server: ServerState | None = None

    def header(self, name: bytes) -> str | None:
        """The first header of this (lower-case) name."""
        for key, value in self.headers:
            if key.lower() == name:
                return value.decode("latin-1")
        return None

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events. A media type has no case (RFC 9110, 8.3.1)."""
        media_type = (self.header(b"content-type") or "").partition(";")[0]
        return media_type.strip().lower() == "text/event-stream"

    async def body(self, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """The whole body. Raises UpstreamError when it breaks off, or is larger than ``limit``."""
        parts = []
        size = 0
        async for chunk in self.chunks:
            size += len(chunk)
            if size > limit:
                raise UpstreamError("The model server's answer is too large.")
            parts.append(chunk)
        return b"".join(parts)

    async def beginning(self, limit: int) -> bytes:
        """As much of the body as ``limit`` allows; less if it breaks off."""
        parts = []
        size = 0
        with suppress(UpstreamError):
            async for chunk in self.chunks:
                parts.append(chunk)
                size += len(chunk)
                if size >= limit:
                    break
        return b"".join(parts)[:limit]
