"""Endings that the store refused. They stay in memory, can be read there, and are written again later."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import trio

from agentic_trio.store.contract import StoreError
from agentic_trio.wire.responses import unstored

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.store.contract import Ending, Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_UNRECORDED = 1000
"""The most endings that are kept. If a store fails for so long that there are more, the oldest are given up
and logged. Their responses become ``failed``, without output, as soon as the store accepts that."""

MAX_UNRECORDED_BYTES = 256 * 1024 * 1024
"""The most bytes of endings that are kept, for the same reason: an ending holds its turn's whole stream."""

MAX_GIVEN_UP = 100_000
"""The most given-up responses that are remembered. One that is forgotten reads as ``in_progress`` until the
gateway starts again."""

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


class Unrecorded:
    """The endings that a full or broken disk has kept from being recorded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._endings: dict[str, Ending] = {}
        self._sizes: dict[str, int] = {}
        self._given_up: dict[str, str] = {}  # id -> owner
        self._wanted = trio.Event()
        self.on_lost: Callable[[str], None] = lambda id: None

    def __len__(self) -> int:
        return len(self._endings)

    def keep(self, ending: Ending) -> None:
        """Keep an ending until it can be recorded."""
        self._drop(ending.id)
        self._endings[ending.id] = ending
        self._sizes[ending.id] = _size(ending)
        while len(self._endings) > MAX_UNRECORDED or sum(self._sizes.values()) > MAX_UNRECORDED_BYTES:
            lost = next(iter(self._endings.values()))
            logger.error("gave up recording turn %s: too many turns wait for the store", lost.id)
            self._give_up(lost)
        self._wanted.set()

    def _give_up(self, ending: Ending) -> None:
        self._drop(ending.id)
        self._given_up[ending.id] = ending.owner
        self.on_lost(ending.id)
        if len(self._given_up) > MAX_GIVEN_UP:
            self._drop(next(iter(self._given_up)))

    def _drop(self, id: str) -> None:
        self._endings.pop(id, None)
        self._sizes.pop(id, None)
        self._given_up.pop(id, None)

    @property
    def waiting(self) -> bool:
        """Whether there is anything to record."""
        return bool(self._endings or self._given_up)

    async def settle_all(self, owner: str, conversation: str) -> None:
        """Do as ``settle`` does for every response that was made in a conversation."""
        made = [
            ending.id
            for ending in self._endings.values()
            if (ending.owner, ending.conversation) == (owner, conversation)
        ]
        for id in made:
            await self.settle(owner, id)

    def find(self, owner: str, id: str) -> Ending | None:
        """Return the ending of a response, if it is kept here."""
        ending = self._endings.get(id)
        return ending if ending is not None and ending.owner == owner else None

    def find_keyed(self, owner: str, key: bytes) -> Ending | None:
        """Return the ending of the response that has this idempotency key, if it is kept here."""
        endings = (each for each in self._endings.values() if each.key == key and each.owner == owner)
        return next(endings, None)

    async def settle(self, owner: str, id: str) -> None:
        """Record the ending of a response now, if it is kept here or was given up.

        A deletion calls this first. Otherwise the response would come back when its ending is retried.

        Raises:
            StoreError: the ending still can't be recorded.

        Cancellation: the ending stays here.
        """
        if self.find(owner, id) is not None or self._given_up.get(id) == owner:
            await self._record(id)

    async def _record(self, id: str) -> None:
        ending = self._endings.get(id)
        if ending is not None:
            await self._store.end(ending)
        else:
            await self._store.fail(self._given_up[id], id, unstored)
        self._drop(id)

    async def run(self) -> None:
        """Retry with growing delays, for as long as there is anything to record.

        Cancellation: the endings that are left are lost. At the next start their announced responses
        become ``failed``.
        """
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            delay = FIRST_DELAY
            while self._endings or self._given_up:
                await trio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
                await self.flush()

    def abandon(self) -> None:
        """Give up what is left: the process ends."""
        for id in self._endings:
            self.on_lost(id)

    async def flush(self) -> None:
        """Retry each ending once, first those given up. Each of the two rounds ends at the first refusal."""
        await self._flush(self._given_up)
        await self._flush(self._endings)

    async def _flush(self, kept: dict[str, T]) -> None:
        for id in list(kept):
            if id not in kept:
                continue
            try:
                await self._record(id)
            except StoreError:
                # The store may refuse only this one, so another goes first next time.
                if id in kept:
                    kept[id] = kept.pop(id)
                return
            except Exception:
                logger.exception("gave up recording turn %s: the store can't take it", id)
                if id in self._endings:
                    self._give_up(self._endings[id])
                else:
                    self._drop(id)


def _size(ending: Ending) -> int:
    items = sum(len(item.data) for item in (*ending.input, *ending.output))
    return items + len(ending.body) + sum(map(len, ending.events))
