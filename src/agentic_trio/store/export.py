"""All that a database holds, as JSON: a line for each conversation and each response."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.store.contract import Place
from agentic_trio.store.inspection import open_snapshot
from agentic_trio.store.responses import load_items, output
from agentic_trio.store.threads import key, read_data, view

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

_CONVERSATIONS = """
    SELECT conversation.owner, conversation.id, thread, head, created_at, metadata FROM conversation
    JOIN thread ON thread.id = conversation.thread
    WHERE (:owner IS NULL OR conversation.owner = :owner) ORDER BY thread
"""

_RESPONSES = """
    SELECT response.owner, response.id, response.thread, base, first, last, status, response.created_at,
        conversation.id, pending, body
    FROM response LEFT JOIN conversation ON conversation.thread = response.conversation
    WHERE (:owner IS NULL OR response.owner = :owner) ORDER BY response.key
"""


def count(path: str, owner: str | None) -> int:
    """How many lines ``lines`` would give."""
    with open_snapshot(path) as connection:
        found = 0
        for table in ("conversation", "response"):
            select = f"SELECT count(*) FROM {table} WHERE :owner IS NULL OR owner = :owner"
            found += connection.execute(select, {"owner": owner}).fetchone()[0]
        return found


def lines(path: str, owner: str | None) -> Iterator[bytes]:
    """Each conversation and then each response, oldest first: JSON texts without a line break.

    A conversation has its ``items``. A response has the ``input`` that it added, without the history before
    it, and in ``response`` the object that clients see, with its output. An owner of None is every owner.

    Raises:
        ConfigError: there is no database of ours, or it can't be read.
    """
    with open_snapshot(path) as connection:
        for row in connection.execute(_CONVERSATIONS, {"owner": owner}):
            yield _conversation(connection, *row)
        for row in connection.execute(_RESPONSES, {"owner": owner}):
            yield _response(connection, *row)


def _conversation(
    connection: sqlite3.Connection,
    owner: bytes,
    id: bytes,
    thread: int,
    head: int,
    created_at: int,
    metadata: bytes,
) -> bytes:
    return _line(
        type="conversation",
        owner=owner.decode(),
        id=id.decode(),
        created_at=created_at,
        metadata=msgspec.Raw(metadata),
        items=_raw(read_data(connection, view(connection, Place(thread, head)), most=math.inf)),
    )


def _response(
    connection: sqlite3.Connection,
    owner: bytes,
    id: bytes,
    thread: int | None,
    base: int | None,
    first: int | None,
    last: int | None,
    status: bytes,
    created_at: int,
    conversation: bytes | None,
    pending: bytes | None,
    body: bytes,
) -> bytes:
    if pending is not None:
        given: Sequence[bytes] = [item.data for item in load_items(pending)]
    else:
        given = _between(connection, thread, base, first)
    made = b",".join(output(connection, thread, first, last))
    return _line(
        type="response",
        owner=owner.decode(),
        id=id.decode(),
        created_at=created_at,
        status=status.decode(),
        conversation=None if conversation is None else conversation.decode(),
        input=_raw(given),
        response=msgspec.Raw(b'%b,"output":[%b]}' % (body[:-1], made)),
    )


def _between(
    connection: sqlite3.Connection, thread: int | None, base: int | None, first: int | None
) -> list[bytes]:
    """The items after ``base`` and before ``first``: what a turn was given beside its history."""
    if thread is None or base is None or first is None:
        return []
    bounds = {"after": key(thread, base), "before": key(thread, first)}
    select = "SELECT data FROM entry WHERE key > :after AND key < :before ORDER BY key"
    return [row[0] for row in connection.execute(select, bounds)]


def _raw(items: Sequence[bytes]) -> list[msgspec.Raw]:
    return [msgspec.Raw(item) for item in items]


def _line(**members: Any) -> bytes:
    # Stored texts came over HTTP as one JSON value; a line break in them is only between tokens.
    return msgspec.json.encode(members).replace(b"\n", b" ").replace(b"\r", b" ")
