"""Which proxies' word counts on who a client is, and the path under which they serve the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httpx
import pytest
import trio

from agentic_trio.config import Config
from agentic_trio.errors import ConfigError
from agentic_trio.telemetry.line_writer import RequestLog
from agentic_trio.telemetry.observer import Observer
from agentic_trio.web.proxies import FORWARDED_HOST, Proxies
from tests.fake_upstream import open_fake_upstream

from .harness import open_world

if TYPE_CHECKING:
    from agentic_trio.telemetry.lines import Line


def seen(
    config: Config,
    *headers: tuple[bytes, bytes],
    client: str | None = "10.0.0.1",
    path: str = "/health",
    raw: bytes = b"",
) -> Any:
    scope: Any = {
        "client": None if client is None else (client, 4711),
        "scheme": "http",
        "path": path,
        "raw_path": raw or path.encode(),
        "root_path": "",
        "headers": [(b"host", b"inner"), *headers],
    }
    return Proxies(config).seen(scope)


FOR = (b"x-forwarded-for", b"198.51.100.7")


@pytest.mark.parametrize(
    ("names", "client", "chain", "found"),
    [
        ("10.0.0.1", "10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        ("10.0.0.0/8", "10.9.9.9", b"198.51.100.7", "198.51.100.7"),
        ("10.0.0.0/8", "10.0.0.1", b"6.6.6.6, 198.51.100.7, 10.2.2.2", "198.51.100.7"),
        ("10.0.0.0/8", "10.0.0.1", b"10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        ("fd00::/8", "fd00::1", b"2001:db8::7", "2001:db8::7"),
        ("unix", None, b"198.51.100.7", "198.51.100.7"),
        ("*", "203.0.113.1", b"198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.2", b"198.51.100.7", "10.0.0.2"),
        ("unix", "10.0.0.2", b"198.51.100.7", "10.0.0.2"),
        ("10.0.0.1", "10.0.0.1", b" , ", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_is_no_proxy(
    names: str, client: str | None, chain: bytes, found: str
) -> None:
    config = Config.from_env({"AGENTIC_TRIO_FORWARDED_ALLOW_IPS": names})
    assert seen(config, (b"x-forwarded-for", chain), client=client)["client"][0] == found


def test_several_headers_are_one_chain() -> None:
    config = Config(forwarded_allow_ips=("10.0.0.0/8",))
    chain = [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"198.51.100.7")]
    assert seen(config, *chain)["client"][0] == "198.51.100.7"


def test_scheme_and_host_are_taken_from_a_proxy_alone() -> None:
    headers = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-host", b"api.example.com")]
    trusted = seen(Config(forwarded_allow_ips=("10.0.0.1",)), *headers)
    assert trusted["scheme"] == "https"
    assert trusted[FORWARDED_HOST] == "api.example.com"
    assert dict(trusted["headers"])[b"host"] == b"inner"
    other = seen(Config(forwarded_allow_ips=("10.0.0.9",)), *headers)
    assert other["scheme"] == "http"
    assert FORWARDED_HOST not in other


class Lines(RequestLog):
    """Keeps the lines of requests."""

    def __init__(self) -> None:
        self.kept: list[Line] = []

    def add(self, line: Line) -> None:
        self.kept.append(line)

    async def run(self) -> None:
        await trio.sleep_forever()


@pytest.mark.parametrize(
    "said", ["sk-walrus", "agt_secret", "1.2.3.4 owner=root", "unknown", "\xe9", "a" * 70]
)
async def test_what_is_no_address_is_not_in_the_log(said: str) -> None:
    """A proxy may hand on what its client has sent."""
    log = Lines()
    async with open_world(forwarded_allow_ips=("*",), observer=Observer(log)) as world:
        for each in (said.encode("latin-1"), b"198.51.100.7", b"[2001:db8::7]:4711"):
            await world.client.get("/v1/models", headers={b"x-forwarded-for": each})
    assert [line.client for line in log.kept] == ["?", "198.51.100.7", "[2001:db8::7]:4711"]


@pytest.mark.parametrize(
    ("path", "found"),
    [("/llm/v1/models", "/v1/models"), ("/v1/models", "/v1/models"), ("/llm", "/"), ("/llmx", "/llmx")],
)
def test_the_path_of_a_proxy_is_taken_off(path: str, found: str) -> None:
    scope = seen(Config(root_path="/llm"), path=path)
    assert (scope["path"], scope["raw_path"]) == (found, found.encode())


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"/llm%2Fv1%2Fmodels%2Fx@other.example", b"/v1/models/x%40other.example"),
        (b"/%6Clm/v1/models", b"/v1/models"),
        (b"/llm/v1%2Fmodels", b"/v1%2Fmodels"),
    ],
)
def test_a_path_that_is_encoded_stays_one_when_that_of_a_proxy_is_taken_off(raw: bytes, found: bytes) -> None:
    scope = seen(Config(root_path="/llm"), path=unquote(raw.decode()), raw=raw)
    assert (scope["path"], scope["raw_path"]) == (unquote(found.decode()), found)


@pytest.mark.parametrize("slash", ["%2F", "%2f"])
async def test_a_path_leads_to_no_other_server(slash: str) -> None:
    """Behind the model server's address, ``%2Fv1@other`` would make the latter the host."""
    options: dict[str, Any] = {"root_path": "/llm", "openai_api_key": "sk-walrus"}
    async with open_fake_upstream() as other, open_world(**options) as world:
        path = slash.join(("/llm", "v1", "models", f"x@{other.url.removeprefix('http://')}"))
        async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:
            await stream.send_all(f"GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode())
            answer = b"".join([part async for part in stream])
    assert not other.requests
    assert not other.requests
    assert b" 404 " in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize("path", ["llm", "/a b", "//llm", "/l?m", "/l%20m"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="root_path"):
        Config(root_path=path)


def test_names_are_no_addresses() -> None:
    with pytest.raises(ConfigError, match="forwarded_allow_ips"):
        Config(forwarded_allow_ips=("proxy.example.com",))


async def test_a_gateway_is_served_under_a_path_and_without_it() -> None:
    async with open_world(root_path="/llm") as world:
        created = await world.create("hi")
        async with httpx.AsyncClient(base_url=world.url, trust_env=False) as client:
            for root in ("", "/llm"):
                answer = await client.get(f"{root}/v1/responses/{created['id']}")
                assert answer.status_code == 200
                body = {"model": "tiny", "input": "hi", "store": False}
                assert (await client.post(f"{root}/v1/responses", json=body)).status_code == 200
                assert (await client.get(f"{root}/v1/models")).status_code == 200
            assert (await client.get("/other/health")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://api.example.com", "x-forwarded-host": "api.example.com"}, 200),
        ({"origin": "https://api.example.com"}, 403),
        ({"origin": "https://evil.example", "x-forwarded-host": "api.example.com"}, 403),
        ({"host": "evil.example", "x-forwarded-host": "localhost"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example", "x-forwarded-host": "evil.example"}, 403),
    ],
)
async def test_a_page_of_the_proxy_s_host_may_call_and_a_rebound_one_may_not(
    headers: dict[str, str], status: int
) -> None:
    async with (
        open_world(forwarded_allow_ips=("127.0.0.1",)) as world,
        httpx.AsyncClient(base_url=world.url, trust_env=False) as client,
    ):
        assert (await client.get("/v1/models", headers=headers)).status_code == status
