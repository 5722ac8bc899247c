"""One turn at a time in a conversation."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_WAITING = 100
"""How many may wait for one conversation; the next is told that it is locked."""


@dataclass(slots=True)
class _Hold:
    lock: trio.StrictFIFOLock = field(default_factory=trio.StrictFIFOLock)
    users: int = 0


class Holds:
    """Who is at work in which conversation. Fair: those who wait are served in order.

    Held in memory: the database has one gateway process, and a hold that a crash ends was in it.
    """

    def __init__(self, wait: float = 0.0) -> None:
        self._wait = wait
        self._holds: dict[tuple[str, str], _Hold] = {}

    @asynccontextmanager
    async def hold(self, owner: str, conversation: str) -> AsyncIterator[None]:
        """Keep others out of a conversation while the block lasts.

        Raises:
            InvalidRequest: another holds it, and did not let go within ``wait`` seconds.

        Cancellation: while waiting, the place in the queue is given up.
        """
        key = (owner, conversation)
        hold = self._holds.setdefault(key, _Hold())
        if hold.lock.locked() and (self._wait <= 0 or hold.users > MAX_WAITING):
            raise _locked()
        hold.users += 1
        try:
            await self._acquire(hold.lock)
            try:
                yield
            finally:
                hold.lock.release()
        finally:
            hold.users -= 1
            if hold.users == 0:
                del self._holds[key]

    async def _acquire(self, lock: trio.StrictFIFOLock) -> None:
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            with trio.move_on_after(self._wait) as waiting:
                await lock.acquire()
            if waiting.cancelled_caught:
                raise _locked() from None


def _locked() -> InvalidRequest:
    return InvalidRequest(
        "Another process is currently operating on this conversation. Please retry in a few seconds.",
        code="conversation_locked",
        param="conversation",
    )
