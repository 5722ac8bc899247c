"""Disconnects, time limits, crowding and shutdown. The clock is Trio's and jumps."""

import errno
import os
import socket
import time
from typing import Any

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from agentic_trio.server.connection import NEWCOMER_GRACE
from agentic_trio.server.limits import ConnectionLimits

from .app import App
from .harness import Client, Server

POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /scope HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
FLOOD = b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"
EXPECT = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


@pytest.fixture
def jumping(autojump_clock: MockClock) -> MockClock:
    # Bytes in flight on the loopback get a moment of real time before the clock jumps.
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock


class Stopwatch:
    def __init__(self) -> None:
        self._start = trio.current_time()

    @property
    def seconds(self) -> float:
        return trio.current_time() - self._start


@pytest.mark.parametrize("how", ["fin", "reset", "half-close"])
async def test_disconnect_reaches_the_app(server: Server, app: App, how: str) -> None:
    await server.start(app)
    client = await server.connect()
    await client.send(WAIT)
    await app.has_seen("/wait")
    if how == "reset":
        await client.reset()
    elif how == "fin":
        await client.stream.aclose()
    else:
        await client.tcp.send_eof()
    await app.has_seen("disconnect")


async def test_disconnect_behind_pipelined_bytes_reaches_the_app(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    await client.send(WAIT + GET)
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    await app.has_seen("disconnect")
    assert app.log == ["/wait", "disconnect"]


async def test_disconnect_in_the_middle_of_a_body_reaches_the_app(ours: Server, app: App) -> None:
    seen: list[Any] = []

    async def spy(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await receive(), await receive(), await receive()])
        app.record("done")

    await ours.start(spy)
    client = await ours.connect()
    await client.send(POST[:-2])
    await client.stream.aclose()
    await app.has_seen("done")
    assert seen[0] == {"type": "http.request", "body": b"hel", "more_body": True}
    assert seen[1] == seen[2] == {"type": "http.disconnect"}


async def test_writing_to_a_client_that_left_raises_in_the_app(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    await client.send(FLOOD)
    await client.stream.receive_some()
    await client.reset()
    await app.has_seen("gone")


async def test_pipelined_bytes_are_read_up_to_the_bound(ours: Server, app: App) -> None:
    await ours.start(app, ConnectionLimits(read_ahead=1024))
    client = await ours.connect()
    await client.send(WAIT)
    sent = 0
    with trio.move_on_after(0.3):
        while True:
            await client.stream.send_all(GET * 1000)
            sent += len(GET) * 1000
    # The rest stays in the kernel's buffers, so the client is held back.
    assert sent < 50 * 1024 * 1024
    app.release.set()
    assert (await client.response()).body == b"released"
    assert (await client.response()).status == 200


async def test_body_is_not_read_ahead_of_the_app(ours: Server, app: App) -> None:
    release, sizes = trio.Event(), []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await release.wait()
        while (message := await receive())["type"] == "http.request":
            sizes.append(len(message["body"]))
        app.record("done")

    await ours.start(slow)
    client = await ours.connect()
    await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\nhello")
    with trio.move_on_after(0.3) as held:
        await client.send(b"x" * 50_000_000)
    assert held.cancelled_caught
    release.set()
    await client.stream.aclose()
    await app.has_seen("done")
    assert max(sizes) <= 65536


async def test_idle_connection_is_closed(server: Server, app: App, jumping: MockClock) -> None:
    await server.start(app, keep_alive_timeout=3)
    client = await server.connect()
    for _ in range(2):
        assert (await client.request(POST, "POST")).body == b"hello"
        await trio.sleep(2)
    assert (await client.request(POST, "POST")).body == b"hello"
    watch = Stopwatch()
    assert await client.is_closed(patience=60)
    assert watch.seconds == pytest.approx(3, abs=0.5)


async def test_blank_line_behind_a_body_leaves_the_connection_idle(
    ours: Server, app: App, jumping: MockClock
) -> None:
    await ours.start(app, ConnectionLimits(header_timeout=3), keep_alive_timeout=1000, graceful_timeout=1000)
    client = await ours.connect()
    assert (await client.request(POST, "POST")).body == b"hello"
    await client.send(b"\r\n")
    await trio.sleep(10)
    assert (await client.request(POST, "POST")).body == b"hello"
    await client.send(b"\r\n")
    await wait_all_tasks_blocked(0.01)
    watch = Stopwatch()
    ours.stop.set()
    assert await client.is_closed()
    await ours.stopped.wait()
    assert watch.seconds < 1


async def test_request_that_comes_as_the_idle_time_ends_is_served(ours: Server, app: App) -> None:
    await ours.start(app, keep_alive_timeout=0.05)
    for _ in range(20):
        began = trio.current_time()
        client = await ours.connect()
        await trio.sleep(0.01)
        if trio.current_time() - began > 0.04:
            continue  # a busy machine: the idle time may be over already
        # Nobody else has a turn until both are so.
        os.write(client.stream.socket.fileno(), GET)
        time.sleep(0.06)  # noqa: ASYNC251
        assert (await client.response()).status == 200
        await client.stream.aclose()


async def test_silent_connection_is_closed(server: Server, app: App, jumping: MockClock) -> None:
    await server.start(app, keep_alive_timeout=3)
    assert await (await server.connect()).is_closed()


async def test_slow_head_is_a_408(ours: Server, app: App, jumping: MockClock) -> None:
    await ours.start(app, ConnectionLimits(header_timeout=10), keep_alive_timeout=5)
    client = await ours.connect()
    watch = Stopwatch()
    for byte in GET[:11]:
        await client.send(bytes([byte]))
        await trio.sleep(0.9)
    assert (await client.response()).status == 408
    assert watch.seconds == pytest.approx(10, abs=0.5)
    assert await client.is_closed()


async def test_slow_body_is_a_408(ours: Server, app: App, jumping: MockClock) -> None:
    await ours.start(app, ConnectionLimits(body_timeout=60))
    client = await ours.connect()
    watch = Stopwatch()
    await client.send(POST[:-2])
    await trio.sleep(59)
    await client.send(POST[-2:-1])
    assert (await client.response("POST", patience=100)).status == 408
    assert watch.seconds == pytest.approx(60, abs=1)


async def test_stalled_reader_is_cut_off(ours: Server, app: App, jumping: MockClock) -> None:
    await ours.start(app, ConnectionLimits(write_timeout=30))
    client = await ours.connect()
    watch = Stopwatch()
    await client.send(FLOOD)
    await app.has_seen("gone", patience=100)
    assert watch.seconds == pytest.approx(30, abs=2)


async def test_slow_reader_that_makes_progress_is_not_cut_off(ours: Server, jumping: MockClock) -> None:
    async def big(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 40_000_000, "more_body": False})

    await ours.start(big)
    client = await ours.connect()
    await client.send(GET)
    received = 0
    with trio.fail_after(10_000):
        while received < 40_000_000:
            await trio.sleep(1)
            for _ in range(16):
                received += len(await client.stream.receive_some(65536))


async def test_refusal_before_the_body_is_read_reaches_the_client(server: Server, app: App) -> None:
    await server.start(app)
    client = await server.connect()
    await client.send(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def upload() -> None:
            await client.send(b"y" * 8_000_000)

        response = await client.response("POST")
        assert (response.status, response.headers[b"connection"]) == (413, b"close")


async def test_small_unread_body_keeps_the_connection(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    head = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    assert (await client.request(head, "POST")).status == 413
    await client.send(b"y" * 1000)
    assert (await client.request(POST, "POST")).body == b"hello"


async def test_unread_body_that_never_comes_is_not_waited_for_without_end(
    ours: Server, app: App, jumping: MockClock
) -> None:
    await ours.start(app, ConnectionLimits(body_timeout=60))
    client = await ours.connect()
    head = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    assert (await client.request(head, "POST")).status == 413
    assert await client.is_closed(patience=100)


async def test_no_continue_for_a_body_that_is_not_wanted(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    response = await client.request(EXPECT, "POST")
    assert (response.status, response.headers[b"connection"]) == (413, b"close")


async def test_empty_part_sends_the_head_at_once(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    await client.send(GET.replace(b"/scope", b"/early-head"))
    await client.read_until(b"\r\n\r\n")
    app.release.set()
    assert await client.read_until(b"0\r\n\r\n") == b"4\r\nlate\r\n0\r\n\r\n"


async def test_cut_http_1_0_stream_is_a_reset(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    await client.send(b"GET /fail-late HTTP/1.0\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await client.read_to_close()


async def test_shutdown_closes_idle_connections_at_once(ours: Server, app: App, jumping: MockClock) -> None:
    await ours.start(app, keep_alive_timeout=1000, graceful_timeout=1000)
    clients = [await ours.connect() for _ in range(5)]
    for client in clients[1:]:
        assert (await client.request(POST, "POST")).body == b"hello"
    await trio.sleep(NEWCOMER_GRACE)
    watch = Stopwatch()
    ours.stop.set()
    for client in clients:
        assert await client.is_closed()
    await ours.stopped.wait()
    assert watch.seconds < 1


@pytest.mark.parametrize("sent", [b"", GET[:9]], ids=["nothing", "a beginning"])
async def test_connection_accepted_as_a_shutdown_begins_is_served(
    server: Server, app: App, jumping: MockClock, sent: bytes
) -> None:
    await server.start(app, graceful_timeout=1000)
    client = await server.connect()
    await client.send(sent)
    # Over TLS a client begins with a handshake, which is no request.
    await wait_all_tasks_blocked(0.01)
    server.stop.set()
    await wait_all_tasks_blocked(0.01)
    await trio.sleep(NEWCOMER_GRACE / 2)
    response = await client.request(GET[len(sent) :])
    assert (response.status, response.headers[b"connection"]) == (200, b"close")
    assert await client.is_closed()
    await server.stopped.wait()


async def test_connections_that_only_the_kernel_has_accepted_are_served_at_a_shutdown(
    ours: Server, app: App
) -> None:
    await ours.start(app, graceful_timeout=1000)
    sockets = []
    for _ in range(20):
        # Without a checkpoint in between, the server has no time to accept any of them.
        sockets.append(socket.create_connection(("127.0.0.1", ours.port)))
        sockets[-1].sendall(GET)
    ours.stop.set()
    for each in sockets:
        each.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(each))
        ours.clients.append(Client(stream, stream))
    assert [(await client.response()).status for client in ours.clients] == [200] * 20
    await ours.stopped.wait()


async def test_connection_accepted_as_a_shutdown_begins_has_a_moment_only(
    ours: Server, app: App, jumping: MockClock
) -> None:
    await ours.start(app, graceful_timeout=1000)
    client = await ours.connect()
    await trio.sleep(NEWCOMER_GRACE / 4)
    watch = Stopwatch()
    ours.stop.set()
    assert await client.is_closed()
    assert watch.seconds == pytest.approx(NEWCOMER_GRACE * 3 / 4, abs=0.1)
    await ours.stopped.wait()


async def test_shutdown_lets_requests_finish(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    await client.send(WAIT)
    await app.has_seen("/wait")
    ours.stop.set()
    await wait_all_tasks_blocked()
    with pytest.raises(OSError, match="connect"):
        await ours.connect()
    app.release.set()
    response = await client.response()
    assert (response.body, response.headers[b"connection"]) == (b"released", b"close")
    await ours.stopped.wait()


async def test_shutdown_cancels_requests_after_the_grace(ours: Server, app: App, jumping: MockClock) -> None:
    await ours.start(app, graceful_timeout=7)
    client = await ours.connect()
    await client.send(WAIT)
    await app.has_seen("/wait")
    watch = Stopwatch()
    ours.stop.set()
    await ours.stopped.wait()
    assert watch.seconds == pytest.approx(7, abs=0.5)
    assert app.log == ["/wait", "cancelled"]
    with pytest.raises(h11.RemoteProtocolError):
        await client.response()


async def test_stalled_reader_does_not_hold_up_shutdown(ours: Server, app: App, jumping: MockClock) -> None:
    await ours.start(app, ConnectionLimits(write_timeout=30), graceful_timeout=3)
    client = await ours.connect()
    await client.send(FLOOD)
    await app.has_seen("/flood")
    watch = Stopwatch()
    ours.stop.set()
    await ours.stopped.wait()
    assert watch.seconds == pytest.approx(3, abs=0.5)
    assert app.log == ["/flood", "cancelled"]


async def test_server_stops_after_max_requests(ours: Server, app: App) -> None:
    await ours.start(app, max_requests=2)
    client = await ours.connect()
    for _ in range(3):
        assert (await client.request(GET)).status == 200
    with trio.fail_after(5):
        await ours.stopped.wait()


async def test_full_server_closes_the_longest_idle_connection(ours: Server, app: App) -> None:
    await ours.start(app, ConnectionLimits(max_connections=3), keep_alive_timeout=1000)
    clients: list[Client] = []
    for _ in range(5):
        clients.append(await ours.connect())
        assert (await clients[-1].request(POST, "POST")).body == b"hello"
    assert await clients[0].is_closed()
    assert await clients[1].is_closed()
    assert (await clients[4].request(POST, "POST")).body == b"hello"


async def test_full_server_lets_newcomers_wait(ours: Server, app: App) -> None:
    await ours.start(app, ConnectionLimits(max_connections=2))
    busy = [await ours.connect() for _ in range(2)]
    for client in busy:
        await client.send(WAIT)
    await app.has_seen("/wait", "/wait")
    waiting = await ours.connect()
    await waiting.send(POST)
    await wait_all_tasks_blocked()
    assert app.log == ["/wait", "/wait"]
    app.release.set()
    assert (await waiting.response("POST")).body == b"hello"
    assert (await busy[0].response()).headers[b"connection"] == b"close"


async def test_accept_errors_do_not_stop_the_server(
    ours: Server, app: App, monkeypatch: pytest.MonkeyPatch, jumping: MockClock
) -> None:
    accept, failures = trio.SocketListener.accept, [errno.EMFILE, errno.ENFILE]

    async def failing(self: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise OSError(failures.pop(), "no more files")
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    await ours.start(app, ConnectionLimits(max_connections=2))
    client = await ours.connect()
    assert (await client.request(GET)).status == 200
    assert not failures
