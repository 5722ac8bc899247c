"""Clients that leave, as the system tells of them."""

from __future__ import annotations

import socket

import pytest
import trio

from agentic_trio.server.hangups import SUPPORTED, Watch, open_hangups

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="needs epoll")


async def test_hang_up_calls_back() -> None:
    here, there = socket.socketpair()
    left = trio.Event()
    with here, there:
        async with open_hangups() as hangups:
            assert hangups is not None
            with Watch(hangups, here.fileno(), left.set), trio.fail_after(5):
                there.shutdown(socket.SHUT_WR)
                await left.wait()


async def test_watch_that_outlives_its_socket_leaves_the_next_one_alone() -> None:
    async with open_hangups() as hangups:
        assert hangups is not None
        first, its_peer = socket.socketpair()
        stale = Watch(hangups, first.fileno(), lambda: None)
        stale.__enter__()
        number = first.fileno()
        first.close()
        its_peer.close()
        here, there = socket.socketpair()
        left = trio.Event()
        with here, there:
            assert number in (here.fileno(), there.fileno())
            mine, other = (here, there) if here.fileno() == number else (there, here)
            with Watch(hangups, mine.fileno(), left.set):
                stale.__exit__()
                other.shutdown(socket.SHUT_WR)
                with trio.fail_after(5):
                    await left.wait()
