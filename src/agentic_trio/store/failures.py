"""What SQLite's errors mean to the store's callers."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from agentic_trio.store.contract import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REASONS = {
    sqlite3.SQLITE_BUSY: "the database is locked by another process",
    sqlite3.SQLITE_LOCKED: "the database is locked by another process",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk can't be read or written",
    sqlite3.SQLITE_READONLY: "the database is read-only",
    sqlite3.SQLITE_CANTOPEN: "the database can't be opened",
    sqlite3.SQLITE_CORRUPT: "the database is damaged",
    sqlite3.SQLITE_NOTADB: "the database is damaged",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_PROTOCOL: "the database's locks don't work",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
}
"""Failures of the database itself, by primary result code. Any other is one statement's fault."""


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if Python's sqlite3 raised on its own."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def is_database_failure(error: BaseException | None) -> bool:
    """Whether every other statement would fail too."""
    return isinstance(error, sqlite3.Error) and primary_code(error) in REASONS


def attempt(connection: sqlite3.Connection, work: Callable[[], object]) -> Exception | None:
    """Run ``work`` in a savepoint of the open transaction; if it fails, undo it alone and return its error.

    Raises what ``work`` raised if the database itself failed, or if the transaction is gone: a failing disk
    rolls everything back, including what had succeeded before.
    """
    connection.execute("SAVEPOINT attempt")
    failure: Exception | None = None
    try:
        work()
    except Exception as error:
        if is_database_failure(error) or not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO attempt")
        failure = error
    connection.execute("RELEASE attempt")
    return failure


def store_error(error: Exception) -> StoreError:
    """The same failure without the SQL, values or paths of the original, which is chained to it."""
    if isinstance(error, StoreError):
        return type(error)(*error.args)
    failure = StoreError(_reason(error))
    failure.__cause__ = error
    return failure


def _reason(error: Exception) -> str:
    if isinstance(error, trio.ClosedResourceError):
        return "the store is closed"
    if not isinstance(error, sqlite3.Error):
        return "the write failed"
    name: str = getattr(error, "sqlite_errorname", type(error).__name__)
    return REASONS.get(primary_code(error), f"the database refused a statement ({name})")


@contextmanager
def translated() -> Iterator[None]:
    """Inside this block, raise what sqlite3 raises as StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_error(error) from error
