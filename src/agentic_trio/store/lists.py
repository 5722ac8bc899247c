"""An owner's responses and conversations, in the order in which they were recorded first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.store.contract import Conversation, Missing, StoredResponse
from agentic_trio.store.paging import is_backwards
from agentic_trio.store.responses import output

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentic_trio.store.contract import PageQuery

_MAX_KEY = (1 << 63) - 1

_HAS_PAIRS = (
    " AND NOT EXISTS (SELECT 1 FROM json_each(:pairs) AS wanted WHERE NOT EXISTS"
    " (SELECT 1 FROM json_each({json}) AS had WHERE had.key = wanted.key AND had.value = wanted.value))"
)

_RESPONSES = (
    "SELECT id, status, body, thread, first, last FROM response"
    " WHERE owner = :owner AND key > :low AND key < :high"
    " AND (:model IS NULL OR json_extract(body, '$.model') = :model)"
    + _HAS_PAIRS.format(json="body, '$.metadata'")
    + " ORDER BY key"
)
_CONVERSATIONS = (
    "SELECT id, created_at, metadata FROM conversation"
    " WHERE owner = :owner AND thread > :low AND thread < :high"
    + _HAS_PAIRS.format(json="metadata")
    + " ORDER BY thread"
)


def responses(
    connection: sqlite3.Connection,
    owner: str,
    query: PageQuery,
    model: str | None,
    metadata: dict[str, str] | None,
) -> tuple[Sequence[StoredResponse], bool]:
    """See ``Store.list_responses``."""
    keys = "SELECT key FROM response WHERE owner = :owner AND id = :id"
    low, high = _bounds(connection, owner, query, keys, "response")
    values = {"owner": owner, "low": low, "high": high, "model": model, "pairs": _pairs(metadata)}
    rows, more = _page(connection, _RESPONSES, values, query)
    page = [
        StoredResponse(id.decode(), status.decode(), body, output(connection, thread, first, last))
        for id, status, body, thread, first, last in rows
    ]
    return page, more


def conversations(
    connection: sqlite3.Connection, owner: str, query: PageQuery, metadata: dict[str, str] | None
) -> tuple[Sequence[Conversation], bool]:
    """See ``Store.list_conversations``."""
    keys = "SELECT thread FROM conversation WHERE owner = :owner AND id = :id"
    low, high = _bounds(connection, owner, query, keys, "conversation")
    values = {"owner": owner, "low": low, "high": high, "pairs": _pairs(metadata)}
    rows, more = _page(connection, _CONVERSATIONS, values, query)
    return [Conversation(id.decode(), created_at, data) for id, created_at, data in rows], more


def _bounds(
    connection: sqlite3.Connection, owner: str, query: PageQuery, keys: str, kind: Any
) -> tuple[int, int]:
    def find(id: str | None, default: int) -> int:
        if id is None:
            return default
        row = connection.execute(keys, {"owner": owner, "id": id}).fetchone()
        if row is None:
            raise Missing(kind, id)
        found: int = row[0]
        return found

    if query.order == "asc":
        return find(query.after, 0), find(query.before, _MAX_KEY)
    return find(query.before, 0), find(query.after, _MAX_KEY)


def _page(
    connection: sqlite3.Connection, select: str, values: dict[str, Any], query: PageQuery
) -> tuple[list[tuple[Any, ...]], bool]:
    newest_first = (query.order == "asc") == is_backwards(query)
    statement = select + (" DESC LIMIT :limit" if newest_first else " ASC LIMIT :limit")
    rows = connection.execute(statement, values | {"limit": query.limit + 1}).fetchall()
    kept = rows[: query.limit]
    if is_backwards(query):
        kept.reverse()
    return kept, len(rows) > query.limit


def _pairs(metadata: dict[str, str] | None) -> str | None:
    return msgspec.json.encode(metadata).decode() if metadata else None
