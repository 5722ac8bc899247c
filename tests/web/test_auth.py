"""A client's token goes upstream for its request alone, and nowhere else."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
import trio

from tests.fake_upstream import Script
from tests.http_client import open_under_way

from .harness import NOWHERE, World, open_world

CONFIGURED = "sk-configured"
SECRET = "sk-client-SECRET-0123456789"
BEARER = {"authorization": f"Bearer {SECRET}"}

# Each way in which a request reaches the upstream.
WAYS = {
    "stored": ("/v1/responses", {"model": "tiny", "input": "hi"}),
    "streamed": ("/v1/responses", {"model": "tiny", "input": "hi", "stream": True}),
    "unstored": ("/v1/responses", {"model": "tiny", "input": "hi", "store": False}),
    "chat": ("/v1/chat/completions", {"model": "tiny", "messages": []}),
}
every_way = pytest.mark.parametrize(("path", "body"), WAYS.values(), ids=WAYS.keys())


def received(world: World) -> str | None:
    return world.upstream.last.headers.get("authorization")


@every_way
async def test_clients_token_goes_upstream(path: str, body: dict[str, Any]) -> None:
    async with open_world(openai_api_key=CONFIGURED) as world:
        await world.post(path, body, headers=BEARER)
        assert received(world) == f"Bearer {SECRET}"


@every_way
async def test_configured_key_goes_upstream_for_a_client_without_one(path: str, body: dict[str, Any]) -> None:
    async with open_world(openai_api_key=CONFIGURED) as world:
        await world.post(path, body)
        assert received(world) == f"Bearer {CONFIGURED}"


@every_way
async def test_no_key_is_made_up(world: World, path: str, body: dict[str, Any]) -> None:
    await world.post(path, body)
    assert received(world) is None


@every_way
async def test_clients_token_is_replaced_where_that_is_configured(path: str, body: dict[str, Any]) -> None:
    async with open_world(openai_api_key=CONFIGURED, client_auth="replace") as world:
        headers = BEARER | {"x-api-key": SECRET}
        await world.post(path, body, headers=headers)
        assert received(world) == f"Bearer {CONFIGURED}"
        assert SECRET not in str(world.upstream.last)


@every_way
async def test_token_of_one_request_is_not_that_of_the_next(
    world: World, path: str, body: dict[str, Any]
) -> None:
    await world.post(path, body, headers=BEARER)
    await world.post(path, body)
    assert [request.headers.get("authorization") for request in world.upstream.requests] == [
        f"Bearer {SECRET}",
        None,
    ]
    assert world.upstream.connections == 1


async def test_200_concurrent_clients_each_reach_the_upstream_with_their_own_token() -> None:
    async with open_world(openai_api_key=CONFIGURED) as world:
        ways = [*WAYS.values()]

        async def ask(number: int) -> None:
            path, body = ways[number % len(ways)]
            if path == "/v1/responses":
                body = body | {"input": f'!{{"stall_after": 0}} client {number}'}
            else:
                body = body | {
                    "messages": [{"role": "user", "content": f'!{{"stall_after": 0}} client {number}'}]
                }
            answer = await world.post(
                path, body, headers={"authorization": f"Bearer sk-{number}"}, timeout=60
            )
            assert answer.status_code == 200, answer.text
            answered[number] = answer.text

        answered: dict[int, str] = {}
        world.client._transport._pool._max_connections = 1000  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
            with trio.fail_after(60):
                await world.upstream.wait_stalled(200)
            world.upstream.release()
        for request in world.upstream.requests:
            token = request.headers["authorization"].removeprefix("Bearer sk-")
            assert f"client {token}" in request.body.decode().replace('"', " ").replace("\\", " ")
        assert Counter(request.headers["authorization"] for request in world.upstream.requests) == {
            f"Bearer sk-{number}": 1 for number in range(200)
        }
        assert all(f"client {number}" in text for number, text in answered.items())
        assert not any("sk-" in text for text in answered.values())


async def test_probe_of_readiness_uses_the_configured_key_not_the_clients() -> None:
    async with open_world(openai_api_key=CONFIGURED) as world:
        await world.client.get("/ready", headers=BEARER)
        assert received(world) == f"Bearer {CONFIGURED}"


@pytest.mark.parametrize("value", ["Basic dTpw", "Bearer", "token with spaces", "bearer x"])
async def test_odd_authorization_goes_upstream_as_it_is(world: World, value: str) -> None:
    for path, body in WAYS.values():
        answer = await world.post(path, body, headers={"authorization": value})
        assert answer.status_code == 200, answer.text
        assert received(world) == value


# --------------------------------------------------------------------------- where it must not be seen


def trouble(world: World) -> dict[str, Script]:
    return {
        "refused": Script(status=401, error="wrong key"),
        "overloaded": Script(status=429),
        "broken off": Script(cut_after=4),
        "reset": Script(reset_after=4),
        "garbage": Script(raw=b"garbage", content_type="text/event-stream"),
        "failed": Script(fail_after=4),
    }


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    # The test's own HTTP client logs its own requests.
    for name in ("httpx", "httpcore"):
        caplog.set_level(logging.WARNING, logger=name)
    return caplog


def shown(logs: pytest.LogCaptureFixture) -> str:
    return logs.text + "".join(str(record.__dict__) for record in logs.records)


async def test_token_is_in_no_log_and_no_answer_whatever_goes_wrong(
    world: World, all_logs: pytest.LogCaptureFixture
) -> None:
    for script in trouble(world).values():
        world.upstream.script(script)
        for path, body in WAYS.values():
            async with world.client.stream("POST", path, json=body, headers=BEARER) as answer:
                try:
                    await answer.aread()
                except Exception:  # a relay that is cut, as it should be
                    continue
            assert SECRET not in answer.text
            assert SECRET not in str(answer.headers)
    assert SECRET not in shown(all_logs)


async def test_token_is_in_no_log_and_no_answer_when_the_upstream_is_down(
    all_logs: pytest.LogCaptureFixture,
) -> None:
    async with open_world(llm_api_base=NOWHERE) as world:
        for path, body in WAYS.values():
            answer = await world.post(path, body, headers=BEARER)
            assert answer.status_code == 502
            assert SECRET not in answer.text + str(answer.headers)
    assert SECRET not in shown(all_logs)


async def test_token_is_in_no_log_and_no_answer_when_the_gateway_has_a_bug(
    world: World, all_logs: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.gateway.upstream, "forward", bug)
    monkeypatch.setattr(world.gateway.upstream, "stream", bug)
    for path, body in WAYS.values():
        answer = await world.post(path, body, headers=BEARER)
        assert answer.status_code == 500
        assert SECRET not in answer.text + str(answer.headers)
    assert "a bug" in shown(all_logs)
    assert SECRET not in shown(all_logs)


async def test_token_is_not_stored(world: World) -> None:
    body = {"input": '!{"stall_after": 4} hi'}
    async with open_under_way(world.port, body, b"response.in_progress", **BEARER) as client:
        read = await world.client.get(f"/v1/responses/{client.id}")
        assert SECRET not in read.text
