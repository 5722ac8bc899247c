"""``agentic-trio db erase``: beside a gateway that runs, and without one; by bytes."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import open_fake_upstream

from .harness import open_server, run_command

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from .harness import Server

MARKER = "walrus-7f3a"
ALICE = {"metadata": {"user": "alice"}}


async def erase(database: Path, *criteria: str) -> dict[str, Any]:
    """Run the command; returns its report."""
    arguments = ("db", "erase", "--json", "--db-url", f"sqlite://{database}", *criteria)
    ran = await trio.to_thread.run_sync(lambda: run_command(*arguments))
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def marked(directory: Path) -> list[str]:
    """The files that hold the marker."""
    files = [path for path in directory.iterdir() if path.is_file()]
    assert "gateway.db" in {path.name for path in files}
    return sorted(path.name for path in files if MARKER.encode() in path.read_bytes())


async def unmarked(directory: Path) -> bool:
    return not marked(directory)


async def ended(server: Server, id: str) -> bool:
    return (await server.read(id))["status"] == "completed"


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for another process, of which no event tells."""
    with trio.fail_after(20):
        while True:
            if await true():
                return
            await trio.sleep(0.02)


async def respond(server: Server, input: str, **members: Any) -> str:
    body = {"model": "tiny", "input": input, **members}
    answer = await server.client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def status(server: Server, *ids: str) -> list[int]:
    return [(await server.client.get(f"/v1/responses/{id}")).status_code for id in ids]


async def converse(server: Server) -> tuple[str, list[str]]:
    """A conversation about the marker, a response made in it and one that continues that outside."""
    items = [{"role": "user", "content": MARKER}]
    answer = await server.client.post("/v1/conversations", json=ALICE | {"items": items})
    conversation = str(answer.json()["id"])
    inside = await respond(server, f"{MARKER} inside", conversation=conversation, instructions=MARKER)
    outside = await respond(server, f"{MARKER} outside", previous_response_id=inside)
    return conversation, [inside, outside]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("by", ["conversation", "metadata"])
async def test_what_is_erased_is_in_no_file_whether_a_gateway_runs_or_not(
    tmp_path: Path, running: bool, by: str
) -> None:
    database = tmp_path / "gateway.db"
    async with open_fake_upstream() as upstream:
        async with open_server(tmp_path, upstream.url) as server:
            conversation, erased = await converse(server)
            other = await respond(server, "something else")
            criteria = [f"--{by}", conversation if by == "conversation" else "user=alice"]
            assert marked(tmp_path)
            if running:
                report = await erase(database, *criteria)
                assert marked(tmp_path) == []
            else:
                server.process.kill()
                await server.wait()
                report = await erase(database, *criteria)
        assert marked(tmp_path) == []
        assert (report["responses"], report["conversations"], report["items"]) == (2, 1, 5)
        assert (report["backups"], report["traces"]) == ([], None)
        async with open_server(tmp_path, upstream.url) as server:
            assert await status(server, *erased, other) == [404, 404, 200]
            await respond(server, "on", previous_response_id=other)


async def test_a_turn_that_runs_in_what_is_erased_is_ended_and_another_goes_on(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        conversation, erased = await converse(server)
        slow = f'!{{"hang": true}} {MARKER}'
        inside = await respond(server, slow, conversation=conversation, background=True)
        continued = await respond(server, slow, previous_response_id=erased[1], background=True)
        other = await respond(server, '!{"hang": true} other', background=True)
        await upstream.wait_stalled(3)
        report = await erase(tmp_path / "gateway.db", "--conversation", conversation)
        assert report["responses"] == 4
        assert marked(tmp_path) == []
        assert await status(server, *erased, inside, continued, other) == [404, 404, 404, 404, 200]
        upstream.release()
        await until(lambda: ended(server, other))


async def test_a_dry_run_changes_nothing_and_a_backup_is_named(tmp_path: Path) -> None:
    database, copies = tmp_path / "gateway.db", tmp_path / "copies"
    copies.mkdir()
    copy = copies / "copy.db"
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        conversation, erased = await converse(server)
        ran = await trio.to_thread.run_sync(
            lambda: run_command("db", "backup", "--db-url", f"sqlite://{database}", str(copy))
        )
        assert ran.returncode == 0, ran.stderr
        counted = await erase(database, "--conversation", conversation, "--dry-run")
        assert await status(server, *erased) == [200, 200]
        report = await erase(database, "--conversation", conversation)
        counts = ("responses", "conversations", "items", "bytes")
        assert [counted[name] for name in counts] == [report[name] for name in counts]
        assert [each["path"] for each in report["backups"]] == [str(copy)]
        assert marked(tmp_path) == []
        assert MARKER.encode() in copy.read_bytes()
        nothing = await erase(database, "--conversation", conversation)
        assert (nothing["responses"], nothing["backups"]) == (0, [])


async def test_the_control_socket_is_private_and_goes_with_the_gateway(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        socket = tmp_path / "gateway.db.control"
        assert stat.S_ISSOCK(socket.stat().st_mode)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        server.signal()
        assert await server.wait() == 0
        assert not socket.exists()


async def test_a_path_longer_than_a_socket_s_address_is_reached(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 60) / ("e" * 60)
    directory.mkdir(parents=True)
    async with open_fake_upstream() as upstream, open_server(directory, upstream.url) as server:
        id = await respond(server, MARKER, metadata={"user": "alice"})
        assert (await erase(directory / "gateway.db", "--metadata", "user=alice"))["responses"] == 1
        assert await status(server, id) == [404]


async def create_key(database: Path, owner: str) -> dict[str, str]:
    """The header of a new key."""
    arguments = ("keys", "create", "--db-url", f"sqlite://{database}", "--owner", owner, "--name", owner)
    ran = await trio.to_thread.run_sync(lambda: run_command(*arguments))
    assert ran.returncode == 0, ran.stderr
    return {"authorization": f"Bearer {ran.stdout.strip()}"}


async def test_an_owner_is_erased_with_their_keys_and_their_name(tmp_path: Path) -> None:
    database = tmp_path / "gateway.db"
    keys = {owner: await create_key(database, owner) for owner in (MARKER, "other")}
    made = {}
    async with (
        open_fake_upstream() as upstream,
        open_server(tmp_path, upstream.url, "--auth", "keys") as server,
    ):
        for owner, headers in keys.items():
            body = {"model": "tiny", "input": "hi", "metadata": {"of": owner}}
            answer = await server.client.post("/v1/responses", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            made[owner] = f"/v1/responses/{answer.json()['id']}"
        assert "gateway.db.keys" in marked(tmp_path)
        report = await erase(database, "--owner", MARKER)
        assert (report["responses"], report["keys"]) == (1, 1)
        # The log names owners, and nothing that they said.
        assert set(marked(tmp_path)) <= {"server.log"}

        async def refused() -> bool:
            answer = await server.client.get("/v1/models", headers=keys[MARKER])
            return answer.status_code == 401

        await until(refused)
        assert (await server.client.get(made["other"], headers=keys["other"])).status_code == 200


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--metadata", "alice"],
        ["--metadata", "=alice"],
        ["--owner", "x", "--owner", "y"],
    ],
)
async def test_criteria_that_say_nothing_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    ran = run_command("db", "erase", "--db-url", f"sqlite://{tmp_path / 'x.db'}", *arguments)
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []


async def test_without_a_database_nothing_is_made(tmp_path: Path) -> None:
    ran = run_command("db", "erase", "--db-url", f"sqlite://{tmp_path / 'x.db'}", "--owner", "x")
    assert ran.returncode == 2
    assert "doesn't exist" in ran.stderr
    assert os.listdir(tmp_path) == []


async def test_what_is_older_than_retention_days_is_erased(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        async with open_server(tmp_path, upstream.url) as server:
            conversation, old = await converse(server)
        _age(tmp_path / "gateway.db", days=8)
        flags = ("--retention-days", "7", "--erase-after", "0.1")
        async with open_server(tmp_path, upstream.url, *flags) as server:
            new = await respond(server, "new")
            await until(lambda: unmarked(tmp_path))
            assert await status(server, *old, new) == [404, 404, 200]
            assert (await server.client.get(f"/v1/conversations/{conversation}")).status_code == 404


def _age(database: Path, *, days: int) -> None:
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE response SET created_at = created_at - ?", [days * 86_400])
        db.execute("UPDATE conversation SET used_at = used_at - ?", [days * 86_400])
