"""What deletions leave behind: which items are still reached, and the rest's way out of the file.

A view ends at a *place*: a response's last position, a conversation's head, or the fork of a child
thread. An entry at position p, dropped at position d (or never), is in the views that end at p or later
and before d. Deleting a response or a conversation takes an end away, and dropping an item takes
the entry from the views that end later. Neither erases anything, because a turn that is under way may have
read a history that ended there and will continue it. Each leaves a *tombstone* instead, which stands
for the end until it is swept.

A thread is *living* while a response, a conversation or a living child ends in it. Only what is in
the view of such an end can be referred to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentic_trio.store.threads import MAX_POSITION, key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentic_trio.store.contract import Place


COUNTED_BYTES = 8192
"""So many bytes of an entry count as much as a row in what one sweep may erase."""


def leave(connection: sqlite3.Connection, place: Place) -> None:
    """Record that a view no longer ends here."""
    connection.execute(
        "INSERT INTO tombstone (thread, position) VALUES (:thread, :position)",
        {"thread": place.thread, "position": place.position},
    )
    thread: int | None = place.thread
    while thread is not None:
        thread = _parent_if_dead(connection, thread)


_LIVING = """
    SELECT parent,
        EXISTS (SELECT 1 FROM response WHERE thread = :thread)
        OR EXISTS (SELECT 1 FROM conversation WHERE thread = :thread)
        OR EXISTS (SELECT 1 FROM thread WHERE parent = :thread AND living = 1)
    FROM thread WHERE id = :thread
"""


def _parent_if_dead(connection: sqlite3.Connection, thread: int) -> int | None:
    """Mark a thread as dead if it is, and return its parent, which may now be dead too."""
    row = connection.execute(_LIVING, {"thread": thread}).fetchone()
    if row is None or row[1]:
        return None
    connection.execute("UPDATE thread SET living = 0 WHERE id = :thread", {"thread": thread})
    parent: int | None = row[0]
    return parent


def revive(connection: sqlite3.Connection, thread: int | None) -> None:
    """Mark a thread, in which a turn is about to end, and its ancestors as living."""
    while thread is not None:
        statement = "SELECT parent, living FROM thread WHERE id = :thread"
        row = connection.execute(statement, {"thread": thread}).fetchone()
        if row is None or row[1]:
            return
        connection.execute("UPDATE thread SET living = 1 WHERE id = :thread", {"thread": thread})
        thread = row[0]


_FIND_ITEM = """
    WITH found AS (
        SELECT data, thread.id AS thread, entry.key & :mask AS position,
            coalesce(dropped, :mask + 1) AS dropped
        FROM entry JOIN thread ON thread.id = entry.key >> 24
        WHERE item = :id AND issued = 1 AND owner = :owner AND living = 1
        ORDER BY entry.key
    )
    SELECT data FROM found WHERE EXISTS (
        SELECT 1 FROM response
        WHERE response.thread = found.thread AND last >= position AND last < dropped
    ) OR EXISTS (
        SELECT 1 FROM response
        WHERE response.thread = found.thread AND last IS NULL AND base >= position AND base < dropped
    ) OR EXISTS (
        SELECT 1 FROM conversation WHERE conversation.thread = found.thread AND dropped > :mask
    ) OR EXISTS (
        SELECT 1 FROM thread AS child
        WHERE parent = found.thread AND living = 1 AND fork >= position AND fork < dropped
    )
    LIMIT 1
"""
"""Each of the four conditions is one look into an index."""


def find_items(connection: sqlite3.Connection, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
    """See ``Store.find_items``."""
    found = {}
    for id in ids:
        row = connection.execute(_FIND_ITEM, {"id": id, "owner": owner, "mask": MAX_POSITION}).fetchone()
        if row is not None:
            found[id] = row[0]
    return found


def deletions(connection: sqlite3.Connection) -> int:
    """See ``Store.deletions``."""
    mark: int = connection.execute("SELECT coalesce(max(id), 0) FROM tombstone").fetchone()[0]
    return mark


def sweep(connection: sqlite3.Connection, mark: int, limit: int) -> int:
    """See ``Store.sweep``."""
    done = 0
    while done < limit:
        statement = "SELECT id, thread FROM tombstone WHERE id <= :mark ORDER BY id LIMIT 1"
        row = connection.execute(statement, {"mark": mark}).fetchone()
        if row is None:
            break
        done += _sweep_thread(connection, _Tombstone(*row), mark, limit - done)
    return done


_NEXT_AFTER_CUT = """
    SELECT id, thread, :cut FROM tombstone
    WHERE thread = :thread AND position >= :cut AND id <= :mark LIMIT 1
"""


def sweep_thread(connection: sqlite3.Connection, thread: int, cut: int, limit: int) -> int:
    """Erase what nothing reaches from position ``cut`` on; tombstones before it go on protecting.

    Returns how many rows are gone; fewer than ``limit`` mean that all are.
    """
    mark, done = deletions(connection), 0
    while done < limit:
        values = {"thread": thread, "cut": cut, "mark": mark}
        row = connection.execute(_NEXT_AFTER_CUT, values).fetchone()
        if row is None:
            break
        done += _sweep_thread(connection, _Tombstone(*row), mark, limit - done)
    return done


class _Tombstone(NamedTuple):
    id: int
    thread: int
    cut: int = 0


class _Thread(NamedTuple):
    """``end`` is the last position at which a view ends; None if none does."""

    parent: int | None
    fork: int
    end: int | None


_THREAD = """
    SELECT parent, fork, (
        SELECT max(place) FROM (
            SELECT max(last) AS place FROM response WHERE thread = :thread
            UNION ALL SELECT max(base) FROM response WHERE thread = :thread AND last IS NULL
            UNION ALL SELECT head FROM thread JOIN conversation ON conversation.thread = thread.id
                WHERE thread.id = :thread
            UNION ALL SELECT max(fork) FROM thread WHERE parent = :thread AND living = 1
            UNION ALL SELECT max(fork) FROM thread WHERE parent = :thread AND living = 0
            UNION ALL SELECT max(position) FROM tombstone
                WHERE thread = :thread AND (id > :mark OR position < :cut)
        )
    )
    FROM thread WHERE id = :thread
"""

_SIZE = "length(CAST(data AS BLOB))"

_TAIL = f"SELECT key, {_SIZE} FROM entry WHERE key > :end AND key <= :last"

_DROPPED = f"""
    SELECT key, {_SIZE} FROM entry WHERE dropped IS NOT NULL AND key > :first AND key <= :end
    AND NOT EXISTS (
        SELECT 1 FROM response
        WHERE thread = :thread AND last >= (entry.key & :mask) AND last < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM response
        WHERE thread = :thread AND last IS NULL AND base >= (entry.key & :mask) AND base < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM thread
        WHERE parent = :thread AND living IN (0, 1) AND fork >= (entry.key & :mask) AND fork < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM tombstone
        WHERE thread = :thread AND (id > :mark OR position < :cut)
            AND position >= (entry.key & :mask) AND position < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM (
            SELECT first FROM response WHERE thread = :thread AND last >= (entry.key & :mask)
            ORDER BY last, first LIMIT 1
        ) WHERE first <= (entry.key & :mask)
    )
"""
"""The last condition spares a partial item, which is in no view, but in its response's output."""


def _sweep_thread(connection: sqlite3.Connection, tombstone: _Tombstone, mark: int, limit: int) -> int:
    """Erase what is out of reach in a tombstone's thread; returns how many rows are gone."""
    values = {"thread": tombstone.thread, "mark": mark, "cut": tombstone.cut}
    row = connection.execute(_THREAD, values).fetchone()
    if row is None:
        return _clear(connection, values)
    thread = _Thread(*row)
    erased = _erase_entries(connection, tombstone, thread, mark, limit)
    if erased >= limit:
        return erased
    if thread.end is None:
        connection.execute("DELETE FROM thread WHERE id = :thread", values)
        if thread.parent is not None:
            # In the parent no view ends at this fork any more.
            connection.execute(
                "UPDATE tombstone SET thread = :parent, position = :fork WHERE id = :id",
                {"parent": thread.parent, "fork": thread.fork, "id": tombstone.id},
            )
            erased += 1
    return erased + _clear(connection, values)


def _erase_entries(
    connection: sqlite3.Connection, tombstone: _Tombstone, thread: _Thread, mark: int, limit: int
) -> int:
    """Erase the entries that no view holds: those after the last end, and those dropped before any."""
    id, end = tombstone.thread, thread.fork if thread.end is None else thread.end
    values = {
        "thread": id,
        "mark": mark,
        "cut": tombstone.cut,
        "mask": MAX_POSITION,
        "first": key(id, 0),
        "end": key(id, end),
        "last": key(id, MAX_POSITION),
    }
    erased = _erase(connection, _TAIL, values, limit)
    return erased + _erase(connection, _DROPPED, values, limit - erased)


def _erase(connection: sqlite3.Connection, select: str, values: dict[str, int], limit: int) -> int:
    """Erase the entries that a statement selects, up to the limit; returns how much they count."""
    keys: list[dict[str, int]] = []
    erased = 0
    if limit > 0:
        rows = connection.execute(select, values)
        for entry, size in rows:
            keys.append({"key": entry})
            erased += 1 + size // COUNTED_BYTES
            if erased >= limit:
                break
        rows.close()
    connection.executemany("DELETE FROM entry WHERE key = :key", keys)
    return erased


def _clear(connection: sqlite3.Connection, values: dict[str, int]) -> int:
    statement = "DELETE FROM tombstone WHERE thread = :thread AND id <= :mark AND position >= :cut"
    return connection.execute(statement, values).rowcount
