"""More than the gateway takes, and clients that mean harm: each is refused or cut, the others are served."""

from __future__ import annotations

import json
import resource
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import h2.connection
import pytest
import trio
import trio.testing

from agentic_trio.gateway import admission
from agentic_trio.server import serve as server_app
from agentic_trio.server.limits import ConnectionLimits
from agentic_trio.store import threads
from agentic_trio.wire import accumulator, items
from tests.fake_upstream import Script, Text, open_fake_upstream
from tests.http_client import Exchange, open_at_event, open_exchange, parse_response
from tests.oracles import check_error, check_event_stream
from tests.web.harness import MODEL, nested

from .ledger import LONG, ledger
from .world import PATIENCE, PLAIN, continued, ended, open_file_world, streamed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.web.harness import World

    from .processes import Spawner

Json = dict[str, Any]

HELLO = Script(output=(Text(("Hel", "lo", "!")),))
HALF = HELLO.varied(stall_after=5)
HANGING = Script(hang=True)

IDLE_CONNECTIONS = 8_000 if LONG else 2_000


def head(path: str, *fields: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *fields, "", ""]).encode()


async def answer_to(client: Exchange) -> tuple[int, dict[str, str], bytes]:
    """What a connection is told until it is closed."""
    return parse_response(await client.read_rest())


async def check_served(world: World) -> None:
    """Others are served meanwhile."""
    world.upstream.script(PLAIN)
    with trio.fail_after(PATIENCE):
        await world.create()


# Requests at the model server

KINDS: dict[str, tuple[str, Json]] = {
    "stored": ("/v1/responses", {"model": MODEL, "input": "hi"}),
    "stream": ("/v1/responses", streamed()),
    "relayed": ("/v1/responses", {"model": MODEL, "input": "hi", "store": False}),
    "chat": ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}),
}


@pytest.mark.parametrize("refused", KINDS)
@pytest.mark.parametrize("running", KINDS)
async def test_more_requests_than_may_be_get_429_before_their_body_is_read(
    database: Path, running: str, refused: str
) -> None:
    async with open_file_world(database, HANGING, max_concurrent_requests=2) as world:
        async with open_exchange(world.port) as one, open_exchange(world.port) as two:
            path, body = KINDS[running]
            for client in (one, two):
                await client.request("POST", path, body)
            await world.upstream.wait_stalled(2)
            async with open_exchange(world.port) as third:
                await third.stream.send_all(head(KINDS[refused][0], "content-length: 999"))
                await third.read_head()
                ledger.fault()
                assert third.status == 429
                assert third.headers["retry-after"] == "1"
            assert len(world.upstream.requests) == 2
            world.upstream.release()
            for client in (one, two):
                await client.read()
        await check_served(world)


@pytest.mark.parametrize("members", [{}, {"store": False}], ids=["stored", "relayed"])
async def test_bodies_that_are_too_much_together_get_429(database: Path, members: Json) -> None:
    large = {"model": MODEL, "input": "x" * 600_000, **members}
    async with open_file_world(database, HANGING, max_held_bytes=1_000_000) as world:
        async with open_exchange(world.port) as first:
            await first.request("POST", "/v1/responses", large)
            await world.upstream.wait_stalled(1)
            status, error = await world.refused(**large)
            ledger.fault()
            assert (status, error["code"]) == (429, "rate_limit_exceeded")
            world.upstream.script(PLAIN)
            await world.create(input="small")
            world.upstream.release()
            await first.read()
        with trio.fail_after(PATIENCE):
            await world.post("/v1/responses", large)
        assert world.gateway.admission.bytes_left == 1_000_000


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_heads_without_their_bodies_keep_nobody_out(database: Path, path: str) -> None:
    async with (
        open_file_world(database, HELLO, max_concurrent_requests=2) as world,
        AsyncExitStack() as stack,
    ):
        for framing in ("content-length: 999", "transfer-encoding: chunked") * 3:
            client = await stack.enter_async_context(open_exchange(world.port))
            await client.stream.send_all(head(path, framing))
            ledger.fault()
        await check_served(world)


@pytest.mark.parametrize("members", [{}, {"store": False}], ids=["stored", "relayed"])
async def test_as_many_bodies_are_served_as_there_is_declared_room_for(database: Path, members: Json) -> None:
    body = json.dumps({"model": MODEL, "input": "x" * 265_000, **members}).encode()
    counted = len(body) - admission.UNCOUNTED
    fields = (f"content-length: {len(body)}", "connection: close")
    async with (
        open_file_world(database, PLAIN, max_held_bytes=4 * counted + counted // 2) as world,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(open_exchange(world.port)) for _ in range(9)]
        for client in clients:
            await client.stream.send_all(head("/v1/responses", *fields) + body[:-1])
        for client in clients[4:]:
            # Nothing of theirs was kept, so all of them hear it before any body has ended.
            await client.read_head()
            ledger.fault()
            assert client.status == 429
        for client in clients[:4]:
            await client.stream.send_all(body[-1:])
            await client.read_head()
            assert client.status == 200
            await client.read()
        with trio.fail_after(PATIENCE):
            while world.gateway.admission.bytes_left < 4 * counted + counted // 2:
                await trio.lowlevel.checkpoint()


async def open_deaf(port: int, stack: AsyncExitStack) -> trio.SocketStream:
    """A connection of a client that takes little: what it doesn't read stays with the gateway."""
    socket = trio.socket.socket()
    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    await socket.connect(("127.0.0.1", port))
    return await stack.enter_async_context(trio.SocketStream(socket))


@pytest.mark.parametrize("path", ["", "/input_items"], ids=["response", "items"])
async def test_answers_that_nobody_reads_count(database: Path, path: str) -> None:
    large = "x" * 9_000_000
    members = {"input": large} if path else {"instructions": large}
    async with (
        open_file_world(database, PLAIN, max_held_bytes=30_000_000) as world,
        AsyncExitStack() as stack,
    ):
        id = (await world.create(**members))["id"]
        with trio.fail_after(PATIENCE):
            while world.gateway.admission.bytes_left < 30_000_000:
                await trio.lowlevel.checkpoint()
        for _ in range(3):
            stream = await open_deaf(world.port, stack)
            before = world.gateway.admission.bytes_left
            await stream.send_all(head(f"/v1/responses/{id}{path}", method="GET"))
            with trio.fail_after(PATIENCE):
                while world.gateway.admission.bytes_left == before:
                    await trio.lowlevel.checkpoint()
            ledger.fault()
        answer = await world.client.get(f"/v1/responses/{id}{path}")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        await world.create(input="small")
        await stack.aclose()
        with trio.fail_after(PATIENCE):
            while (await world.client.get(f"/v1/responses/{id}{path}")).status_code != 200:
                await trio.lowlevel.checkpoint()


async def test_what_a_refused_request_had_is_free_when_it_reads_the_refusal(database: Path) -> None:
    body = {"model": MODEL, "input": "x" * 400_000}
    async with open_file_world(database, PLAIN, max_held_bytes=500_000) as world:
        for _ in range(20):
            status, error = await world.refused(**body, previous_response_id="resp_unknown")
            assert (status, error["code"]) == (400, "previous_response_not_found")
            assert world.gateway.admission.bytes_left == 500_000
            ledger.fault()


@pytest.mark.parametrize("background", [False, True])
async def test_the_body_of_a_turn_that_outlives_its_request_counts_until_it_ends(
    database: Path, background: bool
) -> None:
    large = {"model": MODEL, "input": "x" * 400_000, "stream": True, "background": background}
    async with open_file_world(database, HALF, max_held_bytes=1_000_000, on_disconnect="finish") as world:
        for _ in range(2):
            async with open_at_event(world.port, large, 2) as client:
                await client.reset()
                ledger.fault()
        with trio.fail_after(PATIENCE):
            while (await world.refused(**large))[0] != 429:
                pass
        world.upstream.release()
        with trio.fail_after(PATIENCE):
            while world.gateway.admission.bytes_left < 1_000_000:
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("background", [False, True])
async def test_histories_that_are_too_much_together_get_429(database: Path, background: bool) -> None:
    async with open_file_world(database, HELLO, max_held_bytes=1_000_000) as world:
        long = await world.create(input="x" * 600_000)
        more = {"input": "hi", "previous_response_id": long["id"]}
        world.upstream.script(HANGING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.create, **more, background=background))
            await world.upstream.wait_stalled(1)
            status, error = await world.refused(**more)
            ledger.fault()
            assert (status, error["code"]) == (429, "rate_limit_exceeded")
            world.upstream.script(PLAIN)
            await world.create(input="small")
            world.upstream.release()
        with trio.fail_after(PATIENCE):
            while world.gateway.admission.bytes_left < 1_000_000:
                await trio.lowlevel.checkpoint()
        await world.create(**more)


async def test_a_turn_that_goes_on_without_its_client_keeps_its_place(database: Path) -> None:
    async with open_file_world(database, HALF, max_concurrent_requests=1, on_disconnect="finish") as world:
        async with open_at_event(world.port, streamed(), 4) as client:
            await client.reset()
            ledger.fault()
        for _ in range(3):
            status, _ = await world.refused()
            assert status == 429
        world.upstream.release()
        ledger.check(await ended(world.client, client.id, "completed"), client.id)
        await check_served(world)


async def test_a_request_whose_body_never_comes_is_cut_off(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, body_timeout=0.5)
    async with (
        open_file_world(database, max_concurrent_requests=1) as world,
        open_exchange(world.port) as slow,
    ):
        await slow.stream.send_all(head("/v1/responses", "content-length: 999") + b"{")
        ledger.fault()
        status, _, _ = await answer_to(slow)
        assert status == 408
        await check_served(world)


async def until_refused(world: World, status: int) -> None:
    with trio.fail_after(PATIENCE):
        while (await world.refused())[0] != status:
            pass


async def test_more_background_turns_than_may_wait_get_429(database: Path) -> None:
    async with open_file_world(database, HANGING, max_background=1) as world:
        taken = [await world.create(background=True) for _ in range(11)]
        status, error = await world.refused(background=True)
        ledger.fault()
        assert (status, error["code"]) == (429, "rate_limit_exceeded")
        assert len({response["id"] for response in taken}) == 11
        await world.upstream.wait_stalled(1)
        for response in taken:
            answer = await world.post(f"/v1/responses/{response['id']}/cancel")
            ledger.check(answer.json()["status"] == "cancelled", answer.text)


# Connections


@contextmanager
def many_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_thousands_of_idle_connections_cost_little_and_the_server_answers(
    database: Path, spawner: Spawner
) -> None:
    async with (
        open_fake_upstream() as upstream,
        spawner.running(database, upstream.url) as process,
        AsyncExitStack() as stack,
    ):
        stack.enter_context(many_files(IDLE_CONNECTIONS + 500))
        await process.client.get("/health")
        before = process.memory()
        for number in range(IDLE_CONNECTIONS):
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", process.port))
            if number % 2:
                # Half of them have sent the first bytes of a request.
                await stream.send_all(b"POST /v1/resp")
        ledger.fault()
        answer = await process.client.post("/v1/responses", json={"model": MODEL, "input": "hi"})
        assert answer.status_code == 200
        assert process.memory() - before < IDLE_CONNECTIONS * 40_000


async def test_at_the_bound_on_connections_the_longest_idle_makes_room(database: Path) -> None:
    async with open_file_world(database, HALF, max_connections=3) as world, AsyncExitStack() as stack:
        await world.client.aclose()
        idle = [await stack.enter_async_context(open_exchange(world.port)) for _ in range(2)]
        for client in idle:
            await client.request("GET", "/health")
            await client.read()
        busy = await stack.enter_async_context(open_exchange(world.port))
        await busy.request("POST", "/v1/responses", streamed())
        await busy.read_events(4)
        newcomer = await stack.enter_async_context(open_exchange(world.port))
        ledger.fault()
        await newcomer.request("GET", "/health")
        await newcomer.read()
        assert newcomer.status == 200
        assert await idle[0].stream.receive_some() == b""
        world.upstream.release()
        check_event_stream(await busy.read())


# Slow clients


def limit(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    """Have clients reach the server's limits sooner."""
    monkeypatch.setattr(server_app, "ConnectionLimits", partial(ConnectionLimits, **limits))


async def test_a_head_that_comes_byte_by_byte_is_cut_off(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, header_timeout=0.5)
    async with (
        open_file_world(database) as world,
        open_exchange(world.port) as slow,
        trio.open_nursery() as tasks,
    ):
        tasks.start_soon(drip, slow, head("/health", *["x: y"] * 50, method="GET"))
        status, _, _ = await answer_to(slow)
        assert status == 408
        await check_served(world)


async def test_a_body_that_comes_byte_by_byte_is_cut_off(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, body_timeout=0.5)
    async with (
        open_file_world(database) as world,
        open_exchange(world.port) as slow,
        trio.open_nursery() as tasks,
    ):
        await slow.stream.send_all(head("/v1/responses", "content-length: 5000"))
        tasks.start_soon(drip, slow, b"{" + b" " * 4999)
        status, _, _ = await answer_to(slow)
        assert status == 408
        await check_served(world)


async def drip(client: Exchange, data: bytes) -> None:
    """Send a byte, then another one a little later, never silent for long."""
    ledger.fault()
    with suppress(trio.BrokenResourceError):
        for byte in data:
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(0.05)


BIG = Script(output=(Text(("x" * 100_000,) * 120),), interval=0.005)
"""12 MB of events, more than sockets hold."""


async def test_a_client_that_stops_reading_does_not_hold_back_the_model_server(database: Path) -> None:
    async with open_file_world(database, BIG) as world, open_exchange(world.port) as slow:
        await slow.request("POST", "/v1/responses", streamed())
        await slow.read_events(1)
        ledger.fault()
        response = await ended(world.client, slow.id, "completed")
        ledger.check(len(response["output"][0]["content"][0]["text"]) == 12_000_000, "the text")
        await check_served(world)


async def test_a_client_that_stops_reading_counts_as_gone_after_a_while(database: Path) -> None:
    script = BIG.varied(stall_after=100)
    async with (
        open_file_world(database, script, write_timeout=0.5) as world,
        open_exchange(world.port) as slow,
    ):
        await slow.request("POST", "/v1/responses", streamed())
        await slow.read_events(1)
        ledger.fault()
        await world.upstream.wait_aborted(1)
        ledger.check(await ended(world.client, slow.id, "cancelled"), slow.id)
        await check_served(world)


MANY = Script(output=(Text(("x" * 100_000,) * 5),) * 11, interval=0.01, stall_after=4)
"""27 MB of events: more than a turn's log and a socket hold."""


async def test_a_reader_that_fell_behind_is_told_and_holds_back_nobody(database: Path) -> None:
    async with open_file_world(database, MANY) as world:
        async with open_exchange(world.port) as fast, open_exchange(world.port) as slow:
            body = json.dumps(streamed()).encode()
            fields = f"content-length: {len(body)}"
            await fast.stream.send_all(head("/v1/responses", fields).replace(b"1.1", b"1.0", 1) + body)
            await world.upstream.wait_stalled(1)
            [id] = world.gateway.turns._running
            await slow.request("GET", f"/v1/responses/{id}?stream=true")
            await slow.read_events(4)
            world.upstream.release()
            ledger.fault()
            _, _, answer = await answer_to(fast)
            whole = check_event_stream(answer)
            await slow.read()
        # What it got is the beginning of the same stream; then it is told.
        begun = slow.body[: slow.body.rindex(b"event: error\n")]
        ledger.check(answer.startswith(begun), len(begun))
        last = json.loads(slow.body.rpartition(b"data: ")[2])
        assert last["code"] == "stream_fell_behind"
        ledger.check(await ended(world.client, id, "completed") == whole[-1]["response"], id)


async def test_a_quiet_stream_gets_comments(database: Path) -> None:
    async with open_file_world(database, HALF, keep_alive_interval=0.05) as world:
        async with open_at_event(world.port, streamed(), 4) as client:
            await client.read_until(b": keep-alive\n\n: keep-alive\n\n")
            world.upstream.release()
            await client.read()
        check_event_stream(client.body.replace(b": keep-alive\n\n", b""))
        check_event_stream(client.body)


async def test_a_silent_model_server_is_bridged_by_comments(database: Path) -> None:
    async with open_file_world(database, HANGING, keep_alive_interval=0.05) as world:
        async with open_exchange(world.port) as client:
            await client.request("POST", "/v1/responses", streamed())
            await client.read_until(b": keep-alive\n\n: keep-alive\n\n")
            assert client.status == 200
            ledger.fault()
            world.upstream.release()
            await client.read()
        events = check_event_stream(client.body)
        await ended(world.client, events[0]["response"]["id"], "completed")


async def test_a_refusal_after_the_silence_was_bridged_is_told_as_events(database: Path) -> None:
    refusal = Script(hang=True, status=429, error="Too busy.", headers={"retry-after": "7"})
    async with open_file_world(database, refusal, keep_alive_interval=0.05) as world:
        async with open_exchange(world.port) as client:
            await client.request("POST", "/v1/responses", streamed())
            await client.read_until(b": keep-alive\n\n")
            ledger.fault()
            world.upstream.release()
            await client.read()
        events = check_event_stream(client.body)
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        assert events[-2]["message"] == "Too busy."
        await ended(world.client, events[0]["response"]["id"], "failed")


async def test_silence_is_not_bridged_where_that_is_off(database: Path) -> None:
    refusal = Script(delay=0.5, status=429, error="Too busy.")
    async with open_file_world(database, refusal, keep_alive_interval=0.05, bridge_silence=False) as world:
        status, error = await world.refused(stream=True)
        assert (status, error["message"]) == (429, "Too busy.")


# Large requests


async def test_giant_headers_are_431(database: Path) -> None:
    async with open_file_world(database) as world:
        for fields in (["x: " + "y" * 40_000], [f"x{n}: y" for n in range(200)], ["x: y"] * 100_000):
            async with open_exchange(world.port) as client:
                ledger.fault()
                with suppress(trio.BrokenResourceError):
                    await client.stream.send_all(head("/v1/responses", *fields))
                status, _, body = await answer_to(client)
                assert status == 431
                check_error(status, body)
        await check_served(world)


async def test_http_2_with_prior_knowledge_keeps_nobody_out(database: Path) -> None:
    hello = h2.connection.H2Connection()
    hello.initiate_connection()
    fields = [(":method", "POST"), (":path", "/v1/responses"), (":scheme", "http"), (":authority", "x")]
    for stream in range(1, 200, 2):
        hello.send_headers(stream, fields)
    data = hello.data_to_send()
    async with open_file_world(database, max_concurrent_requests=5) as world, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_exchange(world.port)) for _ in range(10)]
        for client in clients:
            await client.stream.send_all(data)
            ledger.fault()
        await check_served(world)
        for client in clients:
            await client.read_to_close()


async def test_an_upgrade_is_refused_and_what_follows_is_not_read(database: Path) -> None:
    handshake = head("/v1/responses", "connection: upgrade", "upgrade: websocket", "connection: keep-alive")
    async with open_file_world(database) as world, open_exchange(world.port) as client:
        await client.stream.send_all(handshake.replace(b"POST", b"GET") + head("/health"))
        ledger.fault()
        status, _, body = await answer_to(client)
        assert (status, body.count(b"HTTP/1.1")) == (426, 0)
        await check_served(world)


async def test_a_body_in_chunks_of_one_byte_is_400(database: Path) -> None:
    piece = b"1\r\n \r\n" * 10_000
    async with open_file_world(database) as world, open_exchange(world.port) as client:
        await client.stream.send_all(head("/v1/responses", "transfer-encoding: chunked"))
        with suppress(trio.BrokenResourceError):
            for _ in range(100):
                await client.stream.send_all(piece)
        ledger.fault()
        status, _, body = await answer_to(client)
        assert status == 400
        assert "too small" in check_error(status, body)["message"]
        await check_served(world)


async def test_a_body_without_end_is_413(database: Path) -> None:
    async with open_file_world(database) as world, open_exchange(world.port) as client:
        await client.stream.send_all(head("/v1/responses", "transfer-encoding: chunked"))
        ledger.fault()
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        sent = 0
        with trio.fail_after(PATIENCE):
            with suppress(trio.BrokenResourceError):
                while True:
                    await client.stream.send_all(piece)
                    sent += 65536
        assert sent >= 10 * 1024 * 1024
        await check_served(world)
        assert world.upstream.requests == [world.upstream.last]


def bombs() -> dict[str, bytes]:
    """Bodies that are within the bound on bytes, and still too much."""
    size = 10 * 1024 * 1024 - 100

    def filled(piece: str) -> str:
        return ",".join([piece] * (size // (len(piece) + 1)))

    return {
        "items": b'{"model":"m","input":[%b]}' % filled('{"role":"user","content":""}').encode(),
        "depth": b'{"model":"m","input":%b}' % nested(5_000_000).encode(),
        "depth in an item": b'{"model":"m","input":[{"role":"user","content":%b}]}'
        % nested(500_000).encode(),
        "members": b'{"model":"m","metadata":{%b}}' % ",".join(f'"k{n}":""' for n in range(700_000)).encode(),
        "a number": b'{"model":"m","input":"x","temperature":%b}' % (b"9" * size),
        "no UTF-8": b'{"model":"m","input":"%b"}' % (b"\xff" * 1000),
    }


@pytest.mark.parametrize("name", ["items", "depth", "depth in an item", "members", "a number", "no UTF-8"])
async def test_a_body_that_is_a_bomb_is_400(database: Path, name: str) -> None:
    async with open_file_world(database) as world:
        answer = await world.client.post("/v1/responses", content=bombs()[name])
        ledger.fault()
        assert answer.status_code == 400, answer.text
        check_error(answer.status_code, answer.content)
        assert world.upstream.requests == []
        await check_served(world)


async def test_as_many_items_as_may_be_are_taken(database: Path) -> None:
    item = {"role": "user", "content": ""}
    async with open_file_world(database) as world:
        await world.create([item] * items.MAX_INPUT_ITEMS)
        status, error = await world.refused([item] * (items.MAX_INPUT_ITEMS + 1))
        assert (status, error["code"], error["param"]) == (400, "array_above_max_length", "input")


async def test_a_history_that_is_too_large_is_refused_and_can_be_made_smaller(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MAX_HISTORY_BYTES", 1000)
    async with open_file_world(database) as world:
        conversation = await world.converse(items=[{"role": "user", "content": "x" * 600}] * 2)
        status, error = await world.refused(conversation=conversation)
        ledger.fault()
        assert (status, error["code"]) == (400, "context_length_exceeded")
        first, _ = await world.items(f"/v1/conversations/{conversation}/items")
        await world.client.delete(f"/v1/conversations/{conversation}/items/{first['id']}")
        await world.create(conversation=conversation)


async def test_an_answer_that_is_too_large_fails_with_what_was_kept(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulator, "MAX_OUTPUT_BYTES", 100_000)
    async with open_file_world(database, Script(output=(Text(("x" * 1000,) * 200),))) as world:
        body = streamed()
        answer = await world.post("/v1/responses", body)
        ledger.fault()
        *_, error, failed = check_event_stream(answer.content, body)
        assert (error["code"], failed["type"]) == ("upstream_error", "response.failed")
        assert "too large" in error["message"]
        response = await ended(world.client, failed["response"]["id"], "failed")
        ledger.check(response == failed["response"], response)
        assert len(response["output"][0]["content"][0]["text"]) < 100_000
        await world.upstream.wait_live(0)
        await continued(world, response["id"], response["output"])


# Floods


async def test_a_flood_of_pipelined_requests_is_answered_in_order_and_starves_nobody(database: Path) -> None:
    count = 5_000
    async with open_file_world(database) as world, open_exchange(world.port) as client:

        async def flood() -> None:
            request = head("/health", method="GET")
            for _ in range(count - 1):
                await client.stream.send_all(request)
            await client.stream.send_all(head("/health", "connection: close", method="GET"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            ledger.fault()
            await check_served(world)
            answers = b""
            with trio.fail_after(PATIENCE):
                while data := await client.stream.receive_some():
                    answers += data
        assert answers.count(b"HTTP/1.1 200 ") == answers.count(b'{"status":"ok"}') == count


async def test_pipelined_requests_whose_answers_nobody_reads_are_not_read_either(database: Path) -> None:
    """The socket fills up: the server's memory does not."""
    async with (
        open_file_world(database, write_timeout=PATIENCE) as world,
        open_exchange(world.port) as client,
    ):
        request = head("/openapi.json", method="GET")
        sent = 0
        with trio.move_on_after(1):
            while sent < 200 * 1024 * 1024:
                await client.stream.send_all(request * 100)
                sent += len(request) * 100
        ledger.fault()
        assert sent < 100 * 1024 * 1024, "it was told to wait"
        await check_served(world)


async def test_clients_that_come_and_go_at_once_leave_nothing(database: Path) -> None:
    """Hundreds of streams that are reset at their first byte: their turns end, and their places are free."""
    count = 1000 if LONG else 200
    async with open_file_world(database, HALF, max_concurrent_requests=20) as world:
        taken = 0
        for _ in range(count):
            async with open_exchange(world.port) as client:
                await client.request("POST", "/v1/responses", streamed())
                await client.read_head()
                await client.reset()
                ledger.fault()
                taken += client.status == 200
        await world.upstream.wait_live(0)
        assert taken > 20
        await check_served(world)
