"""Bytes that mean harm, from clients and from model servers: none keeps other requests waiting.

Each test lets the probe of ``stalls.py`` watch: it fails when any task of the gateway works for longer than
it may without letting others run, in CPU time, so that a busy machine makes no difference.
"""

from __future__ import annotations

import gzip
import json
import zlib
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
import zstandard

from tests.fake_upstream import Script, Text
from tests.fake_upstream.raw import open_raw_upstream
from tests.web.harness import MODEL, World, open_world

from .ledger import ledger
from .stalls import no_stall
from .test_stalls import LIMIT, SHAPES, filled
from .world import PATIENCE, streamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HELLO = Script(output=(Text(("Hello",)),))
MEGABYTE = 1024 * 1024


async def tell(world: World, wire: Iterator[bytes] | list[bytes]) -> bytes:
    """Send bytes on a connection of its own, piece by piece; what is said until it ends or is silent."""
    said = b""
    async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:

        async def send() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for piece in wire:
                    await stream.send_all(piece)

        with trio.fail_after(4 * PATIENCE), suppress(trio.BrokenResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while data := await stream.receive_some():
                    said += data
                nursery.cancel_scope.cancel()
    return said


async def assert_served(world: World) -> None:
    """Another client is served, and nothing is held for those who were not."""
    assert (await world.client.get("/health")).status_code == 200
    world.upstream.script(HELLO)
    await world.create()
    admission = world.gateway.admission
    assert admission.slots == world.gateway.config.max_concurrent_requests
    assert admission.bytes_left == world.gateway.config.max_held_bytes


# --------------------------------------------------------------------------- bodies, in every framing


def head(*fields: str, path: str = "/v1/responses", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "connection: close", *fields, "", ""]
    return "\r\n".join(lines).encode()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def with_length(body: bytes, *fields: str, size: int = 65536) -> Iterator[bytes]:
    yield head(f"content-length: {len(body)}", *fields)
    yield from pieces(body, size)


def in_chunks(body: bytes, size: int, extension: bytes = b"") -> Iterator[bytes]:
    yield head("transfer-encoding: chunked")
    batch = b""
    for piece in pieces(body, size):
        batch += b"%x%b\r\n%b\r\n" % (len(piece), extension, piece)
        if len(batch) > 65536:
            yield batch
            batch = b""
    yield batch + b"0\r\n\r\n"


FRAMINGS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "a length": with_length,
    "a length, in small writes": lambda body: with_length(body, size=1500),
    "large chunks": lambda body: in_chunks(body, 65536),
    "small chunks": lambda body: in_chunks(body, 48),
    "chunks of one byte": lambda body: in_chunks(body, 1),
    "chunks with extensions": lambda body: in_chunks(body, 512, b";x=" + b"y" * 400),
    "gzip": lambda body: with_length(gzip.compress(body, 1), "content-encoding: gzip"),
    "deflate": lambda body: with_length(zlib.compress(body, 1), "content-encoding: deflate"),
    "zstd": lambda body: with_length(zstandard.compress(body, 1), "content-encoding: zstd"),
    "twice gzip": lambda body: with_length(
        gzip.compress(gzip.compress(body, 1), 1), "content-encoding: gzip, gzip"
    ),
}

BODIES = {
    name: SHAPES[name]
    for name in ("messages", "empty items", "tools of nothing", "one escaped string", "a deep value")
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("shape", BODIES)
async def test_no_framing_of_a_large_body_stalls_the_others(shape: str, framing: str) -> None:
    body = BODIES[shape]().encode()
    async with open_world(HELLO) as world:
        with no_stall():
            said = await tell(world, FRAMINGS[framing](body))
        ledger.fault()
        status = int(said.split()[1])
        assert status in (200, 400, 413, 415), said[:300]
        await assert_served(world)


@pytest.mark.parametrize("size", [0, 1, 1000, MEGABYTE, LIMIT, LIMIT + 1, 2 * LIMIT])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations", "/v1/chat/completions"])
async def test_no_size_of_noise_stalls_the_others(path: str, size: int) -> None:
    noise = Random(size).randbytes(size)
    async with open_world(HELLO) as world:
        with no_stall():
            for encoding in ("identity", "gzip", "zstd"):
                fields = [f"content-length: {size}", f"content-encoding: {encoding}"]
                said = await tell(world, [head(*fields, path=path), *pieces(noise, 65536)])
                ledger.fault()
                assert said[9:12] in (b"200", b"400", b"413", b"415", b"422"), said[:300]
        await assert_served(world)


# --------------------------------------------------------------------------- heads, and frames of HTTP/2


async def test_a_thousand_heads_without_bodies_stall_nobody() -> None:
    async with open_world(HELLO, max_concurrent_requests=10) as world, AsyncExitStack() as stack:
        with no_stall():
            for number in range(1000):
                stream = await trio.open_tcp_stream("127.0.0.1", world.port)
                await stack.enter_async_context(stream)
                await stream.send_all(head("content-length: 1000") if number % 2 else b"POST /v1/resp")
            await assert_served(world)
        ledger.fault()


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frames(random: Random) -> bytes:
    """Some frames of any type, with any flags, for any stream."""
    found = b""
    for _ in range(random.randint(0, 40)):
        size = random.choice((0, 4, 6, 8, 100, 16384, 70000))
        length = random.choice((size, random.randrange(1 << 24)))
        kind = bytes([random.randrange(12), random.randrange(256)])
        found += length.to_bytes(3, "big") + kind + random.randbytes(4) + random.randbytes(size)
    return found


async def test_no_frames_of_http_2_are_served_or_stall_the_others() -> None:
    async with open_world(HELLO) as world:
        with no_stall():
            for seed in range(60):
                random = Random(seed)
                wire = PREFACE + frames(random)
                said = await tell(
                    world,
                    list(pieces(wire, random.choice((1, 9, 1000, 65536)) if len(wire) < 5000 else 65536)),
                )
                # SETTINGS and GOAWAY, whatever was sent.
                assert (said[3:4], said[12:13]) == (b"\x04", b"\x07"), (seed, said[:60])
                ledger.fault()
        await assert_served(world)


# --------------------------------------------------------------------------- answers that nobody reads


@pytest.mark.parametrize("what", ["responses", "streams", "relayed streams", "pages", "pipelined"])
async def test_answers_that_nobody_reads_stall_nobody_and_are_given_up(what: str) -> None:
    body = streamed("x" * 500_000, instructions="y" * 500_000)
    async with open_world(HELLO, write_timeout=1.0) as world:
        id = (await world.create("x" * 500_000, instructions="y" * 500_000))["id"]
        wires = {
            "responses": head(path=f"/v1/responses/{id}", method="GET"),
            "streams": b"".join(with_length(json.dumps(body).encode())),
            "relayed streams": b"".join(with_length(json.dumps(body | {"store": False}).encode())),
            "pages": head(path=f"/v1/responses/{id}/input_items?limit=100", method="GET"),
            "pipelined": head(path="/health", method="GET").replace(b"connection: close\r\n", b"") * 3000,
        }
        if what == "relayed streams":
            world.upstream.script(Script(output=(Text(("x" * 4000,) * 500),)))
        with no_stall():
            async with AsyncExitStack() as stack:
                for _ in range(20):
                    socket = trio.socket.socket()
                    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
                    await socket.connect(("127.0.0.1", world.port))
                    stream = await stack.enter_async_context(trio.SocketStream(socket))
                    with trio.move_on_after(0.2):
                        await stream.send_all(wires[what])
                    ledger.fault()
                assert (await world.client.get("/health")).status_code == 200
            with trio.fail_after(PATIENCE):
                while world.gateway.admission.bytes_left != world.gateway.config.max_held_bytes:  # noqa: ASYNC110
                    await trio.sleep(0.02)
        await assert_served(world)


# --------------------------------------------------------------------------- a megabyte from a model server


def event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def delta(**members: Any) -> bytes:
    return event("response.output_text.delta", **{"item_id": "m", "output_index": 0, "delta": "x"} | members)


def many(make: Callable[[int], bytes], size: int = MEGABYTE) -> bytes:
    """As many numbered pieces as make up a megabyte."""
    found: list[bytes] = []
    total = 0
    while total < size:
        found.append(make(len(found)))
        total += len(found[-1])
    return b"".join(found)


def added(index: int) -> bytes:
    return event(
        "response.output_item.added", output_index=index, item={"type": "message", "id": f"m{index}"}
    )


FINAL = json.dumps({"id": "r", "status": "completed", "output": []}).encode()

STREAMS: dict[str, Callable[[], bytes]] = {
    "a part for each delta": lambda: many(lambda n: delta(content_index=n)),
    "an item for each delta": lambda: many(lambda n: delta(item_id=f"m{n}", output_index=n)),
    "deltas of the first of many items": lambda: (
        b"".join(added(n) for n in range(1999)) + many(lambda n: delta(item_id="m0", content_index=0))
    ),
    "deltas that name nothing": lambda: many(
        lambda n: b'data: {"type":"response.output_text.delta","delta":"x"}\n\n'
    ),
    "two kinds in turn": lambda: many(
        lambda n: event(f"response.{('output_text', 'refusal')[n % 2]}.delta", item_id="m", delta="x")
    ),
    "halves of characters": lambda: many(
        lambda n: b'data: {"type":"response.output_text.delta","delta":"\\ud83d"}\n\n'
    ),
    "numbers that JSON lacks": lambda: many(
        lambda n: b'data: {"type":"response.output_text.delta","delta":"x","logprobs":[NaN,-Infinity]}\n\n'
    ),
    "events that nobody knows": lambda: many(
        lambda n: event(f"response.x{n % 7}.y", item_id="m", output_index=0)
    ),
    "ends of items": lambda: many(
        lambda n: event("response.output_item.done", item={"type": "message", "content": [], "id": f"m{n}"})
    ),
    "the same end": lambda: many(
        lambda n: event("response.output_item.done", item={"type": "message", "content": [], "id": "m"})
    ),
    "comments": lambda: b": x\n\n" * (MEGABYTE // 5),
    "blank lines": lambda: b"\n" * MEGABYTE,
    "carriage returns": lambda: b"\r" * MEGABYTE,
    "data lines of one event": lambda: b"data: x\n" * (MEGABYTE // 8) + b"\n",
    "fields that nobody knows": lambda: b"x\n" * (MEGABYTE // 2),
    "one line": lambda: b"data: " + b"x" * MEGABYTE,
    "one delta": lambda: delta(delta="x" * MEGABYTE),
    "one delta of escapes": lambda: (
        b'data: {"type":"response.output_text.delta","delta":"%b"}\n\n' % (b"\\u0000" * (MEGABYTE // 6))
    ),
    "a deep event": lambda: b"data: " + b"[" * (MEGABYTE // 2) + b"]" * (MEGABYTE // 2) + b"\n\n",
    "an end with many items": lambda: event(
        "response.completed", response={"status": "completed", "output": [{"type": "message"}] * 50_000}
    ),
    "an end with as many items as may be": lambda: event(
        "response.completed", response={"status": "completed", "output": [{"type": "message"}] * 2000}
    ),
    "an end with many parts": lambda: event(
        "response.completed",
        response={
            "status": "completed",
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "x"}] * 25_000}],
        },
    ),
    "streamed parts and an end that lacks them": lambda: (
        many(lambda n: delta(content_index=n % 1999), MEGABYTE // 2)
        + event(
            "response.completed",
            response={
                "status": "completed",
                "output": [{"type": "message", "id": "m", "content": [{"type": "output_text", "text": "x"}]}]
                * 1999,
            },
        )
    ),
    "noise": lambda: Random(1).randbytes(MEGABYTE),
}

BODIES_OF_SERVERS: dict[str, Callable[[], bytes]] = {
    "many items": lambda: filled("{}", '{"status":"completed","output":[', "]}", MEGABYTE).encode(),
    "many parts": lambda: filled(
        '{"type":"output_text"}', '{"output":[{"type":"message","content":[', "]}]}", MEGABYTE
    ).encode(),
    "many members": lambda: (
        "{" + ",".join(f'"m{n}":{{}}' for n in range(80_000)) + ',"output":[],"status":"completed"}'
    ).encode(),
    "a deep value": lambda: b"[" * (MEGABYTE // 2) + b"]" * (MEGABYTE // 2),
    "a deep member": lambda: b'{"output":[],"x":' + b"[" * (MEGABYTE // 2) + b"]" * (MEGABYTE // 2) + b"}",
    "numbers that JSON lacks": lambda: filled("NaN", '{"output":[],"x":[', "]}", MEGABYTE).encode(),
    "usage": lambda: (
        '{"output":[],"status":"completed","usage":{' + ",".join(f'"t{n}":{n}' for n in range(70_000)) + "}}"
    ).encode(),
    "an error": lambda: b'{"error":{"message":"%b"}}' % (b"prompt is too " * (MEGABYTE // 14)),
    "noise": lambda: Random(2).randbytes(MEGABYTE),
}


def answer(body: bytes, kind: str, framing: str) -> bytes:
    status = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind.encode()
    if framing == "length":
        return status + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    if framing == "chunks of one byte":
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body[: len(body) // 6])
        return status + b"transfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks
    return status + b"connection: close\r\n\r\n" + body


@pytest.mark.parametrize("shape", STREAMS)
async def test_no_megabyte_of_a_stream_stalls_the_others(shape: str) -> None:
    body = STREAMS[shape]()
    for framing in ("length", "chunks of one byte", "close"):
        raw = answer(body, "text/event-stream", framing)
        async with open_raw_upstream(raw) as url, open_world(llm_api_base=url) as world:
            with no_stall():
                for members in ({}, {"store": False}):
                    said = await world.client.post("/v1/responses", json=streamed() | members, timeout=60)
                    ledger.fault()
                    assert said.status_code in (200, 502), said.text[:300]
                    ends = (b"event: response.completed\n", b"event: response.failed\n")
                    assert members or said.status_code == 502 or any(end in said.content for end in ends)
                assert (await world.client.get("/health")).status_code == 200


@pytest.mark.parametrize("shape", BODIES_OF_SERVERS)
async def test_no_megabyte_of_an_answer_stalls_the_others(shape: str) -> None:
    body = BODIES_OF_SERVERS[shape]()
    for framing in ("length", "chunks of one byte", "close"):
        raw = answer(body, "application/json", framing)
        async with open_raw_upstream(raw) as url, open_world(llm_api_base=url) as world:
            with no_stall():
                said = await world.client.post(
                    "/v1/responses", json={"model": MODEL, "input": "hi"}, timeout=60
                )
                ledger.fault()
                assert said.status_code in (200, 400, 502), said.text[:300]
                assert (await world.client.get("/health")).status_code == 200


HEADS_OF_SERVERS = {
    "endless interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * (MEGABYTE // 25),
    "a header without end": b"HTTP/1.1 200 OK\r\nx: " + b"y" * MEGABYTE,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MEGABYTE // 6),
    "a chunk's length without end": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"0" * MEGABYTE,
    "trailers without end": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * (MEGABYTE // 6)
    ),
    "blank lines": b"\r\n" * (MEGABYTE // 2),
    "noise": Random(3).randbytes(MEGABYTE),
}


@pytest.mark.parametrize("shape", HEADS_OF_SERVERS)
async def test_no_megabyte_before_an_answer_stalls_the_others(shape: str) -> None:
    async with (
        open_raw_upstream(HEADS_OF_SERVERS[shape]) as url,
        open_world(llm_api_base=url, idle_timeout=5.0) as world,
    ):
        with no_stall():
            for members in ({"stream": True}, {"stream": False}, {"store": False}):
                body = {"model": MODEL, "input": "hi", **members}
                with suppress(trio.BrokenResourceError):
                    said = await world.client.post("/v1/responses", json=body, timeout=60)
                ledger.fault()
                assert said.status_code in (200, 502, 504), said.text[:300]
            assert (await world.client.get("/health")).status_code == 200
