"""The item that an event is about is found as a search through all of them would find it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentic_trio.wire.output import REFUSAL, TEXT, Family, OutputItem, Text
from agentic_trio.wire.output_lookup import FinalLookup, ItemLookup

TYPES = st.sampled_from(["message", "function_call"])
IDS = st.none() | st.sampled_from(["a", "b"])
INDICES = st.none() | st.integers(0, 2)
SAYS = st.tuples(TYPES, IDS, INDICES)


def items_of(said: list[tuple[str, str | None, int | None]]) -> list[OutputItem]:
    return [
        OutputItem(place, f"ours_{place}", {"type": type}, id, index)
        for place, (type, id, index) in enumerate(said)
    ]


def searched(
    items: list[OutputItem], type: str | None, id: str | None, index: int | None
) -> OutputItem | None:
    for item in reversed(items):
        if (
            type in (None, item.added["type"])
            and (id is None or item.upstream_id in (None, id))
            and (index is None or item.upstream_index in (None, index))
        ):
            return item
    for item in reversed(items):
        at_index = index is not None and item.upstream_index == index
        if at_index and type in (None, item.added["type"]) and item.final is None:
            return item
    return None


@given(st.lists(st.tuples(SAYS, st.booleans()), max_size=8), st.none() | TYPES, IDS, INDICES)
def test_the_newest_item_that_fits_is_found(
    said: list[tuple[tuple[str, str | None, int | None], bool]],
    type: str | None,
    id: str | None,
    index: int | None,
) -> None:
    items = items_of([says for says, _ in said])
    lookup = ItemLookup()
    for item, (_, ended) in zip(items, said, strict=True):
        lookup.add(item)
        if ended:
            item.finish(item.added)
    assert lookup.find(type, id, index) is searched(items, type, id, index)


def final_searched(left: list[OutputItem], type: str, id: str | None, index: int) -> OutputItem | None:
    alike = [item for item in left if item.added["type"] == type]
    by_id = [item for item in alike if id is not None and item.upstream_id == id]
    at_index = [item for item in alike if item.upstream_index == index]
    unnamed = [item for item in alike if item.upstream_id is None or id is None]
    return next(iter([*by_id, *at_index, *unnamed]), None)


def exact_searched(left: list[OutputItem], type: str, id: str | None, index: int) -> OutputItem | None:
    names = [(item.added["type"], item.upstream_id, item.upstream_index) for item in left]
    return left[names.index((type, id, index))] if id is not None and (type, id, index) in names else None


@given(st.lists(SAYS, max_size=8), st.lists(st.tuples(TYPES, IDS), max_size=8))
def test_each_item_of_the_final_output_is_found_once(
    said: list[tuple[str, str | None, int | None]], final: list[tuple[str, str | None]]
) -> None:
    left = items_of(said)
    lookup = FinalLookup(left)
    expected: dict[int, OutputItem] = {}
    for search in (exact_searched, final_searched):
        for index, (type, id) in enumerate(final):
            found = None if index in expected else search(left, type, id, index)
            if found is not None:
                expected[index] = found
                left.remove(found)
    output = [{"type": type, "id": id} for type, id in final]
    assert lookup.match(output) == [expected.get(index) for index in range(len(final))]


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, REFUSAL]), INDICES), max_size=8),
    st.sampled_from([TEXT, REFUSAL]),
    INDICES,
)
def test_the_newest_part_that_fits_is_found(
    parts: list[tuple[Family, int | None]], family: Family, index: int | None
) -> None:
    item = OutputItem(0, "ours", {"type": "message"})
    texts = [item.add_part(*part) for part in parts]
    fitting: list[Text] = [
        text
        for text in texts
        if text.family is family and (index is None or text.upstream_index in (None, index))
    ]
    assert item.find_part(family, index) is (fitting[-1] if fitting else None)
