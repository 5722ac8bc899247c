"""One at a time: in a conversation, or on an idempotency key."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MAX_WAITING = 100
"""How many may wait for one name; the next is refused."""


def conversation_locked() -> InvalidRequest:
    """Another turn is at work in the conversation, as OpenAI says it."""
    return InvalidRequest(
        "Another process is currently operating on this conversation. Please retry in a few seconds.",
        code="conversation_locked",
        param="conversation",
    )


@dataclass(slots=True)
class _Lock:
    mutex: trio.StrictFIFOLock = field(default_factory=trio.StrictFIFOLock)
    users: int = 0


class Locks:
    """Who is at work under which of an owner's names. Fair: those who wait are served in order.

    Held in memory: the database has one gateway process, and a lock that a crash ends was in it.

    Args:
        wait: seconds that a newcomer waits for the others; 0 refuses at once.
        refusal: makes the error of one who has waited in vain.
    """

    def __init__(
        self, wait: float = 0.0, refusal: Callable[[], InvalidRequest] = conversation_locked
    ) -> None:
        self._wait = wait
        self._refusal = refusal
        self._locks: dict[tuple[str, str], _Lock] = {}

    @asynccontextmanager
    async def lock(self, owner: str, name: str) -> AsyncIterator[None]:
        """Keep others out of what has this name while the block lasts.

        Raises:
            InvalidRequest: another holds it, and did not let go within ``wait`` seconds.

        Cancellation: while waiting, the place in the queue is given up.
        """
        key = (owner, name)
        held = self._locks.setdefault(key, _Lock())
        if held.mutex.locked() and (self._wait <= 0 or held.users > MAX_WAITING):
            raise self._refusal()
        held.users += 1
        try:
            await self._acquire(held.mutex)
            try:
                yield
            finally:
                held.mutex.release()
        finally:
            held.users -= 1
            if held.users == 0:
                del self._locks[key]

    async def _acquire(self, lock: trio.StrictFIFOLock) -> None:
        try:
            lock.acquire_nowait()
        except trio.WouldBlock:
            with trio.move_on_after(self._wait) as waiting:
                await lock.acquire()
            if waiting.cancelled_caught:
                raise self._refusal() from None
