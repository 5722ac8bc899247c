"""What is kept, read and changed outside of turns: conversations and their items.

Everything is JSON text in and out. Cancellation, for every change: it has then happened wholly or
not at all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentic_trio.errors import GatewayError, InvalidRequest, NotFound, ServiceUnavailable
from agentic_trio.store.contract import (
    Conversation,
    Item,
    ItemAlreadyInConversation,
    Missing,
    NotEnded,
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
from agentic_trio.wire.items import InputItem, decode_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from agentic_trio.gateway.locks import Holds
    from agentic_trio.store.contract import Page, Store
    from agentic_trio.wire.ids import MintId

logger = logging.getLogger("agentic_trio")


class Conversations:
    """Conversations and their items, by owner. ``strict``: refuse what OpenAI doesn't know in a request."""

    def __init__(
        self, store: Store, holds: Holds, mint: MintId, now: Callable[[], float], *, strict: bool
    ) -> None:
        self._store = store
        self._holds = holds
        self._mint = mint
        self._now = now
        self._strict = strict

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
        """Append items; answers them as a list, in the order in which they were sent."""
        items = parse_new_items(body, self._mint, strict=self._strict)
        with StateErrors():
            await self._store.conversation(owner, id)
            async with self._holds.hold(owner, id):
                linked = await linked_items(self._store, owner, items, conversation=id, param="items")
                stored = stored_items(linked)
                await self._store.add_items(owner, id, stored, *call_effect(linked))
        return list_body([(item.id, item.data) for item in stored], has_more=False)

    async def delete_item(self, owner: str, id: str, item: str) -> bytes:
        """Drop an item from a conversation; answers the conversation, as OpenAI does."""
        with StateErrors():
            async with self._holds.hold(owner, id):
                return _conversation(await self._store.delete_item(owner, id, item, removal_effect))


async def linked_items(
    store: Store, owner: str, items: Sequence[InputItem], *, conversation: str | None, param: str
) -> list[InputItem]:
    """Items as a conversation takes them: the content stored under an id that we issued wins.

    Args:
        store: where they are looked up.
        owner: whose they are.
        items: as the request has them.
        conversation: the one that they are added to; None if it is only being made.
        param: the request's member that holds them.

    Raises:
        InvalidRequest: one of them is in the conversation already.
        NotFound: a reference refers to nothing.
        Missing: the conversation is gone.
    """
    named = [item.id for item in items if item.named]
    if not named:
        return list(items)
    if conversation is not None and await store.in_conversation(owner, conversation, named):
        raise item_already_in_conversation(param)
    found = await store.find_items(owner, named)
    return [resolved(item, found, param) if item.named else item for item in items]


def resolved(item: InputItem, found: Mapping[str, bytes], param: str) -> InputItem:
    """An item whose id may refer to stored content. ``param`` is the request's member that holds it.

    Raises:
        NotFound: it is a reference, and refers to nothing.
    """
    data = found.get(item.id)
    if data is None:
        if item.type == "item_reference":
            raise NotFound(f"Item with id '{item.id}' not found.", param=param)
        return item
    kind = decode_kind(data)
    return InputItem(item.id, kind.type, data, named=False, call_id=kind.call_id)


def item_already_in_conversation(param: str) -> InvalidRequest:
    """An item is in the conversation that it was to be added to."""
    return InvalidRequest("Item already in conversation", code="item_already_in_conversation", param=param)


_NOT_FOUND = {
    "response": "Response with id '{}' not found.",
    "conversation": "Conversation with id '{}' not found.",
    "item": "Item with id '{}' not found.",
}


class StorageErrors:
    """Within this block the store's own failures are told as a client is told of them."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, StoreError):
            logger.error("the store failed", exc_info=error)
            raise ServiceUnavailable("The store can't be used right now.") from error


class StateErrors(StorageErrors):
    """Within this block all that the store refuses is told as a client is told of it.

    Args:
        query: the page that is read, if one is: what is missing may be where it begins.
    """

    def __init__(self, query: PageQuery | None = None) -> None:
        self._query = query

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Missing):
            raise _missing(error, self._query) from None
        if isinstance(error, NotEnded):
            raise InvalidRequest("Cannot delete an in-flight response.") from None
        if isinstance(error, ItemAlreadyInConversation):
            raise item_already_in_conversation("items") from None
        super().__exit__(kind, error, traceback)


def _missing(missing: Missing, query: PageQuery | None) -> GatewayError:
    if query is not None and missing.id in (query.after, query.before):
        param = "before" if missing.id == query.before else "after"
        return NotFound(f"No item found with id '{missing.id}'", param=param)
    return NotFound(_NOT_FOUND[missing.kind].format(missing.id))


def stored_items(items: Sequence[InputItem]) -> list[Item]:
    """Items as the store takes them."""
    return [Item(item.id, item.data, issued=not item.named) for item in items]


def page_body(page: Page) -> bytes:
    return list_body([(item.id, item.data) for item in page.items], has_more=page.has_more)


def _conversation(conversation: Conversation) -> bytes:
    return conversation_body(conversation.id, conversation.created_at, conversation.metadata)
