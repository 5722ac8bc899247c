"""Short ways to make the store's records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from agentic_trio.store.contract import Announcement, Conversation, Ending, History, Item, PageQuery, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentic_trio.store.contract import Page, Store

OWNER = ""
NOTHING: frozenset[str] = frozenset()


async def run_inline(work: Callable[[], Any], *, limiter: trio.CapacityLimiter) -> Any:
    """A hop that stays in the loop, as a deterministic simulation's does."""
    await trio.lowlevel.checkpoint()
    return work()


def item(id: str, text: str = "", *, issued: bool = True) -> Item:
    return Item(id, f'{{"id":"{id}","text":"{text}"}}'.encode(), issued)


def items(*ids: str) -> list[Item]:
    return [item(id) for id in ids]


def data(*ids: str) -> list[bytes]:
    return [item(id).data for id in ids]


def ending(
    id: str,
    base: Place | None = None,
    input: Sequence[Item] = (),
    output: Sequence[Item] = (),
    *,
    owner: str = OWNER,
    conversation: str | None = None,
    status: str = "completed",
    open_calls: frozenset[str] = frozenset(),
    body: bytes = b"{}",
) -> Ending:
    return Ending(owner, id, 1, status, base, conversation, input, output, open_calls, body)


def announcement(
    id: str,
    base: Place | None = None,
    input: Sequence[Item] = (),
    *,
    owner: str = OWNER,
    conversation: str | None = None,
    status: str = "in_progress",
    open_calls: frozenset[str] = frozenset(),
    body: bytes = b'{"status":"in_progress"}',
) -> Announcement:
    return Announcement(owner, id, 1, status, base, conversation, input, open_calls, body)


async def new_conversation(
    store: Store, id: str = "conv_1", *ids: str, open_calls: frozenset[str] = frozenset()
) -> History:
    await store.create_conversation(OWNER, Conversation(id, 1, b"{}"), items(*ids), open_calls)
    return await store.history(OWNER, conversation=id)


async def take_turn(
    store: Store,
    id: str,
    *,
    after: str | None = None,
    conversation: str | None = None,
    status: str = "completed",
    input: Sequence[Item] | None = None,
    output: Sequence[Item] | None = None,
) -> History:
    """A whole turn: history, one item in, one item out. Answers the history that it continued."""
    history = await store.history(OWNER, response=after, conversation=conversation)
    given = items(f"in_{id}") if input is None else input
    made = items(f"out_{id}") if output is None else output
    await store.end(ending(id, history.base, given, made, conversation=conversation, status=status))
    return history


async def texts(store: Store, *, response: str | None = None, conversation: str | None = None) -> list[bytes]:
    """A history's items."""
    return list((await store.history(OWNER, response=response, conversation=conversation)).items)


def no_effect(data: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """What removing an item means to the calls, when it means nothing."""
    return NOTHING, NOTHING


def ids(page: Page) -> list[str]:
    return [item.id for item in page.items]


def query(**members: Any) -> PageQuery:
    return PageQuery(**{"limit": 100, "order": "asc"} | members)
