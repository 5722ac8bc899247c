"""SIGTERM under load: nothing new is begun, what runs may finish, the rest is told and recorded."""

from __future__ import annotations

import json
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from agentic_trio import Config, open_gateway, serve
from agentic_trio.cli.run import HARD_STOP_SLACK
from agentic_trio.server import connection
from tests.fake_upstream import Script, Text, open_fake_upstream
from tests.http_client import Exchange, open_exchange, parse_response
from tests.oracles import check_error, check_event_stream
from tests.web.harness import MODEL, NOWHERE, said

from .ledger import ledger
from .world import PATIENCE, assert_intact, check_told_why, ended, get, status_on_disk, streamed

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.fake_upstream import Recorded

    from .processes import Process, Spawner

Json = dict[str, Any]

GRACE = 1.0
BUSY = 2.0
"""Seconds that this machine may be late with anything."""

OUTPUT = Script(output=(Text(("Hel", "lo", ", you", "!")),))
HALF = 6
"""Events after which turns stop that don't finish."""

FLOOD = Script(output=(Text(("x" * 100_000,) * 400),), writes="event")


def by_input(request: Recorded) -> Script | None:
    """The input says how the model server behaves."""
    if request.path != "/v1/responses":
        return None
    _, text = said(request)[-1]
    return {"whole": Script(hang=True), "flood": FLOOD}.get(text, OUTPUT.varied(stall_after=HALF))


async def begin(stack: AsyncExitStack, process: Process, body: Json, events: int) -> Exchange:
    """A stream that has come so far."""
    client = await stack.enter_async_context(open_exchange(process.port))
    await client.request("POST", "/v1/responses", body)
    await client.read_events(events)
    return client


async def sent(stack: AsyncExitStack, process: Process, data: bytes) -> Exchange:
    """A connection on which these bytes were sent."""
    client = await stack.enter_async_context(open_exchange(process.port))
    await client.stream.send_all(data)
    return client


class Exit:
    """SIGTERM, the end of the process, and how long it took."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.code: int | None = None
        self.seconds = 0.0

    async def __call__(self) -> None:
        began = trio.current_time()
        self.process.signal(signal.SIGTERM)
        ledger.fault()
        self.code = await self.process.exit_code()
        self.seconds = trio.current_time() - began


async def accepted(process: Process) -> None:
    """Wait until all connections so far have been accepted: they are in order."""
    async with open_exchange(process.port) as last:
        await last.request("GET", "/health")
        await last.read()


async def refuses_connections(process: Process) -> None:
    """Wait until nothing new is accepted."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", process.port)
            except OSError:
                return
            await stream.aclose()


def grace(seconds: float) -> tuple[str, str]:
    return ("--graceful-timeout", f"{seconds:g}")


async def test_what_runs_may_finish_and_nothing_new_begins(database: Path, spawner: Spawner) -> None:
    async with (
        open_fake_upstream() as upstream,
        spawner.running(database, upstream.url, *grace(PATIENCE)) as process,
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        upstream.script(by_input)
        streams = [await begin(stack, process, streamed("hi"), HALF) for _ in range(3)]
        background = await begin(stack, process, streamed("hi", background=True), HALF + 1)
        idle = await sent(stack, process, b"")
        ready = await sent(stack, process, b"GET /ready HTTP/1.1\r\nhos")
        create = await sent(stack, process, b"POST /v1/responses HTTP/1.1\r\ncontent-le")
        relay = await sent(stack, process, b"POST /v1/chat/completions HTTP/1.1\r\ncontent-le")
        await upstream.wait_stalled(4)
        await accepted(process)
        asked = len(upstream.requests)
        exit = Exit(process)
        nursery.start_soon(exit)
        await refuses_connections(process)

        assert await idle.read_rest() == b""
        await ready.stream.send_all(b"t: localhost\r\n\r\n")
        answer = await ready.read_rest()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nconnection: close\r\n" in answer
        for client in (create, relay):
            await client.stream.send_all(b"ngth: 9999999\r\nhost: localhost\r\n\r\n")
            status, headers, body = parse_response(await client.read_rest())
            check_error(status, body, code="service_unavailable")
            assert (status, headers["retry-after"]) == (503, "1")
        assert len(upstream.requests) == asked

        upstream.release()
        told = [check_event_stream(await client.read())[-1] for client in (*streams, background)]
        assert {event["type"] for event in told} == {"response.completed"}
    assert exit.code == 0
    assert exit.seconds < PATIENCE
    assert_intact(database)
    await check_told(spawner, database, [event["response"] for event in told])


async def test_what_does_not_finish_is_told_and_recorded(database: Path, spawner: Spawner) -> None:
    async with (
        open_fake_upstream() as upstream,
        spawner.running(database, upstream.url, *grace(GRACE)) as process,
        AsyncExitStack() as stack,
    ):
        upstream.script(by_input)
        streams = [await begin(stack, process, streamed("hi"), HALF) for _ in range(3)]
        background = await begin(stack, process, streamed("hi", background=True), HALF + 1)
        polled = await process.client.post(
            "/v1/responses", json={"model": MODEL, "input": "whole", "background": True}
        )
        whole = await stack.enter_async_context(open_exchange(process.port))
        await whole.request("POST", "/v1/responses", {"model": MODEL, "input": "whole"})
        reader = await stack.enter_async_context(open_exchange(process.port))
        await reader.request("POST", "/v1/responses", streamed("flood"))
        await sent(
            stack, process, b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n{"
        )
        await sent(stack, process, b"POST /v1/resp")
        await upstream.wait_stalled(6)
        exit = Exit(process)
        await exit()

        told = [await client.read() for client in (*streams, background)]
        await whole.read()
        check_error(whole.status, whole.body, code="service_unavailable")
        assert whole.status == 503
        assert exit.code == 0
        assert exit.seconds < GRACE + HARD_STOP_SLACK + BUSY
        await upstream.wait_aborted(6)
    assert_intact(database)
    async with spawner.running(database, upstream.url) as process:
        for stream in told:
            response = await check_told_why(process.client, stream, "service_unavailable")
            assert response["output"]
        response = json.loads(await get(process.client, polled.json()["id"]))
        ledger.check(response["status"] == "cancelled", response)


async def test_a_database_that_hangs_does_not_hold_up_the_end(database: Path, spawner: Spawner) -> None:
    """The process ends by force. What it had announced is found by the next one."""
    async with (
        open_fake_upstream(OUTPUT.varied(stall_after=HALF)) as upstream,
        spawner.running(database, upstream.url, *grace(GRACE)) as process,
        AsyncExitStack() as stack,
    ):
        client = await begin(stack, process, streamed(), HALF)
        async with spawner.holding(database):
            exit = Exit(process)
            await exit()
    assert exit.code == 1
    assert exit.seconds < GRACE + HARD_STOP_SLACK + BUSY
    assert f"not stopped after {GRACE + HARD_STOP_SLACK:g} s" in process.log.read_text()
    async with spawner.running(database, upstream.url) as process:
        ledger.check(await ended(process.client, client.id, "failed"), client.id)
    assert_intact(database)


async def test_a_connection_that_was_just_accepted_gets_its_first_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "NEWCOMER_GRACE", 2 * PATIENCE)
    stop = trio.Event()
    config = Config(db_url="sqlite://:memory:", llm_api_base=NOWHERE, port=0, graceful_timeout=PATIENCE)
    async with open_gateway(config) as gateway, trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, gateway, shutdown_trigger=stop.wait))
        port = int(url.rpartition(":")[2])
        async with open_exchange(port) as newcomer, open_exchange(port) as idle:
            await idle.request("GET", "/health")
            await idle.read()
            stop.set()
            ledger.fault()
            assert await idle.is_closed()
            await newcomer.request("GET", "/health")
            await newcomer.read()
            assert (newcomer.status, newcomer.headers["connection"]) == (200, "close")


async def test_a_second_signal_ends_everything_at_once(database: Path, spawner: Spawner) -> None:
    async with (
        open_fake_upstream(OUTPUT.varied(stall_after=HALF)) as upstream,
        spawner.running(database, upstream.url, *grace(PATIENCE)) as process,
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        client = await begin(stack, process, streamed(), HALF)
        exit = Exit(process)
        nursery.start_soon(exit)
        await refuses_connections(process)
        process.signal(signal.SIGINT)
        ledger.fault()
    assert exit.code == 0
    assert exit.seconds < PATIENCE
    ledger.check(status_on_disk(database, client.id) == "cancelled", client.id)
    assert_intact(database)


async def check_told(spawner: Spawner, database: Path, responses: list[Json]) -> None:
    """The next gateway has all that was told."""
    async with spawner.running(database, NOWHERE) as process:
        for response in responses:
            ledger.check(json.loads(await get(process.client, response["id"])) == response, response)
