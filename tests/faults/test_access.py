"""What happens to those who may call when what says so is gone, or says so no longer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from agentic_trio.auth import key_set, keyring
from agentic_trio.store.key_database import open_keys
from tests.auth.issuer import AUDIENCE, new_key, open_issuer_server
from tests.fake_upstream import Script
from tests.web.harness import MODEL, open_world
from tests.web.test_keys import open_team

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ASK = {"model": MODEL, "input": "hi"}


async def test_nobody_is_let_in_while_revocations_can_t_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_team(tmp_path) as team:
        headers = team.headers()
        assert (await team.world.post("/v1/responses", ASK, headers=headers)).status_code == 200
        os.rename(team.keys_file, f"{team.keys_file}.away")
        monkeypatch.setattr(keyring, "STALE_AFTER", -1.0)
        answer = await team.world.post("/v1/responses", ASK, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await team.world.client.get("/health")).status_code == 200
        os.rename(f"{team.keys_file}.away", team.keys_file)
        monkeypatch.setattr(keyring, "STALE_AFTER", 4.0)
        assert (await team.world.post("/v1/responses", ASK, headers=headers)).status_code == 200


async def test_a_stream_goes_on_when_its_key_is_revoked(tmp_path: Path) -> None:
    async with open_team(tmp_path) as team:
        world, headers = team.world, team.headers(id="key_1")
        world.upstream.script(Script(stall_after=3))
        body = ASK | {"stream": True}
        async with world.client.stream("POST", "/v1/responses", json=body, headers=headers) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            database = open_keys(team.keys_file)
            database.revoke("key_1", 1)
            database.close()
            with trio.fail_after(5):
                # No event tells a client that the gateway has seen it.
                while (await world.client.get("/v1/models", headers=headers)).status_code != 401:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            world.upstream.release()
            assert [line async for line in lines if line.startswith("data:")][-1] == "data: [DONE]"


async def test_an_issuer_that_is_down_keeps_nobody_out_whose_key_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_set, "RETRY_INTERVAL", 0.0)
    async with open_issuer_server() as issuer:
        config = {"auth": ("oidc",), "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
        async with open_world(**config) as world:
            issuer.down = True
            for token, status in ((issuer.token(), 200), (issuer.token(key=new_key("new")), 401)):
                headers = {"authorization": f"Bearer {token}"}
                assert (await world.client.get("/v1/models", headers=headers)).status_code == status
