"""Clients that read slower than the model writes: sockets that take a part of what they are given."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.server.exchange import Exchange as ServerExchange
from agentic_trio.web import responses_socket
from tests.fake_upstream import Script, Text
from tests.http_client import PATIENCE, Exchange
from tests.oracles import check_event_stream
from tests.websocket_client import Socket

from .harness import MODEL, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .harness import Json, World

LONG = Script(output=(Text(("x" * 15_000,) * 120),))
BODY: Json = {"model": MODEL, "input": "hi", "stream": True}


class Halves:
    """The exchanges whose sockets took a part of an event, and not all, while their readers slept."""

    def __init__(self) -> None:
        self.exchanges: list[ServerExchange] = []
        self._come = trio.Event()

    def add(self, exchange: ServerExchange, given: int) -> None:
        if 0 < len(exchange._unsent) < given:
            self.exchanges.append(exchange)
            self._come.set()

    async def wait(self) -> None:
        """Wait for the first."""
        with trio.fail_after(PATIENCE):
            await self._come.wait()


@pytest.fixture(autouse=True)
def way() -> str:
    """Only the direct way sends while the reader sleeps."""
    return "direct"


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Halves:
    halves, send_nowait = Halves(), ServerExchange.send_nowait

    def watched(exchange: ServerExchange, data: bytes) -> bool:
        whole = send_nowait(exchange, data)
        halves.add(exchange, len(data))
        return whole

    monkeypatch.setattr(ServerExchange, "send_nowait", watched)
    return halves


@asynccontextmanager
async def open_deaf(port: int) -> AsyncIterator[Exchange]:
    """A client whose system takes little before the client reads it."""
    socket = trio.socket.socket()
    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await socket.connect(("127.0.0.1", port))
    async with trio.SocketStream(socket) as stream:
        yield Exchange(stream)


async def recorded(world: World, id: str) -> bytes:
    """The events of a response as they were stored."""
    return (await world.client.get(f"/v1/responses/{id}", params={"stream": "true"})).content


async def test_a_client_that_reads_on_has_every_byte_once(world: World, halves: Halves) -> None:
    world.upstream.script(LONG)
    async with open_deaf(world.port) as client:
        await client.request("POST", "/v1/responses", BODY)
        await client.read_events(1)
        await halves.wait()
        body = await client.read()
        check_event_stream(body, BODY)
        assert body == await recorded(world, client.id)
        # The connection stands at its next request.
        await client.request("GET", f"/v1/responses/{client.id}?stream=true")
        assert await client.read() == body


async def test_a_client_that_reads_in_sips_has_every_byte_once(world: World, halves: Halves) -> None:
    world.upstream.script(LONG.varied(interval=0.0001))
    async with open_deaf(world.port) as client:
        await client.request("POST", "/v1/responses", BODY)
        await client.read_events(1)
        await halves.wait()
        while not client.reader.whole:
            client.reader.feed(await client.stream.receive_some(10_000))
            await trio.testing.wait_all_tasks_blocked()
        assert client.body == await recorded(world, client.id)


async def test_a_client_that_leaves_in_the_middle_of_an_event_harms_no_other(halves: Halves) -> None:
    async with open_world(LONG) as world, open_deaf(world.port) as client, open_deaf(world.port) as other:
        await client.request("POST", "/v1/responses", BODY | {"input": '!{"stall_after": 100} hi'})
        await client.read_events(1)
        await halves.wait()
        await other.request("POST", "/v1/responses", BODY)
        await other.read_events(1)
        turn = world.gateway.turns.find("", client.id)
        assert turn is not None
        await client.reset()
        with trio.fail_after(PATIENCE):
            await turn.wait_ended()
        cancelled = (await world.client.get(f"/v1/responses/{client.id}")).json()
        assert cancelled["status"] == "cancelled"
        assert await other.read() == await recorded(world, other.id)


async def test_a_turn_that_is_cancelled_behind_half_an_event_ends_as_recorded(
    world: World, halves: Halves
) -> None:
    world.upstream.script(LONG.varied(stall_after=100))
    async with open_deaf(world.port) as client:
        await client.request("POST", "/v1/responses", BODY | {"background": True})
        await client.read_events(1)
        await halves.wait()
        answer = await world.client.post(f"/v1/responses/{client.id}/cancel")
        assert answer.json()["status"] == "cancelled"
        assert await client.read() == await recorded(world, client.id)
    world.upstream.release()


async def test_a_client_that_never_reads_on_is_cut_off(halves: Halves) -> None:
    async with open_world(LONG, write_timeout=0.3) as world, open_deaf(world.port) as client:
        await client.request("POST", "/v1/responses", BODY)
        await client.read_events(1)
        await halves.wait()
        with trio.fail_after(PATIENCE):
            while not halves.exchanges[0].too_slow:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert len(await client.read_rest()) < 15_000 * 120


async def test_a_relayed_stream_has_every_byte_once(world: World, halves: Halves) -> None:
    sent = b"".join(b"data: %d %b\n\n" % (number, b"y" * 5_000) for number in range(600))
    world.upstream.script(Script(raw=sent, content_type="text/event-stream"))
    async with open_deaf(world.port) as client:
        await client.request("POST", "/v1/chat/completions", {"model": MODEL, "messages": [], "stream": True})
        await client.read_events(1)
        await halves.wait()
        assert await client.read() == sent


async def test_a_socket_whose_time_is_over_has_nothing_behind_half_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    over, run = trio.Event(), responses_socket._Socket.run

    async def watched(socket: responses_socket._Socket) -> None:
        try:
            await run(socket)
        finally:
            over.set()

    monkeypatch.setattr(responses_socket._Socket, "run", watched)
    monkeypatch.setattr(responses_socket, "LIFETIME", 1.0)
    async with open_world(LONG) as world, open_deaf(world.port) as client:
        socket = Socket(client.stream)
        await socket.open("127.0.0.1", "/v1/responses", [])
        await socket.create()
        assert (await socket.receive() or {})["type"] == "response.created"
        # Nobody reads, so the gateway is in the middle of a write when the time is over.
        with trio.fail_after(PATIENCE / 3):
            await over.wait()
        rest = await client.read_rest()
    assert b"response.output_text.delta" in rest
    assert b"websocket_connection_limit_reached" not in rest
