"""Deadlines of many waits, watched by one task."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio

from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Wait(Protocol):
    """Something that waits and can be interrupted."""

    def interrupt(self) -> None:
        """End the wait. Called from another task than the waiting one."""


class Deadlines:
    """Interrupts each wait that lasts beyond its deadline.

    A cancel scope for each wait would do the same. But nearly all of these waits end long before their
    deadline, and entering and leaving a scope costs more than the rest of the wait.
    """

    def __init__(self) -> None:
        self._due: dict[Wait, float] = {}
        self._next = math.inf
        self._sleep = trio.CancelScope()

    def set(self, wait: Wait, due: float) -> None:
        """Interrupt a wait at ``due`` (Trio's time), unless it is cleared first."""
        self._due[wait] = due
        if due < self._next:
            self._next = self._sleep.deadline = due

    def clear(self, wait: Wait) -> None:
        """Forget a wait that is over."""
        self._due.pop(wait, None)

    async def run(self) -> None:
        """Watch until cancelled.

        Cancellation: nothing is interrupted any more.
        """
        while True:
            # By then most of these waits have been cleared, so this wakes seldom. It looks at what is left.
            self._next = min(self._due.values(), default=math.inf)
            with trio.CancelScope(deadline=self._next) as self._sleep:
                await trio.sleep_forever()
            if self._overdue():
                # If the loop was held up, what a wait is for may have come too: let such waits end normally.
                await trio.lowlevel.checkpoint()
            for wait in self._overdue():
                # The end of one may have ended others.
                if self._due.pop(wait, None) is not None:
                    wait.interrupt()

    def _overdue(self) -> list[Wait]:
        now = trio.current_time()
        return [wait for wait, due in self._due.items() if due <= now]


@asynccontextmanager
async def open_deadlines() -> AsyncIterator[Deadlines]:
    """Watch while the block lasts.

    Cancellation: nothing is interrupted any more.
    """
    deadlines = Deadlines()
    async with open_inner_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        yield deadlines
        nursery.cancel_scope.cancel()
