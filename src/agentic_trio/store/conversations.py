"""Conversations and their items. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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


class _Found(NamedTuple):
    """A conversation's row and its thread's head."""

    thread: int
    head: int
    created_at: int
    open: bytes | None
    metadata: bytes

    def place(self) -> Place:
        return Place(self.thread, self.head)


def _find(connection: sqlite3.Connection, owner: str, id: str) -> _Found:
    row = connection.execute(
        "SELECT thread, head, created_at, open, metadata"
        " FROM conversation JOIN thread ON thread.id = conversation.thread"
        " WHERE conversation.owner = ? AND conversation.id = ?",
        (owner, id),
    ).fetchone()
    if row is None:
        raise Missing("conversation", id)
    return _Found(*row)


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
        "INSERT INTO conversation (thread, id, owner, created_at, open, metadata)"
        " VALUES (?, ?, ?, ?, ?, CAST(? AS TEXT))",
        (
            head.thread,
            conversation.id,
            owner,
            conversation.created_at,
            dump_calls(open_calls),
            conversation.metadata,
        ),
    )


def read(connection: sqlite3.Connection, owner: str, id: str) -> Conversation:
    """See ``Store.conversation``."""
    found = _find(connection, owner, id)
    return Conversation(id, found.created_at, found.metadata)


def update(connection: sqlite3.Connection, owner: str, id: str, metadata: bytes) -> Conversation:
    """See ``Store.update_conversation``."""
    connection.execute(
        "UPDATE conversation SET metadata = CAST(? AS TEXT) WHERE owner = ? AND id = ?", (metadata, owner, id)
    )
    return read(connection, owner, id)


def delete(connection: sqlite3.Connection, owner: str, id: str) -> None:
    """See ``Store.delete_conversation``."""
    gone = connection.execute("DELETE FROM conversation WHERE owner = ? AND id = ?", (owner, id))
    if gone.rowcount == 0:
        raise Missing("conversation", id)


def items(connection: sqlite3.Connection, owner: str, id: str, query: PageQuery) -> Page:
    """See ``Store.conversation_items``."""
    return page_of_view(connection, view(connection, _find(connection, owner, id).place()), query)


def item(connection: sqlite3.Connection, owner: str, id: str, item: str) -> Item:
    """See ``Store.conversation_item``."""
    found = _find(connection, owner, id)
    position = locate(connection, view(connection, found.place()), item, last=True)
    if position is None:
        raise Missing("item", item)
    issued, data = connection.execute(
        "SELECT issued, data FROM entry WHERE key = ?", (key(found.thread, position),)
    ).fetchone()
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
    found = _find(connection, owner, id)
    segments = view(connection, found.place())
    if _living(connection, segments, [item.id for item in items if item.issued]):
        raise ItemAlreadyInConversation
    append(connection, found.place(), items)
    _set_open(connection, found.thread, load_calls(found.open) - closed | opened)


def delete_item(
    connection: sqlite3.Connection,
    owner: str,
    id: str,
    item: str,
    effect: Callable[[bytes], tuple[frozenset[str], frozenset[str]]],
) -> Conversation:
    """See ``Store.delete_item``."""
    found = _find(connection, owner, id)
    rows = connection.execute(
        "SELECT key, data FROM entry WHERE item = ? AND issued IN (0, 1) AND key > ? AND key <= ?"
        " AND dropped IS NULL ORDER BY key",
        (item, key(found.thread, 0), key(found.thread, found.head)),
    ).fetchall()
    if not rows:
        raise Missing("item", item)
    head = advance(connection, found.place(), 1)
    calls = load_calls(found.open)
    for entry, data in rows:
        connection.execute("UPDATE entry SET dropped = ? WHERE key = ?", (head.position, entry))
        opens, closes = effect(data)
        calls = calls - closes | opens
    _set_open(connection, found.thread, calls)
    return Conversation(id, found.created_at, found.metadata)


def held(connection: sqlite3.Connection, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
    """See ``Store.in_conversation``."""
    return _living(connection, view(connection, _find(connection, owner, id).place()), ids)


def _living(
    connection: sqlite3.Connection, segments: Sequence[Segment], ids: Sequence[str]
) -> frozenset[str]:
    return frozenset(id for id in ids if locate(connection, segments, id, last=True) is not None)


def _set_open(connection: sqlite3.Connection, thread: int, calls: frozenset[str]) -> None:
    connection.execute("UPDATE conversation SET open = ? WHERE thread = ?", (dump_calls(calls), thread))
