"""The database's files: whose they are, who has them open, and whether they are still there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentic_trio.errors import ConfigError
from agentic_trio.store.contract import Item, StoreError
from agentic_trio.store.sqlite import PROBE_BYTES, open_sqlite_store
from tests.store.records import OWNER, announcement, ending, run_inline, take_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentic_trio.store.sqlite import SqliteStore

SUFFIXES = ("", "-wal", "-shm", ".lock")

GONE = r"^the database's file was removed or replaced$"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "turns.db")


def size(path: str) -> int:
    return os.path.getsize(path)


def modes(path: str) -> dict[str, int]:
    return {suffix: stat.S_IMODE(os.stat(path + suffix).st_mode) for suffix in SUFFIXES}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
async def test_files_are_private_whatever_the_umask(path: str, umask: int):
    before = os.umask(umask)
    try:
        async with open_sqlite_store(path) as store:
            await take_turn(store, "a")
            assert modes(path) == dict.fromkeys(SUFFIXES, 0o600)
    finally:
        os.umask(before)


async def test_files_that_others_may_read_are_made_private(path: str, caplog: pytest.LogCaptureFixture):
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
    for suffix in ("", ".lock"):
        os.chmod(path + suffix, 0o644)
    async with open_sqlite_store(path) as store:
        await take_turn(store, "b")
        assert modes(path) == dict.fromkeys(SUFFIXES, 0o600)
    assert f"{path} had mode 0644, and has 0600 now" in caplog.text


async def test_a_file_with_a_second_name_is_refused(path: str):
    async with open_sqlite_store(path):
        pass
    os.link(path, f"{path}2")
    with pytest.raises(ConfigError, match="has another name"):
        async with open_sqlite_store(path):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="only there the database itself can be locked")
async def test_without_its_lock_file_a_database_is_locked_all_the_same(path: str):
    async with open_sqlite_store(path) as store:
        os.unlink(f"{path}.lock")
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()}, another gateway$"):
            async with open_sqlite_store(path):
                pass
        await take_turn(store, "a")


def remove(path: str) -> None:
    os.unlink(path)


def replace(path: str) -> None:
    Path(f"{path}.new").write_bytes(Path(path).read_bytes())
    os.replace(f"{path}.new", path)


def move(path: str) -> None:
    os.rename(path, f"{path}.away")


def remove_log(path: str) -> None:
    os.unlink(f"{path}-wal")


@pytest.mark.parametrize("harm", [remove, replace, move, remove_log])
async def test_nothing_is_stored_in_files_that_are_gone(path: str, harm: Callable[[str], None]):
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
        harm(path)
        for write in (store.end(ending("b")), store.announce(announcement("c")), store.probe()):
            with pytest.raises(StoreError, match=GONE):
                await write


async def test_what_was_refused_for_want_of_the_files_is_not_read(path: str):
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
        move(path)
        with pytest.raises(StoreError, match=GONE):
            await store.end(ending("b"))
        for read in (store.response(OWNER, "b"), store.history(OWNER, response="a")):
            with pytest.raises(StoreError, match=GONE):
                await read
        os.rename(f"{path}.away", path)
        await store.probe()
        assert (await store.response(OWNER, "a")).status == "completed"


async def test_a_file_that_comes_back_is_used_again(path: str):
    async with open_sqlite_store(path) as store:
        move(path)
        with pytest.raises(StoreError, match=GONE):
            await store.probe()
        os.rename(f"{path}.away", path)
        await store.probe()
        await take_turn(store, "a")
    async with open_sqlite_store(path) as store:
        assert (await store.response(OWNER, "a")).status == "completed"


def turn_of(size: int) -> list[Item]:
    return [Item("large", b'"%b"' % (b"x" * size))]


async def fill(store: SqliteStore) -> None:
    """Take turns until there is no room for another one."""
    for n in range(1000):
        try:
            await store.end(ending(f"a{n}", None, turn_of(20_000)))
        except StoreError:
            return
    raise AssertionError("it never got full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    target = tmp_path / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(target)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("only root can mount a small disk")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


async def test_a_disk_that_is_nearly_full_is_not_ready_until_a_turn_finds_room(small_disk: Path):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_000_000)
    async with open_sqlite_store(str(small_disk / "turns.db"), run_sync=run_inline) as store:
        await fill(store)
        # There is room for a few bytes.
        await store.withdraw(OWNER, "nothing")
        for _ in range(2):
            with pytest.raises(StoreError, match=r"^the disk is full$"):
                await store.probe()
        ballast.unlink()
        await store.probe()
        await store.end(ending("b", None, turn_of(20_000)))


async def test_a_store_that_has_just_been_opened_is_not_ready_without_room_for_a_turn(path: str):
    async with open_sqlite_store(path, run_sync=run_inline) as store:
        [(used,)] = store.writer._connection.execute("PRAGMA page_count").fetchall()
        store.writer._connection.execute(f"PRAGMA max_page_count = {used + 2}").fetchall()
        with pytest.raises(StoreError, match=r"^the disk is full$"):
            await store.probe()
        store.writer._connection.execute(f"PRAGMA max_page_count = {used + 1000}").fetchall()
        await store.probe()
        before = size(path)
        for _ in range(5):
            await store.probe()
        assert size(path) <= before + 2 * PROBE_BYTES
