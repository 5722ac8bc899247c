"""One client's connection to the fake upstream: its requests, its answers, and their faults."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httptools
import trio

from .answers import Answer, answer_bytes, chunk, cut_writes, head_of, stamped
from .faults import Cut, end_badly, parted, stop_of
from .requests import Recorded, RequestReader

if TYPE_CHECKING:
    from .script import Script
    from .server import FakeUpstream


class Connection:
    """One client connection: a task reads requests, so that a client who leaves is noticed at once."""

    def __init__(self, server: FakeUpstream, stream: trio.abc.HalfCloseableStream) -> None:
        self.server = server
        self.stream = stream
        self.left = False
        self.generating = False
        self.finished = False
        self.answering: trio.CancelScope | None = None
        self.into, self.arrived = trio.open_memory_channel[Recorded](100)
        self.reader = RequestReader()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read)
            with contextlib.suppress(Cut, trio.EndOfChannel, trio.BrokenResourceError, trio.TooSlowError):
                while True:
                    with trio.fail_after(self.server.keep_alive):
                        request = await self.arrived.receive()
                    await self.exchange(request)
            nursery.cancel_scope.cancel()

    async def read(self) -> None:
        with self.into, contextlib.suppress(trio.BrokenResourceError, httptools.HttpParserError):
            while data := await self.stream.receive_some(65536):
                for request in self.reader.feed(data):
                    self.into.send_nowait(request)
        self.left = True
        if self.answering:
            self.answering.cancel()

    async def exchange(self, request: Recorded) -> None:
        server = self.server
        if server.record:
            server.requests.append(request)
            server.changed()
        answer = server.answer(request)
        if request.method == "HEAD":
            await self.stream.send_all(head_of(answer))
        elif answer.status != 200 and not answer.script.hang and not answer.script.delay:
            await self.stream.send_all(answer_bytes(answer))
        else:
            await self.generate(answer)
        if answer.script.close or request.headers.get("connection", "").lower() == "close":
            raise Cut

    async def generate(self, answer: Answer) -> None:
        server = self.server
        server.live += 1
        server.changed()
        self.generating, self.finished = True, False
        try:
            with trio.CancelScope() as self.answering:
                if self.left:
                    self.answering.cancel()
                await self.deliver(answer)
        except trio.BrokenResourceError:
            self.left = True
            raise
        finally:
            self.answering = None
            self.generated()
            server.aborted += self.left and not self.finished
            server.changed()

    def generated(self) -> None:
        """Count the request as over: before its last bytes leave, so that who has them all finds it so."""
        self.server.live -= self.generating
        self.generating = False
        self.server.changed()

    async def deliver(self, answer: Answer) -> None:
        script = answer.script
        if script.hang:
            await self.stall()
        pause = script.delay + (0 if answer.chunked else script.interval * (script.deltas or 1))
        if pause:
            await trio.sleep(pause)
        answer = stamped(answer)
        stop = stop_of(script)
        paced = script.interval and answer.chunked
        if stop is None and not paced and script.writes in (None, "burst"):
            self.generated()
            await self.stream.send_all(answer_bytes(answer))
            self.finished = True
            return
        await self.stream.send_all(head_of(answer))
        first, rest = parted(answer.events, stop, script.cut_bytes)
        await self.write(answer, first)
        if stop is not None:
            await self.misbehave(script)
        await self.write(answer, rest)
        self.finished = True
        self.generated()
        if answer.chunked:
            await self.stream.send_all(b"0\r\n\r\n")

    async def write(self, answer: Answer, events: list[bytes]) -> None:
        interval = answer.script.interval if answer.chunked else 0
        due = trio.current_time()
        for piece in cut_writes(answer.script, events):
            if interval:
                due += interval
                await trio.sleep_until(due)
            await self.stream.send_all(chunk(piece) if answer.chunked else piece)

    async def misbehave(self, script: Script) -> None:
        if script.stall_after is not None:
            await self.stall()
            return
        self.finished = script.endless_after is None
        await end_badly(self.stream, script)

    async def stall(self) -> None:
        self.server.stalled += 1
        self.server.changed()
        try:
            await self.server.released.wait()
        finally:
            self.server.stalled -= 1
