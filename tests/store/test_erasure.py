"""What a deletion takes away: at once what can be referred to, and after a sweep what is on the disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentic_trio.store.contract import Item, StoreError
from tests.store.records import (
    OWNER,
    announcement,
    data,
    ending,
    item,
    items,
    new_conversation,
    no_effect,
    take_turn,
    texts,
)

if TYPE_CHECKING:
    from agentic_trio.store.contract import Store


async def known(store: Store, *ids: str) -> set[str]:
    return set(await store.find_items(OWNER, ids))


async def sweep(store: Store) -> int:
    """Erase all that was deleted until now; returns how many rows that were."""
    mark = await store.deletions()
    erased = 0
    while last := await store.sweep(mark, 2):
        erased += last
    return erased


async def test_an_item_of_a_deleted_response_is_not_found(store: Store):
    await take_turn(store, "a")
    await store.delete_response(OWNER, "a")
    assert await known(store, "in_a", "out_a") == set()


@pytest.mark.parametrize("other", ["after", "fork", "failed", "announced"])
async def test_an_item_is_found_while_a_response_has_it_in_its_history(store: Store, other: str):
    await take_turn(store, "a")
    base = (await store.history(OWNER, response="a")).base
    if other == "fork":
        await take_turn(store, "between", after="a")
    if other == "announced":
        await store.announce(announcement("b", base))
    else:
        status = "failed" if other == "failed" else "completed"
        await store.end(ending("b", base, items("in_b"), items("out_b"), status=status))
    await store.delete_response(OWNER, "a")
    assert await known(store, "in_a", "out_a") == {"in_a", "out_a"}
    if other == "announced":
        await store.withdraw(OWNER, "b")
    else:
        await store.delete_response(OWNER, "b")
    if other == "fork":
        await store.delete_response(OWNER, "between")
    assert await known(store, "in_a", "out_a", "in_b", "out_b", "in_between") == set()


async def test_an_item_of_a_deleted_end_of_a_chain_is_not_found(store: Store):
    await take_turn(store, "a")
    await take_turn(store, "b", after="a")
    await store.delete_response(OWNER, "b")
    assert await known(store, "in_a", "out_a", "in_b", "out_b") == {"in_a", "out_a"}


async def test_an_item_is_found_through_any_number_of_forks(store: Store):
    await take_turn(store, "a")
    for n in range(20):
        await take_turn(store, f"b{n}", after=f"b{n - 1}" if n else "a", status="failed")
    for id in ("a", *(f"b{n}" for n in range(19))):
        await store.delete_response(OWNER, id)
    assert await known(store, "in_a", "out_b7") == {"in_a", "out_b7"}
    await store.delete_response(OWNER, "b19")
    assert await known(store, "in_a", "out_b7", "out_b19") == set()


async def test_an_item_of_a_conversation_is_found_until_it_is_dropped(store: Store):
    await new_conversation(store, "conv_1", "a", "b")
    await store.delete_item(OWNER, "conv_1", "a", no_effect)
    assert await known(store, "a", "b") == {"b"}
    await store.delete_conversation(OWNER, "conv_1")
    assert await known(store, "a", "b") == set()


async def test_a_dropped_item_is_found_while_an_earlier_response_has_it(store: Store):
    await new_conversation(store, "conv_1", "x")
    await take_turn(store, "a", conversation="conv_1")
    await store.delete_item(OWNER, "conv_1", "x", no_effect)
    await store.delete_conversation(OWNER, "conv_1")
    assert await known(store, "x") == {"x"}
    await store.delete_response(OWNER, "a")
    assert await known(store, "x", "in_a") == set()


async def test_an_item_is_found_while_any_of_several_places_has_it(store: Store):
    await new_conversation(store, "conv_1", "x")
    await new_conversation(store, "conv_2", "x")
    await store.delete_conversation(OWNER, "conv_1")
    assert await known(store, "x") == {"x"}
    await store.delete_conversation(OWNER, "conv_2")
    assert await known(store, "x") == set()


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_what_a_late_turn_continues_can_be_found_again(store: Store, status: str):
    await take_turn(store, "a")
    await take_turn(store, "b", after="a", status="failed")
    base = (await store.history(OWNER, response="b")).base
    for id in ("a", "b"):
        await store.delete_response(OWNER, id)
    assert await known(store, "in_a", "in_b") == set()
    await store.end(ending("late", base, items("x"), status=status))
    assert await known(store, "in_a", "in_b", "x") == {"in_a", "in_b", "x"}
    assert await sweep(store) > 0
    assert await texts(store, response="late") == data("in_a", "out_a", "in_b", "out_b", "x")


async def test_a_sweep_erases_no_history_that_a_turn_may_be_reading(store: Store):
    await take_turn(store, "a")
    await new_conversation(store, "conv_1", "x", "y")
    mark = await store.deletions()
    chain = (await store.history(OWNER, response="a")).base
    talk = (await store.history(OWNER, conversation="conv_1")).base
    await store.delete_response(OWNER, "a")
    await store.delete_item(OWNER, "conv_1", "x", no_effect)
    await store.delete_conversation(OWNER, "conv_1")
    assert await store.sweep(mark) == 0
    await store.end(ending("b", chain, items("z")))
    await store.end(ending("c", talk, items("z"), conversation="conv_1"))
    await sweep(store)
    assert await texts(store, response="b") == data("in_a", "out_a", "z")
    assert await texts(store, response="c") == data("x", "y", "z")


async def test_a_sweep_leaves_what_is_reached(store: Store):
    await new_conversation(store, "conv_1", "x", "y")
    await take_turn(store, "a", conversation="conv_1")
    await store.delete_item(OWNER, "conv_1", "x", no_effect)
    await take_turn(store, "b", conversation="conv_1")
    await store.delete_item(OWNER, "conv_1", "out_b", no_effect)
    cut = Item("cut", item("cut").data, partial=True)
    await take_turn(store, "c", after="a", output=[cut], status="incomplete")
    await take_turn(store, "d", after="c")
    for id in ("a", "d"):
        await store.delete_response(OWNER, id)
    await store.delete_conversation(OWNER, "conv_1")
    await sweep(store)
    assert await texts(store, response="b") == data("y", "in_a", "out_a", "in_b", "out_b")
    assert await texts(store, response="c") == data("x", "y", "in_a", "out_a", "in_c")
    assert (await store.response(OWNER, "c")).output == [cut.data]


async def test_a_history_whose_thread_was_swept_is_gone(store: Store):
    await take_turn(store, "a")
    base = (await store.history(OWNER, response="a")).base
    await store.delete_response(OWNER, "a")
    await sweep(store)
    with pytest.raises(StoreError, match="gone"):
        await store.end(ending("b", base, items("x")))


async def test_a_sweep_of_nothing_does_nothing(store: Store):
    await take_turn(store, "a")
    assert await store.deletions() == 0
    assert await store.sweep(0) == 0


async def test_a_sweep_goes_on_where_it_stopped(store: Store):
    output = items(*(f"x{n}" for n in range(25)))
    await store.end(ending("a", None, [], output))
    await store.delete_response(OWNER, "a")
    mark = await store.deletions()
    counts = []
    while erased := await store.sweep(mark, 10):
        counts.append(erased)
    assert counts[:2] == [10, 10]
    assert sum(counts) >= 26
    assert await store.deletions() == 0


async def test_a_sweep_counts_large_items_as_several(store: Store):
    large = [Item(f"x{n}", b'"%b"' % (b"x" * 100_000)) for n in range(10)]
    await store.end(ending("a", None, [], large))
    await store.delete_response(OWNER, "a")
    mark = await store.deletions()
    assert 20 <= await store.sweep(mark, 20) < 40
    assert await store.deletions() == mark


async def test_deleting_takes_the_key_and_the_stream_along(store: Store):
    made = replace(ending("a", None, [], items("x")), key=b"k", events=[b"data: 1\n\n"])
    await store.end(made)
    await store.delete_response(OWNER, "a")
    await store.end(ending("b"))
    assert list(await store.events(OWNER, "b")) == []
    assert await store.keyed(OWNER, b"k") is None
