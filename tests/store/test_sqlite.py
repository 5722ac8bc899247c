"""What is SQLite's own: the file, whose it is, crashes, and what a turn costs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.errors import ConfigError
from agentic_trio.store import conversations, erasure, responses, schema, threads
from agentic_trio.store.contract import (
    Conversation,
    Item,
    Missing,
    PageQuery,
    Place,
    StoredResponse,
    StoreError,
    ThreadFull,
)
from agentic_trio.store.sqlite import READERS, SqliteStore, open_sqlite_store
from agentic_trio.wire.responses import crashed
from tests.store.records import (
    OWNER,
    announcement,
    data,
    ending,
    ids,
    item,
    items,
    new_conversation,
    no_effect,
    query,
    run_inline,
    take_turn,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "turns.db")


class Children:
    """Runs what is in ``children.py``, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._pid = 0

    def start(self, what: str, path: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {path}\n")
        self._process.stdin.flush()
        self._pid = int(self.line().removeprefix("pid "))

    def line(self) -> str:
        said = self._read()
        assert said != "gone", "it has ended"
        return said

    def rest(self) -> list[str]:
        return list(iter(self._read, "gone"))

    def _read(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said, "the process that runs the others has ended"
        return said.rstrip("\n")

    def kill(self) -> list[str]:
        os.kill(self._pid, signal.SIGKILL)
        return self.rest()


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    command = [sys.executable, "-m", "tests.store.children"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Children(process)


def size(path: str) -> int:
    return os.path.getsize(path)


def contents(directory: Path) -> dict[str, bytes | None]:
    return {
        str(entry.relative_to(directory)): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(directory.rglob("*"))
    }


def execute(path: str, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement).fetchall()


async def open_and_close(path: str) -> None:
    async with open_sqlite_store(path):
        pass


def make_directory(path: str) -> None:
    os.mkdir(path)


def make_pipe(path: str) -> None:
    os.mkfifo(path)


def make_text(path: str) -> None:
    Path(path).write_text("not a database\n" * 100)


def make_stub(path: str) -> None:
    Path(path).write_bytes(b"SQLite format 3\0")


def make_foreign(path: str) -> None:
    execute(path, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")


def make_foreign_mark(path: str) -> None:
    execute(path, "PRAGMA application_id = 7")


def make_foreign_version(path: str) -> None:
    execute(path, "PRAGMA user_version = 7")


def make_foreign_log(path: str) -> None:
    """A foreign database whose only table is still in its write-ahead log."""
    other = path + ".away"
    with closing(sqlite3.connect(other, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (a)")
        Path(path).write_bytes(Path(other).read_bytes())
        Path(path + "-wal").write_bytes(Path(other + "-wal").read_bytes())
    os.unlink(other)


def make_newer(path: str) -> None:
    trio.run(open_and_close, path)
    execute(path, f"PRAGMA user_version = {schema.VERSION + 1}")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_directory, "is a directory"),
        (make_pipe, "is not a regular file"),
        (make_text, "is not a SQLite database"),
        (make_stub, "is not a SQLite database"),
        (make_foreign, "is another program's database"),
        (make_foreign_mark, "is another program's database"),
        (make_foreign_version, "is another program's database"),
        (make_foreign_log, "is another program's database"),
        (make_newer, "was written by a newer version"),
    ],
)
def test_what_is_not_ours_is_refused_untouched(
    tmp_path: Path, path: str, make: Callable[[str], None], why: str
):
    make(path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=why) as caught:
        trio.run(open_and_close, path)
    assert contents(tmp_path) == before
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


async def test_a_missing_directory_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="its directory doesn't exist"):
        await open_and_close(str(tmp_path / "missing" / "turns.db"))
    assert contents(tmp_path) == {}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize(
    ("file", "directory", "why"),
    [
        (0o444, 0o777, "can't be read and written"),
        (0o000, 0o777, "can't be read and written"),
        (0o666, 0o555, "its directory can't be written to"),
    ],
)
def test_what_cannot_be_written_is_refused_untouched(children: Children, file: int, directory: int, why: str):
    # Not below tmp_path, whose parents only root can enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        base = Path(os.path.realpath(name))
        path = base / "turns.db"
        trio.run(open_and_close, str(path))
        os.unlink(f"{path}.lock")
        path.chmod(file)
        base.chmod(directory)
        before = contents(base)
        children.start("try_as_nobody", str(path))
        (said,) = children.rest()
        assert said.endswith(why)
        assert contents(base) == before
        assert stat.S_IMODE(path.stat().st_mode) == file


def test_a_damaged_file_is_refused(path: str):
    trio.run(open_and_close, path)
    file = Path(path)
    file.write_bytes(file.read_bytes()[:8192])
    with pytest.raises(ConfigError, match="the database is damaged"):
        trio.run(open_and_close, path)


def test_an_empty_file_is_taken(path: str):
    Path(path).touch()
    trio.run(open_and_close, path)
    assert size(path) > 0


async def test_a_database_without_tables_is_taken(path: str):
    execute(path, "VACUUM")
    assert size(path) > 0
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")


@pytest.mark.parametrize("name", ["a b.db", "a?mode=memory.db", "a%20b#c.db", "file:a.db", "é'\".db"])
async def test_any_name_is_just_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    async with open_sqlite_store(name) as store:
        await take_turn(store, "a")
    assert sorted(contents(tmp_path)) == [name, f"{name}.lock"]


async def test_closing_leaves_one_file_with_all_that_was_written(tmp_path: Path, path: str):
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
    assert sorted(contents(tmp_path)) == ["turns.db", "turns.db.lock"]
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
        assert db.execute("SELECT id FROM response").fetchall() == [("a",)]
        assert db.execute("SELECT item, json_extract(data, '$.id') FROM entry").fetchall() == [
            ("in_a", "in_a"),
            ("out_a", "out_a"),
        ]


async def test_the_file_is_as_designed(path: str):
    async with open_sqlite_store(path):
        with closing(sqlite3.connect(path)) as db:
            found = [
                db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_size", "journal_mode", "application_id", "user_version")
            ]
    assert found == [8192, "wal", schema.APPLICATION_ID, schema.VERSION]


async def test_what_was_written_is_there_when_opened_again(path: str):
    async with open_sqlite_store(path) as store:
        await new_conversation(store, "conv_1", "x")
        await take_turn(store, "a", conversation="conv_1")
    async with open_sqlite_store(path) as store:
        await take_turn(store, "b", conversation="conv_1")
        assert await texts(store, conversation="conv_1") == data("x", "in_a", "out_a", "in_b", "out_b")


async def test_stores_in_memory_are_apart_and_forgotten():
    async with open_sqlite_store(":memory:") as one, open_sqlite_store(":memory:") as two:
        await take_turn(one, "a")
        with pytest.raises(Missing):
            await two.response(OWNER, "a")
    async with open_sqlite_store(":memory:") as again:
        with pytest.raises(Missing):
            await again.response(OWNER, "a")


def test_each_migration_says_which_version_it_leads_to():
    for version, statements in enumerate(schema.MIGRATIONS, 1):
        assert statements[-1] == f"PRAGMA user_version = {version}"
    assert f"PRAGMA application_id = {schema.APPLICATION_ID}" == schema.MARK
    assert schema.APPLICATION_ID.to_bytes(4, "big") == b"AgTr"


def add_migration(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, statements))


async def test_an_older_file_is_migrated_and_then_refused_by_the_older_gateway(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
):
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
    with monkeypatch.context() as newer:
        add_migration(
            newer, "ALTER TABLE thread ADD COLUMN note TEXT", f"PRAGMA user_version = {schema.VERSION + 1}"
        )
        async with open_sqlite_store(path) as store:
            assert await texts(store, response="a") == data("in_a", "out_a")
            # Killed now, the new version must show in the file, not only in its log.
            copy = shutil.copyfile(path, tmp_path / "copy.db")
    for old in (path, str(copy)):
        with pytest.raises(ConfigError, match="was written by a newer version"):
            await open_and_close(old)


@pytest.fixture
def version_1(path: str) -> str:
    """A file that the first version has written."""
    dump = (ROOT / "tests" / "data" / "store_1.sql").read_text()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(dump)
    return path


async def test_a_file_of_version_1_is_brought_up_to_date(version_1: str):
    async with open_sqlite_store(version_1) as store:
        assert await texts(store, response="fork") == data("in_a", "out_a", "in_fork", "out_fork")
        assert await texts(store, response="c") == data("x", "y", "in_c", "out_c")
        assert await texts(store, conversation="conv_1") == data("x", "in_c", "out_c", "z")
        kept = await store.response(OWNER, "kept")
        assert kept == StoredResponse("kept", "completed", b'{"id":"kept"}', data("k2"), b"\x00\xffprint")
        assert await store.events(OWNER, "kept") == [b"data: 1\n\n"]
        assert await store.recover(lambda body: body) == 1
        assert await texts(store, response="running") == data("in_a", "out_a", "in_b", "out_b", "r1")
        await store.end(replace(ending("new"), key=b"k"))
        found = await store.keyed(OWNER, b"k")
        assert found is not None
        assert found.id == "new"
        assert await store.keyed(OWNER, b"\x00\xffprint") is None


async def test_a_migration_that_fails_changes_nothing(path: str, monkeypatch: pytest.MonkeyPatch):
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
    with monkeypatch.context() as newer:
        add_migration(newer, "DROP TABLE entry", "SELECT nonsense")
        with pytest.raises(ConfigError):
            await open_and_close(path)
    async with open_sqlite_store(path) as store:
        assert await texts(store, response="a") == data("in_a", "out_a")


async def test_a_second_gateway_is_refused(path: str, children: Children):
    async with open_sqlite_store(path) as store:
        with pytest.raises(ConfigError, match="is in use by process"):
            await open_and_close(path)
        children.start("try_to_open", path)
        said = f"the database {path} is in use by process {os.getpid()}, another gateway"
        assert children.rest() == [said]
        await take_turn(store, "a")
    children.start("try_to_open", path)
    assert children.rest() == ["open"]


async def test_two_names_of_one_file_are_one_file(tmp_path: Path, path: str):
    (tmp_path / "link.db").symlink_to(path)
    async with open_sqlite_store(str(tmp_path / "link.db")):
        with pytest.raises(ConfigError, match="is in use by process"):
            await open_and_close(path)


async def test_a_killed_gateway_holds_nothing(path: str, children: Children):
    children.start("hold", path)
    assert children.line() == "open"
    children.kill()
    await open_and_close(path)


async def test_all_that_was_acknowledged_survives_kill_9(path: str, children: Children):
    acknowledged: list[str] = []
    for lines in range(5, 125, 8):
        children.start("write", path)
        acknowledged += [children.line() for _ in range(lines)]
        acknowledged += children.kill()
    assert len(acknowledged) > 900
    async with open_sqlite_store(path) as store:
        await store.recover(lambda body: body)
        for word, id in map(str.split, acknowledged):
            stored = await store.response(OWNER, id)
            history = await store.history(OWNER, response=id)
            assert history.items[-1] in data(f"in_{id}", f"out_{id}")
            if word == "ended":
                assert (stored.status, stored.output) == ("completed", data(f"out_{id}"))
        conversations, _ = await store.list_conversations(OWNER, query(limit=1000))
        for conversation in conversations:
            # An input without its output would be half of a turn.
            listed = ids(await store.conversation_items(OWNER, conversation.id, query(limit=10_000)))
            assert [name.removeprefix("in_") for name in listed[::2]] == [
                name.removeprefix("out_") for name in listed[1::2]
            ]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


MARKER = b"a-deleted-secret"


def files_with_marker(path: str) -> list[str]:
    found = [name for name in (path, f"{path}-wal", f"{path}-shm", f"{path}.lock") if os.path.exists(name)]
    assert found[:2] == [path, f"{path}-wal"]
    return [name for name in found if MARKER in Path(name).read_bytes()]


@pytest.mark.parametrize("length", [100, 3_000, 100_000])
async def test_after_a_sweep_deleted_text_is_in_no_file(path: str, length: int):
    secret = [Item(f"x{n}", b'"%b%b"' % (MARKER, b"x" * length)) for n in range(5)]
    body = b'{"metadata":"%b"}' % MARKER
    async with open_sqlite_store(path) as store:
        await take_turn(store, "before")
        await store.announce(announcement("a", None, secret, body=body))
        made = ending("a", None, secret, secret, body=body)
        await store.end(replace(made, events=[MARKER + b"\n\n", b"\n\n"], key=MARKER, fingerprint=MARKER))
        await store.create_conversation(OWNER, Conversation("conv_1", 1, body), secret, frozenset())
        await take_turn(store, "b", conversation="conv_1")
        await take_turn(store, "after")
        await store.delete_response(OWNER, "a")
        for each in secret:
            await store.delete_item(OWNER, "conv_1", each.id, no_effect)
        await store.delete_response(OWNER, "b")
        await store.update_conversation(OWNER, "conv_1", b"{}")
        assert files_with_marker(path)
        assert await store.sweep(await store.deletions()) > 0
        assert files_with_marker(path) == []
        assert await texts(store, response="after") == data("in_after", "out_after")


@pytest.mark.parametrize(
    "statement", [erasure._FIND_ITEM, erasure._LIVING, erasure._THREAD, erasure._DROPPED]
)
async def test_what_is_reached_is_looked_up_in_indexes(path: str, statement: str):
    values = dict.fromkeys(("id", "owner", "mask", "thread", "mark", "cut", "first", "end", "last"), 1)
    async with open_sqlite_store(path) as store:
        plan = await store.writer.between(
            lambda db: db.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        )
    steps = [step.decode() for *_, step in plan]
    assert [step for step in steps if step.startswith("SCAN") and "subquery" not in step] == []


def interleave(db: sqlite3.Connection) -> None:
    """Turns of many conversations, so that pages are split and rows moved; half of them are deleted."""
    random = Random(2)
    bases: dict[str, Place] = {}
    for n in range(40):
        id = f"conv_{n}"
        conversations.create(db, OWNER, Conversation(id, 1, b"{}"), [], frozenset())
        bases[id] = conversations.find(db, OWNER, id).place()
    deleted = list(bases)[:20]
    for n in range(400):
        id = random.choice(list(bases))
        text = "y" * random.choice((50, 1000, 4000))
        name = "deleted" if id in deleted else "kept"
        made = ending(f"r{n}", bases[id], [item(f"secret_{name}_{n}", text)], conversation=id)
        responses.end(db, made)
        bases[id] = Place(bases[id].thread, bases[id].position + 1)
        if id in deleted:
            responses.delete_response(db, OWNER, f"r{n}")
    for id in deleted:
        conversations.delete(db, OWNER, id)


def secrets(path: str) -> set[bytes]:
    return set(re.findall(rb'"secret_(deleted|kept)_', Path(path).read_bytes()))


async def test_a_row_that_was_moved_leaves_no_copy_behind(path: str):
    async with open_sqlite_store(path, run_sync=run_inline) as store:
        await store.writer.write(interleave)
        mark = await store.deletions()
        while await store.sweep(mark):
            pass
        assert secrets(path) == {b"kept"}


async def test_a_sweep_empties_the_log_once_no_reader_needs_it(path: str):
    async with open_sqlite_store(path, busy_timeout=0.05) as store:
        await take_turn(store, "a")
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM response").fetchall()
            await store.delete_response(OWNER, "a")
            assert await store.sweep(await store.deletions()) > 0
            assert size(f"{path}-wal") > 0
        assert await store.sweep(0) == 0
        assert size(f"{path}-wal") == 0


def limit(pages: int) -> Callable[[sqlite3.Connection], None]:
    """Work that lets the file grow by so many pages and no more."""

    def work(db: sqlite3.Connection) -> None:
        used = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {used + pages}")

    return work


async def test_a_full_disk_is_a_store_error_and_room_ends_it(path: str):
    async with open_sqlite_store(path, run_sync=run_inline) as store:
        await take_turn(store, "a")

        await store.writer.write(limit(0))
        large = [Item("large", b"x" * 1_000_000)]
        with pytest.raises(StoreError, match=r"^the disk is full$"):
            await store.end(ending("b", None, large))
        assert (await store.response(OWNER, "a")).status == "completed"
        await store.writer.write(limit(10_000))
        await store.end(ending("b", None, large))
        assert await texts(store, response="b") == [large[0].data]


async def test_a_foreign_lock_is_a_store_error_and_its_end_ends_it(path: str):
    async with open_sqlite_store(path, busy_timeout=0.05) as store:
        await take_turn(store, "a")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for refused in (store.end(ending("b")), store.probe()):
                with pytest.raises(StoreError, match=r"^the database is locked by another process$"):
                    await refused
            assert (await store.response(OWNER, "a")).status == "completed"
            other.execute("ROLLBACK")
        await store.end(ending("b"))


async def test_a_closed_store_refuses_reads_and_writes(path: str):
    async with open_sqlite_store(path) as store:
        await take_turn(store, "a")
    for refused in (store.response(OWNER, "a"), store.probe()):
        with pytest.raises(StoreError, match=r"^the store is closed$"):
            await refused


async def test_closing_waits_for_what_is_under_way(path: str, caplog: pytest.LogCaptureFixture):
    async with trio.open_nursery() as nursery, open_sqlite_store(path) as store:
        await take_turn(store, "a")
        for n in range(3 * READERS):
            nursery.start_soon(take_turn_and_read, store, n)
        await trio.lowlevel.checkpoint()
    assert caplog.records == []
    async with open_sqlite_store(path) as store:
        assert (await store.response(OWNER, "a")).status == "completed"


async def take_turn_and_read(store: SqliteStore, n: int) -> None:
    with suppress(StoreError):
        await take_turn(store, f"r{n}", after="a")
        await store.response_input(OWNER, "a", PageQuery())


async def test_cancelling_all_still_writes_what_was_taken_whole(path: str):
    with trio.CancelScope() as scope:
        async with open_sqlite_store(path) as store, trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(store.end, ending(f"r{n}", None, items("x"), items("y")))
            await trio.lowlevel.checkpoint()
            scope.cancel()
    async with open_sqlite_store(path) as store:
        listed, _ = await store.list_responses(OWNER, query())
        assert all(response.output == data("y") for response in listed)


async def test_an_error_of_the_caller_comes_out_as_it_is(path: str):
    with pytest.raises(ValueError, match="mine"):
        async with open_sqlite_store(path):
            raise ValueError("mine")
    await open_and_close(path)


@pytest.mark.parametrize("where", ["file", "memory"])
async def test_readers_see_whole_turns_while_others_write(path: str, where: str):
    async with open_sqlite_store(path if where == "file" else ":memory:") as store:
        await new_conversation(store)
        done = trio.Event()

        async def read() -> None:
            while not done.is_set():
                assert len(await texts(store, conversation="conv_1")) % 2 == 0

        async with trio.open_nursery() as nursery:
            for _ in range(2 * READERS):
                nursery.start_soon(read)
            for n in range(60):
                await take_turn(store, f"r{n}", conversation="conv_1")
            done.set()


async def test_a_full_thread_says_so_and_stays_as_it_was(path: str):
    async with open_sqlite_store(path, run_sync=run_inline) as store:
        await new_conversation(store)

        def fill(db: sqlite3.Connection) -> None:
            db.execute("UPDATE thread SET head = ?", (threads.MAX_POSITION - 1,))

        await store.writer.write(fill)
        base = (await store.history(OWNER, conversation="conv_1")).base
        with pytest.raises(ThreadFull):
            await store.add_items(OWNER, "conv_1", items("x", "y"), frozenset(), frozenset())
        with pytest.raises(ThreadFull):
            await store.end(ending("a", base, items("x"), items("y"), status="failed"))
        await store.add_items(OWNER, "conv_1", items("z"), frozenset(), frozenset())
        with pytest.raises(ThreadFull):
            await store.delete_item(OWNER, "conv_1", "z", lambda data: (frozenset(), frozenset()))
        assert await texts(store, conversation="conv_1") == data("z")


async def announce_two(store: SqliteStore) -> None:
    """Two turns under way: ``a``, which continues ``first``, and ``b``, which begins a chain."""
    await take_turn(store, "first")
    base = (await store.history(OWNER, response="first")).base
    await store.announce(announcement("a", base, items("x"), open_calls=frozenset({"call"})))
    await store.announce(announcement("b", None, items("y")))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE response SET pending = '[[' WHERE id = 'a'",
        "UPDATE response SET pending = '[[1,2,3]]' WHERE id = 'a'",
        "UPDATE response SET open = '{}' WHERE id = 'a'",
        "UPDATE response SET body = '' WHERE id = 'a'",
    ],
)
async def test_recover_ends_a_damaged_turn_without_its_input(
    path: str, damage: str, caplog: pytest.LogCaptureFixture
):
    async with open_sqlite_store(path) as store:
        await announce_two(store)
    execute(path, damage)
    async with open_sqlite_store(path) as store:
        assert await store.recover(crashed) == 2
        assert "turn a failed, and its input is lost" in caplog.text
        for id in ("a", "b"):
            stored = await store.response(OWNER, id)
            assert (stored.status, stored.output) == ("failed", ())
            assert json.loads(stored.body)["error"]["code"] == "server_error"
        assert await texts(store, response="a") == data("in_first", "out_first")
        assert await texts(store, response="b") == data("y")
        assert ids(await store.response_input(OWNER, "a", query())) == ["in_first", "out_first"]
        assert await store.recover(crashed) == 0
        await take_turn(store, "c", after="a")
        assert await texts(store, response="c") == data("in_first", "out_first", "in_c", "out_c")
        await store.delete_response(OWNER, "a")


async def test_recover_ends_a_turn_whose_history_is_full(path: str):
    async with open_sqlite_store(path) as store:
        await announce_two(store)
    head = f"= {threads.MAX_POSITION}"
    execute(path, f"UPDATE thread SET head {head}", f"UPDATE response SET base {head} WHERE id = 'a'")
    async with open_sqlite_store(path) as store:
        assert await store.recover(crashed) == 2
        assert (await store.response(OWNER, "a")).status == "failed"
        assert await texts(store, response="a") == data("in_first", "out_first")
        assert await texts(store, response="b") == data("y")


async def test_recover_ends_a_turn_whose_history_is_gone(path: str):
    async with open_sqlite_store(path) as store:
        await announce_two(store)
    execute(path, "DELETE FROM thread")
    async with open_sqlite_store(path) as store:
        assert await store.recover(crashed) == 2
        assert (await store.response(OWNER, "a")).status == "failed"
        with pytest.raises(StoreError, match="gone"):
            await store.history(OWNER, response="a")
        assert await texts(store, response="b") == data("y")


async def test_recover_keeps_of_a_damaged_first_turn_that_it_was_there(path: str):
    async with open_sqlite_store(path) as store:
        await announce_two(store)
    execute(path, "UPDATE response SET pending = '[', body = '[' WHERE id = 'b'")
    async with open_sqlite_store(path) as store:
        assert await store.recover(crashed) == 2
        stored = await store.response(OWNER, "b")
        body = json.loads(stored.body)
        assert (stored.status, body["id"], body["status"]) == ("failed", "b", "failed")
        assert await texts(store, response="b") == []
        assert await texts(store, response="a") == data("in_first", "out_first", "x")


async def test_recover_ends_nothing_on_a_disk_that_fails(path: str):
    async with open_sqlite_store(path, run_sync=run_inline) as store:
        await announce_two(store)
        await store.announce(announcement("c", None, [Item("large", b'"%b"' % (b"x" * 1_000_000))]))

        await store.writer.write(limit(0))
        with pytest.raises(StoreError, match=r"^the disk is full$"):
            await store.recover(crashed)
        assert (await store.response(OWNER, "a")).status == "in_progress"
        await store.writer.write(limit(10_000))
        assert await store.recover(crashed) == 3


ENVELOPE = b'{"object":"response","status":"completed","echo":"' + b"e" * 940 + b'"}'
"""As long as the body of a plain response."""


def kilobyte(id: str) -> Item:
    text = f'{{"id":"{id}","type":"message","text":"'.encode()
    return Item(id, text.ljust(1022, b"x") + b'"}')


async def fill(store: SqliteStore, first: int, last: int) -> None:
    """Turns of two items of 1 KB each, in one chain; ids as long as real ones."""
    base = (await store.history(OWNER, response=f"resp_{first - 1:048}")).base if first else None
    for n in range(first, last):
        given, made = kilobyte(f"msg_{n:047}i"), kilobyte(f"msg_{n:047}o")
        id = f"resp_{n:048}"
        await store.end(ending(id, base, [given], [made], body=ENVELOPE))
        base = Place(1, 2 * n + 2)


class Cost:
    """Statements that ran, and bytes that were added to the log."""

    def __init__(self, store: SqliteStore, path: str) -> None:
        self._store = store
        self._log = f"{path}-wal"

    async def of(self, first: int, last: int) -> tuple[int, int]:
        seen: list[str] = []

        def trace(callback: Any) -> Callable[[sqlite3.Connection], None]:
            return lambda db: db.set_trace_callback(callback)

        before = size(self._log)
        await self._store.writer.write(trace(seen.append))
        await fill(self._store, first, last)
        await self._store.writer.write(trace(None))
        return len(seen), size(self._log) - before


async def test_a_turn_costs_the_same_at_any_depth(path: str):
    async with open_sqlite_store(path, run_sync=run_inline) as store:
        await store.writer.write(lambda db: db.execute("PRAGMA wal_autocheckpoint = 0"))
        cost = Cost(store, path)
        await fill(store, 0, 10)
        early = await cost.of(10, 30)
        await fill(store, 30, 1000)
        late = await cost.of(1000, 1020)
        history = await store.history(OWNER, response=f"resp_{1019:048}")
    assert len(history.items) == 2040
    assert early[0] == late[0]
    assert late[1] <= 1.2 * early[1]
    assert size(path) <= 2.0 * sum(map(len, history.items))


async def test_reading_costs_one_hop_and_no_statement_per_turn(path: str):
    hops = 0

    async def counted(work: Callable[[], Any], *, limiter: trio.CapacityLimiter) -> Any:
        nonlocal hops
        hops += 1
        return await run_inline(work, limiter=limiter)

    async with open_sqlite_store(path, run_sync=counted) as store:
        await fill(store, 0, 100)
        await store.end(ending("fork", Place(1, 100), items("x"), items("y")))
        seen: list[str] = []
        reader = store._read.__self__._free[-1]
        reader.set_trace_callback(seen.append)
        before = hops
        assert len((await store.history(OWNER, response="fork")).items) == 102
        assert hops - before == 1
        # The response, two threads and their entries, within a transaction.
        assert len(seen) == 7
        seen.clear()
        page = await store.response_input(OWNER, "fork", PageQuery(limit=10))
        assert (len(page.items), page.has_more) == (10, True)
        assert hops - before == 2
        assert len(seen) == 7
