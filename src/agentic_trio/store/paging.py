"""One page of a long list, read without the rest of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.store.contract import Item, Missing, Page, PageQuery
from agentic_trio.store.threads import MAX_POSITION, Segment, locate, read_items

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence


MAX_PAGE_BYTES = 8 * 1024 * 1024
"""A page ends with the item that exceeds it, however many were asked for, and says that there are more. A
hundred items of ten megabytes would be too much for one answer, and clients read on by themselves."""


def page_of_view(connection: sqlite3.Connection, segments: Sequence[Segment], query: PageQuery) -> Page:
    """A page of a history, as :class:`PageQuery` defines it."""
    ascending = query.order == "asc"
    # Of several occurrences of an id, take the one furthest along in the direction of reading. Any other
    # could lead back to a page that was read already, for ever.
    after = _position(connection, segments, query.after, last=ascending)
    before = _position(connection, segments, query.before, last=not ascending)
    low, high = (after, before) if ascending else (before, after)
    backwards = is_backwards(query)
    items = read_items(
        connection,
        segments,
        newest_first=ascending == backwards,
        low=0 if low is None else low,
        high=MAX_POSITION + 1 if high is None else high,
        limit=query.limit + 1,
        max_bytes=MAX_PAGE_BYTES,
    )
    return cut(items, query)


def page_of_list(items: Sequence[Item], query: PageQuery) -> Page:
    """The same page of a list in memory, which is given oldest first."""
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    begin, end = 0, len(ordered)
    if query.after is not None:
        begin = max(_indices(ordered, query.after)) + 1
    if query.before is not None:
        end = min(_indices(ordered, query.before))
    part = ordered[begin:end]
    if is_backwards(query):
        part.reverse()
    return cut(part[: query.limit + 1], query)


def is_backwards(query: PageQuery) -> bool:
    """Whether the query asks for the page that ends at ``before``."""
    return query.before is not None and query.after is None


def cut(items: list[Item], query: PageQuery) -> Page:
    """The page among ``items``, which were read in the query's direction up to one more than it may hold."""
    kept = items[: fitting((len(item.data) for item in items), query.limit)]
    if is_backwards(query):
        kept.reverse()
    return Page(kept, has_more=len(items) > len(kept))


def fitting(sizes: Iterable[int], limit: int) -> int:
    """How many items of these sizes, in bytes, a page may hold."""
    count, total = 0, 0
    for size in sizes:
        if count == limit or total > MAX_PAGE_BYTES:
            break
        count += 1
        total += size
    return count


def _position(
    connection: sqlite3.Connection, segments: Sequence[Segment], item: str | None, *, last: bool
) -> int | None:
    if item is None:
        return None
    position = locate(connection, segments, item, last=last)
    if position is None:
        raise Missing("item", item)
    return position


def _indices(items: Sequence[Item], id: str) -> list[int]:
    indices = [index for index, item in enumerate(items) if item.id == id]
    if not indices:
        raise Missing("item", id)
    return indices
