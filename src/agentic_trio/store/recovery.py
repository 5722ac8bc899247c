"""How turns end whose process died, or whose ending was given up. Plain functions of a connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentic_trio.store.contract import Ending
from agentic_trio.store.failures import attempt
from agentic_trio.store.responses import end, load_items, load_made, place_of
from agentic_trio.store.threads import CHAIN, load_calls, new_thread

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Announced(NamedTuple):
    """The row of a response that has not ended: the columns of ``_ANNOUNCED``, in their order."""

    key: int
    owner: bytes
    id: bytes
    created_at: int
    thread: int | None
    base: int | None
    name: bytes | None
    """The id of the conversation, which may be gone."""
    open: bytes | None
    pending: bytes
    made: bytes | None
    body: bytes
    fingerprint: bytes | None
    idempotency_key: bytes | None


_ANNOUNCED = """
    SELECT key, response.owner, response.id, response.created_at, response.thread, base,
        conversation.id AS name, response.open, pending, made, body, fingerprint, idempotency_key
    FROM response LEFT JOIN conversation ON conversation.thread = response.conversation
    WHERE pending IS NOT NULL
"""


def recover(connection: sqlite3.Connection, failed: Callable[[bytes], bytes]) -> int:
    """See ``Store.recover``."""
    rows = connection.execute(_ANNOUNCED + " ORDER BY key").fetchall()
    for row in rows:
        _fail(connection, Announced(*row), failed)
    return len(rows)


def fail(connection: sqlite3.Connection, owner: str, id: str, failed: Callable[[bytes], bytes]) -> None:
    """See ``Store.fail``."""
    select = _ANNOUNCED + " AND response.owner = :owner AND response.id = :id"
    row = connection.execute(select, {"owner": owner, "id": id}).fetchone()
    if row is not None:
        _fail(connection, Announced(*row), failed)


def _fail(connection: sqlite3.Connection, row: Announced, failed: Callable[[bytes], bytes]) -> None:
    """End an announced response as failed: with its input and output, or without them if that can't be."""
    error = attempt(connection, lambda: _fail_whole(connection, row, failed))
    if error is not None:
        logger.error("turn %s failed, and its input is lost", row.id.decode(errors="replace"), exc_info=error)
        _fail_alone(connection, row, failed)


def _fail_whole(connection: sqlite3.Connection, row: Announced, failed: Callable[[bytes], bytes]) -> None:
    ending = Ending(
        owner=row.owner.decode(),
        id=row.id.decode(),
        created_at=row.created_at,
        status="failed",
        base=place_of(row.thread, row.base),
        conversation=None if row.name is None else row.name.decode(),
        input=load_items(row.pending),
        output=load_made(row.made),
        open_calls=load_calls(row.open),
        body=failed(row.body),
        fingerprint=row.fingerprint,
        key=row.idempotency_key,
    )
    end(connection, ending)


_FAIL_ALONE = """
    UPDATE response
    SET thread = :thread, base = :position, first = :position + 1, last = :position,
        status = 'failed', open = NULL, pending = NULL, made = NULL, body = CAST(:body AS TEXT)
    WHERE key = :key
"""


def _fail_alone(connection: sqlite3.Connection, row: Announced, failed: Callable[[bytes], bytes]) -> None:
    """End it where its history does. Nothing is written to that thread, which may be full or gone."""
    owner = row.owner.decode(errors="replace")
    place = place_of(row.thread, row.base) or new_thread(connection, owner, CHAIN, None, ())
    values = {"thread": place.thread, "position": place.position, "body": _body(row, failed), "key": row.key}
    connection.execute(_FAIL_ALONE, values)


def _body(row: Announced, failed: Callable[[bytes], bytes]) -> bytes:
    try:
        return failed(row.body)
    except Exception:
        # The text can't be read: it may be nested deeper than a decoder goes.
        id = row.id.decode(errors="replace")
        return failed(msgspec.json.encode({"id": id, "object": "response", "created_at": row.created_at}))
