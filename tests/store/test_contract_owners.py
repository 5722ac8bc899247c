"""What ``store/contract.py`` promises of owners, of every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
