"""Endings that the store could not take: kept in memory, told to whoever asks, and tried again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import trio

from agentic_trio.store.contract import StoreError
from agentic_trio.wire.responses import unstored

if TYPE_CHECKING:
    from agentic_trio.store.contract import Ending, Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_UNRECORDED = 1000
"""How many endings are kept; when a store fails for longer, the oldest are given up, and said so: their
responses become ``failed``, without output, as soon as the store takes that."""

MAX_UNRECORDED_BYTES = 256 * 1024 * 1024
"""How much of them, for the same: an ending holds its turn's whole stream."""

MAX_GIVEN_UP = 100_000
"""How many responses are known to be given up; what is forgotten is under way until the next start."""

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


class Unrecorded:
    """What a full or broken disk has kept from being recorded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._endings: dict[str, Ending] = {}
        self._sizes: dict[str, int] = {}
        self._given_up: dict[str, str] = {}  # id -> owner
        self._wanted = trio.Event()

    def keep(self, ending: Ending) -> None:
        """Take an ending into care."""
        self._drop(ending.id)
        self._endings[ending.id] = ending
        self._sizes[ending.id] = _size(ending)
        while len(self._endings) > MAX_UNRECORDED or sum(self._sizes.values()) > MAX_UNRECORDED_BYTES:
            lost = next(iter(self._endings.values()))
            logger.error("gave up recording turn %s: too many are waiting for the store", lost.id)
            self._give_up(lost)
        self._wanted.set()

    def _give_up(self, ending: Ending) -> None:
        self._drop(ending.id)
        self._given_up[ending.id] = ending.owner
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
        """The ending of a response that is not recorded yet."""
        ending = self._endings.get(id)
        return ending if ending is not None and ending.owner == owner else None

    def find_keyed(self, owner: str, key: bytes) -> Ending | None:
        """The ending, not recorded yet, of the response that has this key."""
        endings = (each for each in self._endings.values() if each.key == key and each.owner == owner)
        return next(endings, None)

    async def settle(self, owner: str, id: str) -> None:
        """Record a response's ending now, if it is in care or was given up: what comes next needs it on disk.

        Without this, one that is deleted meanwhile would come back when it is tried again.

        Raises:
            StoreError: it can't be recorded yet.

        Cancellation: it stays in care.
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
        """Try again, ever more slowly, for as long as there is anything to record.

        Cancellation: what is left is lost, and after a restart the announced ones are ``failed``.
        """
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            delay = FIRST_DELAY
            while self._endings or self._given_up:
                await trio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
                await self.flush()

    async def flush(self) -> None:
        """Try each of them once; those given up and the others each until the store refuses one."""
        await self._flush(self._given_up)
        await self._flush(self._endings)

    async def _flush(self, kept: dict[str, T]) -> None:
        for id in list(kept):
            if id not in kept:
                continue
            try:
                await self._record(id)
            except StoreError:
                # It may be this one alone that the store refuses: next time another goes first.
                if id in kept:
                    kept[id] = kept.pop(id)
                return
            except Exception:
                logger.exception("gave up recording turn %s: it can't be", id)
                if id in self._endings:
                    self._give_up(self._endings[id])
                else:
                    self._drop(id)


def _size(ending: Ending) -> int:
    items = sum(len(item.data) for item in (*ending.input, *ending.output))
    return items + len(ending.body) + sum(map(len, ending.events))
