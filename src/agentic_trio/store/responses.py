"""Responses: how turns are announced, ended, read and forgotten. Plain functions of a connection."""

from __future__ import annotations

import logging
import zlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentic_trio.store.contract import (
    APPENDING,
    Announcement,
    Ending,
    History,
    Item,
    Missing,
    NotEnded,
    Place,
    StoredResponse,
    StoreError,
)
from agentic_trio.store.failures import attempt
from agentic_trio.store.paging import page_of_list, page_of_view
from agentic_trio.store.threads import (
    CHAIN,
    CONVERSATION,
    MAX_POSITION,
    Segment,
    append,
    dump_calls,
    key,
    load_calls,
    new_thread,
    read_data,
    read_items,
    view,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from agentic_trio.store.contract import Page, PageQuery

logger = logging.getLogger("agentic_trio")

_pending = msgspec.json.Decoder(list[tuple[str, bool, msgspec.Raw]])


class _Found(NamedTuple):
    """A response's row. ``thread`` and ``base`` are None for one under way that begins a chain."""

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

    def end(self, id: str) -> Place:
        if self.thread is None or self.last is None:
            raise NotEnded(id)
        return Place(self.thread, self.last)

    def history(self) -> Place | None:
        return _history_end(self.thread, self.base)


def _history_end(thread: int | None, base: int | None) -> Place | None:
    """Where the history of a row ends; None for none."""
    return None if thread is None or base is None else Place(thread, base)


def _find(connection: sqlite3.Connection, owner: str, id: str) -> _Found:
    row = connection.execute(
        "SELECT thread, base, first, last, conversation, status, open, pending, body, fingerprint"
        " FROM response WHERE owner = ? AND id = ?",
        (owner, id),
    ).fetchone()
    if row is None:
        raise Missing("response", id)
    return _Found(*row)


def history(
    connection: sqlite3.Connection, owner: str, response: str | None, conversation: str | None
) -> History:
    """See ``Store.history``."""
    if conversation is None:
        return History() if response is None else _history_of_response(connection, owner, response)
    row = connection.execute(
        "SELECT thread, head, open FROM conversation JOIN thread ON thread.id = conversation.thread"
        " WHERE conversation.owner = ? AND conversation.id = ?",
        (owner, conversation),
    ).fetchone()
    if row is None:
        raise Missing("conversation", conversation)
    thread, head, calls = row
    if response is not None:
        _check_made_in(connection, owner, response, thread)
    return _history_at(connection, Place(thread, head), calls)


def _history_of_response(connection: sqlite3.Connection, owner: str, id: str) -> History:
    found = _find(connection, owner, id)
    return _history_at(connection, found.end(id), found.open)


def _check_made_in(connection: sqlite3.Connection, owner: str, id: str, conversation: int) -> None:
    found = _find(connection, owner, id)
    if found.conversation != conversation:
        raise Missing("response", id)
    found.end(id)


def _history_at(connection: sqlite3.Connection, place: Place, calls: bytes | None) -> History:
    return History(place, read_data(connection, view(connection, place)), load_calls(calls))


def response(connection: sqlite3.Connection, owner: str, id: str) -> StoredResponse:
    """See ``Store.response``."""
    found = _find(connection, owner, id)
    items = _output(connection, found)
    return StoredResponse(id, found.status.decode(), found.body, items, found.fingerprint)


def _output(connection: sqlite3.Connection, found: _Found) -> Sequence[bytes]:
    return output(connection, found.thread, found.first, found.last)


def output(
    connection: sqlite3.Connection, thread: int | None, first: int | None, last: int | None
) -> Sequence[bytes]:
    """The items between two positions of one thread, as they were recorded; none without positions."""
    if thread is None or first is None or last is None or first > last:
        return ()
    rows = connection.execute(
        "SELECT data FROM entry WHERE key BETWEEN ? AND ? ORDER BY key",
        (key(thread, first), key(thread, last)),
    )
    return [row[0] for row in rows]


def response_input(connection: sqlite3.Connection, owner: str, id: str, query: PageQuery) -> Page:
    """See ``Store.response_input``."""
    found = _find(connection, owner, id)
    if found.thread is not None and found.first is not None:
        return page_of_view(connection, view(connection, Place(found.thread, found.first - 1)), query)
    base = found.history()
    segments: list[Segment] = view(connection, base) if base else []
    return page_of_list([*read_items(connection, segments), *_load_items(found.pending)], query)


def announce(connection: sqlite3.Connection, announcement: Announcement) -> None:
    """See ``Store.announce``."""
    conversation = None
    if announcement.conversation is not None:
        conversation = _thread_of(connection, announcement.owner, announcement.conversation)
        if conversation is None:
            raise Missing("conversation", announcement.conversation)
    base = announcement.base
    connection.execute(
        "INSERT INTO response (owner, id, thread, base, conversation, status, created_at, open, pending,"
        " body, fingerprint) VALUES (?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)"
        " ON CONFLICT (owner, id) DO UPDATE SET"
        " thread = excluded.thread, base = excluded.base, conversation = excluded.conversation,"
        " status = excluded.status, created_at = excluded.created_at, open = excluded.open,"
        " pending = excluded.pending, body = excluded.body, fingerprint = excluded.fingerprint"
        " WHERE pending IS NOT NULL",
        (
            announcement.owner,
            announcement.id,
            base.thread if base else None,
            base.position if base else None,
            conversation,
            announcement.status,
            announcement.created_at,
            dump_calls(announcement.open_calls),
            _dump_items(announcement.input),
            announcement.body,
            announcement.fingerprint,
        ),
    )


def end(connection: sqlite3.Connection, ending: Ending) -> None:
    """See ``Store.end``."""
    known = connection.execute(
        "SELECT pending IS NULL FROM response WHERE owner = ? AND id = ?", (ending.owner, ending.id)
    ).fetchone()
    if known and known[0]:
        return
    conversation = None
    if ending.conversation is not None:
        conversation = _thread_of(connection, ending.owner, ending.conversation)
    items = [*ending.input, *ending.output]
    if ending.base is not None and _may_append(connection, ending, ending.base, conversation):
        head = append(connection, ending.base, items)
        if conversation is not None:
            connection.execute(
                "UPDATE conversation SET open = ? WHERE thread = ?",
                (dump_calls(ending.open_calls), conversation),
            )
    else:
        head = new_thread(connection, ending.owner, CHAIN, ending.base, items)
    _record(connection, ending, head, conversation)


def _may_append(
    connection: sqlite3.Connection, ending: Ending, base: Place, conversation: int | None
) -> bool:
    row = connection.execute(
        "SELECT kind, head FROM thread WHERE id = ? AND owner = ?", (base.thread, ending.owner)
    ).fetchone()
    if row is None or base.position > row[1]:
        raise StoreError("the history that this turn continues is gone")
    if ending.status not in APPENDING or base.position != row[1]:
        return False
    if row[0] == CONVERSATION.encode():
        return base.thread == conversation
    return ending.conversation is None


def _record(connection: sqlite3.Connection, ending: Ending, head: Place, conversation: int | None) -> None:
    first = head.position - len(ending.output) + 1
    connection.execute(
        "INSERT INTO response (owner, id, thread, base, first, last, conversation, status, created_at, open,"
        " body, fingerprint) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)"
        " ON CONFLICT (owner, id) DO UPDATE SET"
        " thread = excluded.thread, base = excluded.base, first = excluded.first, last = excluded.last,"
        " conversation = excluded.conversation, status = excluded.status,"
        " created_at = excluded.created_at, open = excluded.open, pending = NULL, body = excluded.body,"
        " fingerprint = excluded.fingerprint",
        (
            ending.owner,
            ending.id,
            head.thread,
            first - len(ending.input) - 1,
            first,
            head.position,
            conversation,
            ending.status,
            ending.created_at,
            dump_calls(ending.open_calls),
            ending.body,
            ending.fingerprint,
        ),
    )
    if ending.events:
        connection.execute(
            "INSERT OR REPLACE INTO event (response, created_at, data)"
            " SELECT key, created_at, ? FROM response WHERE owner = ? AND id = ?",
            (zlib.compress(b"".join(ending.events), 1), ending.owner, ending.id),
        )


def events(connection: sqlite3.Connection, owner: str, id: str) -> Sequence[bytes]:
    """See ``Store.events``."""
    row = connection.execute(
        "SELECT data FROM response LEFT JOIN event ON event.response = response.key"
        " WHERE owner = ? AND id = ?",
        (owner, id),
    ).fetchone()
    if row is None:
        raise Missing("response", id)
    if row[0] is None:
        return ()
    # Each event ends with the only empty line in it.
    return [event + b"\n\n" for event in zlib.decompress(row[0]).split(b"\n\n")[:-1]]


def prune_events(connection: sqlite3.Connection, before: int) -> int:
    """See ``Store.prune_events``."""
    return connection.execute("DELETE FROM event WHERE created_at < ?", (before,)).rowcount


def withdraw(connection: sqlite3.Connection, owner: str, id: str) -> None:
    """See ``Store.withdraw``."""
    connection.execute("DELETE FROM response WHERE owner = ? AND id = ? AND pending IS NOT NULL", (owner, id))


def delete_response(connection: sqlite3.Connection, owner: str, id: str) -> None:
    """See ``Store.delete_response``."""
    _find(connection, owner, id).end(id)
    connection.execute(
        "DELETE FROM event WHERE response = (SELECT key FROM response WHERE owner = ? AND id = ?)",
        (owner, id),
    )
    connection.execute("DELETE FROM response WHERE owner = ? AND id = ?", (owner, id))


class _Announced(NamedTuple):
    """The row of a response that has not ended."""

    key: int
    owner: bytes
    id: bytes
    created_at: int
    thread: int | None
    base: int | None
    conversation: bytes | None
    open: bytes | None
    pending: bytes
    body: bytes
    fingerprint: bytes | None


_ANNOUNCED = (
    "SELECT response.key, response.owner, response.id, response.created_at, response.thread, base,"
    " conversation.id, response.open, pending, body, fingerprint"
    " FROM response LEFT JOIN conversation ON conversation.thread = response.conversation"
    " WHERE pending IS NOT NULL"
)


def recover(connection: sqlite3.Connection, failed: Callable[[bytes], bytes]) -> int:
    """See ``Store.recover``."""
    rows = connection.execute(_ANNOUNCED + " ORDER BY response.key").fetchall()
    for row in rows:
        _fail(connection, _Announced(*row), failed)
    return len(rows)


def fail(connection: sqlite3.Connection, owner: str, id: str, failed: Callable[[bytes], bytes]) -> None:
    """See ``Store.fail``."""
    select = _ANNOUNCED + " AND response.owner = ? AND response.id = ?"
    row = connection.execute(select, (owner, id)).fetchone()
    if row is not None:
        _fail(connection, _Announced(*row), failed)


def _fail(connection: sqlite3.Connection, row: _Announced, failed: Callable[[bytes], bytes]) -> None:
    """End an announced response as failed: with its input, or without it if that can't be."""
    error = attempt(connection, lambda: _fail_whole(connection, row, failed))
    if error is not None:
        logger.error("turn %s failed, and its input is lost", row.id.decode(errors="replace"), exc_info=error)
        _fail_alone(connection, row, failed)


def _fail_whole(connection: sqlite3.Connection, row: _Announced, failed: Callable[[bytes], bytes]) -> None:
    ending = Ending(
        owner=row.owner.decode(),
        id=row.id.decode(),
        created_at=row.created_at,
        status="failed",
        base=_history_end(row.thread, row.base),
        conversation=None if row.conversation is None else row.conversation.decode(),
        input=_load_items(row.pending),
        output=(),
        open_calls=load_calls(row.open),
        body=failed(row.body),
        fingerprint=row.fingerprint,
    )
    end(connection, ending)


def _fail_alone(connection: sqlite3.Connection, row: _Announced, failed: Callable[[bytes], bytes]) -> None:
    """Let it end where its history does, in whose thread nothing is written: that may be full, or gone."""
    owner, id = row.owner.decode(errors="replace"), row.id.decode(errors="replace")
    place = _history_end(row.thread, row.base) or new_thread(connection, owner, CHAIN, None, ())
    try:
        body = failed(row.body)
    except Exception:
        # Text that can't be read: one that is nested deeper than a decoder goes, say.
        body = failed(msgspec.json.encode({"id": id, "object": "response", "created_at": row.created_at}))
    connection.execute(
        "UPDATE response SET thread = ?, base = ?, first = ?, last = ?, status = 'failed', open = NULL,"
        " pending = NULL, body = CAST(? AS TEXT) WHERE key = ?",
        (place.thread, place.position, place.position + 1, place.position, body, row.key),
    )


def find_items(connection: sqlite3.Connection, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
    """See ``Store.find_items``."""
    found = {}
    for id in ids:
        row = connection.execute(
            "SELECT data FROM entry JOIN thread ON thread.id = entry.key >> 24"
            " WHERE item = ? AND issued = 1 AND owner = ?"
            " AND (dropped IS NULL OR dropped > (key & ?)) ORDER BY key LIMIT 1",
            (id, owner, MAX_POSITION),
        ).fetchone()
        if row is not None:
            found[id] = row[0]
    return found


def _thread_of(connection: sqlite3.Connection, owner: str, conversation: str) -> int | None:
    row = connection.execute(
        "SELECT thread FROM conversation WHERE owner = ? AND id = ?", (owner, conversation)
    ).fetchone()
    return None if row is None else row[0]


def _dump_items(items: Sequence[Item]) -> bytes:
    parts = [msgspec.json.encode((item.id, item.issued, msgspec.Raw(item.data))) for item in items]
    return b"[" + b",".join(parts) + b"]"


def _load_items(text: bytes | None) -> list[Item]:
    return [Item(id, bytes(data), issued) for id, issued, data in _pending.decode(text or b"[]")]
