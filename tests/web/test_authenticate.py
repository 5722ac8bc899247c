"""A program's own way in: ``open_gateway(config, authenticate=...)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiosqlite
import trio
import trio_asyncio

from agentic_trio import GatewayError, Identity, InvalidRequest
from agentic_trio.auth import authenticator
from agentic_trio.auth.key_text import make_key
from tests.auth.issuer import AUDIENCE, open_issuer_server

from .harness import MODEL, open_world
from .test_keys import CONFIGURED, every_way

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from agentic_trio.auth.authenticator import Authenticate

SESSION = {"x-session": "session-of-alice"}


async def by_session(headers: Mapping[str, str]) -> Identity | str | None:
    await trio.lowlevel.checkpoint()
    return headers.get("x-session", "").removeprefix("session-of-") or None


async def test_a_program_says_who_calls():
    async with open_world(authenticate=by_session) as world:
        made = await world.client.post("/v1/conversations", headers=SESSION)
        path = f"/v1/conversations/{made.json()['id']}"
        assert (await world.client.get(path, headers=SESSION)).status_code == 200
        assert (await world.client.get(path, headers={"x-session": "session-of-bob"})).status_code == 404
        for headers in ({}, {"authorization": "Bearer x"}):
            assert (await world.client.get(path, headers=headers)).status_code == 401


async def test_an_empty_name_is_nobody_s_and_no_name_at_all_is_a_bug(caplog: pytest.LogCaptureFixture):
    """As of ``headers.get("x-user", "")``: the state of a gateway without owners is not for strangers."""

    async def authenticate(headers: Mapping[str, str]) -> Any:
        return {"bytes": b"alice", "yes": True}.get(headers.get("x-user", ""), "")

    async with open_world(authenticate=authenticate) as world:
        assert (await world.client.get("/v1/models")).status_code == 401
        for name in ("bytes", "yes"):
            assert (await world.client.get("/v1/models", headers={"x-user": name})).status_code == 500
        assert "TypeError" in caplog.text


@every_way
async def test_what_a_program_knows_a_caller_by_never_goes_up(path: str, body: Any):
    async with open_world(authenticate=by_session, openai_api_key=CONFIGURED) as world:
        headers = SESSION | {"authorization": "Bearer also-a-secret", "cookie": "s=secret"}
        await world.post(path, body, headers=headers)
        sent = world.upstream.last
        assert sent.headers["authorization"] == f"Bearer {CONFIGURED}"
        assert not any("session-of" in value or "secret" in value for value in sent.headers.values())


async def test_a_program_may_say_what_a_caller_may_do_and_which_key_goes_up():
    async def authenticate(headers: Mapping[str, str]) -> Identity:
        return Identity("alice", headers["x-scope"], upstream_key="sk-of-alice")  # type: ignore[arg-type]

    async with open_world(authenticate=authenticate) as world:
        body = {"model": MODEL, "input": "hi"}
        assert (await world.post("/v1/responses", body, headers={"x-scope": "read"})).status_code == 403
        assert (await world.post("/v1/responses", body, headers={"x-scope": "write"})).status_code == 200
        assert world.upstream.last.headers["authorization"] == "Bearer sk-of-alice"


async def test_a_program_s_refusal_is_told_and_its_bug_is_500(caplog: pytest.LogCaptureFixture):
    async def authenticate(headers: Mapping[str, str]) -> str:
        if "x-bug" in headers:
            raise KeyError("bug")
        raise InvalidRequest("Your trial is over.", status=403, code="trial_over")

    async with open_world(authenticate=authenticate) as world:
        refused = await world.client.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "trial_over")
        assert (await world.client.get("/v1/models", headers={"x-bug": "1"})).status_code == 500
        assert "KeyError" in caplog.text


async def test_a_program_that_does_not_answer_is_503(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(authenticator, "AUTHENTICATE_TIMEOUT", 0.01)

    async def authenticate(headers: Mapping[str, str]) -> None:
        await trio.sleep_forever()

    async with open_world(authenticate=authenticate) as world:
        answer = await world.client.get("/v1/models")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_client_that_leaves_ends_what_finds_out_who_it_is():
    asked, ended = trio.Event(), trio.Event()

    async def authenticate(headers: Mapping[str, str]) -> None:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with open_world(authenticate=authenticate) as world:
        stream = await trio.open_tcp_stream("127.0.0.1", world.port)
        await stream.send_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await asked.wait()
        await stream.aclose()
        with trio.fail_after(5):
            await ended.wait()


async def test_an_asyncio_library_can_say_who_calls(tmp_path: Path):
    """aiosqlite knows asyncio alone."""

    async def look_up(headers: Mapping[str, str]) -> str | None:
        async with aiosqlite.connect(tmp_path / "users.db") as db:
            found = await db.execute("SELECT name FROM user WHERE token = ?", [headers.get("x-token")])
            row = await found.fetchone()
            return None if row is None else str(row[0])

    async def prepare() -> None:
        async with aiosqlite.connect(tmp_path / "users.db") as db:
            await db.execute("CREATE TABLE user (name TEXT, token TEXT)")
            await db.execute("INSERT INTO user VALUES ('alice', 'secret')")
            await db.commit()

    async with trio_asyncio.open_loop():
        await trio_asyncio.aio_as_trio(prepare)()
        authenticate: Authenticate = trio_asyncio.aio_as_trio(look_up)
        async with open_world(authenticate=authenticate) as world:
            for token, status in (("secret", 200), ("other", 401)):
                answer = await world.client.get("/v1/models", headers={"x-token": token})
                assert answer.status_code == status


async def test_keys_and_tokens_are_not_the_program_s_to_judge(tmp_path: Path):
    asked: list[Mapping[str, str]] = []

    async def authenticate(headers: Mapping[str, str]) -> str:
        asked.append(headers)
        return "anyone"

    async with open_issuer_server() as issuer:
        settings = {"keys_file": str(tmp_path / "k"), "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
        async with open_world(authenticate=authenticate, auth=("keys", "oidc"), **settings) as world:
            for token, status in ((make_key(), 401), (issuer.token(), 200), (issuer.token(exp=1), 401)):
                headers = {"authorization": f"Bearer {token}"}
                assert (await world.client.get("/v1/models", headers=headers)).status_code == status
            assert not asked
            assert (await world.client.get("/v1/models")).status_code == 200
            assert len(asked) == 1


def test_an_identity_shows_no_key():
    assert "sk-secret" not in repr(Identity("alice", upstream_key="sk-secret"))
    assert issubclass(InvalidRequest, GatewayError)
