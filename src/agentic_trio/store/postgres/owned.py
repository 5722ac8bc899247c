"""An owner's responses and conversations, by the time of their creation and then by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from agentic_trio.store.contract import Conversation, Missing, StoredResponse
from agentic_trio.store.paging import fitting, is_backwards
from agentic_trio.store.postgres import rows
from agentic_trio.store.postgres.batch import array_of, pairs_of
from agentic_trio.store.postgres.connecting import raw, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.store.contract import PageQuery
    from agentic_trio.store.postgres.connecting import Database

_LIST = """
    SELECT {columns} FROM {table}
    WHERE owner = %(owner)s AND metadata @> %(metadata)s::text::bytea[]{model}
        AND (%(after)s::bigint IS NULL OR (created_at, id) > (%(after)s, %(after_id)s))
        AND (%(before)s::bigint IS NULL OR (created_at, id) < (%(before)s, %(before_id)s))
    ORDER BY created_at {way}, id {way} LIMIT %(limit)s
"""
_MODEL = " AND (%(model)s::bytea IS NULL OR listed_model = %(model)s)"


def _lists(table: str, columns: str, model: str = "") -> dict[bool, str]:
    return {
        newest_first: _LIST.format(
            table=table, columns=columns, model=model, way="DESC" if newest_first else "ASC"
        )
        for newest_first in (False, True)
    }


_RESPONSES = _lists(
    "turn",
    """id, octet_length(body) + coalesce((
        SELECT sum(octet_length(data)) FROM entry
        WHERE entry.thread = turn.thread AND position BETWEEN first AND last
    ), 0)""",
    _MODEL,
)
_CONVERSATIONS = _lists("conversation", "id, created_at, body")
_CURSORS = {
    "response": "SELECT created_at FROM turn WHERE owner = %(owner)s AND id = %(id)s",
    "conversation": "SELECT created_at FROM conversation WHERE owner = %(owner)s AND id = %(id)s",
}


def responses(
    db: Database, owner: str, query: PageQuery, model: str | None, metadata: dict[str, str] | None
) -> tuple[Sequence[StoredResponse], bool]:
    """See ``Store.list_responses``."""
    values = _values(db, owner, query, metadata, "response")
    values["model"] = None if model is None else raw(model)
    found = _rows(db, _RESPONSES, values, query)
    kept, more = _page(found, fitting((size for _, size in found), query.limit), query)
    whole = rows.responses(db, owner, [id for id, _ in kept])
    return [whole[id] for id, _ in kept], more


def conversations(
    db: Database, owner: str, query: PageQuery, metadata: dict[str, str] | None
) -> tuple[Sequence[Conversation], bool]:
    """See ``Store.list_conversations``."""
    values = _values(db, owner, query, metadata, "conversation")
    kept, more = _page(_rows(db, _CONVERSATIONS, values, query), query.limit, query)
    return [Conversation(text(id), created_at, body) for id, created_at, body in kept], more


def _values(
    db: Database,
    owner: str,
    query: PageQuery,
    metadata: dict[str, str] | None,
    kind: Literal["response", "conversation"],
) -> dict[str, Any]:
    def find(id: str | None) -> tuple[int | None, bytes]:
        if id is None:
            return None, b""
        row = db.execute(_CURSORS[kind], {"owner": raw(owner), "id": raw(id)}).fetchone()
        if row is None:
            raise Missing(kind, id)
        return row[0], raw(id)

    low, high = (query.after, query.before) if query.order == "asc" else (query.before, query.after)
    (after, after_id), (before, before_id) = find(low), find(high)
    return {
        "owner": raw(owner),
        "metadata": array_of(pairs_of(metadata)),
        "after": after,
        "after_id": after_id,
        "before": before,
        "before_id": before_id,
        "limit": query.limit + 1,
    }


def _rows(
    db: Database, statements: dict[bool, str], values: dict[str, Any], query: PageQuery
) -> list[tuple[Any, ...]]:
    """The rows of a page and one more, in the query's direction."""
    newest_first = (query.order == "asc") == is_backwards(query)
    return db.execute(statements[newest_first], values).fetchall()


def _page(found: list[tuple[Any, ...]], count: int, query: PageQuery) -> tuple[list[tuple[Any, ...]], bool]:
    """The first ``count`` of what was found, in the page's order, and whether there are more."""
    kept = found[:count]
    if is_backwards(query):
        kept.reverse()
    return kept, len(found) > count
