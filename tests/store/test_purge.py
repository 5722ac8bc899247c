"""Erasing by criteria, and by age: what goes, what stays, and that nothing of it is left."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentic_trio.store.contract import SWEEP_LIMIT, Conversation, Criteria, Item, Missing, Selection
from tests.store.records import (
    OWNER,
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
    from agentic_trio.store.sqlite import SqliteStore

ALICE = b'{"user":"alice"}'


async def erase(store: Store, **criteria: object) -> Selection:
    selection = await store.select(Criteria(**criteria))  # type: ignore[arg-type]
    await store.purge(selection)
    return selection


async def left(store: SqliteStore) -> set[bytes]:
    """The text of every item in the database."""
    rows = await store.writer.between(lambda db: db.execute("SELECT data FROM entry").fetchall())
    return {row[0] for row in rows}


def names(selection: Selection) -> set[str]:
    return {id for _, id in selection.names}


async def test_an_erased_conversation_takes_its_responses_along(store: SqliteStore):
    await new_conversation(store, "conv_1", "a")
    await take_turn(store, "x", conversation="conv_1")
    await take_turn(store, "y", conversation="conv_1", status="failed")
    await new_conversation(store, "conv_2", "b")
    await take_turn(store, "z", conversation="conv_2")
    selection = await erase(store, conversation="conv_1")
    assert names(selection) == {"conv_1", "x", "y"}
    assert (selection.erased.responses, selection.erased.conversations, selection.erased.items) == (2, 1, 5)
    assert await left(store) == set(data("b", "in_z", "out_z"))
    with pytest.raises(Missing):
        await store.response(OWNER, "x")


async def test_what_continues_an_erased_response_goes_and_what_it_continues_stays(store: SqliteStore):
    await take_turn(store, "a")
    base = (await store.history(OWNER, response="a")).base
    await store.end(ending("b", base, items("p"), body=b'{"metadata":%b}' % ALICE))
    await take_turn(store, "c", after="b")
    await take_turn(store, "d", after="c", status="failed")
    await take_turn(store, "e", after="a")
    selection = await erase(store, metadata=("user", "alice"))
    assert names(selection) == {"b", "c", "d"}
    assert await texts(store, response="a") == data("in_a", "out_a")
    assert await texts(store, response="e") == data("in_a", "out_a", "in_e", "out_e")
    assert await left(store) == set(data("in_a", "out_a", "in_e", "out_e"))


async def test_a_copy_that_was_made_by_reference_goes_too(store: SqliteStore):
    await store.create_conversation(OWNER, Conversation("conv_1", 1, ALICE), items("secret"), frozenset())
    await new_conversation(store, "conv_2", "other")
    await take_turn(store, "before", conversation="conv_2")
    await take_turn(store, "after", conversation="conv_2", input=items("secret"))
    selection = await erase(store, metadata=("user", "alice"))
    assert names(selection) == {"conv_1", "conv_2", "after"}
    assert await texts(store, response="before") == data("other", "in_before", "out_before")
    assert item("secret").data not in await left(store)


@pytest.mark.parametrize("criteria", [{"owner": "one"}, {"owner": "one", "metadata": ("user", "alice")}])
async def test_another_owner_s_state_stays(store: SqliteStore, criteria: dict[str, object]):
    for owner in ("one", "two"):
        conversation = Conversation("conv_1", 1, ALICE)
        await store.create_conversation(owner, conversation, [item(f"of_{owner}")], frozenset())
        await store.end(ending("a", None, [item("same")], owner=owner, body=b'{"metadata":%b}' % ALICE))
    await erase(store, **criteria)
    assert await left(store) == set(data("of_two", "same"))
    assert (await store.response("two", "a")).id == "a"


async def test_criteria_that_are_given_together_must_all_hold(store: SqliteStore):
    await store.create_conversation(OWNER, Conversation("conv_1", 1, ALICE), items("a"), frozenset())
    await store.create_conversation(OWNER, Conversation("conv_2", 1, ALICE), items("b"), frozenset())
    await erase(store, conversation="conv_1", metadata=("user", "bob"))
    await erase(store, conversation="conv_1", owner="nobody")
    assert await left(store) == set(data("a", "b"))
    await erase(store, conversation="conv_1", metadata=("user", "alice"))
    assert await left(store) == set(data("b"))


async def test_an_erasure_spares_what_a_turn_may_still_continue(store: SqliteStore):
    await take_turn(store, "a")
    base = (await store.history(OWNER, response="a")).base
    await store.end(ending("b", base, items("p"), body=b'{"metadata":%b}' % ALICE))
    await store.delete_response(OWNER, "a")
    await erase(store, metadata=("user", "alice"))
    await store.end(ending("late", base, items("x")))
    assert await texts(store, response="late") == data("in_a", "out_a", "x")


async def test_a_dropped_item_and_a_partial_one_go(store: SqliteStore):
    await new_conversation(store, "conv_1", "x")
    await store.delete_item(OWNER, "conv_1", "x", no_effect)
    cut = Item("cut", item("cut").data, partial=True)
    await take_turn(store, "a", conversation="conv_1", output=[cut], status="incomplete")
    await erase(store, conversation="conv_1")
    assert await left(store) == set()


async def test_an_erasure_takes_streams_along_and_reports_all_of_it(store: SqliteStore):
    rows = []
    for n in range(450):
        body = b'{"metadata":%b}' % ALICE
        await store.end(replace(ending(f"r{n}", None, items(f"i{n}"), body=body), events=[b"data: 1\n\n"]))
    selection = await store.select(Criteria(owner=OWNER))
    await store.purge(selection, rows.append)
    assert (selection.erased.responses, selection.erased.streams, selection.erased.items) == (450, 450, 450)
    assert max(rows) <= SWEEP_LIMIT + 1
    assert await left(store) == set()
    assert (await store.select(Criteria(owner=OWNER))).erased.responses == 0


async def test_a_later_selection_finds_what_has_continued_an_erased_one(store: SqliteStore):
    await store.create_conversation(OWNER, Conversation("conv_1", 1, ALICE), items("secret"), frozenset())
    first = await erase(store, metadata=("user", "alice"))
    await take_turn(store, "late", input=items("secret"))
    again = await store.select(Criteria(metadata=("user", "alice")), first)
    assert names(again) == {"late"}


async def test_responses_of_a_conversation_are_deleted_in_steps(store: Store):
    await new_conversation(store, "conv_1", "x")
    await new_conversation(store, "conv_2", "y")
    for n in range(5):
        await take_turn(store, f"r{n}", conversation="conv_1", status="failed" if n == 3 else "completed")
    await take_turn(store, "outside", after="r1")
    await take_turn(store, "other", conversation="conv_2")
    assert [await store.delete_responses_of(OWNER, "conv_1", 2) for _ in range(4)] == [2, 2, 1, 0]
    assert await texts(store, response="outside") == data(
        "x", "in_r0", "out_r0", "in_r1", "out_r1", "in_outside", "out_outside"
    )
    await store.response(OWNER, "other")
    with pytest.raises(Missing):
        await store.delete_responses_of("another", "conv_1")


async def test_what_is_too_old_expires_in_steps(store: Store):
    for n in range(5):
        await store.end(replace(ending(f"old{n}", None, items(f"i{n}")), created_at=10 + n))
    await store.end(replace(ending("new", None, items("j")), created_at=100))
    counts = [await store.expire(50, 2) for _ in range(4)]
    assert counts == [2, 2, 1, 0]
    assert (await store.response(OWNER, "new")).id == "new"
    with pytest.raises(Missing):
        await store.response(OWNER, "old0")


async def test_a_conversation_expires_by_its_last_use(store: SqliteStore):
    for id in ("used", "unused"):
        await store.create_conversation(OWNER, Conversation(id, 1, b"{}"), items(f"of_{id}"), frozenset())
    await store.writer.write(lambda db: db.execute("UPDATE conversation SET used_at = 10"))
    await take_turn(store, "a", conversation="used")
    assert await store.expire(100) == 2
    assert await texts(store, conversation="used") == data("of_used", "in_a", "out_a")
    with pytest.raises(Missing):
        await store.conversation(OWNER, "unused")
