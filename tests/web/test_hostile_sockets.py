"""Clients of a WebSocket that break its rules, or mean harm: each has one end, and costs others nothing."""

from __future__ import annotations

import os
import random
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.server import websocket
from tests.websocket_client import Socket, open_socket

from .harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentic_trio.gateway.admission import Admission

LIMIT = 200_000


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(max_request_body_size=LIMIT, write_timeout=1.0) as world:
        yield world


def frame(payload: bytes, *, opcode: int = 1, fin: bool = True, mask: bool = True, bits: int = 0) -> bytes:
    """A client's frame, right or wrong."""
    first = bytes([fin << 7 | bits | opcode])
    size = len(payload)
    if size < 126:
        length = bytes([mask << 7 | size])
    elif size < 65536:
        length = bytes([mask << 7 | 126]) + struct.pack("!H", size)
    else:
        length = bytes([mask << 7 | 127]) + struct.pack("!Q", size)
    if not mask:
        return first + length + payload
    return first + length + b"\0\0\0\0" + payload


MESSAGE = b'{"type":"response.create","model":"tiny","input":"hi","store":false}'

HOSTILE = {
    "too large": (frame(b"x" * (LIMIT + 1)), 1009),
    "as large as a length can say": (
        b"\x81\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0" + b"x" * (LIMIT + 1),
        1009,
    ),
    "too large in fragments": (
        frame(b"x" * 150_000, fin=False) + frame(b"x" * 150_000, opcode=0),
        1009,
    ),
    "a flood of empty fragments": (
        frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * (websocket.MAX_FRAMES + 1),
        1009,
    ),
    "not UTF-8": (frame(b"\xff\xfe"), 1007),
    "half a character at the end": (frame("é".encode()[:1]), 1007),
    "a surrogate": (frame(b"\xed\xa0\x80"), 1007),
    "not UTF-8 in the second fragment": (frame(b"x", fin=False) + frame(b"\xff", opcode=0), 1007),
    "not masked": (frame(MESSAGE, mask=False), 1002),
    "an unknown opcode": (frame(b"x", opcode=3), 1002),
    "a reserved bit, as for compression": (frame(MESSAGE, bits=0x40), 1002),
    "a continuation of nothing": (frame(b"x", opcode=0), 1002),
    "a message in another": (frame(b"x", fin=False) + frame(b"y"), 1002),
    "a ping in fragments": (frame(b"x", opcode=9, fin=False), 1002),
    "a ping that is too long": (frame(b"x" * 126, opcode=9), 1002),
    "a close of one byte": (frame(b"x", opcode=8), 1002),
    "a close with a code that is none": (frame(struct.pack("!H", 1005), opcode=8), 1002),
    "bytes": (frame(MESSAGE, opcode=2), 1003),
}


SLOW = '!{"interval": 0.005} one two three'


async def check_served(world: World) -> None:
    """Others are served, and nothing was lost."""
    async with open_socket(world.port) as socket:
        await socket.respond(store=False)
        await socket.close()
    with trio.fail_after(5):
        while not whole(world.gateway.admission):  # noqa: ASYNC110  (no event tells of what the server does)
            await trio.sleep(0.01)


def whole(found: Admission) -> bool:
    return (found.slots, found.bytes_left, len(found.on_close)) == (1000, 1024**3, 0)


async def code_of(socket: Socket) -> int | None:
    while await socket.receive() is not None:
        pass
    return socket.code


@pytest.mark.parametrize("name", HOSTILE)
async def test_each_fault_has_its_code(world: World, name: str) -> None:
    data, code = HOSTILE[name]
    async with open_socket(world.port) as socket:
        with suppress(trio.BrokenResourceError):
            await socket.stream.send_all(data)
        assert await code_of(socket) == code
    await check_served(world)


async def test_a_client_that_goes_on_sending_after_its_fault_is_cut_off(world: World) -> None:
    sent = 0
    async with open_socket(world.port) as socket:
        with suppress(trio.BrokenResourceError), trio.fail_after(20):
            while sent < 200 * 1024 * 1024:
                await socket.stream.send_all(frame(b"x" * 65_000, opcode=0 if sent else 1, fin=False))
                sent += 65_000
    assert sent < 64 * 1024 * 1024
    await check_served(world)


async def test_a_message_may_come_in_any_pieces(world: World) -> None:
    pieces = [frame(MESSAGE[:1], fin=False)]
    pieces += [frame(MESSAGE[n : n + 1], opcode=0, fin=False) for n in range(1, len(MESSAGE) - 1)]
    pieces += [frame(b"", opcode=0, fin=False), frame(b"ping", opcode=9), frame(MESSAGE[-1:], opcode=0)]
    async with open_socket(world.port) as socket:
        for byte in b"".join(pieces):
            await socket.stream.send_all(bytes([byte]))
        assert (await socket.events())[-1]["type"] == "response.completed"


async def test_a_message_right_behind_the_handshake_is_read(world: World) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:
        handshake = (
            "GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: keep-alive, Upgrade\r\n"
            "Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await stream.send_all(handshake.encode() + frame(MESSAGE))
        data = b""
        with trio.fail_after(5):
            while b"response.completed" not in data:
                data += await stream.receive_some()
        assert data.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in data
        assert b"permessage-deflate" not in data


async def test_compression_is_not_taken_where_it_is_offered(world: World) -> None:
    offer = [(b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")]
    async with open_socket(world.port, headers=offer) as socket:
        await socket.respond()


async def test_a_ping_is_answered_while_a_response_is_made(world: World) -> None:
    async with open_socket(world.port) as socket:
        await socket.create('!{"stall_after": 2} x')
        await world.upstream.wait_stalled(1)
        await socket.stream.send_all(frame(b"there?", opcode=9))
        await socket.wait_pong()
        world.upstream.release()
        await socket.events()


async def test_a_client_that_is_silent_is_asked_and_then_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "PING_INTERVAL", 0.05)
    async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:
        dead = Socket(stream)
        await dead.open("127.0.0.1", "/v1/responses", [])
        with trio.fail_after(5):
            data = b""
            while more := await stream.receive_some():
                data += more
        assert data.count(b"\x89\x00") == 1, "one ping"
    async with open_socket(world.port) as lively:
        with trio.move_on_after(0.3):
            await lively.receive()
        assert lively.pings > 2
        await lively.respond()


async def test_a_message_that_drips_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentic_trio.server.limits import ConnectionLimits

    monkeypatch.setattr(
        ConnectionLimits.__init__,
        "__defaults__",
        tuple(0.2 if value == 60.0 else value for value in ConnectionLimits.__init__.__defaults__),
    )
    async with open_world() as slow, open_socket(slow.port) as socket:
        await socket.stream.send_all(frame(b"x" * 100)[:20])
        assert await code_of(socket) == 1008
        await check_served(slow)


@pytest.mark.parametrize("busy", [False, True])
async def test_a_client_that_closes_is_answered_and_its_response_cancelled(world: World, busy: bool) -> None:
    async with open_socket(world.port) as socket:
        if busy:
            await socket.create('!{"stall_after": 2} x', store=False)
            await world.upstream.wait_stalled(1)
        await socket.stream.send_all(frame(struct.pack("!H", 4321) + b"bye", opcode=8))
        while await socket.receive() is not None:
            pass
        assert socket.code == 4321
    with trio.fail_after(5):
        await world.upstream.wait_live(0)
    await check_served(world)


async def test_clients_that_are_cut_at_random_moments_leave_nothing(world: World) -> None:
    seeded = random.Random(7)
    descriptors = len(os.listdir("/proc/self/fd"))

    async def client() -> None:
        with suppress(trio.BrokenResourceError, AssertionError):
            async with open_socket(world.port) as socket:
                with trio.move_on_after(seeded.random() * 0.1):
                    for number in range(8):
                        lane, stored = f"s{number % 3}", number % 2 == 0
                        await socket.create(SLOW, stream_id=lane, store=stored)
                    while await socket.receive() is not None:
                        pass
                if seeded.random() < 0.5:
                    socket.stream.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(client)
    with trio.fail_after(10):
        await world.upstream.wait_live(0)
    await check_served(world)
    with trio.fail_after(5):
        while len(os.listdir("/proc/self/fd")) > descriptors + 6:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_idle_sockets_end_at_once_with_the_server_and_busy_ones_when_they_are_done() -> None:
    async with (
        open_world(graceful_timeout=10.0) as world,
        open_socket(world.port) as idle,
        open_socket(world.port) as busy,
    ):
        await busy.create('!{"stall_after": 4} x')
        await world.upstream.wait_stalled(1)
        world.gateway.admission.close()
        with trio.fail_after(0.5):
            assert await code_of(idle) == 1001
        await busy.create("one more", stream_id="b")
        world.upstream.release()
        told = [await busy.receive()]
        while told[-1] is not None:
            told.append(await busy.receive())
        types = [each["type"] for each in told if each is not None]
        assert "response.completed" in types
        assert "error" in types
        assert busy.code == 1001
