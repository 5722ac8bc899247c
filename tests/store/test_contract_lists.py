"""What ``store/contract.py`` promises of pages and lists, of every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentic_trio.store.contract import (
    Conversation,
    Missing,
    PageQuery,
)
from agentic_trio.store.paging import MAX_PAGE_BYTES
from tests.store.records import (
    NOTHING,
    OWNER,
    announcement,
    ending,
    ids,
    item,
    items,
    new_conversation,
    query,
    take_turn,
)

if TYPE_CHECKING:
    from agentic_trio.store.contract import Store


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


LARGE = "x" * (MAX_PAGE_BYTES // 4)


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("way", ["after", "before"])
@pytest.mark.parametrize("under_way", [False, True])
async def test_a_page_is_bounded_in_bytes(store: Store, order: str, way: str, under_way: bool):
    large = [item(name, LARGE) for name in "abcdefghij"]
    if under_way:
        await store.announce(announcement("r", None, large))
    else:
        await store.end(ending("r", None, large))
    wanted = list("abcdefghij" if order == "asc" else "jihgfedcba")
    seen: list[str] = [] if way == "after" else wanted[-1:]
    more = True
    while more:
        cursor = {} if not seen else {"after": seen[-1]} if way == "after" else {"before": seen[0]}
        page = await store.response_input(OWNER, "r", query(order=order, **cursor))
        assert 1 <= len(page.items) <= 4
        seen = [*seen, *ids(page)] if way == "after" else [*ids(page), *seen]
        more = page.has_more
    assert seen == wanted


async def test_an_item_that_is_larger_than_a_page_is_a_page(store: Store):
    await store.end(ending("r", None, [item(name, 5 * LARGE) for name in "ab"]))
    page = await store.response_input(OWNER, "r", query())
    assert (ids(page), page.has_more) == (["a"], True)
    page = await store.response_input(OWNER, "r", query(after="a"))
    assert (ids(page), page.has_more) == (["b"], False)


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


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_page_of_responses_is_bounded_in_bytes(store: Store, order: str):
    for id in "abcdef":
        await take_turn(store, id, output=[item(f"out_{id}", LARGE)])
    seen: list[str] = []
    more = True
    while more:
        after = {"after": seen[-1]} if seen else {}
        found, more = await store.list_responses(OWNER, query(order=order, **after))
        assert 1 <= len(found) <= 4
        seen += [response.id for response in found]
    assert seen == sorted("abcdef", reverse=order == "desc")


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
