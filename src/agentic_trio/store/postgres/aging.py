"""Responses and conversations that are deleted many at once. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentic_trio.store.postgres import conversations, rows
from agentic_trio.store.postgres.connecting import text

if TYPE_CHECKING:
    from agentic_trio.store.postgres.connecting import Database

_OF_CONVERSATION = """
    SELECT owner, id FROM response WHERE conversation = %(thread)s LIMIT %(limit)s
"""
_OLD_RESPONSES = "SELECT owner, id FROM response WHERE created_at < %(before)s LIMIT %(limit)s"
_OLD_CONVERSATIONS = "SELECT owner, id FROM conversation WHERE used_at < %(before)s LIMIT %(limit)s"


def delete_responses_of(db: Database, owner: str, id: str, limit: int) -> int:
    """See ``Store.delete_responses_of``."""
    found = conversations.find(db, owner, id)
    values = {"thread": found.thread, "limit": limit}
    return _delete_responses(db, _OF_CONVERSATION, values)


def expire(db: Database, before: int, limit: int) -> int:
    """See ``Store.expire``."""
    old = db.execute(_OLD_CONVERSATIONS, {"before": before, "limit": limit}).fetchall()
    for owner, id in old:
        conversations.delete(db, text(owner), text(id))
    values = {"before": before, "limit": limit - len(old)}
    return len(old) + _delete_responses(db, _OLD_RESPONSES, values)


def _delete_responses(db: Database, select: str, values: dict[str, Any]) -> int:
    found = db.execute(select, values).fetchall()
    for owner, id in found:
        rows.delete_response(db, text(owner), text(id))
    return len(found)
