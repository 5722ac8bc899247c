"""What owners and keys may use: refused in time, told in the headers that clients know, and shared fairly."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.gateway import quotas
from agentic_trio.store.key_database import OwnerRow, open_keys
from tests.fake_upstream import Script

from .harness import MODEL
from .test_keys import Team, open_team

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

ASK = {"model": MODEL, "input": "hi"}
CHAT = {"model": MODEL, "messages": []}


async def ask(team: Team, headers: dict[str, str], **members: Any) -> httpx.Response:
    return await team.world.post("/v1/responses", ASK | members, headers=headers)


def refused(answer: httpx.Response, what: str) -> int:
    """The seconds after which a refused request may be sent again."""
    assert answer.status_code == 429, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", what)
    return int(answer.headers["retry-after"])


async def test_more_turns_than_an_owner_has_in_a_minute_are_refused(tmp_path: Path):
    async with open_team(tmp_path, owner_turns_per_minute=2) as team:
        alice, bob = team.headers("alice"), team.headers("bob")
        also_alice = team.headers("alice")
        first = await ask(team, alice)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert 55 <= int(first.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        assert (await team.world.post("/v1/chat/completions", CHAT, headers=also_alice)).status_code == 200
        calls = len(team.world.upstream.requests)
        answer = await ask(team, alice, stream=True)
        assert 55 <= refused(answer, "requests") <= 60
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(team.world.upstream.requests) == calls
        assert (await ask(team, bob)).status_code == 200
        # What asks nothing of the model server isn't bounded.
        path = f"/v1/responses/{first.json()['id']}"
        assert (await team.world.client.get(path, headers=alice)).status_code == 200


async def test_a_body_is_not_read_of_a_request_that_is_refused(tmp_path: Path):
    async with open_team(tmp_path, owner_turns_per_minute=1) as team:
        alice = team.headers("alice")
        await ask(team, alice)
        stream = await trio.open_tcp_stream("127.0.0.1", team.world.port)
        head = (
            f"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\nauthorization: {alice['authorization']}\r\n"
        )
        await stream.send_all(f"{head}content-length: 1000\r\n\r\n".encode())
        with trio.fail_after(5):
            assert b" 429 " in await stream.receive_some()
        await stream.aclose()


async def test_a_key_s_own_limit_is_not_its_owner_s(tmp_path: Path):
    async with open_team(tmp_path) as team:
        tight, free = team.headers("alice", turns_per_minute=1), team.headers("alice")
        assert (await ask(team, tight)).status_code == 200
        assert "key's" in (await ask(team, tight)).json()["error"]["message"]
        answer = await ask(team, free)
        assert answer.status_code == 200
        assert "x-ratelimit-limit-requests" not in answer.headers


async def test_an_owner_s_own_limits_win_over_the_settings(tmp_path: Path):
    async with open_team(tmp_path, owner_turns_per_minute=1) as team:
        database = open_keys(team.keys_file)
        database.set_owner(OwnerRow("alice", turns_per_minute=3))
        database.close()
        alice = team.headers("alice")
        statuses = [(await ask(team, alice)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]


@asynccontextmanager
async def busy(team: Team, headers: dict[str, str], count: int) -> AsyncIterator[None]:
    """So many turns of an owner's run while the block lasts."""
    world = team.world
    world.upstream.script(Script(hang=True))
    before = len(world.upstream.requests)
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(ask, team, headers)
        await world.upstream.wait_requests(before + count)
        world.upstream.script(None)
        yield
        world.upstream.release()


async def test_more_turns_at_once_than_an_owner_may_have_are_refused_until_one_ends(tmp_path: Path):
    async with open_team(tmp_path, owner_turns_at_once=2) as team:
        alice, bob = team.headers("alice"), team.headers("bob")
        async with busy(team, alice, 2):
            assert refused(await ask(team, alice), "requests") == 1
            assert (await ask(team, bob)).status_code == 200
        for _ in range(3):
            assert (await ask(team, alice)).status_code == 200


async def test_a_refused_or_failed_request_gives_its_place_back(tmp_path: Path):
    async with open_team(tmp_path, owner_turns_at_once=1) as team:
        alice = team.headers("alice")
        for members in (
            {"input": 7},
            {"previous_response_id": "resp_nope"},
            {"input": '!{"status": 500} hi'},
        ):
            assert (await ask(team, alice, **members)).status_code >= 400
        assert (await ask(team, alice)).status_code == 200


async def test_a_client_that_leaves_gives_its_place_back(tmp_path: Path):
    async with open_team(tmp_path, owner_turns_at_once=1) as team:
        alice = team.headers("alice")
        team.world.upstream.script(Script(hang=True))
        with trio.move_on_after(0.3):
            await ask(team, alice)
        team.world.upstream.script(None)
        with trio.fail_after(5):
            # No event tells a client that the gateway has seen it leave.
            while (await ask(team, alice)).status_code == 429:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def until(team: Team, headers: dict[str, str], id: str) -> str:
    with trio.fail_after(10):
        while True:
            body = (await team.world.client.get(f"/v1/responses/{id}", headers=headers)).json()
            if body["status"] not in ("queued", "in_progress"):
                return str(body["status"])
            await trio.sleep(0.01)


async def test_background_turns_wait_for_their_owner_s_places(tmp_path: Path):
    async with open_team(tmp_path, owner_turns_at_once=1) as team:
        alice = team.headers("alice")
        async with busy(team, alice, 1):
            ids = [(await ask(team, alice, background=True)).json()["id"] for _ in range(3)]
            first = await team.world.client.get(f"/v1/responses/{ids[0]}", headers=alice)
            assert first.json()["status"] == "queued"
            bob = team.headers("bob")
            other = (await ask(team, bob, background=True)).json()["id"]
            assert await until(team, bob, other) == "completed"
        for id in ids:
            assert await until(team, alice, id) == "completed"


async def test_one_owner_s_many_background_turns_don_t_delay_another_s_first(tmp_path: Path):
    async with open_team(tmp_path, max_background=1) as team:
        world = team.world
        alice, bob = team.headers("alice"), team.headers("bob")
        world.upstream.script(Script(hang=True))
        before = len(world.upstream.requests)
        statuses = [(await ask(team, alice, background=True, input=f"a{n}")).status_code for n in range(20)]
        assert statuses.count(200) >= 5
        await world.upstream.wait_requests(before + 1)
        assert (await ask(team, bob, background=True, input="b0")).status_code == 200
        world.upstream.script(None)
        world.upstream.release()
        await world.upstream.wait_requests(before + 3)
        given = [str(each.json["input"]) for each in world.upstream.requests[before : before + 3]]
        assert "a0" in given[0]
        assert "b0" in given[1]


async def test_tokens_of_a_day_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with open_team(tmp_path, owner_tokens_per_day=10) as team:
        alice = team.headers("alice")
        first = await ask(team, alice)
        assert first.headers["x-ratelimit-limit-tokens"] == "10"
        assert first.json()["usage"]["total_tokens"] >= 10
        answer = await ask(team, alice)
        assert 0 < refused(answer, "tokens") <= 86_400
        assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
        assert (await ask(team, team.headers("bob"))).status_code == 200
        held = team.world.gateway.quotas
        assert held is not None
        now = held._now
        monkeypatch.setattr(held, "_now", lambda: now() + quotas.DAY)
        assert (await ask(team, alice)).status_code == 200


async def test_tokens_of_a_day_are_kept_through_a_restart(tmp_path: Path):
    key = ""
    for status in (200, 429):
        async with open_team(tmp_path, owner_tokens_per_day=10) as team:
            key = key or team.key("alice")
            assert (await ask(team, {"x-api-key": key})).status_code == status


RELAYED = {
    "json": ("/v1/chat/completions", CHAT, {}),
    "stream": ("/v1/chat/completions", CHAT | {"stream": True}, {}),
    "not stored": ("/v1/responses", ASK | {"store": False}, {}),
}


@pytest.mark.parametrize(("path", "body", "script"), RELAYED.values(), ids=RELAYED)
async def test_relayed_tokens_count_as_well(tmp_path: Path, path: str, body: Any, script: Any):
    async with open_team(tmp_path, owner_tokens_per_day=1) as team:
        alice = team.headers("alice")
        assert (await team.world.post(path, body, headers=alice)).status_code == 200
        with trio.fail_after(5):
            refused(await team.world.post(path, body, headers=alice), "tokens")


async def test_a_turn_that_was_cut_off_counts_about_what_it_used(tmp_path: Path):
    async with open_team(tmp_path, owner_tokens_per_day=5) as team:
        alice = team.headers("alice")
        await ask(team, alice, input='!{"cut_after": 6} ' + "word " * 20)
        refused(await ask(team, alice), "tokens")


async def test_a_request_that_the_model_server_refuses_uses_no_tokens(tmp_path: Path):
    async with open_team(tmp_path, owner_tokens_per_day=1) as team:
        alice = team.headers("alice")
        for _ in range(2):
            assert (await ask(team, alice, input='!{"status": 400} hi')).status_code == 400


async def test_accounts_of_owners_that_are_gone_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quotas, "MAX_IDLE_ACCOUNTS", 5)
    monkeypatch.setattr(quotas, "MINUTE", 0.0)
    async with open_team(tmp_path, owner_turns_per_minute=100) as team:
        for number in range(12):
            await ask(team, team.headers(f"owner {number}"))
        held = team.world.gateway.quotas
        assert held is not None
        assert len(held._accounts) <= 6


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_a_cache_salt_is_its_owner_s(tmp_path: Path, path: str):
    async with open_team(tmp_path, cache_salt=True) as team:
        body = (ASK if "responses" in path else CHAT) | {"cache_salt": "of the client"}
        salts = {}
        for owner in ("alice", "bob"):
            for store in (True, False):
                for _ in range(2):
                    await team.world.post(path, body | {"store": store}, headers=team.headers(owner))
                    salts.setdefault(owner, set()).add(team.world.upstream.last.json["cache_salt"])
        assert len(salts["alice"]) == len(salts["bob"]) == 1
        assert salts["alice"] != salts["bob"]
        assert "of the client" not in salts["alice"]
