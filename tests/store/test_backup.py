"""Copies of a database that is in use."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio

from agentic_trio.errors import ConfigError
from agentic_trio.store.backup import backup
from agentic_trio.store.sqlite import open_sqlite_store
from tests.store.records import OWNER, data, ending, items, take_turn, texts


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "turns.db")


def names(path: str) -> set[str]:
    return {name for name in os.listdir(os.path.dirname(path)) if name.startswith("copy")}


async def test_a_copy_of_a_database_in_use_has_all_that_was_stored(path: str):
    copy = f"{os.path.dirname(path)}/copy.db"
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
        await trio.to_thread.run_sync(backup, path, copy)
        await take_turn(store, "b", after="a")
    assert names(path) == {"copy.db"}
    assert stat.S_IMODE(Path(copy).stat().st_mode) == 0o600  # noqa: ASYNC240
    async with open_sqlite_store(copy) as store:
        assert await texts(store, response="a") == data("in_a", "out_a")
        await take_turn(store, "c", after="a")


async def test_a_copy_is_of_one_moment_however_much_is_written_meanwhile(path: str):
    copy = f"{os.path.dirname(path)}/copy.db"
    async with open_sqlite_store(path) as store:
        for n in range(20):
            await store.end(ending(f"before{n}", None, items(f"x{n}"), body=b"x" * 500_000))
        token = trio.lowlevel.current_trio_token()
        steps = 0

        def write(remaining: int, total: int) -> None:
            nonlocal steps
            steps += 1
            trio.from_thread.run(store.end, ending(f"during{steps}"), trio_token=token)

        await trio.to_thread.run_sync(partial(backup, path, copy, progress=write))
        assert steps > 1
        assert (await store.response(OWNER, f"during{steps}")).status == "completed"
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM response").fetchone() == (20,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_target_that_exists_is_refused_untouched(path: str):
    trio.run(open_and_close, path)
    target = Path(path).with_name("copy.db")
    target.write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        backup(path, str(target))
    assert target.read_text() == "mine"


async def open_and_close(path: str) -> None:
    async with open_sqlite_store(path):
        pass


@pytest.mark.parametrize("content", [None, b"not a database" * 100])
def test_what_is_not_ours_is_not_copied(path: str, content: bytes | None):
    if content is not None:
        Path(path).write_bytes(content)
    copy = Path(path).with_name("copy.db")
    with pytest.raises(ConfigError, match=r"doesn't exist|is not a SQLite database"):
        backup(path, str(copy))
    assert not copy.exists()


def test_a_copy_that_fails_leaves_nothing(path: str):
    trio.run(open_and_close, path)
    file = Path(path)
    file.write_bytes(file.read_bytes()[:8192])
    with pytest.raises(ConfigError, match="could not be copied: the database is damaged"):
        backup(path, str(file.with_name("copy.db")))
    assert names(path) == set()
