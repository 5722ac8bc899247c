"""Threads of items: what a history holds at a position, and how a thread grows.

Positions continue across forks. A thread that forks at 7 begins at 8, and up to 7 its history is its
parent's. So one number orders a whole history, however many threads it passes through, and a place at
or before the fork is a place in the parent. Position 0 is the empty history.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentic_trio.store.contract import HistoryTooLarge, Item, Place, StoreError, ThreadFull

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

POSITION_BITS = 24
MAX_POSITION = (1 << POSITION_BITS) - 1

CHAIN = "chain"
CONVERSATION = "conversation"

MAX_HISTORY_BYTES = 64 * 1024 * 1024
"""How much of a history is read into memory: more than any model can be given."""

_call_ids = msgspec.json.Decoder(list[str])


class Segment(NamedTuple):
    """The part of a view that lies in one thread: positions after ``start``, up to ``end``."""

    thread: int
    start: int
    end: int


def key(thread: int, position: int) -> int:
    """The primary key of an entry: a thread's entries lie side by side, in order."""
    return thread << POSITION_BITS | position


def view(connection: sqlite3.Connection, place: Place) -> list[Segment]:
    """The segments that make up a history, oldest first."""
    segments: list[Segment] = []
    thread: int | None = place.thread
    end = place.position
    while thread is not None:
        parent, fork = _origin(connection, thread)
        if end > fork:
            segments.append(Segment(thread, fork, end))
            end = fork
        thread = parent
    segments.reverse()
    return segments


def _origin(connection: sqlite3.Connection, thread: int) -> tuple[int | None, int]:
    statement = "SELECT parent, fork FROM thread WHERE id = :thread"
    row = connection.execute(statement, {"thread": thread}).fetchone()
    if row is None:
        raise StoreError("a part of this history is gone")
    parent, fork = row
    return parent, fork


_WALK = f"""
    SELECT parent, fork, (
        SELECT max(key) FROM entry
        WHERE issued = 1 AND item GLOB 'cmp_*'
            AND key > (:thread << {POSITION_BITS} | fork) AND key <= :last
            AND (dropped IS NULL OR dropped > :end)
    )
    FROM thread WHERE id = :thread
"""
"""A thread's origin, and the last compaction in its part of a view."""


def view_for_model(connection: sqlite3.Connection, place: Place) -> list[Segment]:
    """The segments that a model is given: a view, but only from the last compaction that a turn made on."""
    segments: list[Segment] = []
    thread: int | None = place.thread
    end = place.position
    while thread is not None:
        bounds = {"thread": thread, "last": key(thread, end), "end": end}
        row = connection.execute(_WALK, bounds).fetchone()
        if row is None:
            raise StoreError("a part of this history is gone")
        parent, fork, compaction = row
        if compaction is not None:
            segments.append(Segment(thread, (compaction & MAX_POSITION) - 1, end))
            break
        if end > fork:
            segments.append(Segment(thread, fork, end))
            end = fork
        thread = parent
    segments.reverse()
    return segments


_VISIBLE = " key > :first AND key <= :last AND (dropped IS NULL OR dropped > :end)"
"""The entries of a segment, or a part of it, that its view holds."""


def read_data(
    connection: sqlite3.Connection, segments: Iterable[Segment], *, most: float | None = None
) -> list[bytes]:
    """The JSON text of each item of a view, oldest first.

    Raises HistoryTooLarge beyond ``most`` bytes, which are ``MAX_HISTORY_BYTES`` if None.
    """
    data: list[bytes] = []
    left = MAX_HISTORY_BYTES if most is None else most
    statement = f"SELECT data FROM entry WHERE {_VISIBLE} ORDER BY key"
    for thread, start, end in segments:
        bounds = {"first": key(thread, start), "last": key(thread, end), "end": end}
        for (text,) in connection.execute(statement, bounds):
            left -= len(text)
            if left < 0:
                raise HistoryTooLarge
            data.append(text)
    return data


_SCAN = {
    False: f"SELECT item, issued, data FROM entry WHERE {_VISIBLE} ORDER BY key LIMIT :limit",
    True: f"SELECT item, issued, data FROM entry WHERE {_VISIBLE} ORDER BY key DESC LIMIT :limit",
}
"""By whether the newest come first."""


def read_items(
    connection: sqlite3.Connection,
    segments: Sequence[Segment],
    *,
    newest_first: bool = False,
    low: int = 0,
    high: int = MAX_POSITION + 1,
    limit: int = -1,
    max_bytes: float = math.inf,
) -> list[Item]:
    """Items of a view at positions between ``low`` and ``high`` (exclusive).

    Args:
        connection: the database.
        segments: the view.
        newest_first: in which order they are read.
        low: the position that they follow.
        high: the position that they precede.
        limit: how many are read; all of them if it is negative.
        max_bytes: an item that begins behind so many bytes is the last one that is read.
    """
    items: list[Item] = []
    size = 0
    for thread, start, end in reversed(segments) if newest_first else segments:
        first, last = max(start, low), min(end, high - 1)
        if first < last:
            bounds = {"first": key(thread, first), "last": key(thread, last), "end": end}
            left = limit - len(items) if limit >= 0 else -1
            for item, issued, data in connection.execute(_SCAN[newest_first], bounds | {"limit": left}):
                items.append(Item(item.decode(), data, bool(issued)))
                if size > max_bytes:
                    return items
                size += len(data)
            if len(items) == limit:
                break
    return items


_NAMED = f"FROM entry WHERE item = :item AND issued IN (0, 1) AND {_VISIBLE}"
_LOCATE = {False: f"SELECT min(key) {_NAMED}", True: f"SELECT max(key) {_NAMED}"}
"""By whether the last occurrence is wanted. ``issued`` is named so that the index is used to its end."""


def locate(
    connection: sqlite3.Connection, segments: Sequence[Segment], item: str, *, last: bool
) -> int | None:
    """The position of an item's first or last occurrence in a view, or None."""
    for thread, start, end in reversed(segments) if last else segments:
        bounds = {"item": item, "first": key(thread, start), "last": key(thread, end), "end": end}
        found: int | None = connection.execute(_LOCATE[last], bounds).fetchone()[0]
        if found is not None:
            return found & MAX_POSITION
    return None


def new_thread(
    connection: sqlite3.Connection, owner: str, kind: str, parent: Place | None, items: Sequence[Item]
) -> Place:
    """Begin a thread, at ``parent`` if there is one; returns its head."""
    fork = parent.position if parent else 0
    head = checked(fork + len(items))
    thread = connection.execute(
        "INSERT INTO thread (owner, kind, parent, fork, head) VALUES (:owner, :kind, :parent, :fork, :head)",
        {
            "owner": owner,
            "kind": kind,
            "parent": parent.thread if parent else None,
            "fork": fork,
            "head": head,
        },
    ).lastrowid
    assert thread is not None
    _insert(connection, Place(thread, fork), items)
    return Place(thread, head)


def append(connection: sqlite3.Connection, head: Place, items: Sequence[Item]) -> Place:
    """Write items after a thread's head; returns the new head."""
    _insert(connection, head, items)
    return advance(connection, head, len(items))


def advance(connection: sqlite3.Connection, head: Place, positions: int) -> Place:
    """Move a thread's head; returns the new one."""
    position = checked(head.position + positions)
    statement = "UPDATE thread SET head = :head WHERE id = :thread"
    connection.execute(statement, {"head": position, "thread": head.thread})
    return Place(head.thread, position)


def _insert(connection: sqlite3.Connection, after: Place, items: Sequence[Item]) -> None:
    checked(after.position + len(items))
    begin = key(after.thread, after.position)
    connection.executemany(
        "INSERT INTO entry (key, item, issued, dropped, data)"
        " VALUES (:key, :item, :issued, :dropped, CAST(:data AS TEXT))",
        [
            {
                "key": begin + n,
                "item": item.id,
                "issued": item.issued,
                # Dropped at its own position, an entry is in no history, not even one that ends there.
                "dropped": after.position + n if item.partial else None,
                "data": item.data,
            }
            for n, item in enumerate(items, 1)
        ],
    )


def checked(position: int) -> int:
    """The position, if a history may be so long. Raises ThreadFull."""
    if position > MAX_POSITION:
        raise ThreadFull
    return position


def dump_calls(calls: Iterable[str]) -> str | None:
    """Call ids as a JSON array; None, which takes no room, for none."""
    return msgspec.json.encode(sorted(calls)).decode() if calls else None


def load_calls(text: bytes | None) -> frozenset[str]:
    """The inverse of ``dump_calls``."""
    return frozenset(_call_ids.decode(text)) if text else frozenset()
