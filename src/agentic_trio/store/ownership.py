"""What was stored without an owner is given one."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing

from agentic_trio.store import files, schema
from agentic_trio.store.failures import store_error

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another program that has locked the database."""

TABLES = ("thread", "response", "conversation")
"""Those whose rows name an owner. Items have the owner of their thread."""


def assign_owner(path: str, owner: str) -> dict[str, int]:
    """Give an owner all that has none, as a gateway that authenticates nobody has stored it.

    Blocks until done; all of it happens, or nothing. A database of an older version is migrated.

    Args:
        path: the database, which no gateway may be using.
        owner: not empty.

    Returns:
        How many responses and conversations were given to the owner.

    Raises:
        ConfigError: the database can't be used, or is in use.
    """
    path = schema.resolve(path)
    schema.check_file(path)
    with ExitStack() as stack:
        files.take(path, stack)
        try:
            db = stack.enter_context(closing(schema.connect(path, uri=False, timeout=BUSY_TIMEOUT)))
            schema.prepare(db, path)
            changed = _assign(db, owner)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.IntegrityError as error:
            raise files.refuse(path, f"{owner!r} has an object with the same id already") from error
        except sqlite3.Error as error:
            raise files.refuse(path, str(store_error(error))) from error
    return {"responses": changed["response"], "conversations": changed["conversation"]}


def _assign(db: sqlite3.Connection, owner: str) -> dict[str, int]:
    db.execute("PRAGMA synchronous = FULL")
    db.execute("BEGIN IMMEDIATE")
    try:
        # The tables' names are those above.
        changed = {
            table: db.execute(
                f"UPDATE {table} SET owner = :owner WHERE owner = ''", {"owner": owner}
            ).rowcount
            for table in TABLES
        }
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return changed
