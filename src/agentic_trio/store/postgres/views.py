"""What a history holds at a position: see ``store/threads.py``. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agentic_trio.store.contract import History, HistoryTooLarge, Item, Missing, NotEnded, Place, StoreError
from agentic_trio.store.paging import MAX_PAGE_BYTES, cut, is_backwards
from agentic_trio.store.postgres.connecting import raw, text
from agentic_trio.store.threads import MAX_HISTORY_BYTES, MAX_POSITION, Segment, load_calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.store.contract import Page, PageQuery
    from agentic_trio.store.postgres.connecting import Database

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
_SEGMENTS = _WALK.format(place=_OF_PLACE) + 'SELECT thread, parent, start, "end" FROM segment'

_FOUND = {
    "response": """
        SELECT thread, last AS position, open, conversation FROM turn
        WHERE owner = %(owner)s AND id = %(id)s
    """,
    "conversation": """
        SELECT thread.id AS thread, thread.head AS position, conversation.open, thread.id AS conversation
        FROM conversation JOIN thread ON thread.id = conversation.thread
        WHERE conversation.owner = %(owner)s AND conversation.id = %(id)s
    """,
}

_WHOLE = {
    kind: _WALK.format(place="SELECT thread, position FROM place").replace(
        "WITH RECURSIVE", f"WITH RECURSIVE place AS ({found}),"
    )
    + f"""
        , size (bytes, items) AS ({_SIZE}), held AS ({_ITEMS}),
        origin (reached) AS (SELECT coalesce(bool_or(parent IS NULL), false) FROM segment)
        SELECT place.thread, place.position, place.open, place.conversation, origin.reached, size.bytes,
            held.position, held.data
        FROM place CROSS JOIN size CROSS JOIN origin LEFT JOIN held ON size.bytes <= %(most)s
        ORDER BY held.position
    """
    for kind, found in _FOUND.items()
}
"""A history in one statement, and so as of one moment. What is said of the whole of it is in each row."""


def history(db: Database, owner: str, response: str | None, conversation: str | None) -> History:
    """See ``Store.history``. One round trip, however many forks there are."""
    if conversation is None:
        return History() if response is None else _history(db, "response", owner, response)
    if response is not None:
        _check_made_in(db, owner, response, conversation)
    return _history(db, "conversation", owner, conversation)


def _history(db: Database, kind: Literal["response", "conversation"], owner: str, id: str) -> History:
    rows = db.execute(
        _WHOLE[kind], {"owner": raw(owner), "id": raw(id), "most": MAX_HISTORY_BYTES}
    ).fetchall()
    if not rows:
        raise Missing(kind, id)
    thread, position, calls, _, reached, size, *_ = rows[0]
    if position is None:
        raise NotEnded(id)
    if not reached:
        raise StoreError("a part of this history is gone")
    if size > MAX_HISTORY_BYTES:
        raise HistoryTooLarge
    # A left join has one row for a history without items.
    items = [row[7] for row in rows if row[6] is not None]
    return History(Place(thread, position), items, load_calls(calls))


def _check_made_in(db: Database, owner: str, response: str, conversation: str) -> None:
    talk = db.execute(_FOUND["conversation"], {"owner": raw(owner), "id": raw(conversation)}).fetchone()
    if talk is None:
        raise Missing("conversation", conversation)
    made = db.execute(_FOUND["response"], {"owner": raw(owner), "id": raw(response)}).fetchone()
    if made is None or made[3] != talk[3]:
        raise Missing("response", response)
    if made[1] is None:
        raise NotEnded(response)


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
    newest_first: f"""
        SELECT item, issued, data FROM (
            SELECT position, item, issued, data, coalesce(sum(octet_length(data)) OVER (
                ORDER BY position {way} ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING
            ), 0) AS before
            FROM entry WHERE {_VISIBLE} ORDER BY position {way} LIMIT %(limit)s
        ) AS found
        WHERE %(most)s::bigint IS NULL OR before <= %(most)s ORDER BY position {way}
    """
    for newest_first, way in ((False, "ASC"), (True, "DESC"))
}
"""By whether the newest come first. ``before`` is the size of all before the item, but for the last of them:
the item that exceeds a bound is read, and one more, which says that there are more."""


def read_items(
    db: Database,
    segments: Sequence[Segment],
    *,
    newest_first: bool = False,
    low: int = 0,
    high: int = MAX_POSITION + 1,
    limit: int | None = None,
    max_bytes: int | None = None,
) -> list[Item]:
    """Items of a view at positions between ``low`` and ``high`` (exclusive).

    With ``max_bytes`` there are no more than exceed it, and at least one more if there is one.
    """
    items: list[Item] = []
    used = 0
    for thread, start, end in reversed(segments) if newest_first else segments:
        first, last = max(start, low), min(end, high - 1)
        left = None if limit is None else limit - len(items)
        if first >= last or left == 0:
            continue
        # The last item doesn't count: the one after it must be read if it was the one to exceed.
        counted = used - (len(items[-1].data) if items else 0)
        if max_bytes is not None and counted > max_bytes:
            break
        most = None if max_bytes is None else max_bytes - counted
        bounds = {"thread": thread, "first": first, "last": last, "end": end, "limit": left, "most": most}
        found = [
            Item(text(item), data, issued) for item, issued, data in db.execute(_SCAN[newest_first], bounds)
        ]
        items += found
        used += sum(len(item.data) for item in found)
    return items


NAMED = "substr(item, 1, 64) = substr(%(item)s::bytea, 1, 64) AND item = %(item)s::bytea"
"""The entries of an item, by the index on the beginnings of names."""

_LOCATE = {
    last: f"SELECT {'max' if last else 'min'}(position) FROM entry WHERE {NAMED} AND {_VISIBLE}"
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
        max_bytes=MAX_PAGE_BYTES,
    )
    return cut(items, query)


def _position(db: Database, segments: Sequence[Segment], item: str | None, *, last: bool) -> int | None:
    if item is None:
        return None
    position = locate(db, segments, item, last=last)
    if position is None:
        raise Missing("item", item)
    return position
