"""Responses as they are read, withdrawn, deleted and failed. Plain functions of a connection."""

from __future__ import annotations

import logging
import zlib
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentic_trio.store.contract import ApprovalSpent, Ending, Missing, NotEnded, Place, StoredResponse
from agentic_trio.store.paging import page_of_list
from agentic_trio.store.postgres import batch, removal
from agentic_trio.store.postgres.connecting import raw, text
from agentic_trio.store.postgres.tables import FIGURE_NAMES
from agentic_trio.store.postgres.views import page_of_view, read_items, view
from agentic_trio.store.responses import load_items, load_made, place_of
from agentic_trio.store.threads import CHAIN, load_calls
from agentic_trio.telemetry.figures import StoredFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentic_trio.store.contract import Page, PageQuery
    from agentic_trio.store.postgres.connecting import Database

logger = logging.getLogger(__name__)

_ROW = "SELECT 1 FROM turn WHERE owner = %(owner)s AND id = %(id)s"
_WHOLE = """
    SELECT id, status, CASE WHEN position IS NULL OR position = first THEN body END, fingerprint, position,
        data
    FROM turn LEFT JOIN entry ON entry.thread = turn.thread AND position BETWEEN first AND last
    WHERE owner = %(owner)s AND id = ANY(%(ids)s::bytea[]) ORDER BY id, position
"""
"""Responses with a row for each item of their output, the first of which has the body."""


def response(db: Database, owner: str, id: str) -> StoredResponse:
    """See ``Store.response``. One round trip."""
    found = responses(db, owner, [raw(id)])
    if not found:
        raise Missing("response", id)
    return found[raw(id)]


def responses(db: Database, owner: str, ids: Sequence[bytes]) -> dict[bytes, StoredResponse]:
    """Read responses, those that are there."""
    found = {}
    rows = db.execute(_WHOLE, {"owner": raw(owner), "ids": list(ids)})
    for id, group in groupby(rows, key=itemgetter(0)):
        of_one = list(group)
        _, status, body, fingerprint, position, _ = of_one[0]
        output = () if position is None else [row[5] for row in of_one]
        found[id] = StoredResponse(text(id), status, body, output, fingerprint)
    return found


def keyed(db: Database, owner: str, key: bytes) -> StoredResponse | None:
    """See ``Store.keyed``."""
    statement = "SELECT response FROM idempotency WHERE owner = %(owner)s AND key = %(key)s"
    row = db.execute(statement, {"owner": raw(owner), "key": key}).fetchone()
    return None if row is None else response(db, owner, text(row[0]))


_READ_FIGURES = f"SELECT {', '.join(FIGURE_NAMES)} FROM turn WHERE owner = %(owner)s AND id = %(id)s"


def figures(db: Database, owner: str, id: str) -> StoredFigures:
    """See ``Store.figures``."""
    row = db.execute(_READ_FIGURES, {"owner": raw(owner), "id": raw(id)}).fetchone()
    if row is None:
        raise Missing("response", id)
    values = (text(value) if isinstance(value, bytes) else value for value in row)
    return msgspec.convert(dict(zip(FIGURE_NAMES, values, strict=True)), StoredFigures)


def spend(db: Database, owner: str, approvals: Sequence[str]) -> None:
    """See ``Store.spend``."""
    statement = "INSERT INTO approval (owner, id) VALUES (%(owner)s, %(id)s) ON CONFLICT DO NOTHING"
    for id in approvals:
        if db.execute(statement, {"owner": raw(owner), "id": raw(id)}).rowcount == 0:
            raise ApprovalSpent(id)


def events(db: Database, owner: str, id: str) -> Sequence[bytes]:
    """See ``Store.events``."""
    row = db.execute(
        "SELECT data FROM turn LEFT JOIN event ON event.owner = turn.owner AND event.response = turn.id"
        " WHERE turn.owner = %(owner)s AND turn.id = %(id)s",
        {"owner": raw(owner), "id": raw(id)},
    ).fetchone()
    if row is None:
        raise Missing("response", id)
    if row[0] is None:
        return ()
    # Each event ends with the only empty line in it.
    return [event + b"\n\n" for event in zlib.decompress(row[0]).split(b"\n\n")[:-1]]


def prune_events(db: Database, before: int) -> int:
    """See ``Store.prune_events``."""
    return db.execute("DELETE FROM event WHERE created_at < %(before)s", {"before": before}).rowcount


def response_input(db: Database, owner: str, id: str, query: PageQuery) -> Page:
    """See ``Store.response_input``."""
    row = db.execute(
        "SELECT thread, base, first, pending FROM turn WHERE owner = %(owner)s AND id = %(id)s",
        {"owner": raw(owner), "id": raw(id)},
    ).fetchone()
    if row is None:
        raise Missing("response", id)
    thread, base, first, pending = row
    if first is not None:
        return page_of_view(db, view(db, Place(thread, first - 1)), query)
    place = place_of(thread, base)
    segments = view(db, place) if place else []
    return page_of_list([*read_items(db, segments), *load_items(pending)], query)


def withdraw(db: Database, owner: str, id: str) -> None:
    """See ``Store.withdraw``."""
    row = db.execute(
        "DELETE FROM announced WHERE owner = %(owner)s AND id = %(id)s RETURNING thread, base",
        {"owner": raw(owner), "id": raw(id)},
    ).fetchone()
    if row is not None:
        _forget(db, owner, id, place_of(*row))


def delete_response(db: Database, owner: str, id: str) -> None:
    """See ``Store.delete_response``."""
    values = {"owner": raw(owner), "id": raw(id)}
    statement = "DELETE FROM response WHERE owner = %(owner)s AND id = %(id)s RETURNING thread, last"
    row = db.execute(statement, values).fetchone()
    if row is not None:
        _forget(db, owner, id, Place(*row))
        return
    if db.execute(_ROW, values).fetchone() is not None:
        raise NotEnded(id)
    raise Missing("response", id)


def _forget(db: Database, owner: str, id: str, end: Place | None) -> None:
    values = {"owner": raw(owner), "id": raw(id)}
    db.execute("DELETE FROM event WHERE owner = %(owner)s AND response = %(id)s", values)
    db.execute("DELETE FROM idempotency WHERE owner = %(owner)s AND response = %(id)s", values)
    if end is not None:
        removal.leave(db, end)


class _Announced(NamedTuple):
    """The row of a response that has not ended: the columns of ``_ANNOUNCED``, in their order."""

    owner: bytes
    id: bytes
    created_at: int
    thread: int | None
    base: int | None
    name: bytes | None
    open: bytes | None
    pending: bytes
    made: bytes | None
    body: bytes
    fingerprint: bytes | None
    idempotency_key: bytes | None


_ANNOUNCED = """
    SELECT announced.owner, announced.id, announced.created_at, announced.thread, base,
        conversation.id AS name, announced.open, pending, made, announced.body, fingerprint, idempotency_key
    FROM announced LEFT JOIN conversation ON conversation.thread = announced.conversation
"""
_ONE = _ANNOUNCED + " WHERE announced.owner = %(owner)s AND announced.id = %(id)s"


def recover(db: Database, failed: Callable[[bytes], bytes]) -> int:
    """See ``Store.recover``."""
    rows = db.execute(_ANNOUNCED + " ORDER BY announced.created_at, announced.id").fetchall()
    for row in rows:
        _fail(db, _Announced(*row), failed)
    return len(rows)


def fail(db: Database, owner: str, id: str, failed: Callable[[bytes], bytes]) -> None:
    """See ``Store.fail``."""
    row = db.execute(_ONE, {"owner": raw(owner), "id": raw(id)}).fetchone()
    if row is not None:
        _fail(db, _Announced(*row), failed)


def _fail(db: Database, row: _Announced, failed: Callable[[bytes], bytes]) -> None:
    """End an announced response as failed: with its input, or without it if that can't be."""
    try:
        with db.transaction():
            end(db, _failure(row, failed))
    except Exception as error:
        if db.closed:
            raise
        logger.exception("turn %s failed, and its input is lost: %s", text(row.id), type(error).__name__)
        _fail_alone(db, row, failed)


def end(db: Database, ending: Ending) -> None:
    """Record one ending by itself."""
    facts, writes = batch.look_up(db, [ending]), batch.Writes()
    batch.end(facts, writes, ending)
    batch.write(db, facts, writes)
    for thread in writes.revived:
        removal.revive(db, thread)


def _failure(row: _Announced, failed: Callable[[bytes], bytes]) -> Ending:
    return Ending(
        owner=text(row.owner),
        id=text(row.id),
        created_at=row.created_at,
        status="failed",
        base=place_of(row.thread, row.base),
        conversation=None if row.name is None else text(row.name),
        input=load_items(row.pending),
        output=load_made(row.made),
        open_calls=load_calls(row.open),
        body=failed(row.body),
        fingerprint=row.fingerprint,
        key=row.idempotency_key,
    )


_MOVE = f"""
    INSERT INTO response (owner, id, thread, base, first, last, conversation, status, created_at, body,
        listed_model, metadata, fingerprint, idempotency_key, {", ".join(FIGURE_NAMES)})
    SELECT owner, id, %(thread)s, %(position)s, %(position)s + 1, %(position)s, conversation, 'failed',
        created_at, %(body)s, listed_model, metadata, fingerprint, idempotency_key, {", ".join(FIGURE_NAMES)}
    FROM announced WHERE owner = %(owner)s AND id = %(id)s
"""


def _fail_alone(db: Database, row: _Announced, failed: Callable[[bytes], bytes]) -> None:
    """End it where its history does. Nothing is written to that thread, which may be full or gone."""
    place = place_of(row.thread, row.base) or new_thread(db, row.owner, CHAIN)
    values = {"owner": row.owner, "id": row.id, "thread": place.thread, "position": place.position}
    db.execute(_MOVE, values | {"body": _body(row, failed)})
    db.execute("DELETE FROM announced WHERE owner = %(owner)s AND id = %(id)s", values)


def new_thread(db: Database, owner: bytes, kind: str, head: int = 0) -> Place:
    """Begin a thread that forks from none, whose entries the caller writes up to its head."""
    place = Place(batch.new_thread_id(), head)
    db.execute(
        "INSERT INTO thread (id, owner, kind, fork, head) VALUES (%(id)s, %(owner)s, %(kind)s, 0, %(head)s)",
        {"id": place.thread, "owner": owner, "kind": kind, "head": head},
    )
    return place


def _body(row: _Announced, failed: Callable[[bytes], bytes]) -> bytes:
    try:
        return failed(row.body)
    except Exception:
        # The text can't be read: it may be nested deeper than a decoder goes.
        id = row.id.decode(errors="replace")
        return failed(msgspec.json.encode({"id": id, "object": "response", "created_at": row.created_at}))
