"""An owner's responses and conversations, in the order in which they were recorded first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from agentic_trio.store.contract import Conversation, Missing, StoredResponse
from agentic_trio.store.paging import MAX_PAGE_BYTES, fitting, is_backwards
from agentic_trio.store.responses import output

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentic_trio.store.contract import PageQuery

T = TypeVar("T")

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
    found: list[StoredResponse] = []
    size = 0
    for id, status, body, thread, first, last in _rows(connection, _RESPONSES, values, query):
        data = output(connection, thread, first, last)
        found.append(StoredResponse(id.decode(), status.decode(), body, data))
        if size > MAX_PAGE_BYTES:
            break
        size += _size(found[-1])
    return _page(found, fitting(map(_size, found), query.limit), query)


def _size(response: StoredResponse) -> int:
    return len(response.body) + sum(map(len, response.output))


def conversations(
    connection: sqlite3.Connection, owner: str, query: PageQuery, metadata: dict[str, str] | None
) -> tuple[Sequence[Conversation], bool]:
    """See ``Store.list_conversations``."""
    keys = "SELECT thread FROM conversation WHERE owner = :owner AND id = :id"
    low, high = _bounds(connection, owner, query, keys, "conversation")
    values = {"owner": owner, "low": low, "high": high, "pairs": _pairs(metadata)}
    rows = _rows(connection, _CONVERSATIONS, values, query)
    found = [Conversation(id.decode(), created_at, data) for id, created_at, data in rows]
    return _page(found, query.limit, query)


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


def _rows(
    connection: sqlite3.Connection, select: str, values: dict[str, Any], query: PageQuery
) -> sqlite3.Cursor:
    """The rows of a page and one more, in the query's direction."""
    newest_first = (query.order == "asc") == is_backwards(query)
    statement = select + (" DESC LIMIT :limit" if newest_first else " ASC LIMIT :limit")
    return connection.execute(statement, values | {"limit": query.limit + 1})


def _page(found: list[T], count: int, query: PageQuery) -> tuple[list[T], bool]:
    """The first ``count`` of what was found, in the page's order, and whether there are more."""
    kept = found[:count]
    if is_backwards(query):
        kept.reverse()
    return kept, len(found) > count


def _pairs(metadata: dict[str, str] | None) -> str | None:
    return msgspec.json.encode(metadata).decode() if metadata else None
