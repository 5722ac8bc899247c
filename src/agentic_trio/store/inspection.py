"""What a database holds, and whether it is whole. It may be in use: each function reads one snapshot of it.

None of them is to be called in a process that has the database open: closing a file that was only looked at
drops the locks that SQLite has on it in the same process.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from agentic_trio.store import schema
from agentic_trio.store.backup import BUSY_TIMEOUT, backups_of
from agentic_trio.store.failures import store_error
from agentic_trio.store.files import BESIDE, PRIVATE, holder_of, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_PROBLEMS = 100
"""How many problems a check reports."""


@contextmanager
def open_snapshot(path: str) -> Iterator[sqlite3.Connection]:
    """A connection that reads one moment of the database at ``path``, which is written by others or nobody.

    Raises:
        ConfigError: there is no database of ours, or it can't be read.
    """
    path = schema.resolve(path)
    schema.check_exists(path)
    schema.check_file(path)
    try:
        with closing(schema.connect(path, uri=False, timeout=BUSY_TIMEOUT, read_only=True)) as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise refuse(path, f"can't be read: {store_error(error)}") from error


_CHECKS = {
    "responses whose thread is gone": """
        SELECT id FROM response WHERE thread IS NOT NULL AND thread NOT IN (SELECT id FROM thread)
    """,
    "conversations whose thread is gone": """
        SELECT id FROM conversation WHERE thread NOT IN (SELECT id FROM thread)
    """,
    "threads whose parent is gone": """
        SELECT id FROM thread WHERE parent IS NOT NULL AND parent NOT IN (SELECT id FROM thread)
    """,
    "responses that end after their thread does": """
        SELECT response.id FROM response JOIN thread ON thread.id = response.thread WHERE last > head
    """,
    "items that are in no thread": """
        SELECT DISTINCT key >> 24 FROM entry WHERE key >> 24 NOT IN (SELECT id FROM thread)
    """,
    "items after the end of their thread": """
        SELECT DISTINCT key >> 24 FROM entry JOIN thread ON thread.id = key >> 24
        WHERE key & 16777215 > head
    """,
    "streams without a response": """
        SELECT response FROM event WHERE response NOT IN (SELECT key FROM response)
    """,
    "ended responses that have no place": """
        SELECT id FROM response WHERE pending IS NULL AND (thread IS NULL OR last IS NULL)
    """,
}
"""What must select nothing."""


def check(path: str, *, progress: Callable[[int, int], None], quick: bool = False) -> list[str]:
    """Look for damage; returns what was found, a line each.

    Args:
        path: the database.
        progress: called with the checks that are done, and their number.
        quick: don't compare the indexes with the tables.
    """
    whole = len(_CHECKS) + 2
    problems = _file_problems(schema.resolve(path))
    progress(1, whole)
    with open_snapshot(path) as connection:
        pragma = f"PRAGMA {'quick_check' if quick else 'integrity_check'}({MAX_PROBLEMS})"
        found = [row[0].decode(errors="replace") for row in connection.execute(pragma)]
        problems += [] if found == ["ok"] else [f"SQLite: {line}" for line in found]
        progress(2, whole)
        for done, (what, select) in enumerate(_CHECKS.items(), 3):
            problems += _violations(connection, what, select)
            progress(done, whole)
    return problems[:MAX_PROBLEMS]


def _violations(connection: sqlite3.Connection, what: str, select: str) -> list[str]:
    rows = connection.execute(f"SELECT *, count(*) OVER () FROM ({select}) LIMIT 1").fetchall()
    if not rows:
        return []
    first, count = rows[0]
    return [f"{count} {what}, such as {first.decode() if isinstance(first, bytes) else first}"]


def _file_problems(path: str) -> list[str]:
    return [
        f"others may read or write {name}: chmod 600 it"
        for name in (path, *(path + suffix for suffix in BESIDE))
        if os.path.exists(name) and os.stat(name).st_mode & 0o777 & ~PRIVATE
    ]


_COUNTS = {
    "responses": "SELECT count(*) FROM response",
    "conversations": "SELECT count(*) FROM conversation",
    "items": "SELECT count(*) FROM entry",
    "streams": "SELECT count(*) FROM event",
    "threads": "SELECT count(*) FROM thread",
    "owners": "SELECT count(*) FROM (SELECT owner FROM response UNION SELECT owner FROM conversation)",
    "oldest_response": "SELECT min(created_at) FROM response",
    "newest_response": "SELECT max(created_at) FROM response",
}


def stats(path: str, *, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """How much a database holds. Sizes are in bytes, times in Unix seconds; None where there is nothing.

    ``in_use_by`` is the process that has it open. ``waiting_to_be_erased`` counts deletions.
    """
    path = schema.resolve(path)
    found: dict[str, Any] = {"database": path, "in_use_by": holder_of(path)}
    with open_snapshot(path) as connection:
        for done, (name, select) in enumerate(_COUNTS.items(), 1):
            found[name] = connection.execute(select).fetchone()[0]
            progress(done, len(_COUNTS))
        statuses = connection.execute("SELECT status, count(*) FROM response GROUP BY status").fetchall()
        found["statuses"] = {status.decode(): count for status, count in statuses}
        found |= _sizes(connection, path)
    backups = backups_of(path)
    return found | {"last_backup": backups[-1] if backups else None}


def _sizes(connection: sqlite3.Connection, path: str) -> dict[str, Any]:
    def pragma(name: str) -> int:
        value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    version = pragma("user_version")
    deleted = "SELECT count(*) FROM tombstone"
    log = f"{path}-wal"
    return {
        "sqlite": sqlite3.sqlite_version,
        "schema": version,
        "waiting_to_be_erased": connection.execute(deleted).fetchone()[0] if version > 1 else 0,
        "size": pragma("page_count") * pragma("page_size"),
        "free": pragma("freelist_count") * pragma("page_size"),
        "log_size": os.path.getsize(log) if os.path.exists(log) else 0,
    }
