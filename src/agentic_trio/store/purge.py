"""Erasing for good what some criteria select, and whatever has copied or continued it.

A *cut* is the first position of a thread that is to go. All after it goes, as it has that item in its
history, and so do the threads that fork after it. An item that was referred to elsewhere is there as a copy
with the same id, so its place there is a cut as well. What ends at or after a cut, a response or a
conversation, is selected; what ends before it stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentic_trio.store import erasure
from agentic_trio.store.contract import Erased, Missing, Place, Selection
from agentic_trio.store.conversations import thread_of
from agentic_trio.store.responses import place_of
from agentic_trio.store.threads import MAX_POSITION, POSITION_BITS, key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from agentic_trio.store.contract import Criteria

STEP = 200
"""Responses or conversations that one transaction deletes, so that the writes of turns don't wait long."""


class _Row(NamedTuple):
    key: int
    owner: bytes
    id: bytes

    @property
    def name(self) -> tuple[str, str]:
        return self.owner.decode(), self.id.decode()


def select(connection: sqlite3.Connection, criteria: Criteria, before: Selection | None) -> Selection:
    """See ``Store.select``."""
    if criteria.conversation is None and criteria.metadata is None:
        return _select_owner(connection, criteria.owner or "")
    found = _Closure(connection)
    if before is not None:
        found.begin_with(before)
    found.seed(criteria)
    found.close()
    return found.selection()


def _select_owner(connection: sqlite3.Connection, owner: str) -> Selection:
    """All that an owner has. Nothing of another's refers to it."""

    def keys(statement: str) -> list[int]:
        return [row[0] for row in connection.execute(statement, {"owner": owner})]

    responses = keys("SELECT key FROM response WHERE owner = :owner")
    conversations = keys("SELECT thread FROM conversation WHERE owner = :owner")
    threads = keys("SELECT id FROM thread WHERE owner = :owner")
    cuts = dict.fromkeys(threads, 0)
    return Selection(
        responses, conversations, cuts, erased=_count(connection, responses, conversations, cuts)
    )


_SEED_CONVERSATIONS = """
    SELECT thread FROM conversation
    WHERE (:owner IS NULL OR owner = :owner) AND (:conversation IS NULL OR id = :conversation)
    AND (:name IS NULL OR EXISTS (
        SELECT 1 FROM json_each(metadata) WHERE json_each.key = :name AND json_each.value = :value
    ))
"""

_SEED_RESPONSES = """
    SELECT response.key, response.owner, response.id, thread, base FROM response
    WHERE (:owner IS NULL OR owner = :owner)
    AND (:conversation IS NULL OR conversation IN (SELECT thread FROM conversation WHERE id = :conversation))
    AND (:name IS NULL OR CASE WHEN json_valid(body) THEN EXISTS (
        SELECT 1 FROM json_each(body, '$.metadata')
        WHERE json_each.key = :name AND json_each.value = :value
    ) END)
"""

_CHILDREN = "SELECT id FROM thread WHERE parent = :thread AND living IN (0, 1) AND fork >= :cut"

_ISSUED = "SELECT item FROM entry WHERE key >= :first AND key <= :last AND issued = 1"

_COPIES = """
    SELECT entry.key FROM entry JOIN thread ON thread.id = entry.key >> 24
    WHERE item = :item AND issued = 1 AND owner = :owner
"""

_ENDING_RESPONSES = """
    SELECT key, owner, id FROM response WHERE thread = :thread AND last >= :cut
    UNION ALL SELECT key, owner, id FROM response WHERE thread = :thread AND last IS NULL AND base >= :cut
"""

_ENDING_CONVERSATION = """
    SELECT thread, conversation.owner, conversation.id FROM conversation
    JOIN thread ON thread.id = conversation.thread WHERE thread = :thread AND head >= :cut
"""


class _Closure:
    """Finds what is connected with the seeds by forks and copies."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cuts: dict[int, int] = {}
        self._waiting: list[int] = []
        self._responses: dict[int, _Row] = {}
        self._items: set[tuple[str, str]] = set()

    def begin_with(self, before: Selection) -> None:
        """Look again at what an earlier selection led to."""
        for thread, position in before.cuts.items():
            self._cut(thread, position)
        self._items |= before.items
        for owner, id in before.items:
            self._cut_copies(owner, id)

    def seed(self, criteria: Criteria) -> None:
        name, value = criteria.metadata or (None, None)
        values = {
            "owner": criteria.owner,
            "conversation": criteria.conversation,
            "name": name,
            "value": value,
        }
        for (thread,) in self._connection.execute(_SEED_CONVERSATIONS, values).fetchall():
            self._cut(thread, 0)
        for key_, owner, id, thread, base in self._connection.execute(_SEED_RESPONSES, values).fetchall():
            self._responses[key_] = _Row(key_, owner, id)
            place = place_of(thread, base)
            if place is not None:
                self._cut(place.thread, place.position + 1)

    def close(self) -> None:
        """Follow forks and copies until nothing is new."""
        while self._waiting:
            thread = self._waiting.pop()
            values = {"thread": thread, "cut": self._cuts[thread]}
            for (child,) in self._connection.execute(_CHILDREN, values).fetchall():
                self._cut(child, 0)
            self._follow_copies(thread)

    def _follow_copies(self, thread: int) -> None:
        row = self._connection.execute("SELECT owner FROM thread WHERE id = :id", {"id": thread}).fetchone()
        if row is None:
            return
        owner = row[0].decode()
        bounds = {"first": key(thread, self._cuts[thread]), "last": key(thread, MAX_POSITION)}
        for (item,) in self._connection.execute(_ISSUED, bounds).fetchall():
            name = owner, item.decode()
            if name not in self._items:
                self._items.add(name)
                self._cut_copies(*name)

    def _cut_copies(self, owner: str, item: str) -> None:
        rows = self._connection.execute(_COPIES, {"item": item, "owner": owner}).fetchall()
        for (place,) in rows:
            self._cut(place >> POSITION_BITS, place & MAX_POSITION)

    def _cut(self, thread: int, position: int) -> None:
        known = self._cuts.get(thread)
        if known is None or position < known:
            self._cuts[thread] = position
            self._waiting.append(thread)

    def selection(self) -> Selection:
        conversations: dict[int, _Row] = {}
        for thread, cut in self._cuts.items():
            values = {"thread": thread, "cut": cut}
            for row in self._connection.execute(_ENDING_RESPONSES, values):
                self._responses[row[0]] = _Row(*row)
            for row in self._connection.execute(_ENDING_CONVERSATION, values):
                conversations[row[0]] = _Row(*row)
        return Selection(
            sorted(self._responses),
            sorted(conversations),
            self._cuts,
            frozenset(row.name for row in (*self._responses.values(), *conversations.values())),
            frozenset(self._items),
            _count(self._connection, self._responses, conversations, self._cuts),
        )


_COUNT_ITEMS = """
    SELECT count(*), coalesce(sum(length(CAST(data AS BLOB))), 0) FROM entry
    WHERE key >= :first AND key <= :last
"""


def _count(
    connection: sqlite3.Connection,
    responses: Iterable[int],
    conversations: Sequence[int] | dict[int, _Row],
    cuts: dict[int, int],
) -> Erased:
    items = size = streams = count = 0
    for thread, cut in cuts.items():
        bounds = {"first": key(thread, cut), "last": key(thread, MAX_POSITION)}
        more, bytes_ = connection.execute(_COUNT_ITEMS, bounds).fetchone()
        items, size = items + more, size + bytes_
    for count, response in enumerate(responses, 1):  # noqa: B007
        statement = "SELECT count(*) FROM event WHERE response = :key"
        streams += connection.execute(statement, {"key": response}).fetchone()[0]
    return Erased(count, len(conversations), streams, items, size)


_DELETE_EVENT = "DELETE FROM event WHERE response = :key"
_DELETE_RESPONSE = "DELETE FROM response WHERE key = :key AND pending IS NULL RETURNING thread, last"
_DELETE_CONVERSATION = "DELETE FROM conversation WHERE thread = :key RETURNING thread"


def delete_responses(connection: sqlite3.Connection, keys: Sequence[int]) -> int:
    """Delete the rows of responses that have ended; returns how many there were."""
    done = 0
    for each in keys:
        row = connection.execute(_DELETE_RESPONSE, {"key": each}).fetchone()
        if row is None:
            continue
        connection.execute(_DELETE_EVENT, {"key": each})
        place = place_of(*row)
        if place is not None:
            erasure.leave(connection, place)
        done += 1
    return done


def delete_conversations(connection: sqlite3.Connection, threads: Sequence[int]) -> int:
    """Delete the rows of conversations; returns how many there were."""
    done = 0
    for each in threads:
        if connection.execute(_DELETE_CONVERSATION, {"key": each}).fetchone() is not None:
            _leave_head(connection, each, 0)
            done += 1
    return done


def erase_threads(
    connection: sqlite3.Connection, cuts: Sequence[tuple[int, int]], limit: int
) -> tuple[int, int]:
    """Erase threads, each from its cut on, as far as nothing ends there.

    Returns how many rows are gone, about ``limit`` at most, and how many of the threads are done.
    """
    erased = 0
    for done, (thread, cut) in enumerate(cuts):
        _leave_head(connection, thread, cut)
        erased += erasure.sweep_thread(connection, thread, cut, limit - erased)
        if erased >= limit:
            # This one may not be done.
            return erased, done
    return erased, len(cuts)


def _leave_head(connection: sqlite3.Connection, thread: int, cut: int) -> None:
    statement = "SELECT head FROM thread WHERE id = :thread"
    row = connection.execute(statement, {"thread": thread}).fetchone()
    if row is not None and row[0] >= cut:
        erasure.leave(connection, Place(thread, row[0]))


_OF_CONVERSATION = """
    SELECT key FROM response WHERE conversation = :conversation AND pending IS NULL AND thread IN (
        SELECT :conversation UNION ALL SELECT id FROM thread WHERE parent = :conversation AND living IN (0, 1)
    ) LIMIT :limit
"""
"""A turn that named the conversation has ended in its thread, or in a fork of it. Looked up by thread, since
that has an index."""


def delete_responses_of(connection: sqlite3.Connection, owner: str, id: str, limit: int) -> int:
    """See ``Store.delete_responses_of``."""
    thread = thread_of(connection, owner, id)
    if thread is None:
        raise Missing("conversation", id)
    rows = connection.execute(_OF_CONVERSATION, {"conversation": thread, "limit": limit}).fetchall()
    return delete_responses(connection, [row[0] for row in rows])


_OLD_RESPONSES = "SELECT key FROM response WHERE created_at < :before AND pending IS NULL LIMIT :limit"
_OLD_CONVERSATIONS = "SELECT thread FROM conversation WHERE used_at < :before LIMIT :limit"


def expire(connection: sqlite3.Connection, before: int, limit: int) -> int:
    """See ``Store.expire``."""

    def old(statement: str, most: int) -> list[int]:
        return [row[0] for row in connection.execute(statement, {"before": before, "limit": most})]

    done = delete_conversations(connection, old(_OLD_CONVERSATIONS, limit))
    return done + delete_responses(connection, old(_OLD_RESPONSES, limit - done))
