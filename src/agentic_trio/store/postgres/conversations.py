"""Conversations and their items: see ``store/conversations.py``. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentic_trio.store.contract import Conversation, Item, ItemAlreadyInConversation, Missing, Place
from agentic_trio.store.postgres import batch, removal
from agentic_trio.store.postgres.connecting import raw
from agentic_trio.store.postgres.rows import new_thread
from agentic_trio.store.postgres.tables import NOW
from agentic_trio.store.postgres.views import NAMED, locate, page_of_view, view
from agentic_trio.store.threads import CONVERSATION, checked, dump_calls, load_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentic_trio.store.contract import Page, PageQuery
    from agentic_trio.store.postgres.connecting import Database


class Found(NamedTuple):
    """A conversation's row and its thread's head: the columns of ``_FIND``, in their order."""

    thread: int
    head: int
    created_at: int
    open: bytes | None
    body: bytes

    def place(self) -> Place:
        return Place(self.thread, self.head)


_FIND = """
    SELECT conversation.thread, thread.head, conversation.created_at, conversation.open, conversation.body
    FROM conversation JOIN thread ON thread.id = conversation.thread
    WHERE conversation.owner = %(owner)s AND conversation.id = %(id)s
"""


def find(db: Database, owner: str, id: str, *, lock: bool = False) -> Found:
    """A conversation's row, locked with its thread if it is to be changed. Raises Missing."""
    statement = _FIND + " FOR UPDATE" if lock else _FIND
    row = db.execute(statement, {"owner": raw(owner), "id": raw(id)}).fetchone()
    if row is None:
        raise Missing("conversation", id)
    return Found(*row)


def create(
    db: Database, owner: str, conversation: Conversation, items: Sequence[Item], open_calls: frozenset[str]
) -> None:
    """See ``Store.create_conversation``."""
    head = new_thread(db, raw(owner), CONVERSATION, checked(len(items)))
    batch.insert(db, batch.ENTRY, batch.entries(Place(head.thread, 0), items))
    db.execute(
        "INSERT INTO conversation (owner, id, thread, created_at, open, body, metadata) VALUES"
        " (%(owner)s, %(id)s, %(thread)s, %(created_at)s, %(open)s, %(body)s, %(metadata)s::text::bytea[])",
        {
            "owner": raw(owner),
            "id": raw(conversation.id),
            "thread": head.thread,
            "created_at": conversation.created_at,
            "open": _dumped(open_calls),
            "body": conversation.metadata,
            "metadata": _pairs(conversation.metadata),
        },
    )


def _pairs(metadata: bytes) -> str:
    return batch.array_of(batch.pairs_of(msgspec.json.decode(metadata)))


def _dumped(calls: frozenset[str]) -> bytes | None:
    dumped = dump_calls(calls)
    return None if dumped is None else dumped.encode()


def read(db: Database, owner: str, id: str) -> Conversation:
    """See ``Store.conversation``."""
    found = find(db, owner, id)
    return Conversation(id, found.created_at, found.body)


def update(db: Database, owner: str, id: str, metadata: bytes) -> Conversation:
    """See ``Store.update_conversation``."""
    db.execute(
        "UPDATE conversation SET body = %(body)s, metadata = %(metadata)s::text::bytea[], used_at ="
        f" {NOW}"
        " WHERE owner = %(owner)s AND id = %(id)s",
        {"body": metadata, "metadata": _pairs(metadata), "owner": raw(owner), "id": raw(id)},
    )
    return read(db, owner, id)


def delete(db: Database, owner: str, id: str) -> None:
    """See ``Store.delete_conversation``."""
    found = find(db, owner, id, lock=True)
    db.execute("DELETE FROM conversation WHERE thread = %(thread)s", {"thread": found.thread})
    removal.leave(db, found.place())


def items(db: Database, owner: str, id: str, query: PageQuery) -> Page:
    """See ``Store.conversation_items``."""
    return page_of_view(db, view(db, find(db, owner, id).place()), query)


def item(db: Database, owner: str, id: str, item: str) -> Item:
    """See ``Store.conversation_item``."""
    found = find(db, owner, id)
    position = locate(db, view(db, found.place()), item, last=True)
    if position is None:
        raise Missing("item", item)
    row = db.execute(
        "SELECT issued, data FROM entry WHERE thread = %(thread)s AND position = %(position)s",
        {"thread": found.thread, "position": position},
    ).fetchone()
    assert row is not None
    return Item(item, row[1], row[0])


def add_items(
    db: Database,
    owner: str,
    id: str,
    items: Sequence[Item],
    opened: frozenset[str],
    closed: frozenset[str],
) -> None:
    """See ``Store.add_items``."""
    found = find(db, owner, id, lock=True)
    segments = view(db, found.place())
    if any(item.issued and locate(db, segments, item.id, last=True) is not None for item in items):
        raise ItemAlreadyInConversation
    head = checked(found.head + len(items))
    batch.insert(db, batch.ENTRY, batch.entries(found.place(), items))
    _move(db, found.thread, head)
    set_open(db, found.thread, load_calls(found.open) - closed | opened)


def _move(db: Database, thread: int, head: int) -> None:
    db.execute("UPDATE thread SET head = %(head)s WHERE id = %(thread)s", {"head": head, "thread": thread})


_DROP = f"""
    UPDATE entry SET dropped = %(dropped)s
    WHERE {NAMED} AND thread = %(thread)s AND position <= %(head)s AND dropped IS NULL
    RETURNING position, data
"""


def delete_item(
    db: Database,
    owner: str,
    id: str,
    item: str,
    effect: Callable[[bytes], tuple[frozenset[str], frozenset[str]]],
) -> Conversation:
    """See ``Store.delete_item``."""
    found = find(db, owner, id, lock=True)
    head = found.head + 1
    values = {"dropped": head, "item": raw(item), "thread": found.thread, "head": found.head}
    rows = sorted(db.execute(_DROP, values).fetchall())
    if not rows:
        raise Missing("item", item)
    _move(db, found.thread, checked(head))
    calls = load_calls(found.open)
    for _, data in rows:
        opens, closes = effect(data)
        calls = calls - closes | opens
    set_open(db, found.thread, calls)
    removal.leave(db, found.place())
    return Conversation(id, found.created_at, found.body)


def among(db: Database, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
    """See ``Store.in_conversation``."""
    segments = view(db, find(db, owner, id).place())
    return frozenset(id for id in ids if locate(db, segments, id, last=True) is not None)


def set_open(db: Database, thread: int, calls: frozenset[str]) -> None:
    """Record which calls of a conversation have no output yet."""
    statement = f"UPDATE conversation SET open = %(open)s, used_at = {NOW} WHERE thread = %(thread)s"
    db.execute(statement, {"open": _dumped(calls), "thread": thread})
