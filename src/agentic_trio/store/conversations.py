"""Conversations and their items. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentic_trio.store import erasure
from agentic_trio.store.contract import Conversation, Item, ItemAlreadyInConversation, Missing, Place
from agentic_trio.store.paging import page_of_view
from agentic_trio.store.threads import (
    CONVERSATION,
    advance,
    append,
    dump_calls,
    key,
    load_calls,
    locate,
    new_thread,
    view,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from agentic_trio.store.contract import Page, PageQuery
    from agentic_trio.store.threads import Segment


NOW = "CAST(strftime('%s', 'now') AS INTEGER)"
"""Unix seconds, in SQL."""


class Found(NamedTuple):
    """A conversation's row and its thread's head: the columns of ``_FIND``, in their order."""

    thread: int
    head: int
    created_at: int
    open: bytes | None
    metadata: bytes

    def place(self) -> Place:
        return Place(self.thread, self.head)


_FIND = f"""
    SELECT {", ".join(Found._fields)} FROM conversation JOIN thread ON thread.id = conversation.thread
    WHERE conversation.owner = :owner AND conversation.id = :id
"""


def find(connection: sqlite3.Connection, owner: str, id: str) -> Found:
    """A conversation's row. Raises Missing."""
    row = connection.execute(_FIND, {"owner": owner, "id": id}).fetchone()
    if row is None:
        raise Missing("conversation", id)
    return Found(*row)


def thread_of(connection: sqlite3.Connection, owner: str, id: str) -> int | None:
    """The thread of a conversation, or None if there is no such conversation."""
    statement = "SELECT thread FROM conversation WHERE owner = :owner AND id = :id"
    row = connection.execute(statement, {"owner": owner, "id": id}).fetchone()
    return None if row is None else row[0]


def create(
    connection: sqlite3.Connection,
    owner: str,
    conversation: Conversation,
    items: Sequence[Item],
    open_calls: frozenset[str],
) -> None:
    """See ``Store.create_conversation``."""
    head = new_thread(connection, owner, CONVERSATION, None, items)
    connection.execute(
        "INSERT INTO conversation (thread, id, owner, created_at, used_at, open, metadata)"
        f" VALUES (:thread, :id, :owner, :created_at, {NOW}, :open, CAST(:metadata AS TEXT))",
        {
            "thread": head.thread,
            "id": conversation.id,
            "owner": owner,
            "created_at": conversation.created_at,
            "open": dump_calls(open_calls),
            "metadata": conversation.metadata,
        },
    )


def read(connection: sqlite3.Connection, owner: str, id: str) -> Conversation:
    """See ``Store.conversation``."""
    found = find(connection, owner, id)
    return Conversation(id, found.created_at, found.metadata)


def update(connection: sqlite3.Connection, owner: str, id: str, metadata: bytes) -> Conversation:
    """See ``Store.update_conversation``."""
    connection.execute(
        f"UPDATE conversation SET metadata = CAST(:metadata AS TEXT), used_at = {NOW}"
        " WHERE owner = :owner AND id = :id",
        {"metadata": metadata, "owner": owner, "id": id},
    )
    return read(connection, owner, id)


def delete(connection: sqlite3.Connection, owner: str, id: str) -> None:
    """See ``Store.delete_conversation``."""
    found = find(connection, owner, id)
    connection.execute("DELETE FROM conversation WHERE thread = :thread", {"thread": found.thread})
    erasure.leave(connection, found.place())


def items(connection: sqlite3.Connection, owner: str, id: str, query: PageQuery) -> Page:
    """See ``Store.conversation_items``."""
    return page_of_view(connection, view(connection, find(connection, owner, id).place()), query)


def item(connection: sqlite3.Connection, owner: str, id: str, item: str) -> Item:
    """See ``Store.conversation_item``."""
    found = find(connection, owner, id)
    position = locate(connection, view(connection, found.place()), item, last=True)
    if position is None:
        raise Missing("item", item)
    statement = "SELECT issued, data FROM entry WHERE key = :key"
    issued, data = connection.execute(statement, {"key": key(found.thread, position)}).fetchone()
    return Item(item, data, bool(issued))


def add_items(
    connection: sqlite3.Connection,
    owner: str,
    id: str,
    items: Sequence[Item],
    opened: frozenset[str],
    closed: frozenset[str],
) -> None:
    """See ``Store.add_items``."""
    found = find(connection, owner, id)
    segments = view(connection, found.place())
    if _located(connection, segments, [item.id for item in items if item.issued]):
        raise ItemAlreadyInConversation
    append(connection, found.place(), items)
    set_open(connection, found.thread, load_calls(found.open) - closed | opened)


_OCCURRENCES = """
    SELECT key, data FROM entry
    WHERE item = :item AND issued IN (0, 1) AND key > :first AND key <= :last AND dropped IS NULL
    ORDER BY key
"""


def delete_item(
    connection: sqlite3.Connection,
    owner: str,
    id: str,
    item: str,
    effect: Callable[[bytes], tuple[frozenset[str], frozenset[str]]],
) -> Conversation:
    """See ``Store.delete_item``."""
    found = find(connection, owner, id)
    bounds = {"item": item, "first": key(found.thread, 0), "last": key(found.thread, found.head)}
    rows = connection.execute(_OCCURRENCES, bounds).fetchall()
    if not rows:
        raise Missing("item", item)
    head = advance(connection, found.place(), 1)
    calls = load_calls(found.open)
    for entry, data in rows:
        statement = "UPDATE entry SET dropped = :position WHERE key = :key"
        connection.execute(statement, {"position": head.position, "key": entry})
        opens, closes = effect(data)
        calls = calls - closes | opens
    set_open(connection, found.thread, calls)
    erasure.leave(connection, found.place())
    return Conversation(id, found.created_at, found.metadata)


def among(connection: sqlite3.Connection, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
    """See ``Store.in_conversation``."""
    return _located(connection, view(connection, find(connection, owner, id).place()), ids)


def _located(
    connection: sqlite3.Connection, segments: Sequence[Segment], ids: Sequence[str]
) -> frozenset[str]:
    return frozenset(id for id in ids if locate(connection, segments, id, last=True) is not None)


def set_open(connection: sqlite3.Connection, thread: int, calls: frozenset[str]) -> None:
    """Record that a conversation is used now, and which of its calls have no output yet."""
    statement = f"UPDATE conversation SET open = :open, used_at = {NOW} WHERE thread = :thread"
    connection.execute(statement, {"open": dump_calls(calls), "thread": thread})
