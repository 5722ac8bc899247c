"""A page that somebody merely visits can't use the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from .harness import World, open_world

BODY = {"model": "tiny", "input": "hi"}

REQUESTS: dict[str, tuple[str, str, Any]] = {
    "turn": ("POST", "/v1/responses", BODY),
    "relayed response": ("POST", "/v1/responses", BODY | {"store": False}),
    "relay": ("POST", "/v1/chat/completions", {"model": "tiny", "messages": []}),
    "models": ("GET", "/v1/models", None),
    "conversation": ("POST", "/v1/conversations", {}),
    "deletion": ("DELETE", "/v1/conversations/conv_1", None),
}
every_request = pytest.mark.parametrize("name", REQUESTS)

FOREIGN = [
    "http://evil.example",
    "https://evil.example:9000",
    "null",
    "http://127.0.0.1:1",
    "http://127.0.0.1.evil.example",
    "",
]


async def send(world: World, name: str, **headers: str) -> Any:
    method, path, body = REQUESTS[name]
    # What a page may send without being asked first.
    return await world.client.request(
        method, path, json=body, headers={"content-type": "text/plain"} | headers
    )


@every_request
@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_origin_is_refused(world: World, name: str, origin: str) -> None:
    answer = await send(world, name, origin=origin)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers
    assert not world.upstream.requests


@every_request
async def test_our_own_origin_and_an_allowed_one_may_call(name: str) -> None:
    async with open_world(cors_allowed_origins=("https://App.example",)) as world:
        for origin in (world.url, "https://app.example"):
            assert (await send(world, name, origin=origin)).status_code != 403
        assert (await send(world, name, origin=FOREIGN[0])).status_code == 403


@every_request
async def test_any_origin_may_call_where_that_is_configured(name: str) -> None:
    async with open_world(cors_allowed_origins=("*",)) as world:
        assert (await send(world, name, origin=FOREIGN[0])).status_code != 403


@every_request
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9000",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "[::2]",
        "[",
        "xn--a.example",
    ],
)
async def test_on_loopback_another_host_is_refused(world: World, name: str, host: str) -> None:
    answer = await send(world, name, host=host)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")
    rebound = await send(world, name, host=host, origin=f"http://{host}")
    assert rebound.status_code == 403
    assert not world.upstream.requests


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "localhost.", "a.localhost", "127.0.0.1", "127.9.9.9:80", "[::1]:9000"],
)
async def test_on_loopback_its_own_names_are_served(world: World, host: str) -> None:
    assert (await send(world, "turn", host=host)).status_code == 200


async def test_a_configured_host_is_served() -> None:
    async with open_world(allowed_hosts=("Gateway.example",)) as world:
        assert (await send(world, "turn", host="gateway.example:443")).status_code == 200
        assert (await send(world, "turn", host="other.example")).status_code == 403


async def test_a_gateway_beyond_loopback_serves_any_host_unless_told_otherwise() -> None:
    async with open_world(host="0.0.0.0", open=True) as world:
        assert (await send(world, "turn", host="gateway.example")).status_code == 200
    async with open_world(host="0.0.0.0", open=True, allowed_hosts=("gateway.example",)) as world:
        assert (await send(world, "turn", host="gateway.example")).status_code == 200
        assert (await send(world, "turn", host="other.example")).status_code == 403
