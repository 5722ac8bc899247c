"""HTTP/1.1 request bodies, sans-io: the two framings, read from a connection's buffer."""

from __future__ import annotations

import re
from typing import Final

from agentic_trio.http1.grammar import TEXT, TOKEN
from agentic_trio.http1.request_head import RequestRefused

_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;%b)?" % TEXT)
_TRAILER: Final = re.compile(rb"%b:%b" % (TOKEN, TEXT))
_MAX_LINE: Final = 1024
_MAX_TRAILERS: Final = 8 * 1024

FREE_FRAMING: Final = 64 * 1024
"""Bytes that frame chunks, beyond as many as they hold, before a body is refused.

A chunk costs the same to parse whether it holds one byte or a thousand. Chunks of five bytes and more hold
as much as frames them; smaller ones may be some thousands, which takes milliseconds.
"""


class LengthBody:
    """A body of a known number of bytes."""

    __slots__ = ("remaining",)

    def __init__(self, length: int) -> None:
        self.remaining = length

    @property
    def complete(self) -> bool:
        return self.remaining == 0

    def ends_within(self, size: int) -> bool:
        """Whether at most ``size`` more bytes end the body."""
        return self.remaining <= size

    def read(self, buffer: bytearray) -> bytes:
        """Take what is there of the body off the front of ``buffer``."""
        if self.remaining == 0 or not buffer:
            return b""
        data = bytes(buffer if len(buffer) <= self.remaining else buffer[: self.remaining])
        del buffer[: len(data)]
        self.remaining -= len(data)
        return data


class ChunkedBody:
    """A chunked body. Extensions and trailers are checked, bounded and dropped."""

    __slots__ = ("_framing", "_in_trailers", "_needs_crlf", "_remaining", "_trailer_bytes", "complete")

    def __init__(self) -> None:
        self.complete = False
        self._remaining = 0
        self._needs_crlf = False
        self._in_trailers = False
        self._trailer_bytes = 0
        self._framing = 0

    def ends_within(self, size: int) -> bool:
        """Whether at most ``size`` more bytes end the body: unknown until it has ended."""
        return self.complete

    def read(self, buffer: bytearray) -> bytes:
        """Take what is there of the body off the front of ``buffer``, decoded.

        Raises:
            RequestRefused: the framing is broken, or far larger than what it frames.
        """
        parts: list[bytes] = []
        position = 0
        while not self.complete:
            if self._remaining:
                data = bytes(buffer[position : position + self._remaining])
                if not data:
                    break
                parts.append(data)
                position += len(data)
                self._remaining -= len(data)
                self._framing -= len(data)
                continue
            end = _line_end(buffer, position)
            if end < 0:
                break
            self._line(bytes(buffer[position:end]))
            self._framing += end + 2 - position
            if self._framing > FREE_FRAMING:
                raise RequestRefused("The chunks of the body are too small.")
            position = end + 2
        del buffer[:position]
        return b"".join(parts)

    def _line(self, line: bytes) -> None:
        if self._needs_crlf:
            if line:
                raise RequestRefused("A chunk is longer than its size.")
            self._needs_crlf = False
        elif self._in_trailers:
            self._trailer(line)
        else:
            self._chunk_size(line)

    def _chunk_size(self, line: bytes) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise RequestRefused("A chunk size is malformed.")
        self._remaining = int(match[1], 16)
        self._needs_crlf = self._remaining > 0
        self._in_trailers = self._remaining == 0

    def _trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if self._trailer_bytes > _MAX_TRAILERS:
            raise RequestRefused("The trailers are too large.", status=431)
        if not line:
            self.complete = True
        elif not _TRAILER.fullmatch(line):
            raise RequestRefused("A trailer is malformed.")


def _line_end(buffer: bytearray, position: int) -> int:
    """Where the CRLF of the line at ``position`` is, -1 if it isn't there yet."""
    end = buffer.find(b"\n", position, position + _MAX_LINE)
    if end < 0:
        if len(buffer) - position >= _MAX_LINE:
            raise RequestRefused("A line of the chunked body is too long.")
        return -1
    if end == position or buffer[end - 1] != 0x0D:
        raise RequestRefused("A line of the chunked body doesn't end in CRLF.")
    return end - 1
