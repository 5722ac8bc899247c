"""Where lines of the log leave: written many at a time, and never waited for."""

from __future__ import annotations

import os
import select
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.telemetry.lines import Line

MAX_WAITING = 4 * 1024 * 1024
"""Bytes of lines that wait for whoever reads the log. When there are more, the newest are dropped."""

PIECE = 4096
"""Bytes that a pipe takes in one piece when it is writable (``PIPE_BUF``): another process's lines don't come
between them, and the write doesn't block."""

PAUSE = 0.01
"""Seconds after a write in which lines are gathered for the next one. A write, and the switch to the task
that makes it, cost several times what a line does."""

STALLED = 0.1
"""Seconds after which a log that took nothing is tried again."""


class LineWriter:
    """Writes whole lines to a file descriptor; may be used by any thread.

    A pipe that nobody empties must not hold up the event loop. So a write is made only when it won't block;
    until then lines are kept, up to ``MAX_WAITING``. How many were dropped is written as soon as there is
    room again.

    Args:
        descriptor: a file, a pipe or a terminal. It is not closed.
        dropped: makes the line that tells how many lines were dropped.
    """

    def __init__(self, descriptor: int, dropped: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._dropped_line = dropped
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def add(self, line: bytes) -> None:
        """Take a line, or several in one text, each with its line break."""
        with self._lock:
            if self._size + len(line) > MAX_WAITING:
                self._dropped += line.count(b"\n")
                return
            if self._dropped:
                told = self._dropped_line(self._dropped)
                self._lines.append(told)
                self._size += len(told)
                self._dropped = 0
            self._lines.append(line)
            self._size += len(line)

    @property
    def empty(self) -> bool:
        """Whether no line waits."""
        return not self._lines

    def flush(self) -> bool:
        """Write what can be written now; return whether that was all."""
        with self._lock:
            if not self._lines:
                return True
            text = b"".join(self._lines)
            left = text[self._write(text) :]
            self._lines.clear()
            if left:
                self._lines.append(left)
            self._size = len(left)
            return not left

    def _write(self, text: bytes) -> int:
        """Write as much as there is room for; return how many bytes need not be written again."""
        done = 0
        try:
            while done < len(text) and (self._is_file or self._poll.poll(0)):
                done += os.write(self._descriptor, text[done : self._end(text, done)])
        except BlockingIOError:
            return done
        except OSError:
            # Closed, or nobody is left to read it: there is nowhere to say so.
            return len(text)
        return done

    def _end(self, text: bytes, start: int) -> int:
        """Where a piece that starts here ends: behind a line, if one is short enough."""
        if self._is_file or len(text) - start <= PIECE:
            return len(text)
        return text.rfind(b"\n", start, start + PIECE) + 1 or start + PIECE


class RequestLog:
    """Takes lines from the event loop's tasks, and writes many of them together.

    Args:
        writer: where they go.
        encode: makes text of each; None if they are never wanted.

    Attributes:
        wanted: whether lines are written now.
    """

    def __init__(self, writer: LineWriter, encode: Callable[[Line], bytes] | None) -> None:
        self._writer = writer
        self._encode = encode
        self.wanted = encode is not None
        self._lines: list[Line] = []
        self._waiting = trio.lowlevel.ParkingLot()

    def add(self, line: Line) -> None:
        """Take a line. It is written at once while ``run`` runs, or ``PAUSE`` after the line before it."""
        if not self.wanted:
            return
        if not self._lines:
            self._waiting.unpark_all()
        self._lines.append(line)

    def flush(self) -> bool:
        """Write all lines that can be written now; return whether that was all."""
        if self._lines and self._encode is not None:
            lines, self._lines = self._lines, []
            self._writer.add(b"".join(map(self._encode, lines)))
        return self._writer.flush()

    async def run(self) -> None:
        """Write lines as they come. Cancellation: those that are left are written if they can be."""
        try:
            while True:
                if not self._lines and self._writer.empty:
                    await self._waiting.park()
                await trio.sleep(PAUSE if self.flush() else STALLED)
        finally:
            self.flush()
