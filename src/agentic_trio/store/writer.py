"""The only user of a SQLite connection that writes."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from agentic_trio.store.contract import StoreError
from agentic_trio.store.failures import attempt, is_database_failure, store_error, translated
from agentic_trio.store.group_commit import GroupCommit, run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.store.group_commit import RunSync, Unit

T = TypeVar("T")


class Writer(GroupCommit):
    """Commits batches of plain functions of the connection.

    Args:
        connection: used by nobody else.
        run_sync: how work leaves the loop.
        check: raises StoreError if what was committed would not be found again.
        observe: is told of each transaction how many units it had and how many seconds it took.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        run_sync: RunSync = run_in_thread,
        check: Callable[[], None] = lambda: None,
        observe: Callable[[int, float], None] = lambda units, seconds: None,
    ) -> None:
        super().__init__(self._write_batch, run_sync=run_sync, observe=observe)
        self._connection = connection
        self._check = check

    async def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction; return what it does once that is committed.

        Args:
            work: a plain function of the connection, run in another thread. If it raises, nothing of it
                is kept, and the caller gets the exception.
            durable: whether the commit must survive the loss of power, and not only of the process.

        Raises:
            StoreError: the database failed, or the writer is closed.

        Cancellation: a unit that the writer has not taken is withdrawn and leaves nothing. One that it has
        taken is written completely or not at all.
        """
        result: T = await self.submit(work, durable=durable)
        return result

    async def between(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` between two batches, outside of any transaction; returns what it does.

        Raises:
            StoreError: the database failed.

        Cancellation: waits for it.
        """
        try:
            with translated():
                return await self._run_sync(lambda: work(self._connection), limiter=self._limiter)
        except StoreError as error:
            self.outage.failed(error)
            raise

    def _write_batch(self, batch: list[Unit]) -> None:
        _commit(self._connection, batch)
        # Not before the commit: the file could be removed in between.
        self._check()


def _commit(connection: sqlite3.Connection, batch: list[Unit]) -> None:
    """Write a batch in one transaction.

    A savepoint costs more than the unit in it, and nearly always every unit succeeds. So the first try has
    no savepoints. If a unit fails, all are run again, each in a savepoint, and only that one fails.
    """
    try:
        _transact(connection, batch, _run)
    except Exception as error:
        if is_database_failure(error):
            raise
        _transact(connection, batch, _attempt)


def _transact(
    connection: sqlite3.Connection,
    batch: list[Unit],
    write: Callable[[sqlite3.Connection, Unit], None],
) -> None:
    durable = any(unit.durable for unit in batch)
    try:
        # Ignored inside a transaction, so it comes first. FULL syncs the log at each commit.
        connection.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        for unit in batch:
            write(connection, unit)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")


def _run(connection: sqlite3.Connection, unit: Unit) -> None:
    unit.value = unit.work(connection)


def _attempt(connection: sqlite3.Connection, unit: Unit) -> None:
    error = attempt(connection, lambda: _run(connection, unit))
    unit.error = store_error(error) if isinstance(error, sqlite3.Error) else error
