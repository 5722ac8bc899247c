"""``agentic-trio keys``, beside a gateway that runs."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import open_fake_upstream

from .harness import COMMAND, environment, open_server, run_command

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from .harness import Server

HOLDS_WITHIN = 5.0
"""Seconds after which a revocation must hold on every gateway."""

ASK = {"model": "tiny", "input": "hi"}


async def keys(folder: Path, *arguments: str) -> str:
    """What a command says on stdout; it must succeed."""
    command = [*COMMAND, "keys", *arguments, "--db-url", f"sqlite://{folder / 'gateway.db'}"]
    ran = await trio.run_process(command, env=environment(), capture_stdout=True, capture_stderr=True)
    return ran.stdout.decode()


def written(folder: Path) -> bytes:
    """All that is in a folder's files."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def ask(server: Server, key: str) -> httpx.Response:
    return await server.client.post("/v1/responses", json=ASK, headers={"authorization": f"Bearer {key}"})


async def test_a_key_is_made_used_listed_rotated_and_revoked_while_gateways_run(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    file = ("--keys-file", str(tmp_path / "gateway.db.keys"))
    async with (
        open_fake_upstream() as upstream,
        open_server(tmp_path, upstream.url, "--auth", "keys") as server,
        open_server(other, upstream.url, "--auth", "keys", *file) as neighbour,
    ):
        key = await keys(tmp_path, "create", "--owner", "alice", "--name", "laptop")
        assert re.fullmatch(r"agt_[0-9A-Za-z]{49}\n", key)
        for each in (server, neighbour):
            assert (await ask(each, key.strip())).status_code == 200

        new = json.loads(await keys(tmp_path, "rotate", "laptop", "--grace", "1h", "--json"))
        assert (await ask(server, key.strip())).status_code == 200
        assert (await ask(server, new["key"])).status_code == 200

        revoked = json.loads(await keys(tmp_path, "revoke", new["id"], "--json"))
        assert revoked["state"] == "revoked"
        revoked_at = time.monotonic()
        for each in (server, neighbour):
            while (await ask(each, new["key"])).status_code == 200:
                assert time.monotonic() < revoked_at + HOLDS_WITHIN
                await trio.sleep(0.1)  # no event tells that another process has seen it
            assert (await ask(each, new["key"])).status_code == 401

    listed: list[dict[str, Any]] = json.loads(await keys(tmp_path, "list", "--json"))
    assert [each["state"] for each in listed] == ["active", "revoked"]
    assert all(each["owner"] == "alice" and each["last_used_at"] % 3600 == 0 for each in listed)
    text = written(tmp_path)
    for secret in (key.strip(), new["key"]):
        assert secret.encode() not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create"], "--owner"),
        (["create", "--owner", ""], "1 to 256 printable"),
        (["create", "--owner", "a\nb"], "1 to 256 printable"),
        (["create", "--owner", "a", "--scope", "all"], "--scope"),
        (["create", "--owner", "a", "--expires", "yesterday"], "such as 90d"),
        (["create", "--owner", "a", "--expires", "2020-01-01"], "a time to come"),
        (["create", "--owner", "a", "--upstream-key-file", "/nonexistent"], "can't be read"),
        (["revoke", "key_nope"], "no key has this id"),
        (["rotate", "key_nope"], "no key has this id"),
    ],
)
def test_what_can_t_be_done_is_said_in_a_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    ran = run_command("keys", *arguments, AGENTIC_TRIO_DB_URL=f"sqlite://{tmp_path}/a.db")
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1


def test_a_host_beyond_loopback_is_refused(tmp_path: Path) -> None:
    ran = run_command("serve", "--host", "0.0.0.0", AGENTIC_TRIO_DB_URL=f"sqlite://{tmp_path}/a.db")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 2)
    assert "--auth keys" in ran.stderr
