"""SIGTERM under load: nothing new is begun, what runs may finish, the rest is told and recorded."""

from __future__ import annotations

import json
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import trio
import trio.lowlevel

from tests.fake_upstream import Script, Text, open_fake_upstream
from tests.web.harness import MODEL

from .client import EventClient, open_client
from .ledger import ledger
from .world import PATIENCE, assert_intact, check_told_why, get, streamed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_upstream import Recorded

    from .processes import Process, Spawner

Json = dict[str, Any]

GRACE = 1.0
BUSY = 2.0
"""Seconds that this machine may be late with anything."""

OUTPUT = Script(output=(Text(("Hel", "lo", ", you", "!")),))
HALF = 6
"""Events after which turns stop that don't finish."""


def by_input(request: Recorded) -> Script:
    """The input says how the model server behaves."""
    word = str(request.json["input"][-1]["content"]) if request.path == "/v1/responses" else ""
    if "forever" in word:
        return OUTPUT.varied(stall_after=HALF)
    if "flood" in word:
        return Script(output=(Text(("x" * 100_000,) * 400),), writes="event")
    return OUTPUT


async def begin(stack: AsyncExitStack, process: Process, body: Json, events: int) -> EventClient:
    client = await stack.enter_async_context(open_client(process.port))
    await client.request("POST", "/v1/responses", body)
    await client.read_events(events)
    return client


class Exit:
    """Waits for the end of a process, and says how long it took."""

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


async def refuses_connections(process: Process) -> None:
    """Wait until nothing new is accepted."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", process.port)
            except OSError:
                return
            await stream.aclose()


async def test_sigterm_under_load(database: Path, spawner: Spawner) -> None:
    flags = ("--graceful-timeout", f"{GRACE:g}", "--on-disconnect", "finish")
    async with (
        open_fake_upstream() as upstream,
        spawner.running(database, upstream.url, *flags) as process,
        AsyncExitStack() as stack,
        trio.open_nursery() as nursery,
    ):
        upstream.script(by_input)
        slow = [await begin(stack, process, streamed(f"forever {n}"), HALF) for n in range(4)]
        in_background = await begin(stack, process, streamed("forever", background=True), HALF + 1)
        polled = await process.client.post(
            "/v1/responses", json={"model": MODEL, "input": "hang forever", "background": True}
        )
        stalled_reader = await stack.enter_async_context(open_client(process.port))
        await stalled_reader.request("POST", "/v1/responses", streamed("flood"))
        idle = [await stack.enter_async_context(open_client(process.port)) for _ in range(5)]
        for client in idle[:3]:
            await client.request("GET", "/health")
            await client.read()
        half_sent = [await half_a_request(stack, process) for _ in range(2)]
        await upstream.wait_stalled(5)

        exit = Exit(process)
        nursery.start_soon(exit)
        await refuses_connections(process)
        for client in idle:
            assert await client.stream.receive_some() == b""
        await check_refused(half_sent)
        # It is not over before the grace is; until then a turn may finish.
        upstream.script(OUTPUT)
        told = [await client.read() for client in (*slow, in_background)]
        await trio.lowlevel.checkpoint()

    assert exit.code == 0
    assert exit.seconds < GRACE + 2 + BUSY
    assert_intact(database)
    upstream.assert_stateless()
    await check_after(spawner, database, told, polled.json()["id"])


async def half_a_request(stack: AsyncExitStack, process: Process) -> EventClient:
    client = await stack.enter_async_context(open_client(process.port))
    await client.stream.send_all(b"GET /ready HTTP/1.1\r\nhos")
    return client


async def check_refused(half_sent: list[EventClient]) -> None:
    """Requests that were only half here: they are answered, but begin nothing."""
    ready, create = half_sent
    await ready.stream.send_all(b"t: x\r\n\r\n")
    answer = await read_raw(ready)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close" in answer
    del create


async def read_raw(client: EventClient) -> bytes:
    answer = b""
    with trio.fail_after(PATIENCE):
        while data := await client.stream.receive_some():
            answer += data
    return answer


async def check_after(spawner: Spawner, database: Path, told: list[bytes], polled: str) -> None:
    async with open_fake_upstream() as upstream, spawner.running(database, upstream.url) as process:
        for stream in told:
            response = await check_told_why(process.client, stream, "service_unavailable")
            ledger.check(response["output"], response)
        response = json.loads(await get(process.client, polled))
        ledger.check(response["status"] == "cancelled", response)
