"""``agentic-trio db``: check, stats, prune, export, restore and assign-owner, on a real database."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import open_fake_upstream

from .harness import open_server, run_command
from .test_erase import converse, respond, status

if TYPE_CHECKING:
    import subprocess

VERSION_1 = Path(__file__).parents[1] / "data" / "store_1.sql"


def found(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


async def db(command: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = f"sqlite://{directory / 'gateway.db'}"
    return await trio.to_thread.run_sync(lambda: run_command("db", command, "--db-url", url, *arguments))


async def report(command: str, directory: Path, *arguments: str) -> dict[str, Any]:
    ran = await db(command, directory, *arguments, "--json")
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    return said


async def test_a_database_in_use_is_checked_counted_and_exported(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        conversation, made = await converse(server)
        await respond(server, '!{"hang": true} later', background=True)
        await upstream.wait_stalled(1)
        assert await report("check", tmp_path) == {
            "database": str(tmp_path / "gateway.db"),
            "ok": True,
            "problems": [],
        }
        stats = await report("stats", tmp_path)
        counts = ("responses", "conversations", "items", "owners", "in_use_by")
        assert [stats[name] for name in counts] == [3, 1, 5, 1, server.process.pid]
        assert stats["statuses"] == {"completed": 2, "queued": 1}
        assert stats["size"] > 0
        ran = await db("export", tmp_path)
        exported = [json.loads(line) for line in ran.stdout.splitlines()]
        assert [each["type"] for each in exported] == ["conversation", *["response"] * 3]
        assert (exported[0]["id"], exported[0]["metadata"]) == (conversation, {"user": "alice"})
        assert len(exported[0]["items"]) == 3
        assert exported[1]["response"] == await server.read(made[0])
        assert [len(each["input"]) for each in exported[1:]] == [1, 1, 1]
        assert [each["conversation"] for each in exported[1:]] == [conversation, None, None]
        upstream.release()


async def test_an_export_goes_to_a_new_private_file(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        await respond(server, "hi")
    target = tmp_path / "all.jsonl"
    assert await report("export", tmp_path, "--output", str(target)) == {"output": str(target), "lines": 1}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(target.read_text().splitlines()) == 1
    ran = await db("export", tmp_path, "--output", str(target))
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1) or ran.returncode == 2
    assert (await db("export", tmp_path, "--owner", "nobody")).stdout == ""


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM thread", "thread is gone"),
        ("UPDATE thread SET head = 0", "after the end of their thread"),
        ("UPDATE response SET thread = NULL", "have no place"),
    ],
)
async def test_damage_is_found(tmp_path: Path, damage: str, said: str) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        await respond(server, "hi")
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as connection, connection:
        connection.execute(damage)
    ran = await db("check", tmp_path, "--json")
    assert ran.returncode == 1
    checked = json.loads(ran.stdout)
    assert not checked["ok"]
    assert any(said in line for line in checked["problems"])


async def test_torn_pages_are_found(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        for n in range(30):
            await respond(server, f"{n} " * 500)
        server.signal()
        await server.wait()
    with (tmp_path / "gateway.db").open("r+b") as file:
        file.seek(8192 * 4)
        file.write(b"\x5a" * 8192 * 8)
    ran = await db("check", tmp_path)
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr


async def test_what_is_old_is_pruned_and_swept_without_a_gateway(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        async with open_server(tmp_path, upstream.url) as server:
            made = [await respond(server, f"walrus {n} " * 200) for n in range(50)]
            body = {"model": "tiny", "input": "hi", "stream": True}
            await server.client.post("/v1/responses", json=body)
        pruned = await report("prune", tmp_path, "--streams")
        assert (pruned["deleted"], pruned["streams"], pruned["swept"]) == (0, 1, True)
        with closing(sqlite3.connect(tmp_path / "gateway.db")) as connection, connection:
            connection.execute("UPDATE response SET created_at = created_at - 86400 * 3 WHERE key <= 50")
        pruned = await report("prune", tmp_path, "--older-than", "2")
        assert pruned["deleted"] == 50
        assert pruned["size"] < pruned["size_before"]
        assert b"walrus" not in (tmp_path / "gateway.db").read_bytes()
        async with open_server(tmp_path, upstream.url) as server:
            assert await status(server, made[0]) == [404]
            assert (await report("prune", tmp_path, "--older-than", "2"))["deleted"] == 0


async def test_a_backup_is_restored_and_what_was_there_is_kept(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with open_fake_upstream() as upstream:
        async with open_server(tmp_path, upstream.url) as server:
            before = await respond(server, "before")
            assert (await report("backup", tmp_path, str(copy)))["backup"] == str(copy)
            after = await respond(server, "after")
            ran = await db("restore", tmp_path, str(copy))
            assert ran.returncode == 2
            assert f"in use by process {server.process.pid}" in ran.stderr
            assert await status(server, before, after) == [200, 200]
        restored = await report("restore", tmp_path, str(copy))
        async with open_server(tmp_path, upstream.url) as server:
            assert await status(server, before, after) == [200, 404]
            await respond(server, "on", previous_response_id=before)
        await report("restore", tmp_path, restored["kept"])
        async with open_server(tmp_path, upstream.url) as server:
            assert await status(server, before, after) == [200, 200]
    assert found(tmp_path, "*.restoring*") == []


async def test_the_log_of_a_killed_gateway_is_not_applied_to_what_is_restored(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with open_fake_upstream() as upstream:
        async with open_server(tmp_path, upstream.url) as server:
            before = await respond(server, "before")
            await report("backup", tmp_path, str(copy))
            after = await respond(server, "after")
            server.process.kill()
            await server.wait()
        assert (tmp_path / "gateway.db-wal").stat().st_size
        await report("restore", tmp_path, str(copy))
        async with open_server(tmp_path, upstream.url) as server:
            assert await status(server, before, after) == [200, 404]


@pytest.mark.parametrize("source", ["nonsense", "another program's", "damaged"])
async def test_what_is_no_whole_backup_is_not_restored(tmp_path: Path, source: str) -> None:
    bad = tmp_path / "bad.db"
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        for n in range(20):
            kept = await respond(server, f"{n} " * 2000)
    if source == "nonsense":
        bad.write_text("nonsense " * 100)
    elif source == "damaged":
        await report("backup", tmp_path, str(bad))
        with bad.open("r+b") as file:
            file.seek(8192 * 6)
            file.write(b"\x5a" * 8192 * 4)
    else:
        with closing(sqlite3.connect(bad)) as connection, connection:
            connection.execute("CREATE TABLE mine (id)")
    ran = await db("restore", tmp_path, str(bad))
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert found(tmp_path, "*.restoring*") == []
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        assert await status(server, kept) == [200]


async def test_an_older_database_is_backed_up_before_it_is_migrated(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.executescript(VERSION_1.read_text())
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        assert await status(server, "kept") == [200]
    [copy] = found(tmp_path, "gateway.db.schema-1*")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM response WHERE id = 'kept'").fetchone() == (1,)
    assert (await report("stats", tmp_path))["last_backup"]["path"] == str(copy)


async def test_without_a_migration_there_is_no_backup(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        for _ in range(2):
            async with open_server(tmp_path, upstream.url):
                pass
    assert found(tmp_path, "*.schema-*") == []


@pytest.mark.parametrize("running", [True, False])
async def test_what_has_no_owner_is_given_one(tmp_path: Path, running: bool) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        _, made = await converse(server)
        if not running:
            server.signal()
            await server.wait()
        assigned = await report("assign-owner", tmp_path, "alice")
        assert (assigned["responses"], assigned["conversations"]) == (2, 1)
        if running:
            assert await status(server, *made) == [404, 404]
    ran = await db("export", tmp_path, "--owner", "alice")
    assert len(ran.stdout.splitlines()) == 3
    assert (await report("check", tmp_path))["ok"]
    assert (await report("assign-owner", tmp_path, "bob", "--from", "alice"))["responses"] == 2
    assert (await report("erase", tmp_path, "--owner", "bob"))["responses"] == 2


async def test_a_command_that_is_nearly_right_is_named(tmp_path: Path) -> None:
    ran = run_command("db", "chekc")
    assert ran.returncode == 2
    assert "check" in ran.stderr.split(":", 1)[1].replace("chekc", "")
    assert os.listdir(tmp_path) == []
