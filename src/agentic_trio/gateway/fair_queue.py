"""A queue by owner: slots go round among the owners who wait, one each, however many each has waiting."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class _Waiter:
    __slots__ = ("begin", "begun")

    def __init__(self, begin: Callable[[], bool]) -> None:
        self.begin = begin
        self.begun = trio.Event()


def _always() -> bool:
    return True


class FairQueue:
    """Slots for work that may wait.

    Args:
        slots: how many may work at once.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._slots = slots
        # None of these owners is without a waiter.
        self._waiting: dict[str, deque[_Waiter]] = {}
        # When those who work or wait got their latest slot, in slots given until then.
        self._latest: dict[str, int] = {}
        self._working: Counter[str] = Counter()
        self._given = 0

    @property
    def borrowed(self) -> int:
        """How many slots are taken."""
        return self._slots - self._free

    def waiting(self, owner: str) -> int:
        """How many of an owner's wait."""
        return len(self._waiting.get(owner, ()))

    @asynccontextmanager
    async def slot(self, owner: str, begin: Callable[[], bool] = _always) -> AsyncIterator[None]:
        """Have a slot while the block lasts.

        Args:
            owner: among whom the slots go round.
            begin: called when there is a slot; if it returns False, it is called again after ``wake``, or
                when another slot is free. Once it has returned True, the block runs, or is cancelled.

        Cancellation: while waiting, the place in the queue is given up.
        """
        waiter = _Waiter(begin)
        self._waiting.setdefault(owner, deque()).append(waiter)
        self.wake()
        try:
            if not waiter.begun.is_set():
                await waiter.begun.wait()
            yield
        finally:
            if waiter.begun.is_set():
                self._free += 1
                self._working[owner] -= 1
            else:
                self._waiting[owner].remove(waiter)
            self._forget(owner)
            self.wake()

    def _forget(self, owner: str) -> None:
        """Drop what is known of an owner who has nothing here any more."""
        if not self._waiting.get(owner, True):
            del self._waiting[owner]
        if owner not in self._waiting and self._working[owner] <= 0:
            del self._working[owner]
            self._latest.pop(owner, None)

    def wake(self) -> None:
        """Give the slots that are free to those who may begin now, going round among the owners."""
        while self._free and self._give_one():
            pass

    def _give_one(self) -> bool:
        for owner in sorted(self._waiting, key=lambda each: self._latest.get(each, 0)):
            # An owner's own begin in their order, so only the first is asked.
            if self._waiting[owner][0].begin():
                self._waiting[owner].popleft().begun.set()
                self._free -= 1
                self._given += 1
                self._latest[owner] = self._given
                self._working[owner] += 1
                self._forget(owner)
                return True
        return False
