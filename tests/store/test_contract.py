"""What ``store/contract.py`` promises of turns, of every backend."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace as replace_struct

from agentic_trio.store.contract import (
    ApprovalSpent,
    History,
    Item,
    KeyInUse,
    Missing,
    NotEnded,
    StoredResponse,
    StoreError,
)
from agentic_trio.telemetry.figures import Figures, StoredFigures
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


async def test_fail_ends_only_the_one_that_is_named_and_under_way(store: Store):
    await store.announce(announcement("a", None, items("x")))
    await store.announce(announcement("b", None, items("y")))
    await take_turn(store, "c")
    ended = await store.response(OWNER, "c")
    for id in ("a", "c", "nope"):
        await store.fail(OWNER, id, lambda body: b'{"was":' + body + b"}")
    await store.fail("another", "b", lambda body: b"{}")

    assert (await store.response(OWNER, "a")).status == "failed"
    assert await texts(store, response="a") == data("x")
    assert (await store.response(OWNER, "b")).status == "in_progress"
    assert await store.response(OWNER, "c") == ended


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


@pytest.fixture(params=["announced", "ended", "recovered"])
async def keyed(store: Store, request: pytest.FixtureRequest) -> StoredResponse:
    """A response that was recorded with the key ``k``."""
    named = {"fingerprint": b"print", "key": b"k"}
    if request.param == "ended":
        await store.end(replace(ending("a", None, items("x"), items("y")), **named))
    else:
        await store.announce(replace(announcement("a", None, items("x")), **named))
    if request.param == "recovered":
        await store.recover(lambda body: body)
    return await store.response(OWNER, "a")


async def test_a_response_is_found_by_its_key(store: Store, keyed: StoredResponse):
    assert keyed.fingerprint == b"print"
    assert await store.keyed(OWNER, b"k") == keyed
    assert await store.keyed("another", b"k") is None
    assert await store.keyed(OWNER, b"other") is None


async def test_a_key_stays_with_its_announcement_when_that_ends(store: Store):
    await store.announce(replace(announcement("a"), key=b"k"))
    await store.announce(replace(announcement("a", status="queued"), key=b"k"))
    await store.end(replace(ending("a", None, [], items("y")), key=b"k"))
    found = await store.keyed(OWNER, b"k")
    assert found is not None
    assert (found.id, found.status, found.output) == ("a", "completed", data("y"))


async def test_a_key_belongs_to_one_response_of_an_owner(store: Store, keyed: StoredResponse):
    with pytest.raises(KeyInUse) as caught:
        await store.announce(replace(announcement("b"), key=b"k"))
    assert caught.value.id == "a"
    with pytest.raises(Missing):
        await store.response(OWNER, "b")
    await store.announce(replace(announcement("b", owner="another"), key=b"k"))
    assert await store.keyed(OWNER, b"k") == keyed


async def test_an_ending_whose_key_is_taken_is_kept_without_it(store: Store, keyed: StoredResponse):
    await store.end(replace(ending("b", None, [], items("z")), key=b"k"))
    assert (await store.response(OWNER, "b")).output == data("z")
    assert await store.keyed(OWNER, b"k") == keyed


async def test_a_key_is_free_again_once_its_response_is_gone(store: Store):
    await store.announce(replace(announcement("a"), key=b"k"))
    await store.withdraw(OWNER, "a")
    assert await store.keyed(OWNER, b"k") is None
    await store.end(replace(ending("b"), key=b"k"))
    await store.delete_response(OWNER, "b")
    assert await store.keyed(OWNER, b"k") is None
    await store.announce(replace(announcement("c"), key=b"k"))
    found = await store.keyed(OWNER, b"k")
    assert found is not None
    assert found.id == "c"


async def test_probe_writes(store: Store):
    await store.probe()


def taken(**members: object) -> Figures:
    """The figures of a turn that began a second before anything came of it."""
    began = perf_counter() - 10
    figures = Figures("a", "req_1", OWNER, "tiny", "/v1/responses", began=began)
    figures.history, figures.called, figures.head = began + 1, began + 1, began + 2
    figures.first, figures.answered = began + 3, began + 5
    figures.end("completed", None, {"input_tokens": 3, "output_tokens": 2, **members})
    figures.ended = began + 6
    return figures


async def test_what_a_turn_knows_of_itself_is_in_its_row(store: Store):
    await store.end(replace(ending("a"), figures=taken(input_tokens_details={"cached_tokens": 1})))
    found = await store.figures(OWNER, "a")
    assert found.commit_us is not None
    assert found.commit_us >= 3_900_000
    times = (1_000_000, 2_000_000, 3_000_000, 4_000_000, 6_000_000, None)
    expected = StoredFigures("req_1", "/v1/responses", "tiny", None, *times, 3, 2, 1, 0)
    assert replace_struct(found, commit_us=None) == expected


async def test_the_figures_of_a_turn_that_a_crash_ended_are_those_of_its_announcement(store: Store):
    figures = Figures("a", "req_1", OWNER, "tiny", began=perf_counter())
    await store.announce(replace(announcement("a"), figures=figures))
    assert await store.figures(OWNER, "a") == StoredFigures("req_1", "program", "tiny")
    assert await store.recover(lambda body: body) == 1
    assert await store.figures(OWNER, "a") == StoredFigures("req_1", "program", "tiny")


async def test_a_response_without_figures_has_none(store: Store):
    await store.end(ending("a"))
    assert await store.figures(OWNER, "a") == StoredFigures()


async def test_figures_are_found_by_their_owner_alone(store: Store):
    await store.end(replace(ending("a", owner="other"), figures=taken()))
    for owner, id in ((OWNER, "a"), ("other", "b")):
        with pytest.raises(Missing):
            await store.figures(owner, id)


async def test_counts_that_no_model_server_means_are_left_out(store: Store):
    await store.end(replace(ending("a"), figures=taken(input_tokens=10**30, output_tokens="9")))
    assert (await store.figures(OWNER, "a")).input_tokens is None


async def test_an_approval_is_spent_once_by_its_owner(store: Store) -> None:
    await store.spend("a", ["mcpr_1", "mcpr_2"])
    with pytest.raises(ApprovalSpent) as caught:
        await store.spend("a", ["mcpr_3", "mcpr_2"])
    assert caught.value.id == "mcpr_2"
    # Of those that were refused together none is spent, nor is another owner's.
    await store.spend("a", ["mcpr_3"])
    await store.spend("b", ["mcpr_1", "mcpr_2"])


async def test_recover_keeps_what_a_turn_had_made_when_it_was_last_announced(store: Store):
    made = [Item("done", b'{"id":"done"}'), Item("cut", b'{"id":"cut"}', partial=True)]
    await store.announce(announcement("a"))
    await store.announce(replace(announcement("a"), output=made, open_calls=frozenset({"call"})))
    assert await store.recover(lambda body: body) == 1
    response = await store.response(OWNER, "a")
    assert (response.status, list(response.output)) == ("failed", [b'{"id":"done"}', b'{"id":"cut"}'])
    history = await store.history(OWNER, response="a")
    assert list(history.items)[-1] == b'{"id":"done"}'
    assert history.open_calls == {"call"}


async def test_an_ending_replaces_what_was_announced_as_made(store: Store):
    await store.announce(replace(announcement("a"), output=[Item("x", b'{"id":"x"}')]))
    await store.end(ending("a", output=items("out")))
    assert list((await store.response(OWNER, "a")).output) == data("out")
