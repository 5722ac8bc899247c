"""Threads of items: the view at a position, and what is written behind one.

Positions go on across forks: a thread that forks at 7 begins at 8, and its view up to 7 is its
parent's. So one number orders a whole view, however many threads it passes through, and a place at or
before the fork is a place in the parent. Position 0 is the empty history.
"""

from __future__ import annotations

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

Row = tuple[bytes, int, bytes]

_call_ids = msgspec.json.Decoder(list[str])


class Segment(NamedTuple):
    """The part of a view that lies in one thread: positions after ``start``, up to ``end``."""

    thread: int
    start: int
    end: int


def key(thread: int, position: int) -> int:
    """Where an entry is stored: a thread's entries lie side by side, in order."""
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
    row = connection.execute("SELECT parent, fork FROM thread WHERE id = ?", (thread,)).fetchone()
    if row is None:
        raise StoreError("a part of this history is gone")
    parent, fork = row
    return parent, fork


def read_data(connection: sqlite3.Connection, segments: Iterable[Segment]) -> list[bytes]:
    """The JSON text of each item of a view, oldest first. Raises HistoryTooLarge."""
    data: list[bytes] = []
    left = MAX_HISTORY_BYTES
    for thread, start, end in segments:
        rows = connection.execute(
            "SELECT data FROM entry WHERE key > ? AND key <= ?"
            " AND (dropped IS NULL OR dropped > ?) ORDER BY key",
            (key(thread, start), key(thread, end), end),
        )
        for (text,) in rows:
            left -= len(text)
            if left < 0:
                raise HistoryTooLarge
            data.append(text)
    return data


_SCAN = {
    False: "SELECT item, issued, data FROM entry WHERE key > ? AND key <= ?"
    " AND (dropped IS NULL OR dropped > ?) ORDER BY key LIMIT ?",
    True: "SELECT item, issued, data FROM entry WHERE key > ? AND key <= ?"
    " AND (dropped IS NULL OR dropped > ?) ORDER BY key DESC LIMIT ?",
}


def read_items(
    connection: sqlite3.Connection,
    segments: Sequence[Segment],
    *,
    newest_first: bool = False,
    low: int = 0,
    high: int = MAX_POSITION + 1,
    limit: int = -1,
) -> list[Item]:
    """Items of a view at positions between ``low`` and ``high`` (exclusive); a negative limit is none."""
    rows: list[Row] = []
    for thread, start, end in reversed(segments) if newest_first else segments:
        first, last = max(start, low), min(end, high - 1)
        if first < last:
            left = limit - len(rows) if limit >= 0 else -1
            bounds = (key(thread, first), key(thread, last), end, left)
            rows += connection.execute(_SCAN[newest_first], bounds).fetchall()
            if len(rows) == limit:
                break
    return [Item(item.decode(), data, bool(issued)) for item, issued, data in rows]


_LOCATE = {
    False: "SELECT min(key) FROM entry WHERE item = ? AND issued IN (0, 1)"
    " AND key > ? AND key <= ? AND (dropped IS NULL OR dropped > ?)",
    True: "SELECT max(key) FROM entry WHERE item = ? AND issued IN (0, 1)"
    " AND key > ? AND key <= ? AND (dropped IS NULL OR dropped > ?)",
}


def locate(
    connection: sqlite3.Connection, segments: Sequence[Segment], item: str, *, last: bool
) -> int | None:
    """The position of an item's first or last occurrence in a view, or None."""
    for thread, start, end in reversed(segments) if last else segments:
        bounds = (item, key(thread, start), key(thread, end), end)
        found: int | None = connection.execute(_LOCATE[last], bounds).fetchone()[0]
        if found is not None:
            return found & MAX_POSITION
    return None


def new_thread(
    connection: sqlite3.Connection, owner: str, kind: str, parent: Place | None, items: Sequence[Item]
) -> Place:
    """Begin a thread, at ``parent`` if there is one; answers its head."""
    fork = parent.position if parent else 0
    head = _checked(fork + len(items))
    thread = connection.execute(
        "INSERT INTO thread (owner, kind, parent, fork, head) VALUES (?, ?, ?, ?, ?)",
        (owner, kind, parent.thread if parent else None, fork, head),
    ).lastrowid
    assert thread is not None
    _insert(connection, Place(thread, fork), items)
    return Place(thread, head)


def append(connection: sqlite3.Connection, head: Place, items: Sequence[Item]) -> Place:
    """Write items behind a thread's head; answers the new head."""
    _insert(connection, head, items)
    return advance(connection, head, len(items))


def advance(connection: sqlite3.Connection, head: Place, positions: int) -> Place:
    """Move a thread's head; answers the new one."""
    position = _checked(head.position + positions)
    connection.execute("UPDATE thread SET head = ? WHERE id = ?", (position, head.thread))
    return Place(head.thread, position)


def _insert(connection: sqlite3.Connection, after: Place, items: Sequence[Item]) -> None:
    _checked(after.position + len(items))
    begin = key(after.thread, after.position)
    connection.executemany(
        "INSERT INTO entry (key, item, issued, dropped, data) VALUES (?, ?, ?, ?, CAST(? AS TEXT))",
        [
            # What was dropped where it was written is in no history, not even the one that ends there.
            (begin + n, item.id, item.issued, after.position + n if item.partial else None, item.data)
            for n, item in enumerate(items, 1)
        ],
    )


def _checked(position: int) -> int:
    if position > MAX_POSITION:
        raise ThreadFull
    return position


def dump_calls(calls: Iterable[str]) -> str | None:
    """Call ids as a JSON array; None for none, which takes no room."""
    return msgspec.json.encode(sorted(calls)).decode() if calls else None


def load_calls(text: bytes | None) -> frozenset[str]:
    """The opposite of ``dump_calls``."""
    return frozenset(_call_ids.decode(text)) if text else frozenset()
