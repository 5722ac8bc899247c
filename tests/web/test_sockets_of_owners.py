"""WebSockets with ``auth``: each message is its owner's, and another owner's ids are nobody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.store.key_database import open_keys
from tests.websocket_client import Refused, Socket, open_socket

from .test_keys import CONFIGURED, Team, open_team

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path


@pytest.fixture
async def team(tmp_path: Path) -> AsyncIterator[Team]:
    async with open_team(tmp_path) as team:
        yield team


def opened(team: Team, headers: dict[str, str]) -> AbstractAsyncContextManager[Socket]:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return open_socket(team.world.port, headers=fields)


async def test_a_socket_without_a_good_key_is_refused(team: Team) -> None:
    for headers in ({}, {"authorization": "Bearer agt_nothing"}):
        with pytest.raises(Refused) as caught:
            async with opened(team, headers):
                pass
        assert caught.value.status == 401


async def test_another_owner_s_response_is_unknown(team: Team) -> None:
    async with opened(team, team.headers("alice")) as alice, opened(team, team.headers("bob")) as bob:
        made = await alice.respond("secret")
        unstored = await alice.respond("secret", store=False)
        calls = len(team.world.upstream.requests)
        for id in (made["id"], unstored["id"]):
            theirs = await bob.refused(previous_response_id=id)
            nobody = await bob.refused(previous_response_id=f"{id[:-6]}ffffff")
            assert str(theirs).replace(id, "") == str(nobody).replace(f"{id[:-6]}ffffff", "")
        assert len(team.world.upstream.requests) == calls
        assert (await alice.respond("on", previous_response_id=made["id"]))["status"] == "completed"
    assert team.world.upstream.last.headers["authorization"] == f"Bearer {CONFIGURED}"


async def test_a_key_that_is_revoked_is_worth_nothing_in_an_open_socket(team: Team) -> None:
    async with opened(team, team.headers("alice", id="key_1")) as socket:
        await socket.respond("one")
        database = open_keys(team.keys_file)
        database.revoke("key_1", 1)
        database.close()
        await trio.sleep(2)
        assert (await socket.refused("two"))["status"] == 401


async def test_a_key_that_may_only_read_makes_no_response(team: Team) -> None:
    async with opened(team, team.headers("alice", scope="read")) as socket:
        assert (await socket.refused("x"))["status"] == 403


async def test_quotas_bound_what_comes_over_a_socket(tmp_path: Path) -> None:
    async with open_team(tmp_path, owner_turns_per_minute=2) as team:
        headers = team.headers("alice")
        async with opened(team, headers) as socket:
            for _ in range(2):
                await socket.respond("x")
            assert (await socket.refused("x"))["status"] == 429
