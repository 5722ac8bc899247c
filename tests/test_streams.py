"""Streams: what is read, what is sent, and what ends a wait."""

from __future__ import annotations

import math
import os
import socket
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agentic_trio.net import direct
from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.direct import SLICE, DirectStream, open_direct_stream
from agentic_trio.net.streams import WRITE_PIECE, AdaptedStream, send_within

MUCH = bytes(range(256)) * 4096
"""More than the sockets' buffers hold."""


class Yields(trio.abc.Instrument):
    """Counts how often the task has let others run since now, and does something each time."""

    def __init__(self, then=lambda: None):
        self.task = trio.lowlevel.current_task()
        self.then = then
        self.count = 0
        trio.lowlevel.add_instrument(self)

    def after_task_step(self, task):
        if task is self.task:
            self.count += 1
            self.then()


@pytest.fixture
async def deadlines():
    async with open_deadlines() as deadlines:
        yield deadlines


@pytest.fixture
async def ends(deadlines):
    """A direct stream and its peer. What one sends is with the other at once, so a mock clock is safe."""
    near, far = trio.socket.socketpair()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    async with DirectStream(trio.SocketStream(near), deadlines) as stream, trio.SocketStream(far) as peer:
        yield stream, peer


@pytest.fixture
def stream(ends):
    return ends[0]


@pytest.fixture
def peer(ends):
    return ends[1]


async def read_all(stream, size, piece=65536) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(piece)
    return data


async def expect(error, wait):
    with trio.fail_after(60), pytest.raises(error):
        await wait()


def fill(stream) -> int:
    """Write until the kernel takes no more; answers how much that was."""
    filled = 0
    while taken := stream.send_nowait(MUCH):
        filled += taken
    return filled


async def test_what_is_there_is_read(stream, peer):
    await peer.send_all(b"abcde")
    assert await stream.receive_some(2) == b"ab"
    assert await stream.receive_some() == b"cde"


async def test_a_read_waits_for_the_first_bytes(stream, peer, autojump_clock):
    async def send_later():
        await trio.sleep(1000)
        await peer.send_all(b"abc")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_later)
        assert await stream.receive_some() == b"abc"


async def test_the_peers_end_reads_as_nothing_behind_what_it_sent(stream, peer):
    await peer.send_all(b"abc")
    await peer.send_eof()
    assert [await stream.receive_some() for _ in range(3)] == [b"abc", b"", b""]


async def test_a_read_from_a_broken_connection_says_so(stream, peer):
    await stream.send_all(b"never read")
    await peer.aclose()
    await expect(trio.BrokenResourceError, stream.receive_some)


async def test_a_connection_that_breaks_ends_the_wait(stream, peer):
    await stream.send_all(b"never read")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.BrokenResourceError, stream.receive_some)
        await wait_all_tasks_blocked()
        await peer.aclose()


async def test_nothing_within_the_time_is_too_slow_and_loses_nothing(stream, peer, autojump_clock):
    start = trio.current_time()
    for _ in range(2):
        await expect(trio.TooSlowError, partial(stream.receive_some, within=3))
    assert trio.current_time() - start == 6
    await peer.send_all(b"later")
    assert await stream.receive_some(within=3) == b"later"


async def test_a_bound_ends_with_its_read(stream, peer, autojump_clock):
    async def send_now_and_then():
        for delay in (2, 10):
            await trio.sleep(delay)
            await peer.send_all(b"abc")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_now_and_then)
        assert await stream.receive_some(within=3) == b"abc"
        assert await stream.receive_some() == b"abc"


async def test_bytes_that_are_there_are_read_though_there_is_no_time(stream, peer):
    await peer.send_all(b"abc")
    assert await stream.receive_some(within=0) == b"abc"


async def test_a_patient_read_waits_first_and_loses_nothing(stream, peer, autojump_clock):
    await expect(trio.TooSlowError, partial(stream.receive_some, within=3, patient=True))
    await peer.send_all(b"abc")
    for _ in range(3):
        yields = Yields()
        assert len(await stream.receive_some(1, patient=True)) == 1
        assert yields.count == 1
    await peer.send_eof()
    assert await stream.receive_some(patient=True) == b""


async def test_an_interrupted_wait_is_too_slow_and_loses_nothing(stream, peer):
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, trio.TooSlowError, stream.receive_some)
            await wait_all_tasks_blocked()
            assert not stream.interrupted
            stream.interrupt()
            assert stream.interrupted
    await peer.send_all(b"later")
    assert await stream.receive_some() == b"later"


async def test_bytes_that_come_as_a_wait_is_interrupted_are_read_next(stream, peer):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.TooSlowError, stream.receive_some)
        await wait_all_tasks_blocked()
        stream.interrupt()
        os.write(peer.socket.fileno(), b"abc")
    assert await stream.receive_some() == b"abc"


@pytest.mark.parametrize("patient", [False, True])
async def test_an_interruption_without_a_read_ends_none(stream, peer, autojump_clock, patient):
    stream.interrupt()
    with trio.move_on_after(1000) as scope:
        await stream.receive_some(patient=patient)
    assert scope.cancelled_caught
    assert not stream.interrupted


async def test_nothing_is_lost_when_a_read_that_lets_others_run_is_interrupted_or_cancelled(
    stream, peer, ticking
):
    for end in (stream.interrupt, lambda: scope.cancel()):
        await peer.send_all(b"xy")
        ticking(SLICE)
        with trio.fail_after(5), trio.CancelScope() as scope:
            yields = Yields(end)
            assert await stream.receive_some(1) == b"x"
            assert yields.count == 1
        assert await stream.receive_some(1) == b"y"


@pytest.mark.parametrize("within", [math.inf, 1000])
async def test_a_wait_ends_as_closed_when_another_task_closes(stream, within):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.ClosedResourceError, partial(stream.receive_some, within=within))
        await wait_all_tasks_blocked()
        await stream.aclose()


async def test_a_wait_that_is_interrupted_and_closed_at_once_ends_as_closed(stream):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.ClosedResourceError, stream.receive_some)
        await wait_all_tasks_blocked()
        stream.socket.close()
        stream.interrupt()


@pytest.mark.parametrize("sends", [True, False])
async def test_a_wait_to_write_ends_as_closed_when_another_task_closes(stream, sends):
    fill(stream)
    wait = partial(stream.send_all, b"abc") if sends else stream.wait_send_all_might_not_block
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.ClosedResourceError, wait)
        await wait_all_tasks_blocked()
        await stream.aclose()


async def test_a_closed_stream_says_so_to_every_call(stream):
    await stream.aclose()
    await stream.aclose()
    await expect(trio.ClosedResourceError, stream.receive_some)
    await expect(trio.ClosedResourceError, partial(stream.receive_some, patient=True))
    await expect(trio.ClosedResourceError, partial(stream.send_all, b"abc"))
    await expect(trio.ClosedResourceError, stream.wait_send_all_might_not_block)
    await expect(trio.ClosedResourceError, stream.send_eof)
    with pytest.raises(trio.ClosedResourceError):
        stream.send_nowait(b"abc")


async def test_a_cancelled_wait_leaves_nothing_behind_and_loses_nothing(
    stream, peer, deadlines, autojump_clock
):
    with trio.move_on_after(1) as scope:
        await stream.receive_some(within=3)
    assert scope.cancelled_caught
    assert not deadlines._due
    await trio.sleep(100)
    assert not stream.interrupted
    await peer.send_all(b"later")
    assert await stream.receive_some() == b"later"


async def test_no_wait_leaves_a_deadline_behind(stream, peer, deadlines, autojump_clock):
    await expect(trio.TooSlowError, partial(stream.receive_some, within=3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await wait_all_tasks_blocked()
        assert list(deadlines._due) == [stream]
        await peer.send_all(b"abc")
    assert not deadlines._due


async def test_a_cancelled_call_notices_it_though_it_needs_no_wait(stream, peer):
    await peer.send_all(b"abc")
    for call in (stream.receive_some, partial(stream.send_all, b"never sent")):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught
    assert await stream.receive_some() == b"abc"
    await stream.send_eof()
    assert await peer.receive_some() == b""


@pytest.fixture
def ticking(monkeypatch):
    """A clock of which tests say how far it goes on."""
    now = 0.0

    def tick(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(direct, "perf_counter", lambda: now)
    return tick


async def test_reads_in_a_row_let_others_run_after_a_while(ticking, stream, peer):
    await peer.send_all(b"x" * 100)
    yields = Yields()
    yielded = []
    for _ in range(12):
        ticking(SLICE * 0.3)
        await stream.receive_some(1)
        yielded.append(yields.count)
    assert yielded == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


async def test_reads_in_a_row_that_take_no_time_let_nobody_run(ticking, stream, peer):
    await peer.send_all(b"x" * 100)
    yields = Yields()
    await read_all(stream, 100, piece=1)
    assert yields.count == 0


async def test_a_read_that_waited_has_let_others_run(ticking, stream, peer):
    ticking(SLICE * 0.9)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await wait_all_tasks_blocked()
        await peer.send_all(b"x")
    await peer.send_all(b"x" * 100)
    yields = Yields()
    ticking(SLICE * 0.9)
    await stream.receive_some(1)
    assert yields.count == 0
    ticking(SLICE * 0.1)
    await stream.receive_some(1)
    assert yields.count == 1


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_all_is_sent_however_slowly_it_is_read(stream, peer, kind):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, kind(MUCH))
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        received = await read_all(peer, len(MUCH), piece=5000)
        await stream.send_all(b"")
    assert received == MUCH


async def test_a_small_send_is_made_at_once(stream, peer):
    yields = Yields()
    await stream.send_all(b"abc")
    assert yields.count == 0
    assert await peer.receive_some() == b"abc"


async def test_what_the_kernel_takes_at_once_is_told(stream, peer):
    assert stream.send_nowait(b"") == 0
    assert stream.send_nowait(b"abc") == 3
    taken = stream.send_nowait(MUCH)
    assert 0 < taken < len(MUCH)
    more = fill(stream)
    assert stream.send_nowait(MUCH) == 0
    assert (await read_all(peer, 3 + taken + more))[: 3 + taken] == b"abc" + MUCH[:taken]


async def test_a_wait_to_write_ends_when_the_peer_reads(stream, peer):
    await stream.wait_send_all_might_not_block()
    filled = fill(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.wait_send_all_might_not_block)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await read_all(peer, filled)


async def test_a_send_to_a_peer_that_has_closed_says_so(stream, peer):
    await peer.aclose()
    await expect(trio.BrokenResourceError, partial(stream.send_all, b"abc"))
    with pytest.raises(trio.BrokenResourceError):
        stream.send_nowait(b"abc")


async def test_a_peer_that_closes_ends_a_wait_to_write(stream, peer):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.BrokenResourceError, partial(stream.send_all, MUCH))
        await wait_all_tasks_blocked()
        await peer.aclose()


async def test_a_cancelled_send_has_sent_a_beginning(stream, peer):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, MUCH)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await stream.send_eof()
    received = b"".join([data async for data in peer])
    assert received
    assert received == MUCH[: len(received)]
    assert len(received) < len(MUCH)


async def test_the_sending_side_can_be_closed_alone(stream, peer):
    await stream.send_eof()
    assert await peer.receive_some() == b""
    await peer.send_all(b"abc")
    assert await stream.receive_some() == b"abc"


async def test_a_connection_is_not_readable_while_it_is_open_and_nothing_has_come(stream, peer):
    assert not stream.is_readable()
    await stream.send_all(b"abc")
    assert not stream.is_readable()


async def test_a_connection_on_which_something_came_is_readable(stream, peer):
    await peer.send_all(b"x")
    assert stream.is_readable()
    assert await stream.receive_some() == b"x"
    assert not stream.is_readable()


async def test_a_connection_whose_peer_has_ended_is_readable(stream, peer):
    await peer.send_eof()
    assert stream.is_readable()


async def test_a_broken_connection_is_readable(stream, peer):
    await stream.send_all(b"never read")
    await peer.aclose()
    assert stream.is_readable()


async def test_a_closed_connection_is_readable(stream):
    await stream.aclose()
    assert stream.is_readable()


async def test_one_task_reads_while_another_writes(stream, peer):
    async def echo():
        async for data in peer:
            await peer.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo)
        nursery.start_soon(stream.send_all, MUCH)
        received = await read_all(stream, len(MUCH))
        await stream.send_eof()
    assert received == MUCH


async def test_the_end_of_a_wait_for_bytes_is_not_the_end_of_a_write(stream, peer, autojump_clock):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, MUCH)
        for _ in range(2):
            await expect(trio.TooSlowError, partial(stream.receive_some, within=3))
        stream.interrupt()
        await wait_all_tasks_blocked()
        received = await read_all(peer, len(MUCH))
    assert received == MUCH


async def test_a_direct_stream_is_opened_without_delay_and_closes_its_socket(deadlines, nursery):
    async def greet(stream):
        await stream.send_all(b"hello")

    listeners = await nursery.start(partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    async with await open_direct_stream("127.0.0.1", port, deadlines=deadlines) as stream:
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert await read_all(stream, 5) == b"hello"
    assert stream.socket.fileno() == -1
    nursery.cancel_scope.cancel()


async def test_a_refused_connection_is_an_os_error(deadlines):
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="connect"):
            await open_direct_stream("127.0.0.1", unused.getsockname()[1], deadlines=deadlines)


# What both kinds of stream do.


@pytest.fixture(params=["direct", "adapted"])
async def either(request, deadlines):
    near, far = trio.socket.socketpair()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    inner = trio.SocketStream(near)
    stream = DirectStream(inner, deadlines) if request.param == "direct" else AdaptedStream(inner)
    async with stream, trio.SocketStream(far) as peer:
        yield stream, peer


async def test_either_stream_bounds_a_read_and_loses_nothing(either, autojump_clock):
    stream, peer = either
    for patient in (False, True):
        await expect(trio.TooSlowError, partial(stream.receive_some, within=3, patient=patient))
    await peer.send_all(b"abc")
    assert await stream.receive_some(2) == b"ab"
    assert await stream.receive_some(within=3) == b"c"


async def test_either_stream_ends_an_interrupted_read_and_goes_on(either):
    stream, peer = either
    stream.interrupt()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.TooSlowError, stream.receive_some)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        stream.interrupt()
        assert stream.interrupted
    await peer.send_all(b"abc")
    assert await stream.receive_some() == b"abc"
    assert not stream.interrupted


async def test_either_stream_says_what_waits_to_be_read(either):
    stream, peer = either
    assert not stream.is_readable()
    await peer.send_all(b"x")
    assert stream.is_readable()
    assert await stream.receive_some() == b"x"
    assert not stream.is_readable()
    await peer.send_eof()
    assert stream.is_readable()


async def test_either_stream_sends_all_while_the_peer_reads_each_piece_in_time(either, autojump_clock):
    stream, peer = either
    received = b""

    async def read_slowly():
        nonlocal received
        while len(received) < len(MUCH):
            await trio.sleep(2)
            received += await read_all(peer, min(WRITE_PIECE, len(MUCH) - len(received)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        await send_within(stream, MUCH, 3)
    assert received == MUCH


async def test_either_stream_gives_up_on_a_peer_that_does_not_read(either, autojump_clock):
    stream, _ = either
    start = trio.current_time()
    await expect(trio.TooSlowError, partial(send_within, stream, MUCH, 3))
    assert trio.current_time() - start <= 3 * (1 + len(MUCH) // WRITE_PIECE)


class Greedy(AdaptedStream):
    """A connection whose peer takes all that it is sent at once."""

    def __init__(self) -> None:
        self.ways_given = 0

    async def send_all(self, data):
        await trio.lowlevel.checkpoint_if_cancelled()

    async def give_way(self):
        self.ways_given += 1


async def test_sending_lets_others_run_however_fast_the_peer_reads():
    stream = Greedy()
    await send_within(stream, bytes(8 * WRITE_PIECE), 3)
    assert stream.ways_given == 8


async def test_either_stream_notices_a_cancelled_send(either):
    stream, peer = either
    with trio.CancelScope() as scope:
        scope.cancel()
        await send_within(stream, b"never sent", 3)
    assert scope.cancelled_caught
    await stream.send_eof()
    assert await peer.receive_some() == b""


async def test_either_stream_can_close_as_a_reset(deadlines, nursery):
    for kind in (AdaptedStream, partial(DirectStream, deadlines=deadlines)):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listeners[0] as listener:
            peer = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            stream = kind(await listener.accept())
        async with peer:
            stream.reset_on_close()
            await stream.aclose()
            await expect(trio.BrokenResourceError, peer.receive_some)


async def test_a_stream_that_can_not_close_one_side_stays_open():
    near, far = trio.testing.memory_stream_pair()
    stream = AdaptedStream(OneSided(near))
    await stream.send_eof()
    await stream.send_all(b"abc")
    assert await far.receive_some() == b"abc"


class OneSided(trio.abc.Stream):
    """A stream that closes both sides at once, as TLS does."""

    def __init__(self, stream):
        self.send_all = stream.send_all
        self.receive_some = stream.receive_some
        self.aclose = stream.aclose
        self.wait_send_all_might_not_block = stream.wait_send_all_might_not_block

    send_all = receive_some = aclose = wait_send_all_might_not_block = None
