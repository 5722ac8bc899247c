"""What ``store/contract.py`` promises of conversations and deletions, of every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentic_trio.store.contract import (
    Conversation,
    ItemAlreadyInConversation,
    Missing,
    NotEnded,
    PageQuery,
    StoreError,
)
from tests.store.records import (
    NOTHING,
    OWNER,
    announcement,
    data,
    ending,
    ids,
    item,
    items,
    new_conversation,
    no_effect,
    query,
    take_turn,
    texts,
)

if TYPE_CHECKING:
    from agentic_trio.store.contract import Store


async def test_deleting_a_response_leaves_its_children_whole(store: Store):
    await take_turn(store, "a")
    await take_turn(store, "b", after="a")
    await store.delete_response(OWNER, "a")
    for gone in (store.response(OWNER, "a"), store.delete_response(OWNER, "a")):
        with pytest.raises(Missing):
            await gone
    await take_turn(store, "c", after="b")
    assert await texts(store, response="c") == data("in_a", "out_a", "in_b", "out_b", "in_c", "out_c")


async def test_deleting_a_response_under_way_is_refused(store: Store):
    await store.announce(announcement("a"))
    with pytest.raises(NotEnded):
        await store.delete_response(OWNER, "a")
    assert (await store.response(OWNER, "a")).status == "in_progress"


async def test_deleting_a_conversation_leaves_its_responses(store: Store):
    await new_conversation(store)
    await take_turn(store, "a", conversation="conv_1")
    await store.delete_conversation(OWNER, "conv_1")
    for gone in (
        store.conversation(OWNER, "conv_1"),
        store.delete_conversation(OWNER, "conv_1"),
        store.update_conversation(OWNER, "conv_1", b"{}"),
        store.conversation_items(OWNER, "conv_1", PageQuery()),
        store.conversation_item(OWNER, "conv_1", "in_a"),
        store.add_items(OWNER, "conv_1", items("x"), NOTHING, NOTHING),
        store.delete_item(OWNER, "conv_1", "in_a", no_effect),
        store.in_conversation(OWNER, "conv_1", ["in_a"]),
    ):
        with pytest.raises(Missing) as caught:
            await gone
        assert (caught.value.kind, caught.value.id) == ("conversation", "conv_1")
    await take_turn(store, "b", after="a")
    assert await texts(store, response="b") == data("in_a", "out_a", "in_b", "out_b")


async def test_a_deleted_item_stays_in_the_histories_that_held_it(store: Store):
    await new_conversation(store)
    await take_turn(store, "a", conversation="conv_1")
    await take_turn(store, "b", conversation="conv_1")
    assert await store.delete_item(OWNER, "conv_1", "out_a", no_effect) == Conversation("conv_1", 1, b"{}")
    await take_turn(store, "c", conversation="conv_1")
    assert await texts(store, conversation="conv_1") == data("in_a", "in_b", "out_b", "in_c", "out_c")
    assert await texts(store, response="b") == data("in_a", "out_a", "in_b", "out_b")
    assert ids(await store.response_input(OWNER, "b", query())) == ["in_a", "out_a", "in_b"]
    assert ids(await store.response_input(OWNER, "c", query())) == ["in_a", "in_b", "out_b", "in_c"]


async def test_a_deleted_item_is_missing_from_its_conversation(store: Store):
    await new_conversation(store, "conv_1", "x", "y")
    await store.delete_item(OWNER, "conv_1", "x", no_effect)
    for gone in (
        store.conversation_item(OWNER, "conv_1", "x"),
        store.delete_item(OWNER, "conv_1", "x", no_effect),
        store.conversation_items(OWNER, "conv_1", PageQuery(after="x")),
        store.conversation_items(OWNER, "conv_1", PageQuery(before="x")),
    ):
        with pytest.raises(Missing) as caught:
            await gone
        assert (caught.value.kind, caught.value.id) == ("item", "x")
    assert await store.in_conversation(OWNER, "conv_1", ["x", "y", "z"]) == {"y"}


async def test_deleting_an_item_deletes_every_occurrence(store: Store):
    twins = [item("x", "1", issued=False), item("y"), item("x", "2", issued=False)]
    await store.create_conversation(OWNER, Conversation("conv_1", 1, b"{}"), twins, NOTHING)
    seen: list[bytes] = []

    def effect(data: bytes) -> tuple[frozenset[str], frozenset[str]]:
        seen.append(data)
        return NOTHING, NOTHING

    assert await store.conversation_item(OWNER, "conv_1", "x") == twins[2]
    await store.delete_item(OWNER, "conv_1", "x", effect)
    assert seen == [twins[0].data, twins[2].data]
    assert await texts(store, conversation="conv_1") == data("y")


async def test_an_effect_that_fails_deletes_nothing(store: Store):
    await new_conversation(store, "conv_1", "x")

    def effect(data: bytes) -> tuple[frozenset[str], frozenset[str]]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.delete_item(OWNER, "conv_1", "x", effect)
    assert await texts(store, conversation="conv_1") == data("x")


async def test_metadata_is_replaced(store: Store):
    await new_conversation(store)
    updated = Conversation("conv_1", 1, b'{"a":"b"}')
    assert await store.update_conversation(OWNER, "conv_1", b'{"a":"b"}') == updated
    assert await store.conversation(OWNER, "conv_1") == updated


async def test_a_conversation_that_exists_is_not_made_again(store: Store):
    await new_conversation(store, "conv_1", "x")
    with pytest.raises(StoreError):
        await store.create_conversation(OWNER, Conversation("conv_1", 2, b"[]"), items("y"), NOTHING)
    assert await texts(store, conversation="conv_1") == data("x")
    assert await store.find_items(OWNER, ["y"]) == {}


async def test_an_issued_item_enters_a_conversation_once(store: Store):
    await new_conversation(store, "conv_1", "x")
    with pytest.raises(ItemAlreadyInConversation):
        await store.add_items(OWNER, "conv_1", items("y", "x"), NOTHING, NOTHING)
    assert await texts(store, conversation="conv_1") == data("x")
    await store.add_items(OWNER, "conv_1", items("y", "y"), NOTHING, NOTHING)
    await store.delete_item(OWNER, "conv_1", "x", no_effect)
    await store.add_items(OWNER, "conv_1", items("x"), NOTHING, NOTHING)
    assert await texts(store, conversation="conv_1") == data("y", "y", "x")


async def test_an_issued_item_enters_many_conversations(store: Store):
    await new_conversation(store, "conv_1", "x")
    await new_conversation(store, "conv_2", "x")
    assert await store.conversation_item(OWNER, "conv_2", "x") == item("x")


async def test_a_made_up_name_may_be_used_again(store: Store):
    await new_conversation(store)
    for text in ("1", "2"):
        await store.add_items(OWNER, "conv_1", [item("x", text, issued=False)], NOTHING, NOTHING)
    assert len(await texts(store, conversation="conv_1")) == 2


async def test_only_issued_ids_are_found(store: Store):
    await new_conversation(store, "conv_1", "a")
    await store.end(ending("r", None, [item("b"), item("c", issued=False)], items("d")))
    found = await store.find_items(OWNER, ["a", "b", "c", "d", "e", "a"])
    assert found == {id: item(id).data for id in ("a", "b", "d")}
    assert await store.find_items(OWNER, []) == {}
