"""What ``store/contract.py`` promises of owners, of every backend."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from agentic_trio.store.contract import (
    Conversation,
    Missing,
    PageQuery,
    StoreError,
)
from tests.store.records import (
    NOTHING,
    OWNER,
    announcement,
    data,
    ending,
    item,
    items,
    new_conversation,
    no_effect,
    query,
    take_turn,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentic_trio.store.contract import Place, Store


async def test_what_belongs_to_another_is_not_there(store: Store):
    await new_conversation(store, "conv_1", "x")
    await take_turn(store, "a", conversation="conv_1")
    await store.announce(announcement("b"))
    other = "other"
    for hidden in (
        store.history(other, response="a"),
        store.history(other, conversation="conv_1"),
        store.announce(announcement("c", owner=other, conversation="conv_1")),
        store.response(other, "a"),
        store.delete_response(other, "a"),
        store.response_input(other, "a", PageQuery()),
        store.conversation(other, "conv_1"),
        store.update_conversation(other, "conv_1", b"[]"),
        store.delete_conversation(other, "conv_1"),
        store.conversation_items(other, "conv_1", PageQuery()),
        store.conversation_item(other, "conv_1", "x"),
        store.add_items(other, "conv_1", items("y"), NOTHING, NOTHING),
        store.delete_item(other, "conv_1", "x", no_effect),
        store.in_conversation(other, "conv_1", ["x"]),
        store.list_responses(other, query(after="a")),
        store.list_conversations(other, query(after="conv_1")),
    ):
        with pytest.raises(Missing):
            await hidden
    await store.withdraw(other, "b")
    assert (await store.response(OWNER, "b")).status == "in_progress"
    assert await store.find_items(other, ["x", "in_a"]) == {}
    assert await store.list_responses(other, query()) == ([], False)
    assert await store.list_conversations(other, query()) == ([], False)
    assert await texts(store, conversation="conv_1") == data("x", "in_a", "out_a")


async def test_the_same_ids_of_two_owners_are_two_things(store: Store):
    for owner in ("one", "two"):
        conversation = Conversation("conv_1", 1, f'"{owner}"'.encode())
        await store.create_conversation(owner, conversation, [item("x", owner)], NOTHING)
        await store.end(ending("a", None, [item("y", owner)], owner=owner))
    await store.delete_conversation("one", "conv_1")
    await store.delete_response("one", "a")
    assert (await store.conversation("two", "conv_1")).metadata == b'"two"'
    assert (await store.history("two", response="a")).items == [item("y", "two").data]
    assert await store.find_items("two", ["x"]) == {"x": item("x", "two").data}


async def test_a_turn_cannot_continue_another_owners_history(store: Store):
    base: Place | None = (await new_conversation(store, "conv_1", "secret")).base
    with pytest.raises(StoreError):
        await store.end(ending("a", base, items("x"), owner="other"))
    with pytest.raises(Missing):
        await store.response("other", "a")


async def test_another_owners_deleted_conversation_is_not_revived(store: Store):
    base = (await new_conversation(store, "conv_1", "x")).base
    await store.delete_conversation(OWNER, "conv_1")
    await new_conversation(store, "conv_1", "y")
    await store.end(ending("a", base, items("z"), conversation="conv_1"))
    assert await texts(store, conversation="conv_1") == data("y")
    assert await texts(store, response="a") == data("x", "z")


class Work:
    """How much SQLite does: the steps of its virtual machine, on all connections of a store."""

    def __init__(self, store: Any) -> None:
        self.steps = 0
        self._connections = [store.writer._connection, *store._read.__self__._free]

    def __enter__(self) -> Work:
        for each in self._connections:
            each.set_progress_handler(self._count, 1)
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._connections:
            each.set_progress_handler(None, 1)

    def _count(self) -> int:
        self.steps += 1
        return 0


OTHER = "other"

LOOKUPS: dict[str, Callable[[Store, Ids], Awaitable[Any]]] = {
    "history of a response": lambda store, ids: store.history(OTHER, response=ids.response),
    "history of a conversation": lambda store, ids: store.history(OTHER, conversation=ids.conversation),
    "response": lambda store, ids: store.response(OTHER, ids.response),
    "events": lambda store, ids: store.events(OTHER, ids.response),
    "input": lambda store, ids: store.response_input(OTHER, ids.response, PageQuery()),
    "delete a response": lambda store, ids: store.delete_response(OTHER, ids.response),
    "withdraw": lambda store, ids: store.withdraw(OTHER, ids.response),
    "conversation": lambda store, ids: store.conversation(OTHER, ids.conversation),
    "update": lambda store, ids: store.update_conversation(OTHER, ids.conversation, b"[]"),
    "delete a conversation": lambda store, ids: store.delete_conversation(OTHER, ids.conversation),
    "items": lambda store, ids: store.conversation_items(OTHER, ids.conversation, PageQuery()),
    "item": lambda store, ids: store.conversation_item(OTHER, ids.conversation, ids.item),
    "add": lambda store, ids: store.add_items(OTHER, ids.conversation, items("y"), NOTHING, NOTHING),
    "delete an item": lambda store, ids: store.delete_item(OTHER, ids.conversation, ids.item, no_effect),
    "in conversation": lambda store, ids: store.in_conversation(OTHER, ids.conversation, [ids.item]),
    "cursor of responses": lambda store, ids: store.list_responses(OTHER, query(after=ids.response)),
    "cursor of conversations": lambda store, ids: store.list_conversations(
        OTHER, query(after=ids.conversation)
    ),
    "announce": lambda store, ids: store.announce(
        announcement("c", owner=OTHER, conversation=ids.conversation)
    ),
}


class Ids(NamedTuple):
    response: str
    conversation: str
    item: str


async def work_of(store: Store, look_up: Callable[[Store, Ids], Awaitable[Any]], ids: Ids) -> int:
    """The steps of a look-up that finds nothing."""
    with Work(store) as work, suppress(Missing):
        await look_up(store, ids)
    assert work.steps > 0
    return work.steps


@pytest.mark.parametrize("look_up", LOOKUPS.values(), ids=LOOKUPS.keys())
async def test_what_is_another_s_takes_the_work_of_what_is_not_there(
    maintained: Store, look_up: Callable[[Store, Ids], Awaitable[Any]]
):
    await new_conversation(maintained, "conv_1", "x")
    await take_turn(maintained, "resp_1", conversation="conv_1")
    theirs = await work_of(maintained, look_up, Ids("resp_1", "conv_1", "x"))
    nobody = await work_of(maintained, look_up, Ids("resp_2", "conv_2", "z"))
    assert theirs == nobody
