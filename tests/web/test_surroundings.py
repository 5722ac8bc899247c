"""Around the API: request ids, CORS, health, readiness, upgrades, shutdown."""

from __future__ import annotations

import math
import socket
import sqlite3
from typing import Any

import pytest

from tests.fake_upstream import Script, open_fake_upstream
from tests.http_client import exchange_bytes, parse_response
from tests.oracles import check_error

from .harness import NOWHERE, World, open_world

# --------------------------------------------------------------------------- x-request-id

ANSWERS = {
    "a response": ("POST", "/v1/responses", {"model": "tiny", "input": "hi"}, 200),
    "a stream": ("POST", "/v1/responses", {"model": "tiny", "input": "hi", "stream": True}, 200),
    "a relay": ("POST", "/v1/responses", {"model": "tiny", "input": "hi", "store": False}, 200),
    "models": ("GET", "/v1/models", None, 200),
    "a conversation": ("POST", "/v1/conversations", {}, 200),
    "health": ("GET", "/health", None, 200),
    "readiness": ("GET", "/ready", None, 200),
    "the root": ("GET", "/", None, 200),
    "a bad request": ("POST", "/v1/responses", {}, 400),
    "an unknown response": ("GET", "/v1/responses/resp_x", None, 404),
    "an unknown route": ("GET", "/nope", None, 404),
    "an unknown method": ("PUT", "/v1/responses", None, 405),
    "options": ("OPTIONS", "/v1/responses", None, 200),
    "head": ("HEAD", "/health", None, 200),
    "a large body": ("POST", "/v1/responses", {"model": "x" * 2000}, 413),
}
every_answer = pytest.mark.parametrize(
    ("method", "path", "body", "status"), ANSWERS.values(), ids=ANSWERS.keys()
)


@every_answer
async def test_every_answer_has_a_request_id(method: str, path: str, body: Any, status: int) -> None:
    async with open_world(max_request_body_size=1000) as world:
        answer = await world.client.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        (id,) = answer.headers.get_list("x-request-id")
        assert id.startswith("req_")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Large: %b\r\n\r\n" % (b"x" * 100_000), 431),
    ],
    ids=["no host", "nonsense", "large headers"],
)
async def test_refusal_of_what_is_no_request_has_a_request_id(
    world: World, request_: bytes, status: int
) -> None:
    answered, headers, body = parse_response(await exchange_bytes(world.port, request_))
    assert answered == status
    assert headers["x-request-id"].startswith("req_")
    check_error(answered, body)


async def test_failure_of_the_gateway_is_a_500_that_tells_only_its_request_id(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(*_: Any) -> bytes:
        raise RuntimeError("SELECT secret FROM /var/lib/path")

    monkeypatch.setattr(world.gateway.conversations, "read", bug)
    answer = await world.client.get("/v1/conversations/conv_x")
    assert answer.status_code == 500
    check_error(answer.status_code, answer.content, code="internal_error", type="server_error")
    assert "SELECT" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text


async def test_request_ids_are_never_repeated(world: World) -> None:
    ids = {(await world.client.get("/health")).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


async def test_clients_own_request_id_is_kept_and_goes_upstream(world: World) -> None:
    answer = await world.post(
        "/v1/responses", {"model": "tiny", "input": "hi"}, headers={"x-request-id": "mine-1"}
    )
    assert answer.headers["x-request-id"] == "mine-1"
    assert world.upstream.last.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("id", ["", "x" * 129, "a b", "a\tb", "<script>", "ä"])
async def test_odd_request_id_is_replaced(world: World, id: str) -> None:
    answer = await world.client.get("/health", headers={"x-request-id": id.encode("latin-1")})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_relay_answers_with_our_request_id_not_the_upstreams(world: World) -> None:
    world.upstream.script(Script(headers={"x-request-id": "theirs"}))
    answer = await world.post("/v1/chat/completions", {"model": "tiny", "messages": []})
    (id,) = answer.headers.get_list("x-request-id")
    assert id == world.upstream.last.headers["x-request-id"] != "theirs"


# --------------------------------------------------------------------------- CORS

PAGE = "https://app.example"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


def cors_headers(answer: Any) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def named(answer: Any, header: str) -> set[str]:
    return {name.strip().lower() for name in answer.headers[header].split(",")}


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_without_origins_no_page_may_call(world: World, method: str) -> None:
    answer = await world.client.request(method, "/v1/conversations", headers=PREFLIGHT)
    assert cors_headers(answer) == {}
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("origins", [(PAGE,), ("https://other.example", PAGE), ("*",)])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations", "/v1/chat/completions"])
async def test_preflight_with_authorization_is_allowed(origins: tuple[str, ...], path: str) -> None:
    async with open_world(cors_allowed_origins=origins) as world:
        answer = await world.client.options(path, headers=PREFLIGHT)
        assert answer.status_code in (200, 204)
        assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
        # A browser does not take `*` for `authorization`: it must be named.
        assert named(answer, "access-control-allow-headers") >= {
            "authorization",
            "content-type",
            "x-stainless-lang",
        }
        assert "post" in named(answer, "access-control-allow-methods")
        assert "x-request-id" in answer.headers


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_preflight_allows_every_method_of_the_api(method: str) -> None:
    async with open_world(cors_allowed_origins=("*",)) as world:
        headers = PREFLIGHT | {"access-control-request-method": method}
        answer = await world.client.options("/v1/conversations/conv_x", headers=headers)
        assert method.lower() in named(answer, "access-control-allow-methods")


async def test_preflight_reaches_neither_handler_nor_upstream() -> None:
    async with open_world(cors_allowed_origins=("*",)) as world:
        await world.client.options("/v1/responses", headers=PREFLIGHT)
        assert world.upstream.requests == []


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.evil", "null", "http://app.example"]
)
async def test_unlisted_origin_is_not_allowed(method: str, origin: str) -> None:
    async with open_world(cors_allowed_origins=(PAGE,)) as world:
        answer = await world.client.request(
            method, "/v1/conversations", headers=PREFLIGHT | {"origin": origin}
        )
        assert "access-control-allow-origin" not in answer.headers
        assert "origin" in named(answer, "vary")


@every_answer
async def test_page_may_read_every_answer(method: str, path: str, body: Any, status: int) -> None:
    async with open_world(cors_allowed_origins=(PAGE,), max_request_body_size=1000) as world:
        answer = await world.client.request(method, path, json=body, headers={"origin": PAGE})
        assert answer.status_code == status
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]
        assert {"x-request-id", "retry-after"} <= named(answer, "access-control-expose-headers")


async def test_upstreams_own_cors_headers_do_not_double_ours() -> None:
    async with open_world(cors_allowed_origins=(PAGE,)) as world:
        world.upstream.script(Script(headers={"access-control-allow-origin": "*"}))
        answer = await world.post(
            "/v1/chat/completions", {"model": "tiny", "messages": []}, headers={"origin": PAGE}
        )
        assert answer.headers.get_list("access-control-allow-origin") == [PAGE]


async def test_upstreams_own_cors_headers_let_no_page_in(world: World) -> None:
    world.upstream.script(Script(headers={"access-control-allow-origin": "*"}))
    answer = await world.post(
        "/v1/chat/completions", {"model": "tiny", "messages": []}, headers={"origin": PAGE}
    )
    assert cors_headers(answer) == {}


# --------------------------------------------------------------------------- health and readiness


async def test_health_needs_no_upstream() -> None:
    async with open_world(llm_api_base=NOWHERE) as world:
        assert (await world.client.get("/health")).status_code == 200


async def test_ready_when_upstream_and_store_work(world: World) -> None:
    answer = await world.client.get("/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert world.upstream.last.path == "/v1/models"


async def test_not_ready_without_upstream() -> None:
    async with open_world(llm_api_base=NOWHERE) as world:
        answer = await world.client.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["reason"] == "The model server can't be reached: it refused the connection."


async def test_not_ready_when_the_store_is_broken(world: World) -> None:
    break_store(world)
    answer = await world.client.get("/ready")
    assert answer.status_code == 503
    assert "store" in answer.json()["reason"]


async def test_ready_asks_the_upstream_once_for_all_who_ask_at_once(monkeypatch) -> None:
    monkeypatch.setattr("agentic_trio.gateway.gateway.PROBE_AGE", math.inf)
    async with open_world() as world:
        for _ in range(5):
            assert (await world.client.get("/ready")).status_code == 200
        assert [request.path for request in world.upstream.requests] == ["/health", "/v1/models"]


async def test_ready_once_the_upstream_is_there(monkeypatch) -> None:
    monkeypatch.setattr("agentic_trio.gateway.gateway.PROBE_AGE", 0)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    async with open_world(llm_api_base=f"http://127.0.0.1:{port}") as world:
        assert (await world.client.get("/ready")).status_code == 503
        async with open_fake_upstream(port=port):
            assert (await world.client.get("/ready")).status_code == 200


class BrokenDisk:
    """In place of the connection that writes."""

    in_transaction = False

    def execute(self, statement: str) -> None:
        raise sqlite3.OperationalError(f"disk I/O error in /var/lib/gateway.db: {statement}")


def break_store(world: World) -> None:
    world.gateway._services.store.writer._connection = BrokenDisk()  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_broken_store_is_a_503_without_sql_or_path(world: World, stream: bool) -> None:
    break_store(world)
    for path, body in (
        ("/v1/conversations", {}),
        ("/v1/responses", {"model": "tiny", "input": "hi", "stream": stream}),
    ):
        answer = await world.post(path, body)
        assert answer.status_code == 503, answer.text
        check_error(answer.status_code, answer.content, code="service_unavailable", type="server_error")
        assert not any(word in answer.text.lower() for word in ("sqlite", "begin", "disk", "/"))


# --------------------------------------------------------------------------- websockets

UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n"
)


async def upgrade(world: World, path: str, fields: str = "") -> tuple[int, dict[str, str], bytes]:
    return parse_response(await exchange_bytes(world.port, UPGRADE.format(path, fields).encode()))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses/", "/v1/nope"])
async def test_websocket_is_refused_with_426_at_once(world: World, path: str) -> None:
    status, headers, body = await upgrade(world, path)
    assert status == 426
    assert headers["x-request-id"].startswith("req_")
    check_error(status, body)


@pytest.mark.parametrize("fields", ["", f"Origin: {PAGE}\r\n", "Origin: https://evil.example\r\n"])
async def test_websocket_is_refused_with_426_whatever_origins_are_allowed(fields: str) -> None:
    async with open_world(cors_allowed_origins=(PAGE,)) as world:
        assert (await upgrade(world, "/v1/nope", fields))[0] == 426


async def test_refused_websocket_leaves_nothing_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await upgrade(world, "/v1/nope")
    assert caplog.records == []
