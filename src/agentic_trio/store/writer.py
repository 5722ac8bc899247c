"""Group commit: one task writes, and many callers wait, each until its own write is durable.

Whatever queued up while one batch was being written is the next batch: one thread hop, one
transaction, one fsync. A unit that fails does so alone.
"""

from __future__ import annotations

import math
import sqlite3
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from agentic_trio.store.contract import StoreError
from agentic_trio.store.failures import attempt, is_database_failure, store_error, translated
from agentic_trio.store.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome

T = TypeVar("T")

QUEUE_BOUND = 1024
"""Units that may be queued; further callers wait for room."""

BATCH_BOUND = 256
"""Units in one transaction, so that the first of a long queue doesn't wait for the last one."""

GATHER = 0.0005
"""Seconds that a batch waits for more units, after one in which several had come together. Turns
that run one at a time wait for nothing."""

CLOSE_GRACE = 30.0
"""Seconds after ``close`` during which accepted units are still written."""


class RunSync(Protocol):
    """How blocking work leaves the loop."""

    async def __call__(self, work: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        """Run ``work`` to its end, even if cancelled meanwhile; return or raise what it does."""


@trio.lowlevel.enable_ki_protection
async def run_in_thread(work: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
    """Run ``work`` in one of trio's threads.

    ``trio.to_thread.run_sync`` also copies the context, lets the thread call back into the loop, and has the
    kernel rename the thread twice. None of that is needed here, and it is a third of a hop's cost.

    Cancellation: waits for the thread, as does a Ctrl-C. An abandoned write would still be committed.
    """
    async with limiter:
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

        def deliver(result: Outcome[T]) -> None:
            token.run_sync_soon(trio.lowlevel.reschedule, task, result)

        trio.lowlevel.start_thread_soon(work, deliver)
        done: T = await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        return done


class _Unit:
    __slots__ = ("done", "durable", "error", "value", "withdrawn", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.withdrawn = False
        self.done = trio.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Writer:
    """The only user of a connection that writes.

    Attributes:
        units: how many units were committed or failed.
        batches: how many transactions were committed.
        hops: how often work left the loop for a thread.
        outage: whether writes fail now.

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
        self._connection = connection
        self._check = check
        self._observe = observe
        self.outage = Outage("be written to")
        self._run_sync = run_sync
        self._limiter = trio.CapacityLimiter(1)
        self._send, self._receive = trio.open_memory_channel[_Unit](QUEUE_BOUND)
        self._deadline = math.inf
        self.units = 0
        self.batches = 0
        self.hops = 0

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
        unit = _Unit(work, durable)
        try:
            await self._queue(unit)
        except trio.ClosedResourceError as error:
            raise store_error(error) from error
        try:
            await unit.done.wait()
        except trio.Cancelled:
            unit.withdrawn = True
            raise
        result: T = unit.outcome()
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

    @property
    def waiting(self) -> int:
        """How many units are queued now."""
        return self._send.statistics().current_buffer_used

    async def _queue(self, unit: _Unit) -> None:
        try:
            # The caller is about to wait for its commit, so it needn't yield to others here.
            self._send.send_nowait(unit)
        except trio.WouldBlock:
            await self._send.send(unit)

    def close(self, *, grace: float = CLOSE_GRACE) -> None:
        """Accept nothing more. ``run`` ends when accepted units are written, or after ``grace`` seconds."""
        self._deadline = trio.current_time() + grace
        self._send.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is queued, until closed and drained.

        Cancellation: ignored. Only ``close`` ends it, since accepted units must be written.
        """
        with trio.CancelScope(shield=True):
            task_status.started()
            crowded = False
            async for unit in self._receive:
                if crowded:
                    await trio.sleep(GATHER)
                batch = self._take(unit)
                crowded = len(batch) > 1
                if not batch:
                    continue
                if trio.current_time() > self._deadline:
                    _fail(batch, trio.ClosedResourceError())
                else:
                    await self._write(batch)
                for taken in batch:
                    taken.done.set()

    def _take(self, first: _Unit) -> list[_Unit]:
        taken = [first]
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while len(taken) < BATCH_BOUND:
                taken.append(self._receive.receive_nowait())
        return [unit for unit in taken if not unit.withdrawn]

    async def _write(self, batch: list[_Unit]) -> None:
        self.hops += 1
        self.units += len(batch)
        began = perf_counter()
        try:
            await self._run_sync(lambda: self._commit(batch), limiter=self._limiter)
        except Exception as error:
            # The writer goes on: the callers of this batch get the error, and the next may succeed.
            _fail(batch, error)
        else:
            self.batches += 1
        self._observe(len(batch), perf_counter() - began)
        self._note(batch)

    def _commit(self, batch: list[_Unit]) -> None:
        _commit(self._connection, batch)
        # Not before the commit: the file could be removed in between.
        self._check()

    def _note(self, batch: list[_Unit]) -> None:
        for unit in batch:
            if isinstance(unit.error, StoreError):
                self.outage.failed(unit.error)
            else:
                self.outage.worked()


def _fail(batch: list[_Unit], error: Exception) -> None:
    for unit in batch:
        # An instance each: callers in several tasks would add to one another's traceback.
        unit.error = store_error(error)


def _commit(connection: sqlite3.Connection, batch: list[_Unit]) -> None:
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
    batch: list[_Unit],
    write: Callable[[sqlite3.Connection, _Unit], None],
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


def _run(connection: sqlite3.Connection, unit: _Unit) -> None:
    unit.value = unit.work(connection)


def _attempt(connection: sqlite3.Connection, unit: _Unit) -> None:
    error = attempt(connection, lambda: _run(connection, unit))
    unit.error = store_error(error) if isinstance(error, sqlite3.Error) else error
