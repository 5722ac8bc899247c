"""SIGTERM and SIGINT: what runs may finish, then it is ended, recorded and told; nothing holds it up."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import trio

from tests.fake_upstream import FakeUpstream, Script, Text, open_fake_upstream
from tests.http_client import open_exchange, open_under_way
from tests.oracles import check_event_stream

from .harness import Server, open_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STALLED = {"input": '!{"stall_after": 6} hi there'}
DELTA = b"response.output_text.delta"
signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with open_fake_upstream() as upstream:
        yield upstream


async def until_it_accepts_no_more(server: Server) -> None:
    with trio.fail_after(10):
        while await server.accepts():  # noqa: ASYNC110  (no event tells what another process does)
            await trio.sleep(0.01)


async def status_after_restart(directory: Path, upstream: FakeUpstream, id: str) -> str:
    async with open_server(directory, upstream.url) as server:
        return str((await server.client.get(f"/v1/responses/{id}")).json()["status"])


@signals
async def test_idle_server_ends_at_once_with_0(
    tmp_path: Path, upstream: FakeUpstream, number: signal.Signals
) -> None:
    async with open_server(tmp_path, upstream.url, "--graceful-timeout", "60") as server:
        await server.client.get("/health")  # leaves an idle connection
        server.signal(number)
        assert await server.wait() == 0
    assert not (tmp_path / "gateway.db-wal").exists()


@signals
async def test_stream_finishes_within_the_grace(
    tmp_path: Path, upstream: FakeUpstream, number: signal.Signals
) -> None:
    async with (
        open_server(tmp_path, upstream.url, "--graceful-timeout", "60") as server,
        open_under_way(server.port, STALLED, DELTA) as client,
    ):
        server.signal(number)
        await until_it_accepts_no_more(server)
        upstream.release()
        check_event_stream(await client.read(), ending="response.completed")
        assert await server.wait() == 0
    assert await status_after_restart(tmp_path, upstream, client.id) == "completed"


async def test_answer_finishes_within_the_grace(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with (
        open_server(tmp_path, upstream.url, "--graceful-timeout", "60") as server,
        open_exchange(server.port) as client,
    ):
        body = {"model": "tiny", "input": '!{"hang": true} hi'}
        await client.request("POST", "/v1/responses", body)
        await upstream.wait_stalled(1)
        server.signal()
        await until_it_accepts_no_more(server)
        upstream.release()
        await client.read()
        assert client.status == 200
        assert await server.wait() == 0


async def test_stream_that_outlasts_the_grace_is_told_recorded_and_ended(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    async with (
        open_server(tmp_path, upstream.url, "--graceful-timeout", "0.2") as server,
        open_under_way(server.port, STALLED, DELTA) as client,
    ):
        server.signal()
        body = await client.read()
        assert await server.wait() == 0
    await upstream.wait_aborted(1)
    assert [event["type"] for event in client.events[-2:]] == ["error", "response.failed"]
    assert body.endswith(b"data: [DONE]\n\n")
    assert await status_after_restart(tmp_path, upstream, client.id) == "cancelled"


async def test_answer_that_outlasts_the_grace_is_503(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with (
        open_server(tmp_path, upstream.url, "--graceful-timeout", "0.2") as server,
        open_exchange(server.port) as client,
    ):
        await client.request("POST", "/v1/responses", {"model": "tiny", "input": '!{"hang": true} hi'})
        await upstream.wait_stalled(1)
        server.signal()
        await client.read()
        assert client.status == 503
        assert await server.wait() == 0
    await upstream.wait_aborted(1)


@signals
async def test_second_signal_ends_it_at_once_and_all_is_recorded(
    tmp_path: Path, upstream: FakeUpstream, number: signal.Signals
) -> None:
    async with (
        open_server(tmp_path, upstream.url, "--graceful-timeout", "600") as server,
        open_under_way(server.port, STALLED, DELTA) as client,
    ):
        server.signal(number)
        await until_it_accepts_no_more(server)
        assert server.process.poll() is None
        server.signal(number)
        await server.wait(5)
    await upstream.wait_aborted(1)
    assert await status_after_restart(tmp_path, upstream, client.id) == "cancelled"


async def test_client_that_has_stopped_reading_does_not_hold_it_up(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    upstream.script(Script(output=(Text("x" * 1000),), deltas=100_000, stall_after=90_000))
    async with (
        open_server(tmp_path, upstream.url, "--graceful-timeout", "0.5") as server,
        open_under_way(server.port, {"input": "hi"}, DELTA) as client,
    ):
        await upstream.wait_stalled(1)  # it has sent more than the sockets hold
        server.signal()
        assert await server.wait() == 0
    assert await status_after_restart(tmp_path, upstream, client.id) == "cancelled"


async def test_nothing_but_the_address_is_printed(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_server(tmp_path, upstream.url, "--log-level", "warning") as server:
        await server.client.post("/v1/responses", json={"model": "tiny", "input": "hi"})
        server.signal()
        await server.wait()
        (line,) = server.log.read_text().splitlines()
    assert line == f"agentic-trio listens on {server.url}; the model server is {upstream.url}"
