"""The gateway behind real connections: their ends, their reuse, and the server's own end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from agentic_trio import serve
from tests.fake_upstream import Script, Text
from tests.http_client import Exchange, exchange_bytes, open_exchange, open_under_way, parse_response
from tests.oracles import check_event_stream

from .harness import World, open_world

STREAM = {"model": "tiny", "input": "hi", "stream": True}
PLAIN = {"model": "tiny", "input": "hi"}
bodies = pytest.mark.parametrize("body", [PLAIN, STREAM], ids=["json", "stream"])


@bodies
async def test_connection_close_closes_after_the_answer(world: World, body: object) -> None:
    async with open_exchange(world.port) as client:
        await client.request("POST", "/v1/responses", body, connection="close")
        await client.read()
        assert client.status == 200
        assert client.headers["connection"] == "close"
        with trio.fail_after(5):
            assert await client.stream.receive_some() == b""


async def test_http_1_0_client_gets_a_stream_that_ends_with_the_connection(world: World) -> None:
    content = b'{"model":"tiny","input":"hi","stream":true}'
    answer = await exchange_bytes(
        world.port,
        b"POST /v1/responses HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content),
    )
    status, headers, body = parse_response(answer)
    assert status == 200
    assert "transfer-encoding" not in headers
    check_event_stream(body, ending="response.completed")


async def test_many_requests_share_one_connection(world: World) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:
        for body in [PLAIN, STREAM] * 5:
            client = Exchange(stream)
            await client.request("POST", "/v1/responses", body)
            await client.read()
            assert client.status == 200


async def test_idle_connection_does_not_hold_up_the_end_of_the_server() -> None:
    async with open_world(graceful_timeout=60) as world, trio.open_nursery() as nursery:
        stop = trio.Event()

        async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
            await serve(world.gateway, shutdown_trigger=stop.wait, task_status=task_status)

        (url,) = await nursery.start(run)
        assert (await world.client.get(f"{url}/health")).status_code == 200
        async with await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2])):
            stop.set()
            with trio.fail_after(5):
                while nursery.child_tasks:
                    await trio.testing.wait_all_tasks_blocked(0.001)


async def test_gateway_can_be_served_twice_at_once(world: World, nursery: trio.Nursery) -> None:
    (other,) = await nursery.start(serve, world.gateway)
    response = await world.create("hi")
    read = await world.client.get(f"{other}/v1/responses/{response['id']}")
    assert read.json() == response
    nursery.cancel_scope.cancel()


async def test_slow_reader_does_not_hold_up_the_model(world: World) -> None:
    world.upstream.script(Script(output=(Text("x" * 1000),), deltas=20_000))
    async with open_under_way(world.port, {"input": "hi"}, b"response.created") as client:
        turn = world.gateway.turns.find("", client.id)
        if turn is not None:
            with trio.fail_after(20):
                await turn.wait_ended()
        assert (await world.client.get(f"/v1/responses/{client.id}")).json()["status"] == "completed"
        assert world.upstream.live == 0
