"""Responses, stored or under way: read, followed, cancelled and forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.errors import InvalidRequest
from agentic_trio.gateway.items import page_body
from agentic_trio.gateway.log import EventLog
from agentic_trio.gateway.store_errors import StateErrors, StorageErrors
from agentic_trio.store.contract import NotEnded
from agentic_trio.wire.conversations import deleted_body, list_body
from agentic_trio.wire.dialect import decode_object
from agentic_trio.wire.replay import replayed
from agentic_trio.wire.responses import with_output
from agentic_trio.wire.sealed_items import with_sealed_reasoning

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentic_trio.gateway.idempotency import IdempotencyKey
    from agentic_trio.gateway.registry import Registry
    from agentic_trio.gateway.services import Services
    from agentic_trio.store.contract import Ending, PageQuery


class Responses:
    """Responses that are stored or under way, by owner."""

    def __init__(self, services: Services, turns: Registry) -> None:
        self._store = services.store
        self._unrecorded = services.unrecorded
        self._seal_of = services.seal_of
        self._turns = turns

    async def read(self, owner: str, id: str, *, sealed: bool = False) -> bytes:
        """The Response object: as it was answered first, or as it is while its turn runs.

        Args:
            owner: whose it is.
            id: its id.
            sealed: seal reasoning beside its text, for a client that will carry it.
        """
        turn = self._turns.find(owner, id)
        if turn is not None and turn.announced:
            return turn.snapshot()
        ending = await self._told(owner, id)
        if ending is not None:
            return with_output(ending.body, self._shown(owner, (item.data for item in ending.output), sealed))
        with StateErrors():
            stored = await self._store.response(owner, id)
        return with_output(stored.body, self._shown(owner, stored.output, sealed))

    def _shown(self, owner: str, items: Iterable[bytes], sealed: bool) -> Iterable[bytes]:
        seal = self._seal_of(owner) if sealed else None
        return items if seal is None else [with_sealed_reasoning(data, seal) for data in items]

    async def _told(self, owner: str, id: str) -> Ending | None:
        """An ending that may be told before it is recorded: a failure, which a crash would make of it too."""
        ending = self._unrecorded.find(owner, id)
        if ending is not None and ending.status == "failed":
            return ending
        with StateErrors():
            await self._unrecorded.settle(owner, id)
        return None

    async def cancel(self, owner: str, id: str) -> bytes:
        """End a background turn and return how it ended. One that has ended already stays as it is."""
        turn = self._turns.find(owner, id)
        if turn is not None and turn.announced:
            if not turn.call.background:
                raise _not_in_background()
            turn.cancel()
            await turn.wait_ended()
        body = await self.read(owner, id)
        # One whose announcement couldn't be read after a crash has no such member.
        if not decode_object(body).get("background"):
            raise _not_in_background()
        return body

    async def stream(self, owner: str, id: str) -> EventLog:
        """The events of a response that was created as a stream: live, or as they were sent."""
        turn = self._turns.find(owner, id)
        if turn is not None and turn.announced:
            if not turn.call.stream:
                raise not_streamed()
            return turn.log
        events = await self._events(owner, id)
        if not events:
            raise not_streamed()
        return EventLog.of(events)

    async def repeated_stream(self, owner: str, id: str) -> EventLog:
        """The events of a response whose request came again: as they were sent, or told from what is kept."""
        events = await self._events(owner, id) or replayed(await self.read(owner, id))
        if not events:
            raise not_streamed()
        return EventLog.of(events)

    async def _events(self, owner: str, id: str) -> Sequence[bytes]:
        ending = await self._told(owner, id)
        if ending is not None:
            return ending.events
        with StateErrors():
            return await self._store.events(owner, id)

    async def repeated(self, owner: str, key: IdempotencyKey) -> str | None:
        """The id of the response that an earlier request with this key has made.

        Raises:
            InvalidRequest: that request had another body.
        """
        ending = self._unrecorded.find_keyed(owner, key.digest)
        if ending is not None:
            key.check(ending.fingerprint)
            return ending.id
        with StorageErrors():
            stored = await self._store.keyed(owner, key.digest)
        if stored is None:
            return None
        key.check(stored.fingerprint)
        return stored.id

    async def delete(self, owner: str, id: str) -> bytes:
        """Forget a response; those that continue it are untouched."""
        with StateErrors():
            if self._turns.find(owner, id) is not None:
                # Its ending may be on its way to the disk, and be there before this would be.
                raise NotEnded(id)
            await self._unrecorded.settle(owner, id)
            await self._store.delete_response(owner, id)
        return deleted_body(id, "response")

    async def input_items(self, owner: str, id: str, query: PageQuery) -> bytes:
        """All that the model was given for a response."""
        with StateErrors(query):
            await self._unrecorded.settle(owner, id)
            return page_body(await self._store.response_input(owner, id, query))

    async def page(
        self, owner: str, query: PageQuery, *, model: str | None, metadata: dict[str, str]
    ) -> bytes:
        """The owner's responses, by creation."""
        with StateErrors(query):
            found, has_more = await self._store.list_responses(
                owner, query, model=model, metadata=metadata or None
            )
        bodies = [(each.id, with_output(each.body, each.output)) for each in found]
        return list_body(bodies, has_more=has_more)


def _not_in_background() -> InvalidRequest:
    return InvalidRequest("Cannot cancel a synchronous response.")


def not_streamed() -> InvalidRequest:
    """The response has no stream to read."""
    return InvalidRequest(
        "This response can no longer be streamed, or was not created with stream=true.", param="stream"
    )
