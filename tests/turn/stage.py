"""A turn with a store and an upstream that live in the test's own event loop: no threads, no sockets.

Each of their calls has a checkpoint before it takes effect and one after, so that cancellation can come
at either. Everything they were asked is kept, to be looked at.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import trio

from agentic_trio import Config
from agentic_trio.context import RequestContext
from agentic_trio.gateway.admission import Admission, Ticket
from agentic_trio.gateway.fair_queue import FairQueue
from agentic_trio.gateway.locks import Locks
from agentic_trio.gateway.services import Services
from agentic_trio.gateway.turn import Turn
from agentic_trio.gateway.unrecorded import Unrecorded
from agentic_trio.store.contract import History
from agentic_trio.upstream.answer import Answer
from agentic_trio.wire.create_response import parse_create_response
from agentic_trio.wire.responses import with_output
from tests.fake_upstream import Script, Text, render_response
from tests.playbook import NOW, counted_ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from agentic_trio.store.contract import Announcement, Ending, Store
    from agentic_trio.upstream.client import Upstream
    from agentic_trio.wire.affinity import Affinity

Json = dict[str, Any]

HELLO = Script(output=(Text(("Hel", "lo", "!")),))


def events(script: Script = HELLO) -> list[bytes]:
    """What a streaming upstream sends, one event an element."""
    return render_response(script, {"model": "tiny", "input": "hi"}, stream=True)


def whole(script: Script = HELLO) -> list[bytes]:
    """What an upstream sends that was not asked to stream."""
    return render_response(script, {"model": "tiny", "input": "hi"}, stream=False)


async def forever() -> None:
    await trio.sleep_forever()


def failing(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


class FakeStore:
    """Keeps rows by id, as the contract has it: an ending replaces its announcement.

    Attributes:
        calls: the names of the methods that were called, in order.
        before: what happens first in the method of that name.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.announced: dict[str, Announcement] = {}
        self.ended: dict[str, Ending] = {}
        self.failed: dict[str, bytes] = {}
        self.endings = 0
        self.found = History()
        self.items: dict[str, bytes] = {}
        self.present: frozenset[str] = frozenset()

    @property
    def rows(self) -> set[str]:
        return {*self.announced, *self.ended}

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.before:
            await self.before[name]()
        await trio.lowlevel.checkpoint()

    async def history(self, owner: str, **named: str | None) -> History:
        await self._called("history")
        return self.found

    async def find_items(self, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
        await self._called("find_items")
        return {id: data for id, data in self.items.items() if id in ids}

    async def in_conversation(self, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
        await self._called("in_conversation")
        return self.present & set(ids)

    async def announce(self, announcement: Announcement) -> None:
        await self._called("announce")
        self.announced[announcement.id] = announcement
        await trio.lowlevel.checkpoint()

    async def withdraw(self, owner: str, response: str) -> None:
        await self._called("withdraw")
        if response not in self.ended:
            self.announced.pop(response, None)
        await trio.lowlevel.checkpoint()

    async def end(self, ending: Ending) -> None:
        await self._called("end")
        self.ended[ending.id] = ending
        self.endings += 1
        await trio.lowlevel.checkpoint()

    async def fail(self, owner: str, id: str, end: Callable[[bytes], bytes]) -> None:
        await self._called("fail")
        self.failed[id] = end(self.announced[id].body)
        await trio.lowlevel.checkpoint()


@dataclass
class FakeUpstream:
    """Answers every call alike.

    Attributes:
        chunks: the body; where one can be called, it is awaited.
        refusal: raised instead of an answer.
        bodies: what it was asked.
        said: the chunks that were read.
        reading: whether the end of the body has not been read.
        open: the calls that are under way.
        closed_early: the calls that were given up.
        hasty: it answers before it has been sent the whole request.
    """

    chunks: Sequence[bytes | Callable[[], Awaitable[None]]]
    content_type: bytes
    refusal: Exception | None = None
    bodies: list[Json] = field(default_factory=list)
    said: list[bytes] = field(default_factory=list)
    reading: bool = False
    open: int = 0
    closed_early: int = 0
    hasty: bool = False

    @asynccontextmanager
    async def stream(
        self,
        body: bytes,
        context: RequestContext,
        meanwhile: Callable[[], Awaitable[None]],
        affinity: Affinity,
    ) -> AsyncIterator[Answer]:
        await trio.lowlevel.checkpoint()
        self.bodies.append(json.loads(body))
        self.open += 1
        try:
            if not self.hasty:
                await meanwhile()
            await trio.lowlevel.checkpoint()
            if self.refusal is not None:
                raise self.refusal
            yield Answer(200, [(b"content-type", self.content_type)], self._chunks())
            await trio.lowlevel.checkpoint()
        except BaseException:
            self.closed_early += 1
            raise
        finally:
            self.open -= 1

    def _chunks(self) -> AsyncIterator[bytes]:
        return _Chunks(self)


class _Chunks:
    def __init__(self, upstream: FakeUpstream) -> None:
        self._upstream = upstream
        self._rest = iter(upstream.chunks)
        upstream.reading = True

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for chunk in self._rest:
            if isinstance(chunk, bytes):
                self._upstream.said.append(chunk)
                return chunk
            await chunk()
        self._upstream.reading = False
        raise StopAsyncIteration

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        async for chunk in self:
            if not take(chunk):
                return


def _content_type(chunks: Sequence[object]) -> bytes:
    begins_as_json = isinstance(chunks[0], bytes) and chunks[0].startswith(b"{")
    return b"application/json" if begins_as_json else b"text/event-stream; charset=utf-8"


class Stage:
    """What one test works with."""

    def __init__(
        self,
        chunks: Sequence[bytes | Callable[[], Awaitable[None]]] | None = None,
        *,
        refusal: Exception | None = None,
        content_type: bytes | None = None,
        **config: Any,
    ) -> None:
        self.store = FakeStore()
        chunks = events() if chunks is None else chunks
        self.upstream = FakeUpstream(chunks, content_type or _content_type(chunks), refusal)
        store = cast("Store", self.store)
        self.locks = Locks(config.get("conversation_wait", 0.0))
        self.services = Services(
            config=Config(**config),
            store=store,
            upstream=cast("Upstream", self.upstream),
            locks=self.locks,
            unrecorded=Unrecorded(store),
            admission=Admission(max_requests=1000, max_bytes=Config(**config).max_held_bytes),
            background=FairQueue(1),
            mint=counted_ids(),
            now=lambda: NOW,
        )

    def turn(self, **members: Any) -> Turn:
        """A turn for a request, streamed unless said otherwise."""
        body = {"model": "tiny", "input": "hi", "stream": True, **members}
        call = parse_create_response(json.dumps(body).encode(), self.services.mint)
        return Turn(call, RequestContext(), self.services, Ticket(self.services.admission))

    def row(self) -> Ending:
        """The only row, which must have been written once."""
        [id] = self.store.rows
        assert self.store.endings == 1
        return self.store.ended[id]

    def recorded(self) -> Json:
        """The only row, as a client reads it."""
        row = self.row()
        response: Json = json.loads(with_output(row.body, [item.data for item in row.output]))
        assert response["status"] == row.status
        return response

    async def holds_nothing(self, conversation: str = "conv_1") -> bool:
        """Whether the conversation is free again."""
        async with self.locks.lock("", conversation):
            return True


def log_of(turn: Turn) -> bytes:
    """All that a turn's readers were told."""
    assert turn.log.exhausted(10**9), "the log is closed"
    told = turn.log.whole()
    assert told is not None
    return b"".join(told)


def text_of(response: Json) -> str:
    """The text of a response's messages."""
    return "".join(
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    )
