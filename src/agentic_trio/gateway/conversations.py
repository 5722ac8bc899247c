"""Conversations and their items, read and changed outside of turns.

Everything is JSON text in and out. Cancellation, for every change: it has then happened wholly or
not at all.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from agentic_trio.gateway.items import linked_items, page_body, stored_items
from agentic_trio.gateway.store_errors import StateErrors
from agentic_trio.store.contract import (
    Conversation,
    PageQuery,
    StoreError,
)
from agentic_trio.wire.conversations import (
    call_effect,
    conversation_body,
    deleted_body,
    list_body,
    parse_conversation,
    parse_conversation_update,
    parse_new_items,
    removal_effect,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentic_trio.gateway.locks import Locks
    from agentic_trio.gateway.unrecorded import Unrecorded
    from agentic_trio.store.contract import Store
    from agentic_trio.wire.ids import MintId


T = TypeVar("T")


class Conversations:
    """Conversations and their items, by owner. ``strict``: refuse what OpenAI doesn't know in a request."""

    def __init__(
        self,
        store: Store,
        unrecorded: Unrecorded,
        locks: Locks,
        mint: MintId,
        now: Callable[[], float],
        *,
        strict: bool,
        commit_timeout: float,
    ) -> None:
        self._store = store
        self._unrecorded = unrecorded
        self._locks = locks
        self._mint = mint
        self._now = now
        self._strict = strict
        self._commit_timeout = commit_timeout

    async def create(self, owner: str, body: bytes) -> bytes:
        """Create a conversation from a request's body."""
        metadata, items = parse_conversation(body, self._mint, strict=self._strict)
        conversation = Conversation(self._mint("conv"), int(self._now()), metadata)
        with StateErrors():
            linked = await linked_items(self._store, owner, items, conversation=None, param="items")
            opened, _ = call_effect(linked)
            await self._store.create_conversation(owner, conversation, stored_items(linked), opened)
        return _conversation(conversation)

    async def read(self, owner: str, id: str) -> bytes:
        with StateErrors():
            return _conversation(await self._store.conversation(owner, id))

    async def update(self, owner: str, id: str, body: bytes) -> bytes:
        """Replace a conversation's metadata."""
        metadata = parse_conversation_update(body, strict=self._strict)
        with StateErrors():
            return _conversation(await self._store.update_conversation(owner, id, metadata))

    async def delete(self, owner: str, id: str) -> bytes:
        """Forget a conversation; its responses stay."""
        with StateErrors():
            await self._store.delete_conversation(owner, id)
        return deleted_body(id, "conversation.deleted")

    async def delete_with_responses(self, owner: str, id: str) -> bytes:
        """Forget a conversation and all responses that were made in it.

        Raises:
            InvalidRequest: a turn is at work in it.

        Cancellation: some of its responses may be gone; the conversation is the last to go.
        """
        deleted = 0
        with StateErrors():
            await self._store.conversation(owner, id)
            async with self._locks.lock(owner, id):
                await self._unrecorded.settle_all(owner, id)
                while count := await self._store.delete_responses_of(owner, id):
                    deleted += count
                await self._store.delete_conversation(owner, id)
        return deleted_body(id, "conversation.deleted", responses_deleted=deleted)

    async def page(self, owner: str, query: PageQuery, *, metadata: dict[str, str]) -> bytes:
        """The owner's conversations, by creation."""
        with StateErrors(query):
            found, has_more = await self._store.list_conversations(owner, query, metadata=metadata or None)
        return list_body([(each.id, _conversation(each)) for each in found], has_more=has_more)

    async def items(self, owner: str, id: str, query: PageQuery) -> bytes:
        with StateErrors(query):
            return page_body(await self._store.conversation_items(owner, id, query))

    async def item(self, owner: str, id: str, item: str) -> bytes:
        with StateErrors():
            return (await self._store.conversation_item(owner, id, item)).data

    async def add_items(self, owner: str, id: str, body: bytes) -> bytes:
        """Append items and return them as a list, in the order in which they were sent."""
        items = parse_new_items(body, self._mint, strict=self._strict)
        with StateErrors():
            await self._store.conversation(owner, id)
            async with self._locks.lock(owner, id):
                linked = await linked_items(self._store, owner, items, conversation=id, param="items")
                stored = stored_items(linked)
                add = partial(self._store.add_items, owner, id, stored, *call_effect(linked))
                await self._written(add)
        return list_body([(item.id, item.data) for item in stored], has_more=False)

    async def delete_item(self, owner: str, id: str, item: str) -> bytes:
        """Drop an item from a conversation and return the conversation, as OpenAI does."""
        with StateErrors():
            async with self._locks.lock(owner, id):
                delete = partial(self._store.delete_item, owner, id, item, removal_effect)
                return _conversation(await self._written(delete))

    async def _written(self, write: Callable[[], Awaitable[T]]) -> T:
        """What a write returns, which is waited for even if its client has left.

        Otherwise the lock would be free while the store is still at work, and a turn that takes it would not
        see what is written: it would end outside of the conversation.
        """
        deadline = trio.current_time() + self._commit_timeout
        with trio.CancelScope(shield=True, deadline=deadline):
            return await write()
        raise StoreError("the store has not answered in time")


def _conversation(conversation: Conversation) -> bytes:
    return conversation_body(conversation.id, conversation.created_at, conversation.metadata)
