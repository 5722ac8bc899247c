"""What deletions leave behind, by the rules of ``store/erasure.py``. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentic_trio.store.erasure import COUNTED_BYTES
from agentic_trio.store.postgres.connecting import raw
from agentic_trio.store.threads import MAX_POSITION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.store.contract import Place
    from agentic_trio.store.postgres.connecting import Database


def leave(db: Database, place: Place) -> None:
    """Record that a view no longer ends here."""
    values = {"thread": place.thread, "position": place.position}
    db.execute("INSERT INTO tombstone (thread, position) VALUES (%(thread)s, %(position)s)", values)
    thread: int | None = place.thread
    while thread is not None:
        thread = _parent_if_dead(db, thread)


_LIVING = """
    SELECT parent,
        EXISTS (SELECT 1 FROM response WHERE thread = %(thread)s)
        OR EXISTS (SELECT 1 FROM announced WHERE thread = %(thread)s)
        OR EXISTS (SELECT 1 FROM conversation WHERE thread = %(thread)s)
        OR EXISTS (SELECT 1 FROM thread WHERE parent = %(thread)s AND living)
    FROM thread WHERE id = %(thread)s
"""


def _parent_if_dead(db: Database, thread: int) -> int | None:
    """Mark a thread as dead if it is, and return its parent, which may now be dead too."""
    row = db.execute(_LIVING, {"thread": thread}).fetchone()
    if row is None or row[1]:
        return None
    db.execute("UPDATE thread SET living = false WHERE id = %(thread)s", {"thread": thread})
    parent: int | None = row[0]
    return parent


def revive(db: Database, thread: int | None) -> None:
    """Mark a thread, in which a turn is about to end, and its ancestors as living."""
    while thread is not None:
        row = db.execute("SELECT parent, living FROM thread WHERE id = %(id)s", {"id": thread}).fetchone()
        if row is None or row[1]:
            return
        db.execute("UPDATE thread SET living = true WHERE id = %(id)s", {"id": thread})
        thread = row[0]


_FIND = """
    SELECT item, data FROM (
        SELECT item, data, thread.id AS thread, position, coalesce(dropped, %(never)s) AS dropped
        FROM entry JOIN thread ON thread.id = entry.thread
        WHERE substr(item, 1, 64) = ANY(%(beginnings)s::bytea[]) AND item = ANY(%(ids)s::bytea[])
            AND issued AND owner = %(owner)s AND living
    ) AS found
    WHERE EXISTS (
        SELECT 1 FROM response WHERE response.thread = found.thread AND last >= position AND last < dropped
    ) OR EXISTS (
        SELECT 1 FROM announced WHERE announced.thread = found.thread AND base >= position AND base < dropped
    ) OR EXISTS (
        SELECT 1 FROM conversation WHERE conversation.thread = found.thread AND dropped = %(never)s
    ) OR EXISTS (
        SELECT 1 FROM thread AS child
        WHERE parent = found.thread AND living AND fork >= position AND fork < dropped
    )
    ORDER BY thread DESC, position DESC
"""


def find_items(db: Database, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
    """See ``Store.find_items``."""
    names = {raw(id): id for id in ids}
    beginnings = [name[:64] for name in names]
    values = {"ids": list(names), "beginnings": beginnings, "owner": raw(owner), "never": MAX_POSITION + 1}
    # Of several with one id the oldest comes last, and stays.
    return {names[item]: data for item, data in db.execute(_FIND, values)}


def deletions(db: Database) -> int:
    """See ``Store.deletions``."""
    row = db.execute("SELECT coalesce(max(id), 0) FROM tombstone").fetchone()
    mark: int = row[0] if row else 0
    return mark


def sweep(db: Database, mark: int, limit: int) -> int:
    """See ``Store.sweep``."""
    done = 0
    while done < limit:
        statement = "SELECT id, thread FROM tombstone WHERE id <= %(mark)s ORDER BY id LIMIT 1"
        row = db.execute(statement, {"mark": mark}).fetchone()
        if row is None:
            break
        done += _sweep_thread(db, row[0], row[1], mark, limit - done)
    return done


_THREAD = """
    SELECT parent, fork, (
        SELECT max(place) FROM (
            SELECT max(last) AS place FROM response WHERE thread = %(thread)s
            UNION ALL SELECT max(base) FROM announced WHERE thread = %(thread)s
            UNION ALL SELECT head FROM thread AS own JOIN conversation ON conversation.thread = own.id
                WHERE own.id = %(thread)s
            UNION ALL SELECT max(fork) FROM thread AS child WHERE child.parent = %(thread)s
            UNION ALL SELECT max(position) FROM tombstone WHERE thread = %(thread)s AND id > %(mark)s
        ) AS places
    )
    FROM thread WHERE id = %(thread)s
"""

_TAIL = "SELECT position, octet_length(data) FROM entry WHERE thread = %(thread)s AND position > %(end)s"

_DROPPED = """
    SELECT position, octet_length(data) FROM entry
    WHERE thread = %(thread)s AND dropped IS NOT NULL AND position <= %(end)s
    AND NOT EXISTS (
        SELECT 1 FROM response
        WHERE response.thread = %(thread)s AND last >= entry.position AND last < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM announced
        WHERE announced.thread = %(thread)s AND base >= entry.position AND base < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM thread WHERE parent = %(thread)s AND fork >= entry.position AND fork < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM tombstone WHERE tombstone.thread = %(thread)s AND id > %(mark)s
            AND tombstone.position >= entry.position AND tombstone.position < dropped
    )
    AND NOT EXISTS (
        SELECT 1 FROM response WHERE response.thread = %(thread)s
            AND first <= entry.position AND last >= entry.position
    )
"""
"""The last condition spares a partial item, which is in no view, but in its response's output."""


def _sweep_thread(db: Database, tombstone: int, id: int, mark: int, limit: int) -> int:
    """Erase what is out of reach in a tombstone's thread; returns how many rows are gone."""
    values: dict[str, Any] = {"thread": id, "mark": mark}
    row = db.execute(_THREAD, values).fetchone()
    if row is None:
        return _clear(db, values)
    parent, fork, end = row
    erased = _erase_entries(db, values | {"end": fork if end is None else end}, limit)
    if erased >= limit:
        return erased
    if end is None:
        db.execute("DELETE FROM thread WHERE id = %(thread)s", values)
        if parent is not None:
            # In the parent no view ends at this fork any more.
            db.execute(
                "UPDATE tombstone SET thread = %(parent)s, position = %(fork)s WHERE id = %(id)s",
                {"parent": parent, "fork": fork, "id": tombstone},
            )
            erased += 1
    return erased + _clear(db, values)


def _erase_entries(db: Database, values: dict[str, Any], limit: int) -> int:
    """Erase the entries that no view holds: those after the last end, and those dropped before any."""
    erased = _erase(db, _TAIL, values, limit)
    return erased + _erase(db, _DROPPED, values, limit - erased)


def _erase(db: Database, select: str, values: dict[str, Any], limit: int) -> int:
    """Erase the entries that a statement selects, up to the limit; returns how much they count."""
    if limit <= 0:
        return 0
    positions: list[int] = []
    erased = 0
    rows = db.execute(f"{select} ORDER BY position LIMIT %(limit)s", values | {"limit": limit})
    for position, size in rows.fetchall():
        positions.append(position)
        erased += 1 + size // COUNTED_BYTES
        if erased >= limit:
            break
    statement = "DELETE FROM entry WHERE thread = %(thread)s AND position = ANY(%(positions)s::integer[])"
    db.execute(statement, {"thread": values["thread"], "positions": positions})
    return erased


def _clear(db: Database, values: dict[str, Any]) -> int:
    return db.execute("DELETE FROM tombstone WHERE thread = %(thread)s AND id <= %(mark)s", values).rowcount
