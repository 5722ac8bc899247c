"""Clients that leave, watched for by one task, where the system reports that without a read."""

from __future__ import annotations

import select
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SUPPORTED = hasattr(select, "epoll")
"""Whether the system can report the end of a stream while bytes wait to be read (Linux can)."""


class Peer:
    """The other side of a connection.

    Attributes:
        gone: it has closed its side, or the connection broke.
        call: what to call when that happens.
    """

    def __init__(self) -> None:
        self.gone = False
        self.call: Callable[[], None] | None = None

    def leave(self) -> None:
        """Note that it is gone, and call whoever watches."""
        self.gone = True
        if self.call is not None:
            self.call()

    def watch(self, call: Callable[[], None]) -> Watch:
        """A block in which ``call`` is called when the peer leaves, or at once if it has left."""
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
    """Notices when the peer of a socket closes its side, or the connection breaks.

    A task for each request could read the socket instead. It would cost a task and its cancellation, and
    it would read bytes of the next request.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}

    def add(self, descriptor: int) -> Peer:
        """Watch the peer of a socket until it is removed."""
        peer = self._peers[descriptor] = Peer()
        self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)
        return peer

    def remove(self, descriptor: int, peer: Peer) -> None:
        """Forget a socket. It may be closed already, and its number may be another socket's by now."""
        if self._peers.get(descriptor) is peer:
            del self._peers[descriptor]
            # A closed socket has left the set by itself.
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Watch until cancelled.

        Cancellation: nobody is called any more.
        """
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for descriptor, _ in self._epoll.poll(0):
                peer = self._peers.get(descriptor)
                if peer is not None:
                    peer.leave()

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()


@asynccontextmanager
async def open_disconnects() -> AsyncIterator[Disconnects | None]:
    """Watch while the block lasts. Yields None where the system can't.

    Cancellation: nobody is called any more.
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
