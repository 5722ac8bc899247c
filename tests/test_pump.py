"""The pump: streams that are read by one task, for the tasks that own them."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.direct import DirectStream
from agentic_trio.net.pump import READ, SUPPORTED, open_pump

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="the system has no epoll")


def pair(deadlines, pump):
    near, far = trio.socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return DirectStream(trio.SocketStream(near), deadlines, pump), trio.SocketStream(far)


class Pumped:
    """Pairs of connected sockets whose near ends are read by one pump."""

    def __init__(self, stack, deadlines, pump):
        self._stack = stack
        self._deadlines = deadlines
        self.pump = pump

    async def pair(self):
        stream, peer = pair(self._deadlines, self.pump)
        await self._stack.enter_async_context(stream)
        await self._stack.enter_async_context(peer)
        return stream, peer

    @property
    def followed(self):
        return len(self.pump._followers)


@pytest.fixture
async def pumped():
    async with AsyncExitStack() as stack, open_deadlines() as deadlines, open_pump(deadlines) as pump:
        yield Pumped(stack, deadlines, pump)
        await stack.aclose()
        assert not pump._followers
        assert not deadlines._due


class Owner:
    """A task that follows a stream. ``error`` is what its call raised."""

    def __init__(self, until=lambda data: False):
        self.taken = []
        self.until = until
        self.over = trio.Event()
        self.error = None
        self.scope = trio.CancelScope()

    def take(self, data):
        self.taken.append(data)
        return not self.until(data)

    async def follow(self, stream, within=float("inf")):
        try:
            with self.scope:
                await stream.follow(self.take, within)
        except Exception as error:
            self.error = error
        self.over.set()

    @property
    def text(self):
        return b"".join(self.taken)


async def test_what_arrives_is_taken_until_the_end(pumped, nursery):
    stream, peer = await pumped.pair()
    owner = Owner()
    nursery.start_soon(owner.follow, stream)
    for piece in (b"one", b"two"):
        await peer.send_all(piece)
        await wait_all_tasks_blocked()
    await peer.send_eof()
    await owner.over.wait()
    assert owner.taken == [b"one", b"two", b""]
    assert owner.error is None


async def test_the_owner_goes_on_as_soon_as_it_has_what_it_wants(pumped, nursery):
    stream, peer = await pumped.pair()
    owner = Owner(until=lambda data: data.endswith(b"\n"))
    nursery.start_soon(owner.follow, stream)
    await peer.send_all(b"line\n")
    await owner.over.wait()
    await peer.send_all(b"more")
    assert owner.taken == [b"line\n"]
    assert await stream.receive_some() == b"more"


async def test_what_an_owner_raises_is_raised_in_it_alone(pumped, nursery):
    class Bug(Exception):
        pass

    def raises(data):
        raise Bug

    (bad_stream, bad_peer), (good_stream, good_peer) = await pumped.pair(), await pumped.pair()
    bad, good = Owner(until=raises), Owner()
    nursery.start_soon(bad.follow, bad_stream)
    nursery.start_soon(good.follow, good_stream)
    await bad_peer.send_all(b"x")
    await bad.over.wait()
    await good_peer.send_all(b"y")
    await wait_all_tasks_blocked()
    assert isinstance(bad.error, Bug)
    assert good.taken == [b"y"]
    good.scope.cancel()


async def test_an_owner_that_is_cancelled_takes_nothing_more_and_loses_nothing(pumped, nursery):
    stream, peer = await pumped.pair()
    owner = Owner()
    nursery.start_soon(owner.follow, stream)
    await wait_all_tasks_blocked()
    owner.scope.cancel()
    await owner.over.wait()
    await peer.send_all(b"later")
    await wait_all_tasks_blocked()
    assert owner.taken == []
    assert pumped.followed == 0
    assert await stream.receive_some() == b"later"


async def test_an_owner_may_be_cancelled_by_what_another_takes(pumped, nursery):
    (first, one), (second, two) = await pumped.pair(), await pumped.pair()
    owners = [Owner(), Owner()]
    for owner, other in zip(owners, reversed(owners), strict=True):
        owner.until = lambda data, other=other: other.scope.cancel()
    nursery.start_soon(owners[0].follow, first)
    nursery.start_soon(owners[1].follow, second)
    await wait_all_tasks_blocked()
    await one.send_all(b"x")
    await two.send_all(b"y")
    for owner in owners:
        with trio.move_on_after(1):
            await owner.over.wait()
    assert b"".join(owner.text for owner in owners) in (b"x", b"y", b"xy")
    assert any(owner.over.is_set() for owner in owners)
    for owner in owners:
        owner.scope.cancel()


async def test_an_owner_may_be_cancelled_by_what_it_takes_itself(pumped, nursery):
    stream, peer = await pumped.pair()
    owner = Owner(until=lambda data: owner.scope.cancel())
    nursery.start_soon(partial(owner.follow, stream, within=60))
    await peer.send_all(b"x")
    await owner.over.wait()
    assert owner.scope.cancelled_caught
    assert owner.taken == [b"x"]
    assert pumped.followed == 0
    assert not pumped._deadlines._due


async def test_an_owner_that_cancels_itself_still_gets_what_its_function_raises(pumped, nursery):
    class Bug(Exception):
        pass

    def cancel_and_raise(data):
        owner.scope.cancel()
        raise Bug

    stream, peer = await pumped.pair()
    owner = Owner(until=cancel_and_raise)
    nursery.start_soon(owner.follow, stream)
    await peer.send_all(b"x")
    await owner.over.wait()
    assert isinstance(owner.error, Bug)
    assert pumped.followed == 0


async def test_a_stream_that_is_followed_is_not_taken_from_its_owner(pumped, nursery):
    stream, peer = await pumped.pair()
    owner = Owner()
    nursery.start_soon(owner.follow, stream)
    await wait_all_tasks_blocked()
    with pytest.raises(FileExistsError):
        await stream.follow(lambda data: False)
    await peer.send_all(b"x")
    await peer.send_eof()
    with trio.fail_after(5):
        await owner.over.wait()
    assert owner.taken == [b"x", b""]


async def test_a_stream_that_is_silent_for_too_long_ends_the_wait(pumped, nursery, autojump_clock):
    stream, peer = await pumped.pair()
    owner = Owner()
    nursery.start_soon(partial(owner.follow, stream, within=3))
    for _ in range(3):
        await trio.sleep(2)
        await peer.send_all(b".")
    await wait_all_tasks_blocked()
    assert not owner.over.is_set()
    await trio.sleep(4)
    assert isinstance(owner.error, trio.TooSlowError)
    assert owner.text == b"..."


async def test_bytes_that_came_in_time_are_taken_however_late_the_pump_is(pumped, nursery):
    stream, peer = await pumped.pair()
    owner = Owner()
    nursery.start_soon(owner.follow, stream)
    await wait_all_tasks_blocked()
    [follower] = pumped.pump._followers.values()
    peer.socket._sock.send(b"in time")
    follower.interrupt()
    await wait_all_tasks_blocked()
    assert owner.taken == [b"in time"]
    assert not owner.over.is_set()
    owner.scope.cancel()


async def test_a_system_that_errs_about_what_can_be_read_prolongs_no_wait(pumped, nursery, monkeypatch):
    stream, _ = await pumped.pair()
    owner = Owner()
    monkeypatch.setattr(DirectStream, "is_readable", lambda self: True)
    nursery.start_soon(partial(owner.follow, stream, within=60))
    await wait_all_tasks_blocked()
    [follower] = pumped.pump._followers.values()
    pumped._deadlines.clear(follower)
    follower.interrupt()
    with trio.fail_after(5):
        await owner.over.wait()
    assert isinstance(owner.error, trio.TooSlowError)


async def test_a_reset_is_raised(pumped, nursery):
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    far = await trio.open_tcp_stream(*listener[0].socket.getsockname())
    near = await listener[0].accept()
    await listener[0].aclose()
    stream = DirectStream(near, pumped._deadlines, pumped.pump)
    owner = Owner()
    nursery.start_soon(owner.follow, stream)
    await wait_all_tasks_blocked()
    far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    far.socket.close()
    await owner.over.wait()
    assert isinstance(owner.error, trio.BrokenResourceError)
    await stream.aclose()


async def test_a_closed_stream_can_t_be_followed(pumped):
    stream, _ = await pumped.pair()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.follow(lambda data: True)


async def test_one_that_sends_much_waits_its_turn(pumped, nursery):
    (much, flood), (little, drip) = await pumped.pair(), await pumped.pair()
    order = []

    def note(name):
        def until(data):
            order.append((name, len(data)))
            return False

        return until

    await flood.send_all(bytes(4 * READ))
    await drip.send_all(b"x")
    owners = [Owner(note("much")), Owner(note("little"))]
    nursery.start_soon(owners[0].follow, much)
    nursery.start_soon(owners[1].follow, little)
    await wait_all_tasks_blocked(0.01)
    sizes = [size for name, size in order if name == "much"]
    assert sum(sizes) == 4 * READ
    assert max(sizes) <= READ
    assert ("little", 1) in order[:3]
    for owner in owners:
        owner.scope.cancel()


async def test_a_long_pass_lets_others_run(pumped, nursery, monkeypatch):
    monkeypatch.setattr("agentic_trio.net.pump.PASS", 0.0)
    seen = []

    def look(data):
        seen.append(ran)
        return False

    ran = 0

    async def others():
        nonlocal ran
        while True:
            ran += 1
            await trio.lowlevel.checkpoint()

    owners = []
    for _ in range(5):
        stream, peer = await pumped.pair()
        await peer.send_all(b"x")
        owners.append(Owner(look))
        nursery.start_soon(owners[-1].follow, stream)
    async with trio.open_nursery() as busy:
        busy.start_soon(others)
        while len(seen) < 5:
            await trio.lowlevel.checkpoint()
        busy.cancel_scope.cancel()
    assert len(set(seen)) > 1
    for owner in owners:
        owner.scope.cancel()


async def test_a_number_that_was_given_away_is_not_taken_for_the_old_one(pumped, nursery):
    for _ in range(20):
        stream, peer = await pumped.pair()
        owner = Owner(until=lambda data: True)
        nursery.start_soon(owner.follow, stream)
        await peer.send_all(b"x")
        await owner.over.wait()
        await stream.aclose()
        with suppress(trio.BrokenResourceError):
            await peer.aclose()
        assert owner.taken == [b"x"]


async def test_when_the_pump_is_over_its_owners_can_still_be_cancelled(nursery):
    owner = Owner()
    async with open_deadlines() as deadlines:
        async with open_pump(deadlines) as pump:
            stream, peer = pair(deadlines, pump)
            nursery.start_soon(owner.follow, stream)
            await wait_all_tasks_blocked()
        owner.scope.cancel()
        await owner.over.wait()
        await stream.aclose()
        await peer.aclose()
