"""Server-sent events: an incremental decoder that takes any chunking, and an encoder.

The rules are those of the HTML standard, section 9.2: LF, CR or CRLF end a line, an empty line ends an
event, lines that begin with a colon are comments, several ``data`` lines are joined by LF.
"""

from __future__ import annotations

from typing import NamedTuple

DONE = b"data: [DONE]\n\n"
"""What ends every stream of the Responses API, after its terminal event."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""No event is larger: one holds a whole response at most. Bounds what an endless line can cost."""


class EventTooLarge(Exception):
    """The peer sent more than the bound without ending an event."""


class Block(NamedTuple):
    """One event as it came.

    Attributes:
        data: the joined ``data`` lines.
        raw: the event's bytes, line ends normalised to LF, the empty line included.
    """

    data: bytes
    raw: bytes


class Decoder:
    """Bytes in, events out. Sans-io."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._begun = False
        self._ends_with_cr = False
        self._max = max_event_bytes

    def feed(self, chunk: bytes) -> list[Block]:
        """Take bytes as they come; answer the events that they complete.

        Raises:
            EventTooLarge: an event is larger than the bound. The decoder is of no use afterwards.
        """
        if self._ends_with_cr or b"\r" in chunk:
            chunk = self._normalise(chunk)
        buffer: bytes | bytearray = chunk
        if self._buffer:
            # Grown in place: an event that comes in many small pieces would be copied for each.
            self._buffer += chunk
            buffer = self._buffer
        if not self._begun and buffer:
            # A byte order mark may open the stream; until three bytes are here it can't be told.
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._buffer = bytearray(buffer)
                return []
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._begun = True
        blocks = []
        start = 0
        # The end of an event may straddle two chunks: look one byte back, never at all of it again.
        end = buffer.find(b"\n\n", max(self._scanned - 1, 0))
        while end >= 0:
            if end - start > self._max:
                raise EventTooLarge
            block = parse_block(bytes(buffer[start : end + 2]))
            if block is not None:
                blocks.append(block)
            start = end + 2
            end = buffer.find(b"\n\n", start)
        if buffer is not self._buffer:
            self._buffer = bytearray(buffer[start:])
        else:
            del self._buffer[:start]
        self._scanned = len(self._buffer)
        if self._scanned > self._max:
            raise EventTooLarge
        return blocks

    def end(self) -> list[Block]:
        """The stream ended: answer an event whose empty line never came.

        The standard drops it. A model server that forgets its last line end has still said how the
        response ended, so it is kept, and whoever decodes its data finds out whether it is whole.
        """
        rest, self._buffer = bytes(self._buffer), bytearray()
        block = parse_block(rest.rstrip(b"\n") + b"\n\n")
        return [] if block is None else [block]

    def _normalise(self, chunk: bytes) -> bytes:
        if self._ends_with_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._ends_with_cr = False
        if chunk:
            self._ends_with_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def parse_block(raw: bytes) -> Block | None:
    """Read one event's lines. None if it holds no data (comments, empty lines)."""
    # Nearly all events have one of two forms, told apart without splitting them into lines.
    lines = raw.count(b"\n")
    begin = raw.find(b"\n") + 1 if lines == 3 and raw.startswith(b"event: ") else 0
    if lines == (3 if begin else 2) and raw.startswith(b"data: ", begin):
        return Block(raw[begin + 6 : -2], raw)
    data = []
    for line in raw.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line == b"data":
            data.append(b"")
    return Block(b"\n".join(data), raw) if data else None


def encode(type: str, data: bytes) -> bytes:
    """One event in the form that OpenAI sends: its type, then its data in one line."""
    return b"event: %b\ndata: %b\n\n" % (type.encode(), data)
