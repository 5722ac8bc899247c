"""Group commit: what is committed together, what fails alone, and what cancellation leaves behind."""

from __future__ import annotations

import signal
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.store.contract import StoreError
from agentic_trio.store.group_commit import BATCH_BOUND, QUEUE_BOUND, run_in_thread
from agentic_trio.store.writer import Writer
from tests.store.records import run_inline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


class Gate:
    """A hop that waits until it is let through; then it stays in the loop."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.entered = 0

    async def __call__(self, work: Callable[[], Any], *, limiter: trio.CapacityLimiter) -> Any:
        self.entered += 1
        await self.event.wait()
        return work()

    def open(self) -> None:
        self.event.set()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notes.db")


@pytest.fixture
def connection(path: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.05, check_same_thread=False)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE note (text TEXT UNIQUE)")
        yield db


@pytest.fixture
async def writer(connection: sqlite3.Connection) -> AsyncIterator[Writer]:
    """A writer without threads."""
    async with trio.open_nursery() as nursery:
        writer = Writer(connection, run_sync=run_inline)
        nursery.start_soon(writer.run)
        yield writer
        writer.close()


@pytest.fixture
async def gated(connection: sqlite3.Connection) -> AsyncIterator[tuple[Writer, Gate]]:
    """A writer whose first batch doesn't get through until the gate is opened."""
    gate = Gate()
    async with trio.open_nursery() as nursery:
        writer = Writer(connection, run_sync=gate)
        nursery.start_soon(writer.run)
        yield writer, gate
        gate.open()
        writer.close()


def note(text: str) -> Callable[[sqlite3.Connection], str]:
    def work(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO note VALUES (?)", (text,))
        return text

    return work


def notes(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT text FROM note ORDER BY rowid")]


async def test_a_unit_answers_its_own_value(writer: Writer, connection: sqlite3.Connection):
    assert await writer.write(note("a")) == "a"
    assert notes(connection) == ["a"]


async def test_what_queued_up_meanwhile_is_one_batch(gated: Any, connection: sqlite3.Connection):
    writer, gate = gated
    answers = []

    async def one(text: str) -> None:
        answers.append(await writer.write(note(text)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "first")
        await trio.testing.wait_all_tasks_blocked()
        for n in range(64):
            nursery.start_soon(one, str(n))
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert (writer.units, writer.batches, writer.hops) == (65, 2, 2)
    assert sorted(answers) == sorted(notes(connection))


async def test_a_long_queue_is_taken_in_bounded_batches(gated: Any, connection: sqlite3.Connection):
    writer, gate = gated
    count = QUEUE_BOUND + 2 * BATCH_BOUND
    async with trio.open_nursery() as nursery:
        for n in range(count):
            nursery.start_soon(writer.write, note(str(n)))
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert len(notes(connection)) == writer.units == count
    assert count / BATCH_BOUND <= writer.hops <= count / BATCH_BOUND + 3


async def test_threads_commit_in_groups_too(connection: sqlite3.Connection):
    writer = Writer(connection)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        async with trio.open_nursery() as callers:
            for n in range(64):
                callers.start_soon(writer.write, note(str(n)))
        writer.close()
    assert len(notes(connection)) == 64
    assert writer.hops < 10


@pytest.mark.parametrize(
    ("durable", "wanted"), [([False], "NORMAL"), ([True], "FULL"), ([False, True, False], "FULL")]
)
async def test_a_batch_is_synced_if_one_of_its_units_must_be(
    gated: Any, connection: sqlite3.Connection, durable: list[bool], wanted: str
):
    writer, gate = gated
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, note("first"))
        await trio.testing.wait_all_tasks_blocked()
        for n, each in enumerate(durable):
            nursery.start_soon(lambda n=n, each=each: writer.write(note(str(n)), durable=each))
        await trio.testing.wait_all_tasks_blocked()
        seen: list[str] = []
        connection.set_trace_callback(seen.append)
        gate.open()
    second = seen[seen.index("COMMIT") + 1 :]
    assert second[:2] == [f"PRAGMA synchronous = {wanted}", "BEGIN IMMEDIATE"]


async def fail(writer: Writer, work: Callable[[sqlite3.Connection], Any], into: list[BaseException]) -> None:
    try:
        await writer.write(work)
    except Exception as error:
        into.append(error)


async def in_one_batch(gated: Any, *works: Callable[[sqlite3.Connection], Any]) -> list[BaseException]:
    """What each of them raised, when they were all committed together."""
    writer, gate = gated
    errors: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, lambda db: None)
        await trio.testing.wait_all_tasks_blocked()
        for work in works:
            nursery.start_soon(fail, writer, work, errors)
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    return errors


def bad(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO note VALUES ('half')")
    raise ValueError("bad")


async def test_a_unit_that_raises_fails_alone(gated: Any, connection: sqlite3.Connection):
    (error,) = await in_one_batch(gated, note("a"), bad, note("b"))
    assert isinstance(error, ValueError)
    assert sorted(notes(connection)) == ["a", "b"]


@pytest.mark.parametrize(
    "statement", ["INSERT INTO note VALUES ('a'), ('a')", "SELECT nonsense", "INSERT INTO nowhere VALUES (1)"]
)
async def test_a_refused_statement_fails_alone_and_says_nothing_of_itself(
    gated: Any, connection: sqlite3.Connection, statement: str
):
    (error,) = await in_one_batch(gated, note("x"), lambda db: db.execute(statement), note("y"))
    assert isinstance(error, StoreError)
    assert isinstance(error.__cause__, sqlite3.Error)
    assert "no" not in str(error).split()
    assert "note" not in str(error)
    assert sorted(notes(connection)) == ["x", "y"]


async def test_a_failed_commit_fails_the_whole_batch(gated: Any, connection: sqlite3.Connection):
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(
        "CREATE TABLE child (parent TEXT REFERENCES note (text) DEFERRABLE INITIALLY DEFERRED)"
    )
    orphan = "INSERT INTO child VALUES ('nobody')"
    errors = await in_one_batch(gated, note("a"), lambda db: db.execute(orphan), note("b"))
    assert [type(error) for error in errors] == [StoreError] * 3
    assert len({id(error) for error in errors}) == 3
    assert notes(connection) == []
    writer, _ = gated
    await writer.write(note("after"))
    assert notes(connection) == ["after"]


async def test_a_full_disk_fails_the_batch_and_room_lets_it_recover(
    gated: Any, connection: sqlite3.Connection
):
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    errors = await in_one_batch(gated, note("small"), note("x" * 100_000), note("other"))
    assert [str(error) for error in errors] == ["the disk is full"] * 3
    assert notes(connection) == []
    connection.execute("PRAGMA max_page_count = 1000000")
    writer, _ = gated
    await writer.write(note("after"))
    assert notes(connection) == ["after"]


async def test_a_foreign_lock_fails_the_batch_and_its_end_lets_it_recover(
    writer: Writer, connection: sqlite3.Connection, path: str
):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"^the database is locked by another process$"):
            await writer.write(note("a"))
        other.execute("ROLLBACK")
        await writer.write(note("b"))
    assert notes(connection) == ["b"]


async def test_a_unit_cancelled_while_queued_leaves_nothing(gated: Any, connection: sqlite3.Connection):
    writer, gate = gated
    scope = trio.CancelScope()

    async def cancelled_write() -> None:
        with scope:
            await writer.write(note("withdrawn"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, note("first"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(cancelled_write)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(writer.write, note("last"))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert scope.cancelled_caught
    assert notes(connection) == ["first", "last"]


async def test_a_batch_of_withdrawn_units_makes_no_hop(gated: Any):
    writer, gate = gated
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, note("first"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await writer.write(note("withdrawn"))
        gate.open()
    await trio.testing.wait_all_tasks_blocked()
    assert (writer.hops, writer.units) == (1, 1)


async def test_a_unit_cancelled_when_taken_is_written_whole(gated: Any, connection: sqlite3.Connection):
    writer, gate = gated
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, note("taken"))
        await trio.testing.wait_all_tasks_blocked()
        assert gate.entered == 1
        nursery.cancel_scope.cancel()
    gate.open()
    await trio.testing.wait_all_tasks_blocked()
    assert notes(connection) == ["taken"]


async def test_a_caller_cancelled_while_the_queue_is_full_leaves_nothing(
    gated: Any, connection: sqlite3.Connection
):
    writer, gate = gated
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, lambda db: None)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(QUEUE_BOUND):
            nursery.start_soon(writer.write, lambda db: None)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await writer.write(note("never queued"))
        gate.open()
    assert notes(connection) == []


async def test_closing_writes_all_that_was_accepted(gated: Any, connection: sqlite3.Connection):
    writer, gate = gated
    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(writer.write, note(str(n)))
        await trio.testing.wait_all_tasks_blocked()
        writer.close()
        with pytest.raises(StoreError, match=r"^the store is closed$"):
            await writer.write(note("late"))
        gate.open()
    assert len(notes(connection)) == 10


async def test_cancelling_the_writers_nursery_drops_nothing(connection: sqlite3.Connection):
    gate = Gate()
    writer = Writer(connection, run_sync=gate)
    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        for n in range(10):
            callers.start_soon(writer.write, note(str(n)))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        writer.close()
        gate.open()
    assert len(notes(connection)) == 10


async def test_after_closing_what_takes_too_long_is_refused(
    connection: sqlite3.Connection, autojump_clock: trio.testing.MockClock
):
    async def slow(work: Callable[[], Any], *, limiter: trio.CapacityLimiter) -> Any:
        await trio.sleep(20)
        return work()

    writer = Writer(connection, run_sync=slow)
    errors: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        nursery.start_soon(fail, writer, note("taken"), errors)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(fail, writer, note("queued"), errors)
        await trio.testing.wait_all_tasks_blocked()
        writer.close(grace=10)
    assert [str(error) for error in errors] == ["the store is closed"]
    assert notes(connection) == ["taken"]


def test_ctrl_c_as_work_leaves_the_loop_waits_for_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start = trio.lowlevel.start_thread_soon
    go, done = threading.Event(), []

    def start_and_interrupt(*args: Any) -> None:
        start(*args)
        signal.raise_signal(signal.SIGINT)
        go.set()

    def work() -> None:
        done.append(go.wait(5))

    async def main() -> None:
        try:
            await run_in_thread(work, limiter=trio.CapacityLimiter(1))
        finally:
            assert done == [True]

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
