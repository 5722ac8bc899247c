"""What is logged while the store fails."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.store.contract import StoreError
from agentic_trio.store.failures import store_error
from agentic_trio.store.outage import QUIET, REPEAT, Outage
from agentic_trio.store.sqlite import open_sqlite_store
from tests.store.records import ending, run_inline

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


def disk_full() -> StoreError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return store_error(error)


@pytest.fixture
def outage(caplog: pytest.LogCaptureFixture) -> Outage:
    caplog.set_level(logging.INFO)
    return Outage("be written to")


async def test_an_outage_is_logged_at_its_edges_and_each_minute(
    outage: Outage, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
):
    for _ in range(10):
        outage.failed(disk_full())
        outage.worked()
    assert outage.failing
    await trio.sleep(REPEAT)
    outage.failed(disk_full())
    outage.failed(disk_full())
    await trio.sleep(QUIET)
    outage.worked()
    outage.worked()
    assert not outage.failing
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "the store can't be written to: the disk is full"),
        ("ERROR", "the store still can't be written to: the disk is full (11 failures)"),
        ("INFO", "the store can be written to again: 12 failures in 70 s"),
    ]
    assert not any(record.exc_info for record in caplog.records)


async def test_a_second_outage_is_logged_like_the_first(outage: Outage, caplog: pytest.LogCaptureFixture):
    for _ in range(2):
        outage.failed(disk_full())
        outage.over()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"] * 2


async def test_what_is_no_failure_of_the_database_is_logged_by_itself(
    outage: Outage, caplog: pytest.LogCaptureFixture
):
    for _ in range(2):
        outage.failed(StoreError("a part of this history is gone"))
    assert not outage.failing
    assert len(caplog.records) == 2
    assert all(record.exc_info for record in caplog.records)


async def test_turns_that_a_full_disk_refuses_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    async with open_sqlite_store(str(tmp_path / "turns.db"), run_sync=run_inline) as store:
        connection = store.writer._connection
        connection.execute("PRAGMA max_page_count = 1").fetchall()
        for n in range(20):
            with pytest.raises(StoreError):
                await store.end(ending(f"a{n}", body=b"x" * 100_000))
        connection.execute("PRAGMA max_page_count = 100000").fetchall()
        await store.probe()
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "20 failures" in caplog.text
