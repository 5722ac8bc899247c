"""Clients that leave, as the system tells of them."""

from __future__ import annotations

import socket

import pytest
import trio

from agentic_trio.net.disconnects import SUPPORTED, open_disconnects

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="needs epoll")


async def test_hang_up_calls_back() -> None:
    here, there = socket.socketpair()
    left = trio.Event()
    with here, there:
        async with open_disconnects() as disconnects:
            assert disconnects is not None
            with disconnects.add(here.fileno()).watch(left.set), trio.fail_after(5):
                there.shutdown(socket.SHUT_WR)
                await left.wait()


async def test_hang_up_before_the_watch_calls_back_at_once() -> None:
    here, there = socket.socketpair()
    with here, there:
        async with open_disconnects() as disconnects:
            assert disconnects is not None
            peer = disconnects.add(here.fileno())
            there.close()
            with trio.fail_after(5):
                while not peer.gone:
                    await trio.lowlevel.checkpoint()
            calls = []
            with peer.watch(lambda: calls.append(1)):
                assert calls == [1]


async def test_hang_up_outside_of_a_watch_calls_nobody() -> None:
    here, there = socket.socketpair()
    calls = []
    with here, there:
        async with open_disconnects() as disconnects:
            assert disconnects is not None
            peer = disconnects.add(here.fileno())
            with peer.watch(lambda: calls.append(1)):
                pass
            there.close()
            with trio.fail_after(5):
                while not peer.gone:
                    await trio.lowlevel.checkpoint()
    assert not calls


async def test_peer_that_outlives_its_socket_leaves_the_next_one_alone() -> None:
    async with open_disconnects() as disconnects:
        assert disconnects is not None
        first, its_peer = socket.socketpair()
        number = first.fileno()
        stale = disconnects.add(number)
        first.close()
        its_peer.close()
        here, there = socket.socketpair()
        left = trio.Event()
        with here, there:
            assert number in (here.fileno(), there.fileno())
            mine, other = (here, there) if here.fileno() == number else (there, here)
            with disconnects.add(mine.fileno()).watch(left.set):
                disconnects.remove(number, stale)
                other.shutdown(socket.SHUT_WR)
                with trio.fail_after(5):
                    await left.wait()
