"""Server-sent events: an incremental decoder that takes any chunking, and an encoder.

The rules come from the HTML standard, section 9.2: LF, CR or CRLF ends a line, an empty line ends an
event, a line that begins with a colon is a comment, and several ``data`` lines are joined by LF.
"""

from __future__ import annotations

from typing import NamedTuple

DONE = b"data: [DONE]\n\n"
"""The last bytes of every stream of the Responses API, after its terminal event."""

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The largest event that is accepted. An event contains a whole response at most, so that only a line
without an end is larger."""


class EventTooLarge(Exception):
    """The peer sent more than the bound in one event."""


class Block(NamedTuple):
    """One event as it was received.

    Attributes:
        data: the joined ``data`` lines.
        raw: the event's bytes, with line ends normalised to LF and including the empty line.
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
        """Take the bytes of one read and return the events that they complete.

        Raises:
            EventTooLarge: an event is larger than the bound. The decoder can't be used afterwards.
        """
        if self._ends_with_cr or b"\r" in chunk:
            chunk = self._normalise(chunk)
        buffer: bytes | bytearray = chunk
        if self._buffer:
            # Grown in place: copying would make an event that comes in small pieces cost its square.
            self._buffer += chunk
            buffer = self._buffer
        if not self._begun and buffer:
            # The stream may begin with a byte order mark, which three bytes decide.
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._buffer = bytearray(buffer)
                return []
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
            self._begun = True
        blocks = []
        start = 0
        # The end of an event may straddle two chunks: go one byte back, not to the event's start.
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
        """The stream ended: return the event whose empty line is missing, if there is one.

        The standard drops such an event. It is kept here because a model server that forgets its last
        line end has still said how the response ended; decoding its data shows whether it is whole.
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
    """Parse one event. Returns None if it has no data (comments, empty lines)."""
    # Nearly all events have one of two forms, which are recognised without splitting them into lines.
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


def event_name(raw: bytes) -> str:
    """Return the name in an event's ``event`` line, if the event begins with one."""
    if not raw.startswith(b"event:"):
        return ""
    return raw[6 : raw.index(b"\n")].strip().decode()


def encode(type: str, data: bytes) -> bytes:
    """Return one event in the form that OpenAI sends: the type, then the data in one line."""
    return b"event: %b\ndata: %b\n\n" % (type.encode(), data)
