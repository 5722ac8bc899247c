"""QuartTrio under our connection class: its request nursery lives and dies with the client."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from .harness import Server

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


class Probe:
    def __init__(self) -> None:
        self.started = trio.Event()
        self.cancelled = trio.Event()

    async def hold(self) -> None:
        self.started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def quart(probe: Probe) -> QuartTrio:
    app = QuartTrio(__name__)

    @app.post("/echo")
    async def echo() -> Any:
        return await request.get_data()

    @app.get("/hold")
    async def hold() -> str:
        await probe.hold()
        return "never"

    @app.get("/events")
    async def events() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b""  # sends the head
            await probe.hold()

        response = Response(parts(), content_type="text/event-stream")  # type: ignore[arg-type]
        response.timeout = None
        return response

    return app


async def test_bodies_and_keep_alive(ours: Server, quart: QuartTrio) -> None:
    await ours.start(quart)
    client = await ours.connect()
    for size in (0, 1, 100_000):
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
        assert (await client.request(head + b"x" * size, "POST")).body == b"x" * size


async def test_connection_close_closes(ours: Server, quart: QuartTrio) -> None:
    await ours.start(quart)
    client = await ours.connect()
    response = await client.request(b"GET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert response.status == 404
    assert await client.is_closed()


@pytest.mark.parametrize("path", [b"/hold", b"/events"])
@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_disconnect_cancels_the_request_nursery(
    ours: Server, quart: QuartTrio, probe: Probe, path: bytes, how: str
) -> None:
    await ours.start(quart)
    client = await ours.connect()
    await client.send(GET % path)
    await probe.started.wait()
    await (client.reset() if how == "reset" else client.stream.aclose())
    with trio.fail_after(5):
        await probe.cancelled.wait()


async def test_shutdown_with_an_idle_connection_is_immediate(ours: Server, quart: QuartTrio) -> None:
    await ours.start(quart, graceful_timeout=1000, keep_alive_timeout=1000)
    client = await ours.connect()
    await client.request(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "POST")
    ours.stop.set()
    with trio.fail_after(5):
        await ours.stopped.wait()
    assert await client.is_closed()


async def test_head_of_a_stream_is_out_before_its_first_event(
    ours: Server, quart: QuartTrio, probe: Probe
) -> None:
    await ours.start(quart)
    client = await ours.connect()
    await client.send(GET % b"/events")
    assert b"text/event-stream" in await client.read_until(b"\r\n\r\n")
    await probe.started.wait()
