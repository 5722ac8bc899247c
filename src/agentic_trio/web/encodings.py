"""Compressed request bodies, decoded within the bound on bodies.

A body is decoded in pieces, so that one that expands a thousandfold neither fills memory nor keeps the
event loop from other requests.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

import trio
import zstandard

from agentic_trio.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 256
"""Compressed bytes that are decoded in one call. They expand to 8 MiB at most: zstd can make a block of
128 KiB from four bytes."""

TURN = 256 * 1024
"""Bytes, compressed or not, after which other tasks get their turn."""

MAX_WINDOW = 8 * 1024 * 1024
"""The zstd window that every receiver must take (RFC 9659). A larger one is refused."""


class Frame(Protocol):
    """Decodes one gzip member, zlib stream or zstd frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


async def decoded(body: bytes, encoding: str, take: Callable[[int], None]) -> bytes:
    """Decode a body.

    Args:
        body: as it was sent.
        encoding: the value of ``content-encoding``.
        take: called with the size of each piece before it is kept; raises if there is no room.

    Raises:
        InvalidRequest: the encoding is not served (415), or the body is not in it (400).

    Cancellation: nothing has happened.
    """
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        return body
    if len(names) > 1 or names[0] not in FRAMES:
        raise _unsupported(encoding)
    try:
        return await _decode(body, FRAMES[names[0]](body), take)
    except (zlib.error, zstandard.ZstdError, EOFError):
        raise InvalidRequest(
            f"The request's body is not valid {names[0]}.", code="invalid_content_encoding"
        ) from None


async def _decode(body: bytes, begin: Callable[[], Frame], take: Callable[[int], None]) -> bytes:
    """Decode the frames of a body, one after the other. Raises EOFError if the last one is cut short."""
    parts: list[bytes] = []
    work = 0
    frame = begin()
    for start in range(0, len(body), PIECE):
        piece = body[start : start + PIECE]
        while piece:
            if frame.eof:
                frame = begin()
            part = frame.decompress(piece)
            take(len(part))
            parts.append(part)
            work += len(piece) + len(part)
            piece = frame.unused_data if frame.eof else b""
        if work >= TURN:
            work = 0
            await trio.lowlevel.checkpoint()
    if not frame.eof:
        raise EOFError
    return b"".join(parts)


def _gzip(body: bytes) -> Callable[[], Frame]:
    return lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)


def _deflate(body: bytes) -> Callable[[], Frame]:
    # RFC 9110 means zlib's format; some clients send its raw contents, which never look like a zlib header.
    is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return lambda: zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)


def _zstd(body: bytes) -> Callable[[], Frame]:
    return lambda: zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()


FRAMES: dict[str, Callable[[bytes], Callable[[], Frame]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}


def _unsupported(encoding: str) -> InvalidRequest:
    shown = encoding if len(encoding) <= 100 else encoding[:100] + "..."
    return InvalidRequest(
        f"Unsupported content encoding: '{shown}'. Supported are gzip, deflate and zstd.",
        status=415,
        code="unsupported_content_encoding",
        headers={"accept-encoding": "gzip, deflate, zstd"},
    )
