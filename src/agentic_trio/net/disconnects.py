"""Clients that leave: one task watches for all requests, where the system can say so without a read."""

from __future__ import annotations

import select
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SUPPORTED = hasattr(select, "epoll")
"""Whether this system tells a peer's end of stream apart from bytes that wait to be read (Linux does)."""


class Peer:
    """The other side of a connection.

    Attributes:
        gone: it has closed its side, or the connection broke.
        call: is called when that happens.
    """

    def __init__(self) -> None:
        self.gone = False
        self.call: Callable[[], None] | None = None

    def leave(self) -> None:
        """Note that it is gone, and tell whoever watches."""
        self.gone = True
        if self.call is not None:
            self.call()

    def watch(self, call: Callable[[], None]) -> Watch:
        """A block in which ``call`` is called if it leaves, or has left already."""
        return Watch(self, call)


class Watch:
    """See ``Peer.watch``."""

    def __init__(self, peer: Peer, call: Callable[[], None]) -> None:
        self._peer = peer
        self._call = call

    def __enter__(self) -> None:
        self._peer.call = self._call
        if self._peer.gone:
            self._call()

    def __exit__(self, *_: object) -> None:
        self._peer.call = None


class Disconnects:
    """Knows when the peer of a socket has closed its side, or the connection broke.

    A task for each request would do the same, at the price of a task, its cancellation, and a read of
    bytes that are the next request's.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}

    def add(self, descriptor: int) -> Peer:
        """The peer of a socket, until it is removed."""
        peer = self._peers[descriptor] = Peer()
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)
        return peer

    def remove(self, descriptor: int, peer: Peer) -> None:
        """Forget a socket. It may be closed already, and its number given to another."""
        if self._peers.get(descriptor) is peer:
            del self._peers[descriptor]
            # A closed socket has left the set by itself.
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Watch for as long as it isn't cancelled.

        Cancellation: nobody is told any more.
        """
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for descriptor, _ in self._epoll.poll(0):
                peer = self._peers.get(descriptor)
                if peer is not None:
                    peer.leave()

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()


@asynccontextmanager
async def open_disconnects() -> AsyncIterator[Disconnects | None]:
    """Watch while the block lasts; None where the system has no way to.

    Cancellation: nobody is told any more.
    """
    if not SUPPORTED:
        yield None
        return
    disconnects = Disconnects()
    try:
        async with open_inner_nursery() as nursery:
            nursery.start_soon(disconnects.run)
            yield disconnects
            nursery.cancel_scope.cancel()
    finally:
        disconnects.close()
