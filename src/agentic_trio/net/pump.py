"""Many streams, read by one task for the tasks that own them.

Waking a task for each event of a stream costs more than the event does: the wait is registered with the
system, its deadline is set and cleared, the task is scheduled. With hundreds of live streams that is where
the time goes. The pump is one task that waits for all of them at once. In each pass it reads what has
arrived, and hands it to a function that the stream's owner has left with it.

The owner sleeps meanwhile and stays the owner. It has opened the stream and it will close it; it takes part
for the length of one call, :meth:`Pump.follow`. However that call ends, the pump has forgotten the stream by
then. What the owner's function raises is raised in the owner, so one stream can't end another, and
cancelling the owner ends its wait as it ends any other.
"""

from __future__ import annotations

import select
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import outcome
import trio

from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from agentic_trio.net.deadlines import Deadlines

SUPPORTED: Final = hasattr(select, "epoll")
"""Whether the system can wait for many sockets through one descriptor (Linux can)."""

READ: Final = 16 * 1024
"""Bytes that are read from one stream in one pass: about a hundred events, or a millisecond. A server that
has sent more waits for the next pass, as the other streams do."""

PASS: Final = 0.0005
"""Seconds after which a pass lets other tasks run, before it goes on."""


class Source(Protocol):
    """A stream that can be read without waiting."""

    @property
    def socket(self) -> trio.socket.SocketType:
        """What the system watches."""

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """Read what has arrived: empty at the end, None if nothing has. Raises as ``receive_some`` does."""


class Readiness(Protocol):
    """Tells which of many sockets can be read."""

    def add(self, descriptor: int) -> None:
        """Watch a socket."""

    def remove(self, descriptor: int) -> None:
        """Forget a socket, which may be closed already."""

    async def wait(self) -> Sequence[int]:
        """Wait for sockets that can be read. Each is told again until it was read to its end.

        Cancellation: nothing is lost.
        """


class Epoll:
    """Asks the system."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, descriptor: int) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        # A closed socket has left the set by itself, and an owner may be cancelled after the pump.
        if not self._epoll.closed:
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    async def wait(self) -> Sequence[int]:
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        return [descriptor for descriptor, _ in self._epoll.poll(0)]

    def close(self) -> None:
        self._epoll.close()


class Pump:
    """Reads sources on behalf of the tasks that follow them.

    Args:
        readiness: tells which can be read. The pump owns it.
        deadlines: end the waits that are bounded.
    """

    def __init__(self, readiness: Readiness, deadlines: Deadlines) -> None:
        self._readiness = readiness
        self._deadlines = deadlines
        self._followers: dict[int, _Follower] = {}
        self._advancing: _Follower | None = None

    async def follow(self, source: Source, take: Callable[[bytes], bool], within: float) -> None:
        """Call ``take`` with what each read of a source returns, until it returns False.

        Args:
            source: nobody else may read it meanwhile.
            take: gets an empty string at the source's end, and isn't called again after that. It is called
                in the pump's task, so it must not block.
            within: bound on the wait for each read, in seconds.

        Raises:
            trio.TooSlowError: nothing came ``within`` so many seconds.
            trio.BrokenResourceError: the connection broke.
            Exception: what ``take`` raised.

        Cancellation: nothing is lost, and ``take`` isn't called any more.
        """
        descriptor: int = source.socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("this side closed the connection")
        follower = _Follower(self, descriptor, source, take, within)
        # First, because it may fail: another may follow this source already.
        self._readiness.add(descriptor)
        self._followers[descriptor] = follower
        self._renew(follower)

        def abort(raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            if self._advancing is follower:
                # Its own function has cancelled it, and may yet raise something else.
                follower.raise_cancel = raise_cancel
                return trio.lowlevel.Abort.FAILED
            self._forget(follower)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self) -> None:
        """Read until cancelled.

        Cancellation: those that follow sleep on, until they are cancelled too or their time is over.
        """
        while True:
            ready = await self._readiness.wait()
            pass_ends = perf_counter() + PASS
            for descriptor in ready:
                # It may have been forgotten since, and its number may be another's; that one is told anew.
                follower = self._followers.get(descriptor)
                if follower is not None:
                    self.advance(follower)
                if perf_counter() >= pass_ends:
                    await trio.lowlevel.checkpoint()
                    pass_ends = perf_counter() + PASS

    def advance(self, follower: _Follower) -> bool:
        """Read once for a follower; wake it if there is something for it to decide.

        Returns:
            Whether there was anything to read.
        """
        self._advancing = follower
        try:
            data = follower.source.receive_nowait(READ)
            goes_on = data is None or (follower.take(data) and bool(data))
        except Exception as error:
            self._wake(follower, outcome.Error(error))
            return True
        finally:
            self._advancing = None
        if follower.raise_cancel is not None:
            self._wake(follower, outcome.capture(follower.raise_cancel))
        elif not goes_on:
            self._wake(follower, outcome.Value(None))
        elif data is not None:
            self._renew(follower)
        return data is not None

    def time_out(self, follower: _Follower) -> None:
        """End a follower's wait, unless the pump has only been late to read what came in time."""
        if not self.advance(follower):
            self._wake(follower, outcome.Error(trio.TooSlowError()))

    def _renew(self, follower: _Follower) -> None:
        self._deadlines.set(follower, trio.current_time() + follower.within)

    def _wake(self, follower: _Follower, result: outcome.Outcome[None]) -> None:
        self._forget(follower)
        trio.lowlevel.reschedule(follower.task, result)

    def _forget(self, follower: _Follower) -> None:
        del self._followers[follower.descriptor]
        self._readiness.remove(follower.descriptor)
        self._deadlines.clear(follower)


class _Follower:
    """One call of :meth:`Pump.follow`.

    Attributes:
        raise_cancel: raises ``trio.Cancelled`` in it, which its function has asked for; None if it hasn't.
    """

    __slots__ = ("_pump", "descriptor", "raise_cancel", "source", "take", "task", "within")

    def __init__(
        self, pump: Pump, descriptor: int, source: Source, take: Callable[[bytes], bool], within: float
    ) -> None:
        self._pump = pump
        self.descriptor = descriptor
        self.source = source
        self.take = take
        self.within = within
        self.task = trio.lowlevel.current_task()
        self.raise_cancel: Callable[[], NoReturn] | None = None

    def interrupt(self) -> None:
        """See ``net.deadlines.Wait``."""
        self._pump.time_out(self)


@asynccontextmanager
async def open_pump(deadlines: Deadlines) -> AsyncIterator[Pump | None]:
    """Run a pump while the block lasts. Yields None where the system can't tell who is ready.

    Cancellation: nothing is read any more.
    """
    if not SUPPORTED:
        yield None
        return
    epoll = Epoll()
    try:
        async with open_inner_nursery() as nursery:
            pump = Pump(epoll, deadlines)
            nursery.start_soon(pump.run)
            yield pump
            nursery.cancel_scope.cancel()
    finally:
        epoll.close()
