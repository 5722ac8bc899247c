"""Clients that leave: one task watches for all requests, where the system can say so without a read."""

from __future__ import annotations

import select
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from agentic_trio.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SUPPORTED = hasattr(select, "epoll")
"""Whether this system tells a peer's end of stream apart from bytes that wait to be read (Linux does)."""


class Hangups:
    """Calls back when the peer of a socket has closed its side, or the connection broke.

    A task for each request would do the same, at the price of a task, its cancellation, and a read of
    bytes that are the next request's.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}

    def watch(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call back once, from the task that runs ``run``, unless ``forget`` comes first."""
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)
        self._calls[descriptor] = call

    def forget(self, descriptor: int, call: Callable[[], None]) -> None:
        """Watch no longer. May come after the socket was closed, and its number was given to another."""
        if self._calls.get(descriptor) is call:
            del self._calls[descriptor]
            # A closed socket has left the set by itself.
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Watch for as long as it isn't cancelled.

        Cancellation: nobody is called back any more.
        """
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for descriptor, _ in self._epoll.poll(0):
                call = self._calls.get(descriptor)
                if call is not None:
                    call()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()


class Watch:
    """Within this block a hang-up calls back."""

    def __init__(self, hangups: Hangups, descriptor: int, call: Callable[[], None]) -> None:
        self._hangups = hangups
        self._descriptor = descriptor
        self._call = call

    def __enter__(self) -> None:
        self._hangups.watch(self._descriptor, self._call)

    def __exit__(self, *_: object) -> None:
        self._hangups.forget(self._descriptor, self._call)


@asynccontextmanager
async def open_hangups() -> AsyncIterator[Hangups | None]:
    """Watch while the block lasts; None where the system has no way to.

    Cancellation: nobody is called back any more.
    """
    if not SUPPORTED:
        yield None
        return
    hangups = Hangups()
    try:
        async with open_inner_nursery() as nursery:
            nursery.start_soon(hangups.run)
            yield hangups
            nursery.cancel_scope.cancel()
    finally:
        hangups.close()
