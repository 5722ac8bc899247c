"""Responses: how turns are announced, ended, read and deleted. Plain functions of a connection."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from agentic_trio.store import conversations, erasure
from agentic_trio.store.contract import (
    APPENDING,
    Announcement,
    ApprovalSpent,
    Ending,
    History,
    Item,
    KeyInUse,
    Missing,
    NotEnded,
    Place,
    StoredResponse,
    StoreError,
)
from agentic_trio.store.paging import page_of_list, page_of_view
from agentic_trio.store.threads import (
    CHAIN,
    CONVERSATION,
    append,
    dump_calls,
    key,
    load_calls,
    new_thread,
    read_data,
    read_items,
    view,
    view_for_model,
)
from agentic_trio.telemetry.figures import StoredFigures, stored

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentic_trio.store.contract import Page, PageQuery

_FIGURES = StoredFigures.__struct_fields__
"""The columns of a turn's figures. An ending without figures leaves those of its announcement."""

_NO_FIGURES = dict.fromkeys(_FIGURES)

_pending = msgspec.json.Decoder(list[tuple[str, bool, msgspec.Raw]])
_made = msgspec.json.Decoder(list[tuple[str, bool, msgspec.Raw, bool]])


class Found(NamedTuple):
    """A response's row: the columns of ``_FIND``, in their order.

    ``thread`` and ``base`` are None for one under way that begins a chain; ``first`` and ``last``, the
    positions of its output, are None for any that is under way.
    """

    thread: int | None
    base: int | None
    first: int | None
    last: int | None
    conversation: int | None
    status: bytes
    open: bytes | None
    pending: bytes | None
    body: bytes
    fingerprint: bytes | None
    idempotency_key: bytes | None

    def end(self, id: str) -> Place:
        """Where the history after this response ends. Raises NotEnded."""
        if self.thread is None or self.last is None:
            raise NotEnded(id)
        return Place(self.thread, self.last)


_FIND = f"SELECT {', '.join(Found._fields)} FROM response WHERE owner = :owner AND id = :id"


def place_of(thread: int | None, position: int | None) -> Place | None:
    """The place that two columns of a row name, or None if they are NULL."""
    return None if thread is None or position is None else Place(thread, position)


def find(connection: sqlite3.Connection, owner: str, id: str) -> Found:
    """A response's row. Raises Missing."""
    row = connection.execute(_FIND, {"owner": owner, "id": id}).fetchone()
    if row is None:
        raise Missing("response", id)
    return Found(*row)


def history(
    connection: sqlite3.Connection, owner: str, response: str | None, conversation: str | None
) -> History:
    """See ``Store.history``."""
    if conversation is None:
        return History() if response is None else _history_of_response(connection, owner, response)
    found = conversations.find(connection, owner, conversation)
    if response is not None:
        _check_made_in(connection, owner, response, found.thread)
    return _history_at(connection, found.place(), found.open)


def _history_of_response(connection: sqlite3.Connection, owner: str, id: str) -> History:
    found = find(connection, owner, id)
    return _history_at(connection, found.end(id), found.open)


def _check_made_in(connection: sqlite3.Connection, owner: str, id: str, conversation: int) -> None:
    found = find(connection, owner, id)
    if found.conversation != conversation:
        raise Missing("response", id)
    found.end(id)


def _history_at(connection: sqlite3.Connection, place: Place, calls: bytes | None) -> History:
    return History(place, read_data(connection, view_for_model(connection, place)), load_calls(calls))


def response(connection: sqlite3.Connection, owner: str, id: str) -> StoredResponse:
    """See ``Store.response``."""
    found = find(connection, owner, id)
    items = output(connection, found.thread, found.first, found.last)
    return StoredResponse(id, found.status.decode(), found.body, items, found.fingerprint)


def keyed(connection: sqlite3.Connection, owner: str, key: bytes) -> StoredResponse | None:
    """See ``Store.keyed``."""
    id = _id_of_key(connection, owner, key)
    return None if id is None else response(connection, owner, id)


def _id_of_key(connection: sqlite3.Connection, owner: str, key: bytes) -> str | None:
    statement = "SELECT id FROM response WHERE owner = :owner AND idempotency_key = :key"
    row = connection.execute(statement, {"owner": owner, "key": key}).fetchone()
    return None if row is None else row[0].decode()


_READ_FIGURES = f"SELECT {', '.join(_FIGURES)} FROM response WHERE owner = :owner AND id = :id"


def figures(connection: sqlite3.Connection, owner: str, id: str) -> StoredFigures:
    """See ``Store.figures``."""
    row = connection.execute(_READ_FIGURES, {"owner": owner, "id": id}).fetchone()
    if row is None:
        raise Missing("response", id)
    values = (value.decode() if isinstance(value, bytes) else value for value in row)
    return msgspec.convert(dict(zip(_FIGURES, values, strict=True)), StoredFigures)


def output(
    connection: sqlite3.Connection, thread: int | None, first: int | None, last: int | None
) -> Sequence[bytes]:
    """The items between two positions of one thread, as they were recorded; none without positions."""
    if thread is None or first is None or last is None or first > last:
        return ()
    rows = connection.execute(
        "SELECT data FROM entry WHERE key BETWEEN :first AND :last ORDER BY key",
        {"first": key(thread, first), "last": key(thread, last)},
    )
    return [row[0] for row in rows]


def response_input(connection: sqlite3.Connection, owner: str, id: str, query: PageQuery) -> Page:
    """See ``Store.response_input``."""
    found = find(connection, owner, id)
    if found.thread is not None and found.first is not None:
        return page_of_view(connection, view(connection, Place(found.thread, found.first - 1)), query)
    base = place_of(found.thread, found.base)
    segments = view(connection, base) if base else []
    return page_of_list([*read_items(connection, segments), *load_items(found.pending)], query)


_RECORDED = (
    "owner",
    "id",
    "thread",
    "base",
    "first",
    "last",
    "conversation",
    "status",
    "created_at",
    "open",
    "pending",
    "made",
    "body",
    "fingerprint",
    "idempotency_key",
)
_TEXTS = frozenset({"pending", "made", "body"})
"""Given as bytes, and stored as text."""

_RECORD = f"""
    INSERT INTO response ({", ".join((*_RECORDED, *_FIGURES))})
    VALUES (
        {", ".join(f"CAST(:{name} AS TEXT)" if name in _TEXTS else f":{name}" for name in _RECORDED)},
        {", ".join(f":{name}" for name in _FIGURES)}
    )
    ON CONFLICT (owner, id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in _RECORDED[2:])},
        {", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in _FIGURES)}
    WHERE pending IS NOT NULL
"""
"""Adds a row, or replaces one that has not ended."""


def announce(connection: sqlite3.Connection, announcement: Announcement) -> None:
    """See ``Store.announce``."""
    conversation = None
    if announcement.conversation is not None:
        conversation = conversations.thread_of(connection, announcement.owner, announcement.conversation)
        if conversation is None:
            raise Missing("conversation", announcement.conversation)
    holder = _other_holder(connection, announcement)
    if holder is not None:
        raise KeyInUse(holder)
    base = announcement.base
    erasure.revive(connection, base.thread if base else None)
    places = {
        "thread": base.thread if base else None,
        "base": base.position if base else None,
        "first": None,
        "last": None,
        "conversation": conversation,
        "pending": _dump_items(announcement.input),
        "made": _dump_made(announcement.output),
        "idempotency_key": announcement.key,
    }
    connection.execute(_RECORD, _values(announcement) | places)


def _other_holder(connection: sqlite3.Connection, turn: Announcement | Ending) -> str | None:
    """The id of another response that has this turn's key."""
    holder = None if turn.key is None else _id_of_key(connection, turn.owner, turn.key)
    return None if holder == turn.id else holder


def _values(turn: Announcement | Ending) -> dict[str, Any]:
    """The columns that announcement and ending have in common."""
    return {
        "owner": turn.owner,
        "id": turn.id,
        "status": turn.status,
        "created_at": turn.created_at,
        "open": dump_calls(turn.open_calls),
        "body": turn.body,
        "fingerprint": turn.fingerprint,
        **_NO_FIGURES,
        **(stored(turn.figures) if turn.figures is not None else {}),
    }


def end(connection: sqlite3.Connection, ending: Ending) -> None:
    """See ``Store.end``."""
    if _has_ended(connection, ending.owner, ending.id):
        return
    conversation = None
    if ending.conversation is not None:
        conversation = conversations.thread_of(connection, ending.owner, ending.conversation)
    items = [*ending.input, *ending.output]
    if ending.base is not None and _may_append(connection, ending, ending.base, conversation):
        head = append(connection, ending.base, items)
        if conversation is not None:
            conversations.set_open(connection, conversation, ending.open_calls)
    else:
        head = new_thread(connection, ending.owner, CHAIN, ending.base, items)
    _record(connection, ending, head, conversation)
    _keep_events(connection, ending)


def _has_ended(connection: sqlite3.Connection, owner: str, id: str) -> bool:
    statement = "SELECT pending IS NULL FROM response WHERE owner = :owner AND id = :id"
    row = connection.execute(statement, {"owner": owner, "id": id}).fetchone()
    return row is not None and bool(row[0])


def _may_append(
    connection: sqlite3.Connection, ending: Ending, base: Place, conversation: int | None
) -> bool:
    statement = "SELECT kind, head, living FROM thread WHERE id = :thread AND owner = :owner"
    row = connection.execute(statement, {"thread": base.thread, "owner": ending.owner}).fetchone()
    if row is None or base.position > row[1]:
        raise StoreError("the history that this turn continues is gone")
    kind, head, living = row
    if not living:
        erasure.revive(connection, base.thread)
    if ending.status not in APPENDING or base.position != head:
        return False
    if kind == CONVERSATION.encode():
        return base.thread == conversation
    return ending.conversation is None


def _record(connection: sqlite3.Connection, ending: Ending, head: Place, conversation: int | None) -> None:
    first = head.position - len(ending.output) + 1
    places = {
        "thread": head.thread,
        "base": first - len(ending.input) - 1,
        "first": first,
        "last": head.position,
        "conversation": conversation,
        "pending": None,
        "made": None,
        "idempotency_key": ending.key if _other_holder(connection, ending) is None else None,
    }
    connection.execute(_RECORD, _values(ending) | places)


def _keep_events(connection: sqlite3.Connection, ending: Ending) -> None:
    if ending.events:
        connection.execute(
            "INSERT OR REPLACE INTO event (response, created_at, data)"
            " SELECT key, created_at, :data FROM response WHERE owner = :owner AND id = :id",
            {"data": zlib.compress(b"".join(ending.events), 1), "owner": ending.owner, "id": ending.id},
        )


def events(connection: sqlite3.Connection, owner: str, id: str) -> Sequence[bytes]:
    """See ``Store.events``."""
    row = connection.execute(
        "SELECT data FROM response LEFT JOIN event ON event.response = response.key"
        " WHERE owner = :owner AND id = :id",
        {"owner": owner, "id": id},
    ).fetchone()
    if row is None:
        raise Missing("response", id)
    if row[0] is None:
        return ()
    # Each event ends with the only empty line in it.
    return [event + b"\n\n" for event in zlib.decompress(row[0]).split(b"\n\n")[:-1]]


def prune_events(connection: sqlite3.Connection, before: int) -> int:
    """See ``Store.prune_events``."""
    return connection.execute("DELETE FROM event WHERE created_at < :before", {"before": before}).rowcount


def withdraw(connection: sqlite3.Connection, owner: str, id: str) -> None:
    """See ``Store.withdraw``."""
    statement = "SELECT thread, base FROM response WHERE owner = :owner AND id = :id AND pending IS NOT NULL"
    row = connection.execute(statement, {"owner": owner, "id": id}).fetchone()
    if row is not None:
        _delete(connection, owner, id, place_of(*row))


_DELETE = (
    "DELETE FROM event WHERE response = (SELECT key FROM response WHERE owner = :owner AND id = :id)",
    "DELETE FROM response WHERE owner = :owner AND id = :id",
)


def delete_response(connection: sqlite3.Connection, owner: str, id: str) -> None:
    """See ``Store.delete_response``."""
    _delete(connection, owner, id, find(connection, owner, id).end(id))


def _delete(connection: sqlite3.Connection, owner: str, id: str, end: Place | None) -> None:
    for statement in _DELETE:
        connection.execute(statement, {"owner": owner, "id": id})
    if end is not None:
        erasure.leave(connection, end)


def _dump_items(items: Sequence[Item]) -> bytes:
    parts = [msgspec.json.encode((item.id, item.issued, msgspec.Raw(item.data))) for item in items]
    return b"[" + b",".join(parts) + b"]"


def _dump_made(items: Sequence[Item]) -> bytes | None:
    parts = [
        msgspec.json.encode((item.id, item.issued, msgspec.Raw(item.data), item.partial)) for item in items
    ]
    return b"[" + b",".join(parts) + b"]" if parts else None


def load_made(text: bytes | None) -> list[Item]:
    """The output that a turn had made when it was last announced."""
    return [
        Item(id, bytes(data), issued, partial) for id, issued, data, partial in _made.decode(text or b"[]")
    ]


def spend(connection: sqlite3.Connection, owner: str, approvals: Sequence[str]) -> None:
    """See ``Store.spend``. These rows outlive all that an owner can have erased, so they name nobody."""
    statement = "INSERT INTO approval (digest) VALUES (:digest) ON CONFLICT DO NOTHING"
    for id in approvals:
        digest = hashlib.sha256(f"{len(owner)}:{owner}{id}".encode()).digest()
        if connection.execute(statement, {"digest": digest}).rowcount == 0:
            raise ApprovalSpent(id)


def load_items(text: bytes | None) -> list[Item]:
    """The input that a turn was announced with; none of one that has ended."""
    return [Item(id, bytes(data), issued) for id, issued, data in _pending.decode(text or b"[]")]
