"""A gateway with ``auth``: who is let in, as whom, and what of it the model server sees."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.auth.key_text import digest_of, make_key
from agentic_trio.config import Config
from agentic_trio.errors import ConfigError
from agentic_trio.minting import mint_id
from agentic_trio.server.serve import check_exposure
from agentic_trio.store.key_database import KeyRow, open_keys
from tests.websocket_client import Refused, Socket, open_socket

from .documented import operations
from .harness import MODEL, World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CONFIGURED = "sk-configured"

WAYS = {
    "stored": ("/v1/responses", {"model": MODEL, "input": "hi"}),
    "streamed": ("/v1/responses", {"model": MODEL, "input": "hi", "stream": True}),
    "unstored": ("/v1/responses", {"model": MODEL, "input": "hi", "store": False}),
    "chat": ("/v1/chat/completions", {"model": MODEL, "messages": []}),
}
every_way = pytest.mark.parametrize(("path", "body"), WAYS.values(), ids=WAYS.keys())


@dataclass
class Team:
    """A gateway with keys, and the file in which a command would make them."""

    world: World
    keys_file: str

    def key(self, owner: str = "alice", **members: Any) -> str:
        """A new key."""
        key = make_key()
        given = {
            "id": mint_id("key"),
            "digest": digest_of(key),
            "created_at": 0,
            "name": "",
            "scope": "write",
        }
        database = open_keys(self.keys_file)
        database.add(KeyRow(**(given | {"owner": owner} | members)))
        database.close()
        return key

    def headers(self, owner: str = "alice", **members: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key(owner, **members)}"}


@asynccontextmanager
async def open_team(folder: Path, **config: Any) -> AsyncIterator[Team]:
    file = str(folder / "some.keys")
    settings = {"auth": ("keys",), "keys_file": file, "openai_api_key": CONFIGURED} | config
    async with open_world(**settings) as world:
        yield Team(world, file)


@pytest.fixture
async def team(tmp_path: Path) -> AsyncIterator[Team]:
    async with open_team(tmp_path) as team:
        yield team


def path_of(path: str) -> str:
    return path.replace("{id}", "resp_1").replace("{item}", "msg_1").replace("{model}", "tiny")


PRIVATE = [
    pytest.param(method, path_of(path), operation, id=operation["operationId"])
    for method, path, operation in operations()
    if operation.get("security") != [{}]
]


@pytest.mark.parametrize(("method", "path", "operation"), PRIVATE)
async def test_every_route_asks_who_calls(team: Team, method: str, path: str, operation: dict[str, Any]):
    body = json.dumps({"model": MODEL, "input": "hi"}) if method == "POST" else None
    for headers, code in (({}, None), ({"authorization": f"Bearer {make_key()}"}, "invalid_api_key")):
        answer = await team.world.client.request(method, path, headers=headers, content=body)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert team.world.upstream.requests == []


@pytest.mark.parametrize(("method", "path", "operation"), PRIVATE)
async def test_every_route_needs_the_scope_of_its_method(
    team: Team, method: str, path: str, operation: dict[str, Any]
):
    headers = team.headers(scope="read")
    answer = await team.world.client.request(method, path, headers=headers)
    if method == "GET" and path != "/metrics":
        assert answer.status_code != 403
    else:
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "missing_scope"


async def test_metrics_are_an_admin_s(team: Team):
    # There are none here, but only an admin is told so.
    for scope, status in (("write", 403), ("admin", 404)):
        answer = await team.world.client.get("/metrics", headers=team.headers(scope=scope))
        assert answer.status_code == status


async def test_what_is_not_there_is_told_to_those_who_may_call_alone(team: Team):
    for method, path in (("GET", "/nope"), ("PUT", "/v1/responses"), ("POST", "/v1//responses")):
        assert (await team.world.client.request(method, path)).status_code == 401
        answer = await team.world.client.request(method, path, headers=team.headers())
        assert answer.status_code in (404, 405)


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/openapi.json"])
async def test_anyone_may_probe(team: Team, path: str):
    assert (await team.world.client.get(path)).status_code in (200, 503)


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_a_key_is_taken_from_either_header(team: Team, name: str):
    key = team.key()
    value = f"bearer {key}" if name == "authorization" else key
    answer = await team.world.client.get("/v1/models", headers={name: value})
    assert answer.status_code == 200


async def test_two_keys_in_one_request_are_refused(team: Team):
    one, other = team.key("alice"), team.key("bob")
    headers = {"authorization": f"Bearer {one}", "x-api-key": other}
    assert (await team.world.client.get("/v1/models", headers=headers)).status_code == 401
    headers = {"authorization": f"Bearer {one}", "x-api-key": one}
    assert (await team.world.client.get("/v1/models", headers=headers)).status_code == 200


def carried(team: Team) -> str:
    """All that the model server has been sent, as text."""
    return " ".join(f"{each.target} {each.headers} {each.body!r}" for each in team.world.upstream.requests)


@every_way
@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
async def test_the_client_s_key_never_goes_up(team: Team, path: str, body: Any, name: str):
    key = team.key()
    headers = {name: f"Bearer {key}" if name == "authorization" else key, "api-key": key, "x-other": key}
    await team.world.post(path, body, headers=headers)
    assert team.world.upstream.last.headers["authorization"] == f"Bearer {CONFIGURED}"
    assert key not in carried(team)


@every_way
async def test_a_key_may_have_an_upstream_key_of_its_own(team: Team, path: str, body: Any):
    await team.world.post(path, body, headers=team.headers(upstream_key="sk-of-alice"))
    assert team.world.upstream.last.headers["authorization"] == "Bearer sk-of-alice"
    await team.world.post(path, body, headers=team.headers("bob"))
    assert team.world.upstream.last.headers["authorization"] == f"Bearer {CONFIGURED}"


@every_way
@pytest.mark.parametrize("brings", [0, 1])
async def test_an_upstream_key_comes_from_a_client_only_if_its_key_says_so(
    team: Team, path: str, body: Any, brings: int
):
    key = team.key(brings_upstream_key=brings)
    headers = {"x-api-key": key, "authorization": "Bearer sk-of-the-client"}
    await team.world.post(path, body, headers=headers)
    expected = "Bearer sk-of-the-client" if brings else f"Bearer {CONFIGURED}"
    assert team.world.upstream.last.headers["authorization"] == expected
    assert key not in carried(team)
    await team.world.post(path, body, headers={"authorization": f"Bearer {key}"})
    assert team.world.upstream.last.headers["authorization"] == f"Bearer {CONFIGURED}"
    assert key not in carried(team)


async def test_without_a_key_of_its_own_the_gateway_sends_none(tmp_path: Path):
    async with open_team(tmp_path, openai_api_key=None) as team:
        await team.world.post("/v1/responses", {"model": MODEL, "input": "hi"}, headers=team.headers())
        assert "authorization" not in team.world.upstream.last.headers


async def test_a_refused_request_s_body_is_not_read(team: Team):
    answer = await team.world.client.post("/v1/responses", content=b"x" * 1_000_000)
    assert answer.status_code == 401
    assert team.world.gateway.admission.bytes_left == team.world.gateway.config.max_held_bytes


async def test_an_idempotency_key_is_its_owner_s_whatever_key_came_with_it(team: Team):
    body = {"model": MODEL, "input": "hi"}
    answers = {}
    for name, owner in (("one", "alice"), ("two", "alice"), ("other", "bob")):
        headers = team.headers(owner) | {"idempotency-key": "order-17"}
        answers[name] = (await team.world.post("/v1/responses", body, headers=headers)).json()["id"]
    assert answers["one"] == answers["two"] != answers["other"]


async def test_a_page_that_may_call_is_told_why_it_was_refused(tmp_path: Path):
    origin = "https://page.example"
    async with open_team(tmp_path, cors_allowed_origins=(origin,)) as team:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        preflight = await team.world.client.options("/v1/responses", headers=asked)
        assert preflight.status_code == 200
        for path in ("/v1/conversations", "/v1/responses", "/nope"):
            answer = await team.world.client.post(path, headers={"origin": origin})
            assert answer.status_code == 401
            assert answer.headers["access-control-allow-origin"] == origin


async def test_no_key_is_logged(team: Team, caplog: pytest.LogCaptureFixture):
    caplog.set_level(0)
    good, bad = team.key(), make_key()
    for key in (good, bad):
        for path, body in WAYS.values():
            await team.world.post(path, body, headers={"authorization": f"Bearer {key}"})
    assert good not in caplog.text
    assert bad not in caplog.text


# --------------------------------------------------------------------------- what may be configured


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_an_address_beyond_loopback_needs_auth_or_open(host: str):
    with pytest.raises(ConfigError, match="--auth keys"):
        check_exposure(Config(host=host), authenticates=False)
    check_exposure(Config(host=host), authenticates=True)
    check_exposure(Config(host=host, open=True), authenticates=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.9.1"])
def test_loopback_is_open(host: str):
    check_exposure(Config(host=host), authenticates=False)


def test_keys_need_a_file():
    with pytest.raises(ConfigError, match="keys_file"):
        Config(db_url="sqlite://:memory:", auth=("keys",))
    assert Config(db_url="sqlite:///a/b.db", auth=("keys",)).keys_path == "/a/b.db.keys"


def test_another_way_in_is_no_setting():
    with pytest.raises(ConfigError, match="auth must be keys or oidc"):
        Config(auth=("passwords",))


def on_a_socket(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def test_a_socket_without_a_key_is_refused(team: Team):
    for headers in ({}, {"authorization": "Bearer at-random"}):
        with pytest.raises(Refused) as refused:
            async with open_socket(team.world.port, headers=on_a_socket(headers)):
                pass
        assert refused.value.status == 401


async def test_a_socket_makes_its_owner_s_responses(team: Team):
    alice, bob = team.headers("alice"), team.headers("bob")
    async with open_socket(team.world.port, headers=on_a_socket(alice)) as socket:
        response = await socket.respond()
    path = f"/v1/responses/{response['id']}"
    assert (await team.world.client.get(path, headers=alice)).status_code == 200
    assert (await team.world.client.get(path, headers=bob)).status_code == 404
    async with open_socket(team.world.port, headers=on_a_socket(bob)) as socket:
        frame = await socket.refused(previous_response_id=response["id"])
        assert frame["error"]["code"] == "previous_response_not_found"


async def test_a_key_that_may_only_read_makes_no_response_on_a_socket(team: Team):
    headers = on_a_socket(team.headers(scope="read"))
    async with open_socket(team.world.port, headers=headers) as socket:
        assert (await socket.refused())["status"] == 403
    assert not team.world.upstream.requests


async def test_a_key_that_is_revoked_makes_no_more_responses_on_an_open_socket(team: Team):
    headers = team.headers("alice")
    async with open_socket(team.world.port, headers=on_a_socket(headers)) as socket:
        await socket.respond()
        database = open_keys(team.keys_file)
        [row] = database.keys()
        database.revoke(row.id, 0)
        database.close()
        with trio.fail_after(10):
            while (await next_answer(socket))["type"] != "error":  # noqa: ASYNC110
                await trio.sleep(0.05)
    assert (await team.world.client.get("/v1/models", headers=headers)).status_code == 401


async def next_answer(socket: Socket) -> Any:
    await socket.create()
    return (await socket.events())[-1]
