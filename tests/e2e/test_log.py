"""The log of a running gateway: a line for each request on every way in, and never a word of anyone's."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import FakeUpstream, open_fake_upstream
from tests.http_client import open_exchange, open_under_way

from .harness import COMMAND, Server, open_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Json = dict[str, Any]

MARK = "xSECRETx"
HYPERCORN = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", "agentic_trio.asgi:app"]
SERVE = [*COMMAND, "serve", "--port", "0"]
MARKED = dict.fromkeys(
    ("authorization", "x-api-key", "cookie", "user-agent", "referer", "x-request-id", "traceparent"),
    f"Bearer {MARK}",
)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with open_fake_upstream() as upstream:
        yield upstream


def variables(directory: Path, upstream: str) -> dict[str, str]:
    return {
        "LLM_API_BASE": upstream,
        "DATABASE_URL": f"sqlite://{directory / 'gateway.db'}",
        "AGENTIC_TRIO_LOG_FORMAT": "json",
        "OPENAI_API_KEY": f"sk-{MARK}",
    }


def lines(server: Server) -> list[Json]:
    """The log's lines, all of which are objects but for what the server printed."""
    told = server.log.read_text()
    return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


def requests(server: Server) -> list[Json]:
    return [line for line in lines(server) if line["event"] in ("request", "turn")]


async def wait_for(server: Server, count: int) -> list[Json]:
    """The lines of requests, once there are so many."""
    with trio.fail_after(20):
        while len(told := requests(server)) < count:  # noqa: ASYNC110 - another process writes them
            await trio.sleep(0.02)
    return told


@pytest.mark.parametrize("command", [SERVE, HYPERCORN], ids=["serve", "hypercorn"])
async def test_every_request_has_a_line_and_no_line_a_word(
    tmp_path: Path, upstream: FakeUpstream, command: list[str]
) -> None:
    async with open_process(command, tmp_path / "log", variables(tmp_path, upstream.url)) as server:
        client = server.client
        client.headers.update(MARKED)
        turn: Json = {"model": "tiny", "input": MARK, "instructions": MARK, "metadata": {MARK: MARK}}
        stored = (await client.post("/v1/responses", json=turn)).json()
        await client.post("/v1/responses", json={**turn, "stream": True})
        await client.post("/v1/responses", json={**turn, "background": True})
        await client.post(
            "/v1/responses", json={**turn, "store": False}, headers={"origin": f"http://{MARK}"}
        )
        await client.post("/v1/responses", json={**turn, "store": False})
        await client.post("/v1/responses", json={**turn, "model": f"<{MARK}>", "previous_response_id": MARK})
        await client.post("/v1/responses", json={**turn, "input": {MARK: MARK}})
        await client.post("/v1/responses", content=f'{{"{MARK}'.encode())
        await client.post("/v1/conversations", json={"items": [{"type": MARK, "id": MARK}]})
        await client.get(f"/v1/responses/{stored['id']}", params={"include": MARK})
        await client.get(f"/v1/responses/{MARK}")
        await client.get(f"/v1/models/{MARK}")
        await client.get(f"/{MARK}", params={MARK: MARK})
        await client.request(MARK, "/v1/responses")
        for path in ("/health", "/ready", "/metrics"):
            await client.get(path, headers={"x-request-id": "probe"})
        told = await wait_for(server, 15)
        server.signal()
        await server.wait()
        assert MARK not in server.log.read_text()
    assert [line["event"] for line in told].count("turn") == 1
    assert len(told) == 15
    assert not [line for line in told if line["request_id"] == "probe"]
    first = told[0]
    assert (first["route"], first["status"], first["ending"]) == ("/v1/responses", 200, "completed")
    assert first["response_id"] == stored["id"]
    assert first["input_tokens"] == stored["usage"]["input_tokens"]
    assert (
        0 < first["head_ms"] <= first["turn_ms"] <= first["turn_ms"] + first["commit_ms"] <= first["total_ms"]
    )
    stream = told[1]
    assert 0 < stream["history_ms"] < stream["head_ms"] <= stream["first_event_ms"] <= stream["turn_ms"]
    assert {line["status"] for line in told if line["event"] == "request"} <= {200, 400, 403, 404, 405}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in told)


async def test_what_no_app_has_seen_has_a_line(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_process(SERVE, tmp_path / "log", variables(tmp_path, upstream.url)) as server:
        garbage = (
            f"GET / HTTP/1.1\r\n{MARK}\r\n\r\n".encode(),
            f"GET /{MARK} HTTP/1.1\r\nhost: {MARK}\r\nx: {MARK * 10_000}\r\n\r\n".encode(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        )
        for each in garbage:
            async with open_exchange(server.port) as client:
                await client.stream.send_all(each)
                while await client.stream.receive_some():
                    pass
        told = await wait_for(server, 3)
    assert [(line.get("status"), line["code"]) for line in told] == [
        (400, "invalid_request_error"),
        (431, "invalid_request_error"),
        (None, "http2_refused"),
    ]
    assert MARK not in server.log.read_text()


async def test_an_operator_sees_what_became_of_a_client_and_a_model_server(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    async with open_process(SERVE, tmp_path / "log", variables(tmp_path, upstream.url)) as server:
        stalled = {"input": '!{"stall_after": 6} hi there'}
        async with open_under_way(server.port, stalled, b"response.output_text.delta"):
            pass
        [gone] = await wait_for(server, 1)
        assert (gone["answer"], gone["ending"], gone["status"]) == ("gone", "cancelled", 200)
        relayed = {"model": "tiny", "input": '!{"status": 500} hi', "store": False}
        await server.client.post("/v1/responses", json=relayed)
        refused = (await wait_for(server, 2))[1]
        assert (refused["status"], refused["answer"]) == (500, "whole")


async def test_edges_are_told_once(tmp_path: Path) -> None:
    """The model server is down for many requests: one event when it goes, and one when it is back."""
    async with open_fake_upstream() as upstream:
        port = upstream.url.rpartition(":")[2]
        url = upstream.url
    command = [*SERVE, "--llm-api-base", url, "--log-format", "json"]
    async with open_process(
        command, tmp_path / "log", {"DATABASE_URL": f"sqlite://{tmp_path}/x.db"}
    ) as server:
        body = {"model": "tiny", "input": "hi"}
        for _ in range(5):
            assert (await server.client.post("/v1/responses", json=body)).status_code == 502
        async with open_fake_upstream(port=int(port)):
            assert (await server.client.post("/v1/responses", json=body)).status_code == 200
        told = await wait_for(server, 6)
        events = [line["event"] for line in lines(server) if line["event"].startswith("model_server")]
    assert events == ["model_server_gone", "model_server_back"]
    assert [line.get("code") for line in told] == ["upstream_unreachable"] * 5 + [None]


async def test_a_killed_gateway_says_so_at_its_next_start(tmp_path: Path, upstream: FakeUpstream) -> None:
    given = variables(tmp_path, upstream.url)
    async with open_process(SERVE, tmp_path / "log", given) as server:
        stalled = {"input": '!{"stall_after": 6} hi there'}
        async with open_under_way(server.port, stalled, b"response.output_text.delta"):
            server.process.kill()
            await server.process.wait()
    async with open_process(SERVE, tmp_path / "log2", given) as server:
        [recovered] = [line for line in lines(server) if line["event"] == "recovered"]
    assert (recovered["turns"], recovered["level"]) == (1, "warning")


async def test_the_least_that_is_told_can_be_set(tmp_path: Path, upstream: FakeUpstream) -> None:
    command = [*SERVE, "--log-level", "warning"]
    async with open_process(command, tmp_path / "log", variables(tmp_path, upstream.url)) as server:
        await server.client.post("/v1/responses", json={"model": "tiny", "input": "hi"})
        server.signal()
        await server.wait()
        assert lines(server) == []
