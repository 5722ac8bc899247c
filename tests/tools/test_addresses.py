"""A request sends the gateway nowhere that its operator does not allow, and a secret only to its server."""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trio

from agentic_trio.errors import ConfigError
from agentic_trio.tools.addresses import AllowedHosts, is_public
from tests.fake_upstream import Call, Script, Text
from tests.tools.hostile import Hostile, open_hostile
from tests.tools.test_calls import play, types
from tests.web.harness import open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Json = dict[str, Any]

RUN = Call("mine__run", ("{}",))


def named(url: str, **members: Any) -> Json:
    return {"type": "mcp", "server_label": "mine", "server_url": url, "require_approval": "never", **members}


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with open_hostile() as server:
        yield server


PRIVATE = [
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fc00::1]",
    "[fec0::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "localhost",
    "localhost.",
]


@pytest.mark.parametrize("host", PRIVATE)
async def test_public_is_no_address_of_ours(host: str) -> None:
    async with open_world(mcp_allow_hosts=("public",), connect_timeout=1.0, mcp_list_timeout=2.0) as world:
        status, error = await world.refused(tools=[named(f"http://{host}:80/mcp")])
    assert status in (400, 424), error
    assert status == 400 or "can't be reached" in error["message"], error


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["::7f00:1", "::ffff:0:7f00:1", "64:ff9b:1::7f00:1", "::a00:1"])
def test_addresses_that_wrap_private_ones_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


async def test_a_name_that_changes_its_address_is_connected_to_at_the_checked_one(
    server: Hostile, monkeypatch: Any
) -> None:
    port = urlsplit(server.url).port
    looked_up = []

    async def rebinding(host: Any, service: Any, *args: Any, **options: Any) -> Any:
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) > 1 else "8.8.8.8"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, service))]

    connected = []

    async def connect(self: Any, host: str, port: int, *args: Any, **options: Any) -> Any:
        connected.append(host)
        import httpcore2

        raise httpcore2.ConnectError

    monkeypatch.setattr(trio.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr("httpcore2.TrioBackend.connect_tcp", connect)
    from agentic_trio.tools.addresses import GuardedBackend

    backend = GuardedBackend(AllowedHosts(("public",)))
    with pytest.raises(Exception):  # noqa: B017, PT011
        await backend.connect_tcp("rebinding.example", port or 80)
    assert looked_up == ["rebinding.example"]
    assert connected == ["8.8.8.8"]


@pytest.mark.parametrize("found", [["8.8.8.8", "127.0.0.1"], ["127.0.0.1"], ["fe80::1%eth0"], []])
async def test_one_private_address_is_enough_to_refuse_a_name(found: list[str], monkeypatch: Any) -> None:
    import httpcore2

    from agentic_trio.tools.addresses import GuardedBackend

    async def looked_up(host: Any, service: Any, *args: Any, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, service)) for address in found]

    monkeypatch.setattr(trio.socket, "getaddrinfo", looked_up)
    with pytest.raises(httpcore2.ConnectError):
        await GuardedBackend(AllowedHosts(("public",))).connect_tcp("name.example", 80)


@pytest.mark.parametrize(
    ("allowed", "url", "fits"),
    [
        (("a.example",), "https://a.example/mcp", True),
        (("a.example",), "https://A.EXAMPLE:443/mcp", True),
        (("a.example",), "https://a.example:8443/mcp", False),
        (("a.example:8443",), "https://a.example:8443/mcp", True),
        (("a.example:8443",), "https://a.example/mcp", False),
        (("a.example",), "https://b.example/mcp", False),
        (("a.example",), "https://a.example.b.example/", False),
        (("a.example",), "https://a.example@b.example/", False),
        (("a.example",), "ftp://a.example/", False),
        (("a.example",), "file:///etc/passwd", False),
        (("a.example",), "https://a.example:x/", False),
        (("a.example",), "https://", False),
        (("a.example",), "https://a.example/\n", False),
        (("a.example",), "", False),
        (("public",), "https://any.example/", True),
        ((), "https://a.example/", False),
    ],
)
def test_a_host_is_allowed_by_its_name_and_port(allowed: tuple[str, ...], url: str, fits: bool) -> None:
    assert AllowedHosts(allowed).may_be_asked(url) is fits


async def test_a_server_of_a_request_is_called_where_it_is_allowed(server: Hostile) -> None:
    async with open_world(mcp_allow_hosts=(urlsplit(server.url).netloc,)) as world:
        play(world, Script(output=(RUN,)), Script(output=(Text("ok"),)))
        response = await world.create("go", tools=[named(server.url)])
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]


async def test_a_server_of_a_request_that_is_not_allowed_is_refused(server: Hostile) -> None:
    async with open_world(mcp_allow_hosts=("a.example",)) as world:
        status, error = await world.refused(tools=[named(server.url)])
    assert (status, error["code"]) == (400, "mcp_server_not_allowed")
    assert server.seen == []


def on_disk(directory: Path) -> bytes:
    """All that the files of a directory hold."""
    return b"".join(file.read_bytes() for file in directory.iterdir() if file.is_file())


SECRET = "s3cr3t-marker"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_secret_is_seen_by_its_server_alone(
    server: Hostile, tmp_path: Path, caplog: Any, stream: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {
        "authorization": f"{SECRET}-token",
        "headers": {"x-key": f"{SECRET}-header"},
    }
    path = urlsplit(server.url)
    url = f"http://user:{SECRET}-user@{path.netloc}/mcp?key={SECRET}-query"
    async with (
        open_hostile() as other,
        open_world(
            db_url=f"sqlite://{tmp_path}/state.db",
            mcp_allow_hosts=(path.netloc, urlsplit(other.url).netloc),
        ) as world,
    ):
        tools = [named(url, **secrets), {**named(other.url), "server_label": "other"}]
        play(world, Script(output=(RUN, Call("other__run", ("{}",)))), Script(output=(Text("ok"),)))
        if stream:
            events = await world.stream("go", tools=tools, interleaved=True)
            seen = [events]
            id = events[0]["response"]["id"]
        else:
            response = await world.create("go", tools=tools)
            seen, id = [response], response["id"]
        seen.append((await world.client.get(f"/v1/responses/{id}")).json())
        seen.append((await world.client.get(f"/v1/responses/{id}/input_items")).json())
        upstream = [(request.headers, request.json) for request in world.upstream.requests]
        elsewhere = other.seen
        files = on_disk(tmp_path)
    assert any(headers.get("authorization") for _, headers, _ in server.seen)
    assert all(headers["x-key"] == f"{SECRET}-header" for _, headers, _ in server.seen)
    assert SECRET not in str(seen)
    assert SECRET not in str(upstream)
    assert SECRET not in str(elsewhere)
    assert SECRET.encode() not in files
    assert SECRET not in caplog.text


async def test_a_secret_of_a_server_that_fails_is_not_in_its_error(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"http://user:{SECRET}@127.0.0.1:1/{SECRET}?key={SECRET}"
    async with open_world(mcp_allow_hosts=("127.0.0.1:1",)) as world:
        answer = await world.post(
            "/v1/responses",
            {"model": "tiny", "input": "hi", "tools": [named(url, headers={"x-key": SECRET})]},
        )
    assert answer.status_code == 424
    assert SECRET not in answer.text
    assert SECRET not in caplog.text


async def test_the_operators_secret_goes_to_the_operators_server(server: Hostile) -> None:
    tokens = (f"mine={SECRET}", "mine:x-team=blue")
    async with open_world(mcp_servers=(f"mine={server.url}",), mcp_tokens=tokens) as world:
        tool = {"type": "mcp", "server_label": "mine", "require_approval": "never"}
        play(world, Script(output=(RUN,)), Script(output=(Text("ok"),)))
        response = await world.create("go", tools=[tool])
        status, error = await world.refused(tools=[{**tool, "headers": {"x-user": "root"}}])
        assert (status, error["param"]) == (400, "tools[0].headers")
        status, _ = await world.refused(tools=[{**tool, "authorization": "mine"}])
        assert status == 400
    for _, headers, _ in server.seen:
        assert (headers["authorization"], headers["x-team"]) == (f"Bearer {SECRET}", "blue")
    assert SECRET not in str(response)


async def test_the_operators_secret_does_not_follow_a_label_elsewhere(server: Hostile) -> None:
    async with (
        open_hostile() as thief,
        open_world(
            mcp_servers=(f"mine={server.url}",),
            mcp_tokens=(f"mine={SECRET}",),
            mcp_allow_hosts=(urlsplit(thief.url).netloc,),
        ) as world,
    ):
        await world.create("hi", tools=[named(thief.url)])
        assert len(thief.seen) > 0
        assert SECRET not in str(thief.seen)


async def test_the_clients_key_goes_to_no_tool(server: Hostile) -> None:
    async with open_world(mcp_servers=(f"mine={server.url}",)) as world:
        body = {"model": "tiny", "input": "hi", "tools": [{"type": "mcp", "server_label": "mine"}]}
        await world.post("/v1/responses", body, headers={"authorization": f"Bearer {SECRET}"})
        assert world.upstream.last.headers["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(server.seen)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "a.example"},
        {"content-length": "5"},
        {"Transfer-Encoding": "chunked"},
        {"mcp-session-id": "x"},
        {"a b": "c"},
        {"a": "b\r\nc: d"},
        {"a": "ä"},
        {"": "x"},
        {"a": 5},
        {"a": "x" * 20_000},
        {f"a{number}": "x" for number in range(65)},
        "text",
    ],
)
async def test_headers_that_can_not_be_sent_are_refused(server: Hostile, headers: Any) -> None:
    async with open_world(mcp_allow_hosts=(urlsplit(server.url).netloc,)) as world:
        status, error = await world.refused(tools=[named(server.url, headers=headers)])
    assert status == 400
    assert error["param"].startswith("tools[0].headers")
    assert server.seen == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mcp_tokens": ("a=x",)}, "mcp_tokens is for 'a'"),
        ({"web_search_server": "a"}, "web_search_server is for 'a'"),
    ],
)
async def test_what_is_for_no_server_is_refused_at_the_start(settings: Json, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        async with open_world(**settings):
            pass


async def test_two_owners_see_each_their_own_lists(server: Hostile) -> None:
    """A list is kept by credentials: another's list is not shown."""
    server.answers["tools/list"] = None
    async with open_world(mcp_allow_hosts=(urlsplit(server.url).netloc,)) as world:
        for token in ("one", "two", "one"):
            await world.create("hi", tools=[named(server.url, authorization=token)])
    lists = [seen[1]["authorization"] for seen in server.seen if seen[2].get("method") == "tools/list"]
    assert lists == ["Bearer one", "Bearer two"]
