"""What ``store/base.py`` promises, of every backend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agentic_trio.store.base import (
    Conversation,
    History,
    Item,
    ItemAlreadyInConversation,
    Missing,
    NotEnded,
    PageQuery,
    StoredResponse,
    StoreError,
)
from tests.store.records import (
    OWNER,
    announcement,
    data,
    ending,
    ids,
    item,
    items,
    new_conversation,
    query,
    take_turn,
    texts,
)

if TYPE_CHECKING:
    from agentic_trio.store.base import Place, Store

NOTHING: frozenset[str] = frozenset()


def no_effect(data: bytes) -> tuple[frozenset[str], frozenset[str]]:
    return NOTHING, NOTHING


# Histories


async def test_history_of_nothing_is_empty(store: Store):
    assert await store.history(OWNER) == History()


async def test_history_is_all_input_and_output_in_order(store: Store):
    await take_turn(store, "a")
    await take_turn(store, "b", after="a")
    assert await texts(store, response="b") == data("in_a", "out_a", "in_b", "out_b")


async def test_history_holds_the_very_bytes_that_were_stored(store: Store):
    strange = '{"id":"x",  "text":"\\u0000 \\ud83d é \U0001f600"}'.encode()
    await store.end(ending("a", output=[Item("x", strange)], body=b' {"a" : 1} '))
    assert await texts(store, response="a") == [strange]
    assert (await store.response(OWNER, "a")).body == b' {"a" : 1} '


async def test_a_response_can_be_continued_many_times(store: Store):
    await take_turn(store, "a")
    for child in ("b", "c", "d"):
        await take_turn(store, child, after="a")
    await take_turn(store, "e", after="c")
    assert await texts(store, response="e") == data("in_a", "out_a", "in_c", "out_c", "in_e", "out_e")
    assert await texts(store, response="d") == data("in_a", "out_a", "in_d", "out_d")
    assert await texts(store, response="a") == data("in_a", "out_a")


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
async def test_however_a_turn_ended_it_can_be_continued(store: Store, status: str):
    await take_turn(store, "a", status=status)
    await take_turn(store, "b", after="a")
    assert await texts(store, response="b") == data("in_a", "out_a", "in_b", "out_b")


async def test_history_of_an_empty_conversation_has_a_base(store: Store):
    history = await new_conversation(store)
    assert history.base is not None
    assert list(history.items) == []


async def test_history_of_an_empty_turn_can_be_continued(store: Store):
    await take_turn(store, "a", status="failed", input=[], output=[])
    await take_turn(store, "b", after="a")
    assert await texts(store, response="b") == data("in_b", "out_b")


async def test_history_with_both_is_the_conversations(store: Store):
    await new_conversation(store)
    await take_turn(store, "a", conversation="conv_1")
    await take_turn(store, "b", conversation="conv_1")
    both = await store.history(OWNER, response="a", conversation="conv_1")
    assert both == await store.history(OWNER, conversation="conv_1")


async def test_history_with_both_refuses_a_response_made_elsewhere(store: Store):
    await new_conversation(store, "conv_1")
    await new_conversation(store, "conv_2")
    await take_turn(store, "a", conversation="conv_1")
    await take_turn(store, "b", after="a")
    for elsewhere, conversation in (("a", "conv_2"), ("b", "conv_1")):
        with pytest.raises(Missing) as caught:
            await store.history(OWNER, response=elsewhere, conversation=conversation)
        assert (caught.value.kind, caught.value.id) == ("response", elsewhere)


async def test_a_conversation_made_later_is_not_taken_for_one_that_was_deleted(store: Store):
    await new_conversation(store, "conv_1")
    await take_turn(store, "a", conversation="conv_1")
    await store.delete_conversation(OWNER, "conv_1")
    await new_conversation(store, "conv_2")
    with pytest.raises(Missing):
        await store.history(OWNER, response="a", conversation="conv_2")


@pytest.mark.parametrize("kind", ["response", "conversation"])
async def test_history_of_the_unknown_is_missing(store: Store, kind: str):
    with pytest.raises(Missing) as caught:
        await store.history(OWNER, **{kind: "nope"})
    assert (caught.value.kind, caught.value.id) == (kind, "nope")


async def test_history_of_a_turn_under_way_is_not_ended(store: Store):
    await new_conversation(store)
    await store.announce(announcement("a", conversation="conv_1"))
    with pytest.raises(NotEnded):
        await store.history(OWNER, response="a")
    with pytest.raises(NotEnded):
        await store.history(OWNER, response="a", conversation="conv_1")


async def test_open_calls_are_those_of_the_place(store: Store):
    await store.end(ending("a", output=items("x"), open_calls=frozenset({"call_1", "call_2"})))
    base = (await store.history(OWNER, response="a")).base
    await store.end(ending("b", base, items("y"), open_calls=frozenset({"call_2"})))
    assert (await store.history(OWNER, response="a")).open_calls == {"call_1", "call_2"}
    assert (await store.history(OWNER, response="b")).open_calls == {"call_2"}


# Conversations and turns


async def test_a_turn_in_a_conversation_adds_to_it(store: Store):
    await new_conversation(store, "conv_1", "first")
    await take_turn(store, "a", conversation="conv_1")
    assert await texts(store, conversation="conv_1") == data("first", "in_a", "out_a")
    assert await texts(store, response="a") == data("first", "in_a", "out_a")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_turn_that_failed_adds_nothing_to_its_conversation(store: Store, status: str):
    await new_conversation(store, "conv_1", "first")
    await take_turn(store, "a", conversation="conv_1", status=status)
    assert await texts(store, conversation="conv_1") == data("first")
    assert await texts(store, response="a") == data("first", "in_a", "out_a")


async def test_the_turn_that_comes_second_is_kept_outside(store: Store):
    base = (await new_conversation(store, "conv_1", "first")).base
    for id in ("a", "b"):
        await store.end(ending(id, base, items(f"in_{id}"), items(f"out_{id}"), conversation="conv_1"))
    assert await texts(store, conversation="conv_1") == data("first", "in_a", "out_a")
    assert await texts(store, response="b") == data("first", "in_b", "out_b")
    await take_turn(store, "c", after="b")
    assert await texts(store, response="c") == data("first", "in_b", "out_b", "in_c", "out_c")


@pytest.mark.parametrize("change", ["add", "delete"])
async def test_a_turn_whose_conversation_changed_meanwhile_is_kept_outside(store: Store, change: str):
    base = (await new_conversation(store, "conv_1", "first", "second")).base
    if change == "add":
        await store.add_items(OWNER, "conv_1", items("third"), NOTHING, NOTHING)
    else:
        await store.delete_item(OWNER, "conv_1", "second", no_effect)
    before = await texts(store, conversation="conv_1")
    await store.end(ending("a", base, items("x"), conversation="conv_1"))
    assert await texts(store, conversation="conv_1") == before
    assert await texts(store, response="a") == data("first", "second", "x")


async def test_a_chain_continued_from_a_conversation_leaves_it_alone(store: Store):
    await new_conversation(store)
    await take_turn(store, "a", conversation="conv_1")
    await take_turn(store, "b", after="a")
    assert await texts(store, conversation="conv_1") == data("in_a", "out_a")
    await take_turn(store, "c", conversation="conv_1")
    assert await texts(store, response="b") == data("in_a", "out_a", "in_b", "out_b")
    assert await texts(store, response="c") == data("in_a", "out_a", "in_c", "out_c")


async def test_a_conversations_turn_never_lands_in_a_chain_or_in_another_conversation(store: Store):
    await new_conversation(store, "conv_1")
    other = (await new_conversation(store, "conv_2")).base
    await take_turn(store, "a")
    chain = (await store.history(OWNER, response="a")).base
    calls = frozenset({"call_1"})
    await store.end(ending("b", chain, items("x"), conversation="conv_1", open_calls=calls))
    await store.end(ending("c", other, items("y"), conversation="conv_1", open_calls=calls))
    await take_turn(store, "d", after="a")
    assert await texts(store, response="b") == data("in_a", "out_a", "x")
    assert await texts(store, response="d") == data("in_a", "out_a", "in_d", "out_d")
    for conversation in ("conv_1", "conv_2"):
        history = await store.history(OWNER, conversation=conversation)
        assert (list(history.items), history.open_calls) == ([], NOTHING)


async def test_a_turn_of_a_conversation_deleted_meanwhile_is_kept(store: Store):
    base = (await new_conversation(store, "conv_1", "first")).base
    await store.announce(announcement("a", base, items("x"), conversation="conv_1"))
    await store.delete_conversation(OWNER, "conv_1")
    await store.end(ending("a", base, items("x"), items("y"), conversation="conv_1"))
    assert await texts(store, response="a") == data("first", "x", "y")


async def test_a_conversations_open_calls_follow_its_turns_and_items(store: Store):
    await new_conversation(store, open_calls=frozenset({"one"}))

    async def open_calls() -> frozenset[str]:
        return (await store.history(OWNER, conversation="conv_1")).open_calls

    base = (await store.history(OWNER, conversation="conv_1")).base
    assert await open_calls() == {"one"}
    await store.end(ending("a", base, items("x"), conversation="conv_1", open_calls=frozenset({"two"})))
    assert await open_calls() == {"two"}
    await store.end(ending("b", base, items("y"), conversation="conv_1", open_calls=frozenset({"lost"})))
    assert await open_calls() == {"two"}
    await store.add_items(OWNER, "conv_1", items("z"), frozenset({"three"}), frozenset({"two"}))
    assert await open_calls() == {"three"}
    await store.delete_item(OWNER, "conv_1", "z", lambda data: (frozenset({"four"}), frozenset({"three"})))
    assert await open_calls() == {"four"}


# Announcing and ending


async def test_an_announced_response_is_read_without_output(store: Store):
    await store.announce(announcement("a", status="queued", body=b'{"x":1}'))
    assert await store.response(OWNER, "a") == StoredResponse("a", "queued", b'{"x":1}', ())


async def test_announcing_again_replaces_the_announcement(store: Store):
    await store.announce(announcement("a", input=items("x"), status="queued"))
    await store.announce(announcement("a", input=items("x", "y"), status="in_progress"))
    assert (await store.response(OWNER, "a")).status == "in_progress"
    assert ids(await store.response_input(OWNER, "a", query())) == ["x", "y"]


async def test_announcing_what_has_ended_changes_nothing(store: Store):
    await take_turn(store, "a")
    before = await store.response(OWNER, "a")
    await store.announce(announcement("a"))
    assert await store.response(OWNER, "a") == before


async def test_announcing_in_a_conversation_that_is_gone_is_missing(store: Store):
    with pytest.raises(Missing) as caught:
        await store.announce(announcement("a", conversation="conv_1"))
    assert (caught.value.kind, caught.value.id) == ("conversation", "conv_1")
    with pytest.raises(Missing):
        await store.response(OWNER, "a")


async def test_ending_replaces_the_announcement(store: Store):
    await store.announce(announcement("a", input=items("old")))
    await store.end(ending("a", None, items("in"), items("out"), body=b'{"done":true}'))
    assert await store.response(OWNER, "a") == StoredResponse("a", "completed", b'{"done":true}', data("out"))
    assert ids(await store.response_input(OWNER, "a", query())) == ["in"]


async def test_ending_twice_changes_nothing(store: Store):
    base = (await new_conversation(store)).base
    first = ending("a", base, items("x"), items("y"), conversation="conv_1")
    await store.end(first)
    await store.end(first)
    head = (await store.history(OWNER, conversation="conv_1")).base
    await store.end(ending("a", head, items("z"), conversation="conv_1", status="failed", body=b"[]"))
    assert await texts(store, conversation="conv_1") == data("x", "y")
    assert await store.response(OWNER, "a") == StoredResponse("a", "completed", b"{}", data("y"))


async def test_ending_on_a_history_that_is_not_there_fails(store: Store):
    base = (await new_conversation(store, "conv_1", "first")).base
    assert base is not None
    for strange in (type(base)(base.thread + 1, 1), type(base)(base.thread, base.position + 1)):
        with pytest.raises(StoreError):
            await store.end(ending("a", strange, items("x"), conversation="conv_1"))
    with pytest.raises(Missing):
        await store.response(OWNER, "a")


async def test_withdrawing_forgets_only_what_has_not_ended(store: Store):
    await store.announce(announcement("a"))
    await take_turn(store, "b")
    for id in ("a", "b", "nope"):
        await store.withdraw(OWNER, id)
    with pytest.raises(Missing):
        await store.response(OWNER, "a")
    assert (await store.response(OWNER, "b")).status == "completed"


async def test_output_is_the_items_as_they_were_made(store: Store):
    await new_conversation(store)
    await take_turn(store, "a", conversation="conv_1", output=items("x", "y"))
    await store.delete_item(OWNER, "conv_1", "x", no_effect)
    assert (await store.response(OWNER, "a")).output == data("x", "y")


async def test_recover_fails_what_was_under_way(store: Store):
    base = (await new_conversation(store, "conv_1", "first")).base
    calls = frozenset({"call_1"})
    await store.announce(announcement("a", base, items("x"), conversation="conv_1", open_calls=calls))
    await store.announce(announcement("b", None, [item("named", issued=False)], body=b'{"b":1}'))
    await take_turn(store, "c")
    ended = await store.response(OWNER, "c")

    assert await store.recover(lambda body: b'{"was":' + body + b"}") == 2

    assert await store.response(OWNER, "b") == StoredResponse("b", "failed", b'{"was":{"b":1}}', ())
    history = await store.history(OWNER, response="a")
    assert (list(history.items), history.open_calls) == (data("first", "x"), calls)
    assert await texts(store, conversation="conv_1") == data("first")
    assert await store.find_items(OWNER, ["x", "named"]) == {"x": item("x").data}
    assert await store.response(OWNER, "c") == ended
    assert await store.recover(lambda body: body) == 0


async def test_recover_keeps_a_turn_whose_conversation_is_gone(store: Store):
    base = (await new_conversation(store, "conv_1", "first")).base
    await store.announce(announcement("a", base, items("x"), conversation="conv_1"))
    await store.delete_conversation(OWNER, "conv_1")
    assert await store.recover(lambda body: body) == 1
    assert await texts(store, response="a") == data("first", "x")


# Deleting


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


# Conversations' own members and items


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


async def test_an_item_is_found_whatever_was_deleted(store: Store):
    await new_conversation(store, "conv_1", "a", "b")
    await take_turn(store, "r")
    await store.delete_item(OWNER, "conv_1", "a", no_effect)
    await store.delete_conversation(OWNER, "conv_1")
    await store.delete_response(OWNER, "r")
    assert set(await store.find_items(OWNER, ["a", "b", "out_r"])) == {"a", "b", "out_r"}


# Pages


@pytest.fixture
async def forked(store: Store) -> list[str]:
    """A history through three threads, at response ``d``; the ids that ``d`` was given."""
    await take_turn(store, "a")
    await take_turn(store, "b", after="a", status="failed")
    await take_turn(store, "x", after="a")
    await take_turn(store, "c", after="b", status="cancelled")
    await take_turn(store, "d", after="c")
    return ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c", "in_d"]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_paging_forward_lists_all(store: Store, forked: list[str], order: str, limit: int):
    wanted = forked if order == "asc" else forked[::-1]
    seen: list[str] = []
    more = True
    while more:
        after = seen[-1] if seen else None
        page = await store.response_input(OWNER, "d", query(limit=limit, order=order, after=after))
        assert len(page.items) == min(limit, len(wanted) - len(seen))
        seen += ids(page)
        more = page.has_more
    assert seen == wanted


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_paging_backward_lists_all(store: Store, forked: list[str], order: str, limit: int):
    wanted = forked if order == "asc" else forked[::-1]
    seen = [wanted[-1]]
    more = True
    while more:
        page = await store.response_input(OWNER, "d", query(limit=limit, order=order, before=seen[0]))
        seen = ids(page) + seen
        more = page.has_more
    assert seen == wanted


async def test_after_and_before_bound_a_page(store: Store, forked: list[str]):
    async def page(**members: object) -> tuple[list[str], bool]:
        found = await store.response_input(OWNER, "d", query(**members))
        return ids(found), found.has_more

    assert await page(after="in_a", before="in_c") == (["out_a", "in_b", "out_b"], False)
    assert await page(after="in_a", before="in_c", limit=2) == (["out_a", "in_b"], True)
    assert await page(after="in_c", before="in_a", order="desc", limit=2) == (["out_b", "in_b"], True)
    assert await page(after="in_c", before="in_a") == ([], False)
    assert await page(after="in_d") == ([], False)


async def test_a_page_shows_items_as_they_were_stored(store: Store):
    given = [item("a", issued=False), item("b")]
    await store.end(ending("r", None, given))
    assert list((await store.response_input(OWNER, "r", query())).items) == given


async def test_a_cursor_outside_the_list_is_missing(store: Store, forked: list[str]):
    for elsewhere in ("nope", "in_x", "out_d"):
        for members in ({"after": elsewhere}, {"before": elsewhere}):
            with pytest.raises(Missing) as caught:
                await store.response_input(OWNER, "d", query(**members))
            assert (caught.value.kind, caught.value.id) == ("item", elsewhere)


async def test_pages_stay_put_while_items_are_added(store: Store):
    await new_conversation(store, "conv_1", *"abcdef")
    first = await store.conversation_items(OWNER, "conv_1", PageQuery(limit=3))
    await store.add_items(OWNER, "conv_1", items("g", "h"), NOTHING, NOTHING)
    second = await store.conversation_items(OWNER, "conv_1", PageQuery(limit=3, after=ids(first)[-1]))
    assert ids(first) + ids(second) == [*"fedcba"]
    assert not second.has_more


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("way", ["after", "before"])
async def test_paging_over_repeated_ids_ends(store: Store, order: str, way: str):
    names = "abacbbadeaa"
    repeated = [item(name, str(n), issued=False) for n, name in enumerate(names)]
    await store.create_conversation(OWNER, Conversation("conv_1", 1, b"{}"), repeated, NOTHING)
    cursor: str | None = None if way == "after" else names[-1] if order == "asc" else names[0]
    for _ in range(len(names)):
        page = await store.conversation_items(
            OWNER, "conv_1", query(limit=2, order=order, **({way: cursor} if cursor else {}))
        )
        if not page.has_more:
            return
        cursor = ids(page)[-1 if way == "after" else 0]
    pytest.fail("the pages go round in circles")


async def test_the_input_of_a_turn_under_way_is_history_and_pending_input(store: Store):
    base = (await new_conversation(store, "conv_1", "a", "b")).base
    await store.announce(announcement("r", base, items("c", "d"), conversation="conv_1"))
    await store.announce(announcement("s", None, items("e")))

    async def page(**members: object) -> tuple[list[str], bool]:
        found = await store.response_input(OWNER, "r", query(**members))
        return ids(found), found.has_more

    assert await page() == (["a", "b", "c", "d"], False)
    assert await page(order="desc", limit=3) == (["d", "c", "b"], True)
    assert await page(after="b", limit=1) == (["c"], True)
    assert await page(before="d", limit=2) == (["b", "c"], True)
    assert ids(await store.response_input(OWNER, "s", query())) == ["e"]
    with pytest.raises(Missing):
        await page(after="nope")


async def test_paging_over_repeated_ids_under_way_ends_too(store: Store):
    await store.announce(announcement("r", None, items(*"abacb")))

    async def page(**members: object) -> list[str]:
        return ids(await store.response_input(OWNER, "r", query(**members)))

    assert await page(after="a") == [*"cb"]
    assert await page(before="b") == ["a"]
    assert await page(order="desc", after="b") == ["a"]
    assert await page(order="desc", before="a") == [*"bc"]


async def test_a_partial_item_is_output_and_in_no_history(store: Store):
    await new_conversation(store)
    cut = Item("cut", item("cut").data, partial=True)
    await take_turn(store, "a", conversation="conv_1", status="incomplete", output=[item("whole"), cut])
    await take_turn(store, "b", conversation="conv_1")
    assert (await store.response(OWNER, "a")).output == data("whole", "cut")
    assert await texts(store, response="a") == data("in_a", "whole")
    assert await texts(store, conversation="conv_1") == data("in_a", "whole", "in_b", "out_b")
    assert ids(await store.response_input(OWNER, "b", query())) == ["in_a", "whole", "in_b"]
    assert await store.find_items(OWNER, ["cut", "whole"]) == {"whole": item("whole").data}
    with pytest.raises(Missing):
        await store.conversation_item(OWNER, "conv_1", "cut")
    with pytest.raises(Missing):
        await store.conversation_items(OWNER, "conv_1", query(after="cut"))


async def test_a_stream_is_kept_event_by_event_until_it_is_pruned(store: Store):
    events = [b'event: a\ndata: {"n":0}\n\n', b"data: 1\n\n", b": ping\n\n"]
    for id in ("old", "new", "gone"):
        made = replace(ending(id), created_at=2 if id == "new" else 1, events=events)
        await store.end(made)
    await take_turn(store, "silent")
    assert await store.events(OWNER, "old") == events
    assert list(await store.events(OWNER, "silent")) == []
    await store.delete_response(OWNER, "gone")
    for hidden in (store.events(OWNER, "gone"), store.events("other", "old")):
        with pytest.raises(Missing):
            await hidden
    assert await store.prune_events(2) == 1
    assert list(await store.events(OWNER, "old")) == []
    assert await store.events(OWNER, "new") == events
    assert (await store.response(OWNER, "old")).status == "completed"


async def test_a_fingerprint_is_kept_from_announcement_to_end(store: Store):
    await store.announce(replace(announcement("a"), fingerprint=b"\x00\xff"))
    assert (await store.response(OWNER, "a")).fingerprint == b"\x00\xff"
    await store.announce(replace(announcement("b"), fingerprint=b"b"))
    await store.recover(lambda body: body)
    assert (await store.response(OWNER, "b")).fingerprint == b"b"
    await store.end(replace(ending("c"), fingerprint=b"c"))
    assert (await store.response(OWNER, "c")).fingerprint == b"c"


# Lists


async def test_responses_are_listed_in_order(store: Store):
    await store.announce(announcement("a"))
    for id in "bcd":
        await take_turn(store, id)
    await store.end(ending("a", None, items("x"), items("y")))
    await store.delete_response(OWNER, "c")

    async def page(**members: object) -> tuple[list[str], bool]:
        found, more = await store.list_responses(OWNER, query(**members))
        return [response.id for response in found], more

    assert await page() == (["a", "b", "d"], False)
    assert await page(order="desc", limit=2) == (["d", "b"], True)
    assert await page(after="a", limit=1) == (["b"], True)
    assert await page(before="d", limit=1) == (["b"], True)
    assert await page(before="a", order="desc", limit=2) == (["d", "b"], False)
    with pytest.raises(Missing) as caught:
        await page(after="c")
    assert (caught.value.kind, caught.value.id) == ("response", "c")
    listed, _ = await store.list_responses(OWNER, query(limit=1))
    assert listed == [await store.response(OWNER, "a")]


async def test_responses_are_chosen_by_model_and_metadata(store: Store):
    bodies = {
        "a": b'{"model":"m","metadata":{"k":"1","q\\"\\u00e9":"x"}}',
        "b": b'{"model":"m","metadata":{"k":"2"}}',
        "c": b'{"model":"n","metadata":null}',
        "d": b'{"model":"n"}',
    }
    for id, body in bodies.items():
        await store.end(ending(id, body=body))

    async def chosen(**members: object) -> list[str]:
        found, _ = await store.list_responses(OWNER, query(), **members)
        return [response.id for response in found]

    assert await chosen(model="m") == ["a", "b"]
    assert await chosen(metadata={"k": "1", 'q"é': "x"}) == ["a"]
    assert await chosen(metadata={"k": "1", "other": "x"}) == []
    assert await chosen(model="n", metadata={}) == ["c", "d"]
    assert await chosen(model="' OR 1=1 --") == []


async def test_conversations_are_listed_in_order(store: Store):
    for n in range(4):
        metadata = b'{"even":"%d"}' % (n % 2 == 0)
        await store.create_conversation(OWNER, Conversation(f"conv_{n}", n, metadata), [], NOTHING)

    found, more = await store.list_conversations(OWNER, query(order="desc", limit=2))
    assert ([one.id for one in found], more) == (["conv_3", "conv_2"], True)
    found, more = await store.list_conversations(OWNER, query(order="desc", after="conv_2"))
    assert ([one.id for one in found], more) == (["conv_1", "conv_0"], False)
    found, _ = await store.list_conversations(OWNER, query(), metadata={"even": "1"})
    assert found == [Conversation(f"conv_{n}", n, b'{"even":"1"}') for n in (0, 2)]
    with pytest.raises(Missing) as caught:
        await store.list_conversations(OWNER, query(before="conv_9"))
    assert (caught.value.kind, caught.value.id) == ("conversation", "conv_9")


# Owners


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


async def test_probe_writes(store: Store):
    await store.probe()
