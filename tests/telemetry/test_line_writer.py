"""Where the log's lines go: whole, in order, and without holding anything up."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agentic_trio.telemetry import line_writer
from agentic_trio.telemetry.line_writer import MAX_WAITING, PIECE, LineWriter, RequestLog
from agentic_trio.telemetry.lines import Line, json_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        with suppress(OSError):
            os.close(end)


def dropped(count: int) -> bytes:
    return b"dropped %d\n" % count


def drain(reader: int) -> bytes:
    read = b""
    while select.select([reader], [], [], 0)[0] and (part := os.read(reader, 1 << 20)):
        read += part
    return read


def test_a_pipe_that_nobody_reads_holds_nothing_up_and_loses_nothing(pipe):
    reader, descriptor = pipe
    writer = LineWriter(descriptor, dropped)
    lines = [b"%06d %s\n" % (number, b"x" * 200) for number in range(2000)]
    for line in lines:
        writer.add(line)
    assert not writer.flush()
    read = drain(reader)
    while not writer.flush():
        read += drain(reader)
    read += drain(reader)
    assert read.splitlines(keepends=True) == lines


def test_lines_over_the_bound_are_dropped_and_counted(pipe):
    reader, descriptor = pipe
    writer = LineWriter(descriptor, dropped)
    line = b"x" * 99 + b"\n"
    kept = MAX_WAITING // len(line)
    for _ in range(kept + 7):
        writer.add(line)
    read = b""
    while not writer.flush():
        read += drain(reader)
    writer.add(b"after\n")
    writer.flush()
    read += drain(reader)
    assert read == line * kept + b"dropped 7\nafter\n"


def test_what_is_written_at_once_ends_with_a_line(pipe, monkeypatch):
    """Two processes may share the pipe: no line of one may stand within a line of the other."""
    _, descriptor = pipe
    writer = LineWriter(descriptor, dropped)
    pieces = []
    write = os.write
    monkeypatch.setattr(line_writer.os, "write", lambda fd, data: pieces.append(data) or write(fd, data))
    writer.add(b"".join(b"%s\n" % (b"x" * size) for size in range(1, 600)))
    writer.flush()
    assert len(pieces) > 5
    assert all(piece.endswith(b"\n") and len(piece) <= PIECE for piece in pieces)


def test_a_closed_log_is_no_error(pipe):
    reader, descriptor = pipe
    writer = LineWriter(descriptor, dropped)
    os.close(reader)
    writer.add(b"one\n")
    assert writer.flush()
    os.close(descriptor)
    writer.add(b"two\n")
    assert writer.flush()


async def test_lines_of_one_turn_of_the_loop_are_written_together(tmp_path: Path, monkeypatch):
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = RequestLog(LineWriter(descriptor, dropped), json_lines())
    writes = []
    write = os.write
    monkeypatch.setattr(line_writer.os, "write", lambda fd, data: writes.append(data) or write(fd, data))

    async def tell() -> None:
        log.add(Line("request", 1.5, "req_1"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as requests:
            for _ in range(50):
                requests.start_soon(tell)
        await wait_all_tasks_blocked()
        assert len(writes) == 1
        assert writes[0].count(b"\n") == 50
        log.add(Line("request", 2.5, "req_2"))
        nursery.cancel_scope.cancel()
    assert len(writes) == 2, "what was left when it ended"
    os.close(descriptor)


async def test_a_stalled_log_goes_on_when_it_is_read_again(pipe, autojump_clock):
    reader, descriptor = pipe
    writer = LineWriter(descriptor, dropped)
    log = RequestLog(writer, json_lines())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for number in range(3000):
            log.add(Line("request", 1.0, f"req_{number}"))
        await wait_all_tasks_blocked()
        assert not writer.empty
        read = b""
        while not writer.empty:
            read += drain(reader)
            await trio.sleep(line_writer.STALLED)
        read += drain(reader)
        nursery.cancel_scope.cancel()
    assert read.count(b"\n") == 3000
