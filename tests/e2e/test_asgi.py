"""``hypercorn -k trio agentic_trio.asgi:app``, configured by the environment."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.asgi import GatewayLifespan, app
from tests.fake_upstream import FakeUpstream, open_fake_upstream
from tests.http_client import open_exchange, open_under_way
from tests.oracles import check_event_stream

from .harness import Server, environment, open_group, open_process, open_server, run_command, running_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HYPERCORN = [sys.executable, "-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0"]
STALLED = {"input": '!{"stall_after": 6} hi there'}
DELTA = b"response.output_text.delta"


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with open_fake_upstream() as upstream:
        yield upstream


@asynccontextmanager
async def open_hypercorn(directory: Path, upstream: FakeUpstream, *flags: str) -> AsyncIterator[Server]:
    variables = {"LLM_API_BASE": upstream.url, "DATABASE_URL": f"sqlite://{directory / 'gateway.db'}"}
    command = [*HYPERCORN, *flags, "agentic_trio.asgi:app"]
    async with open_process(command, directory / "hypercorn.log", variables) as server:
        yield server


async def test_conversation_and_stream_are_served(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_hypercorn(tmp_path, upstream) as server:
        body = {"model": "tiny", "input": "one"}
        first = (await server.client.post("/v1/responses", json=body)).json()
        body |= {"stream": True, "previous_response_id": first["id"]}
        answer = await server.client.post("/v1/responses", json=body)
        check_event_stream(answer.content, body, ending="response.completed")
    assert len(upstream.last.items) == 3


async def test_connection_close_closes(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_hypercorn(tmp_path, upstream) as server, open_exchange(server.port) as client:
        await client.request("GET", "/health", connection="close")
        await client.read()
        with trio.fail_after(5):
            assert await client.stream.receive_some() == b""


async def test_client_that_leaves_is_recorded_as_cancelled(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_hypercorn(tmp_path, upstream) as server:
        async with open_under_way(server.port, STALLED, DELTA) as client:
            id = client.id
            await client.reset()
            with trio.fail_after(5):
                await upstream.wait_aborted(1)
        server.signal()
        await server.wait()
    async with open_server(tmp_path, upstream.url) as server:
        assert (await server.read(id))["status"] == "cancelled"


async def test_sigterm_ends_it_with_0_and_records_what_ran(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with (
        open_hypercorn(tmp_path, upstream, "--graceful-timeout", "1") as server,
        open_under_way(server.port, STALLED, DELTA) as client,
    ):
        server.signal()
        assert await server.wait() == 0
    await upstream.wait_aborted(1)
    async with open_server(tmp_path, upstream.url) as server:
        assert (await server.read(client.id))["status"] == "cancelled"
    assert "Traceback" not in (tmp_path / "hypercorn.log").read_text()


async def test_bad_configuration_is_named_and_keeps_it_from_starting(tmp_path: Path) -> None:
    command = [*HYPERCORN, "agentic_trio.asgi:app"]
    async with open_group(command, tmp_path / "log", {"DATABASE_URL": "mysql://x"}) as process:
        with trio.fail_after(60):
            await process.wait()  # hypercorn's own exit code is 0 then
    assert "db_url must be sqlite://" in (tmp_path / "log").read_text()


async def test_no_worker_outlives_its_server(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_hypercorn(tmp_path, upstream) as server:
        group = server.process.pid
        assert len(running_in(group)) > 1, "hypercorn serves from a worker"
    assert running_in(group) == []


async def test_the_log_names_the_variables_that_were_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in [name for name in os.environ if name not in environment()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", f"sqlite://{tmp_path / 'x.db'}")
    sent: list[str] = []

    async def receive() -> Any:
        return {"type": "lifespan.shutdown" if sent else "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope: Any = {"type": "lifespan", "asgi": {}, "state": {}}
    await GatewayLifespan(app, scope)(receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [text for text in caplog.messages if "settings" in text] == [
        "settings come from variable DATABASE_URL"
    ]


async def test_commands_reach_it_and_settings_of_proxies_have_their_effect(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    database = tmp_path / "gateway.db"
    settings = tmp_path / "gateway.toml"
    settings.write_text('root_path = "/llm"\nforwarded_allow_ips = ["127.0.0.1"]\nlog_format = "json"\n')
    variables = {
        "AGENTIC_TRIO_CONFIG": str(settings),
        "LLM_API_BASE": upstream.url,
        "DATABASE_URL": f"sqlite://{database}",
    }
    log = tmp_path / "hypercorn.log"
    async with open_process([*HYPERCORN, "agentic_trio.asgi:app"], log, variables) as server:
        body = {"model": "tiny", "input": "one", "metadata": {"user": "alice"}}
        headers = {"x-forwarded-for": "198.51.100.7"}
        answer = await server.client.post("/llm/v1/responses", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        arguments = ("db", "erase", "--db-url", f"sqlite://{database}", "--metadata", "user=alice")
        ran = await trio.to_thread.run_sync(lambda: run_command(*arguments))
        assert ran.stdout.startswith("Erased 1 response,"), ran.stderr
        url = f"/v1/responses/{answer.json()['id']}"
        assert (await server.client.get(url)).status_code == 404
        assert "198.51.100.7" in log.read_text()
