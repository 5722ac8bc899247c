"""Items on their way to the store: references resolved, and lists of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentic_trio.errors import NotFound
from agentic_trio.gateway.store_errors import item_already_in_conversation
from agentic_trio.store.contract import Item, PageQuery
from agentic_trio.wire import checks
from agentic_trio.wire.compaction import COMPACTION
from agentic_trio.wire.conversations import list_body
from agentic_trio.wire.items import InputItem, decode_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentic_trio.store.contract import Order, Page, Store

_limit = checks.integer(1, 100)
_order = checks.one_of("asc", "desc")
_id = checks.string(256)


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


def stored_items(items: Sequence[InputItem]) -> list[Item]:
    """Items as the store takes them."""
    # A history begins at a compaction that a turn made, not at one that a client brought along.
    return [Item(item.id, item.data, issued=not item.named and item.type != COMPACTION) for item in items]


def page_query(limit: int, order: str, after: str | None, before: str | None) -> PageQuery:
    """Which page of a list is asked for. Raises InvalidRequest, in the words of OpenAI's API."""
    _limit(limit, "limit")
    _order(order, "order")
    for name, id in (("after", after), ("before", before)):
        if id is not None:
            _id(id, name)
    return PageQuery(limit, cast("Order", order), after, before)


def page_body(page: Page) -> bytes:
    return list_body([(item.id, item.data) for item in page.items], has_more=page.has_more)
