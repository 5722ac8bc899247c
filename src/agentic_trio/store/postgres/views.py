"""What a history holds at a position: see ``store/threads.py``. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.store.contract import History, HistoryTooLarge, Item, Missing, NotEnded, Place, StoreError
from agentic_trio.store.paging import cut, is_backwards
from agentic_trio.store.postgres.database import raw, text
from agentic_trio.store.threads import MAX_HISTORY_BYTES, MAX_POSITION, Segment, load_calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.store.contract import Page, PageQuery
    from agentic_trio.store.postgres.database import Database

_WALK = """
    WITH RECURSIVE segment (thread, parent, start, "end") AS (
        SELECT thread.id, parent, fork, place.position
        FROM ({place}) AS place (thread, position) JOIN thread ON thread.id = place.thread
        UNION ALL
        SELECT thread.id, thread.parent, thread.fork, least(segment."end", segment.start)
        FROM segment JOIN thread ON thread.id = segment.parent
    )
"""
"""The segments of a view, newest first: positions after ``start``, up to ``end``."""

_ITEMS = """
    SELECT found.position, found.data FROM segment, LATERAL (
        SELECT position, data FROM entry
        WHERE entry.thread = segment.thread AND position > segment.start AND position <= segment."end"
            AND (dropped IS NULL OR dropped > segment."end")
        ORDER BY position
    ) AS found
"""
_SIZE = f"SELECT coalesce(sum(octet_length(data)), 0), count(*) FROM ({_ITEMS}) AS held"

_OF_PLACE = "SELECT %(thread)s::bigint, %(position)s::integer"
_OF_RESPONSE = "SELECT thread, last FROM response WHERE owner = %(owner)s AND id = %(response)s"
_OF_CONVERSATION = """
    SELECT thread.id, thread.head FROM conversation JOIN thread ON thread.id = conversation.thread
    WHERE conversation.owner = %(owner)s AND conversation.id = %(conversation)s
"""

_SEGMENTS = _WALK.format(place=_OF_PLACE) + 'SELECT thread, parent, start, "end" FROM segment'

_ROWS = {
    "response": """
        SELECT thread, last, open, conversation FROM turn WHERE owner = %(owner)s AND id = %(response)s
    """,
    "conversation": """
        SELECT thread.id, thread.head, conversation.open, conversation.thread
        FROM conversation JOIN thread ON thread.id = conversation.thread
        WHERE conversation.owner = %(owner)s AND conversation.id = %(conversation)s
    """,
}
_PLACES = {"response": _OF_RESPONSE, "conversation": _OF_CONVERSATION}

_WHOLE = {
    kind: _WALK.format(place=place) + f", size AS ({_SIZE}), held AS ({_ITEMS})"
    " SELECT held.position, held.data, size.coalesce, segments.found FROM size"
    " CROSS JOIN (SELECT bool_or(parent IS NULL) AS found FROM segment) AS segments"
    " LEFT JOIN held ON size.coalesce <= %(most)s"
    for kind, place in _PLACES.items()
}
"""A history in one statement: a row without an item says how large it is, and whether it is whole."""


def history(db: Database, owner: str, response: str | None, conversation: str | None) -> History:
    """See ``Store.history``. One round trip, however many forks there are."""
    if response is None and conversation is None:
        return History()
    kind = "response" if conversation is None else "conversation"
    values = {"owner": raw(owner), "response": raw(response or ""), "conversation": raw(conversation or "")}
    with db.pipeline():
        asked = {
            each: db.execute(_ROWS[each], values)
            for each, id in (("response", response), ("conversation", conversation))
            if id is not None
        }
        items = db.execute(_WHOLE[kind], values | {"most": MAX_HISTORY_BYTES})
        rows = {each: cursor.fetchone() for each, cursor in asked.items()}
        held = items.fetchall()
    talk = rows.get("conversation")
    if conversation is not None and talk is None:
        raise Missing("conversation", conversation)
    if response is not None:
        _check(rows["response"], response, talk)
    thread, position, calls, _ = rows[kind] or ()
    return History(Place(thread, position), _texts(held), load_calls(calls))


def _check(row: tuple[object, ...] | None, id: str, talk: tuple[object, ...] | None) -> None:
    if row is None or (talk is not None and row[3] != talk[3]):
        raise Missing("response", id)
    if row[1] is None:
        raise NotEnded(id)


def _texts(held: Sequence[tuple[int | None, bytes | None, int, bool | None]]) -> list[bytes]:
    if not held or not held[0][3]:
        raise StoreError("a part of this history is gone")
    if held[0][2] > MAX_HISTORY_BYTES:
        raise HistoryTooLarge
    found = [(position, data) for position, data, *_ in held if position is not None and data is not None]
    found.sort()
    return [data for _, data in found]


def view(db: Database, place: Place) -> list[Segment]:
    """The segments that make up a history, oldest first."""
    rows = db.execute(_SEGMENTS, {"thread": place.thread, "position": place.position}).fetchall()
    if not any(parent is None for _, parent, _, _ in rows):
        raise StoreError("a part of this history is gone")
    segments = [Segment(thread, start, end) for thread, _, start, end in rows if end > start]
    return sorted(segments, key=lambda segment: segment.start)


_VISIBLE = (
    "thread = %(thread)s AND position > %(first)s AND position <= %(last)s"
    " AND (dropped IS NULL OR dropped > %(end)s)"
)
_SCAN = {
    newest_first: f"SELECT item, issued, data FROM entry WHERE {_VISIBLE}"
    f" ORDER BY position {'DESC' if newest_first else 'ASC'} LIMIT %(limit)s"
    for newest_first in (False, True)
}


def read_items(
    db: Database,
    segments: Sequence[Segment],
    *,
    newest_first: bool = False,
    low: int = 0,
    high: int = MAX_POSITION + 1,
    limit: int | None = None,
) -> list[Item]:
    """Items of a view at positions between ``low`` and ``high`` (exclusive)."""
    items: list[Item] = []
    for thread, start, end in reversed(segments) if newest_first else segments:
        first, last = max(start, low), min(end, high - 1)
        left = None if limit is None else limit - len(items)
        if first < last and left != 0:
            bounds = {"thread": thread, "first": first, "last": last, "end": end, "limit": left}
            rows = db.execute(_SCAN[newest_first], bounds)
            items += [Item(text(item), data, issued) for item, issued, data in rows]
    return items


_LOCATE = {
    last: f"SELECT {'max' if last else 'min'}(position) FROM entry WHERE item = %(item)s AND {_VISIBLE}"
    for last in (False, True)
}


def locate(db: Database, segments: Sequence[Segment], item: str, *, last: bool) -> int | None:
    """The position of an item's first or last occurrence in a view, or None."""
    for thread, start, end in reversed(segments) if last else segments:
        bounds = {"item": raw(item), "thread": thread, "first": start, "last": end, "end": end}
        row = db.execute(_LOCATE[last], bounds).fetchone()
        if row is not None and row[0] is not None:
            position: int = row[0]
            return position
    return None


def page_of_view(db: Database, segments: Sequence[Segment], query: PageQuery) -> Page:
    """A page of a history, as :class:`~agentic_trio.store.contract.PageQuery` defines it."""
    ascending = query.order == "asc"
    after = _position(db, segments, query.after, last=ascending)
    before = _position(db, segments, query.before, last=not ascending)
    low, high = (after, before) if ascending else (before, after)
    items = read_items(
        db,
        segments,
        newest_first=ascending == is_backwards(query),
        low=0 if low is None else low,
        high=MAX_POSITION + 1 if high is None else high,
        limit=query.limit + 1,
    )
    return cut(items, query)


def _position(db: Database, segments: Sequence[Segment], item: str | None, *, last: bool) -> int | None:
    if item is None:
        return None
    position = locate(db, segments, item, last=last)
    if position is None:
        raise Missing("item", item)
    return position
