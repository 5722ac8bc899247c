"""Whose state is whose, changed. Plain functions of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_THREAD = "UPDATE thread SET owner = :owner WHERE id = :thread AND owner = :former"

_FREE_KEY = """
    CASE WHEN EXISTS (
        SELECT 1 FROM response AS other
        WHERE other.owner = :owner AND other.idempotency_key = response.idempotency_key
    ) THEN NULL ELSE idempotency_key END
"""

_RESPONSES = f"""
    UPDATE response SET owner = :owner, idempotency_key = {_FREE_KEY}
    WHERE thread = :thread AND owner = :former
"""

_CONVERSATION = "UPDATE conversation SET owner = :owner WHERE thread = :thread AND owner = :former"

_REST = f"UPDATE response SET owner = :owner, idempotency_key = {_FREE_KEY} WHERE owner = :former"


def threads_of(connection: sqlite3.Connection, owner: str) -> list[int]:
    """The threads that an owner has."""
    select = "SELECT id FROM thread WHERE owner = :owner ORDER BY id"
    return [row[0] for row in connection.execute(select, {"owner": owner})]


def assign(
    connection: sqlite3.Connection, *, threads: Sequence[int], former: str, owner: str
) -> tuple[int, int]:
    """Give threads, with what ends in them, to another owner; returns the responses and conversations."""
    responses = conversations = 0
    for thread in threads:
        values = {"thread": thread, "former": former, "owner": owner}
        connection.execute(_THREAD, values)
        responses += connection.execute(_RESPONSES, values).rowcount
        conversations += connection.execute(_CONVERSATION, values).rowcount
    return responses, conversations


def assign_rest(connection: sqlite3.Connection, *, former: str, owner: str) -> int:
    """Give the responses that are in no thread to another owner; returns how many."""
    return connection.execute(_REST, {"former": former, "owner": owner}).rowcount
