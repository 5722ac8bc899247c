"""The keys in memory: a request's key is found without asking the database.

One task asks it every second what has changed, so that a revoked key is refused soon, on each gateway that
uses the file. A key that was made since is asked for when it first comes.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from agentic_trio.auth.key_text import digest_of, is_key
from agentic_trio.auth.refusals import bad_credential, cannot_tell
from agentic_trio.context import SCOPES, Identity, Limits
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.store.contract import StoreError
from agentic_trio.store.key_database import Usage, open_keys
from agentic_trio.store.outage import Outage
from agentic_trio.store.writer import RunSync, run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from agentic_trio.store.key_database import KeyDatabase, KeyRow

T = TypeVar("T")

REFRESH_INTERVAL = 1.0
"""Seconds between two looks at what has changed."""

STALE_AFTER = 4.0
"""Seconds after which what is in memory counts for nothing: a key may have been revoked since."""

REFRESH_PAUSE = 0.1
"""Seconds between two looks that unknown keys have caused: strangers can make them up."""

CLOSE_GRACE = 5.0
"""Seconds that the last uses have to be recorded in."""

HOUR = 3600
DAY = 86_400

USAGE_DAYS = 31
"""Days for which it is kept how many tokens were used."""


class Keyring:
    """The keys of one file.

    Args:
        database: the file; used by nobody else.
        now: Unix time in seconds.
        run_sync: how blocking work leaves the loop.
    """

    def __init__(
        self, database: KeyDatabase, now: Callable[[], float], run_sync: RunSync = run_in_thread
    ) -> None:
        self._database = database
        self._now = now
        self._run_sync = run_sync
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._refreshing = trio.Lock()
        self._outage = Outage("read and write the file of keys")
        self._keys: dict[bytes, KeyRow] = {}
        self._identities: dict[bytes, Identity] = {}
        self._latest = 0
        self._asked = self._fresh = -math.inf
        self._used: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}
        self.owner_limits: dict[str, Limits] = {}

    def __len__(self) -> int:
        return len(self._keys)

    async def identify(self, text: str) -> Identity:
        """Who the holder of a key is.

        Returns at once, without a checkpoint, for a key that is known.

        Raises:
            InvalidRequest: the key is worth nothing (401).
            ServiceUnavailable: whether it was revoked can't be found out.
        """
        if not is_key(text):
            raise bad_credential()
        digest = digest_of(text)
        if digest not in self._keys or trio.current_time() >= self._fresh + STALE_AFTER:
            await self._refresh()
        key = self._keys.get(digest)
        now = self._now()
        if (
            key is None
            or key.revoked_at is not None
            or (key.expires_at is not None and now >= key.expires_at)
        ):
            raise bad_credential()
        self._note_use(key, int(now) // HOUR * HOUR)
        return self._identities[digest]

    def _note_use(self, key: KeyRow, hour: int) -> None:
        if self._used.get(key.id, key.last_used_at) != hour:
            self._used[key.id] = self._unwritten[key.id] = hour

    async def _refresh(self) -> None:
        """Look at what has changed until now, together with all who wait for the same.

        Raises:
            ServiceUnavailable: it can't be read.
        """
        came = trio.current_time()
        async with self._refreshing:
            if self._asked < came:
                await trio.sleep_until(self._asked + REFRESH_PAUSE)
                await self.refresh()
        if trio.current_time() >= self._fresh + STALE_AFTER:
            raise cannot_tell()

    async def refresh(self) -> None:
        """Take over what has changed. A failure is logged, and what is known stays until it is stale."""
        self._asked = asked = trio.current_time()
        try:
            changes = await self._run(partial(self._database.changes, self._latest))
        except StoreError as error:
            self._outage.failed(error)
            return
        self._outage.worked()
        self._fresh = asked
        self._latest = changes.latest
        if changes.whole:
            for known in (self._keys, self._identities, self.owner_limits):
                known.clear()
        for key in changes.keys:
            self._keys[key.digest] = key
            self._identities[key.digest] = identity_of(key)
        for name, *limits in changes.owners:
            self.owner_limits[name] = Limits(*limits)

    async def run(self) -> None:
        """Keep up with the file, and tell it which keys are used.

        Cancellation: the uses of the last second are not recorded.
        """
        while True:
            await trio.sleep(REFRESH_INTERVAL)
            async with self._refreshing:
                await self.refresh()
            await self.write_uses()

    async def write_uses(self) -> None:
        """Record which keys were used in which hour, if that isn't known. A failure is logged."""
        unwritten, self._unwritten = self._unwritten, {}
        if not unwritten:
            return
        try:
            await self._run(partial(self._database.note_use, unwritten))
        except StoreError as error:
            self._outage.failed(error)
            self._unwritten = unwritten | self._unwritten

    async def read_usage(self) -> list[Usage]:
        """What was used today. Raises StoreError."""
        return await self._run(partial(self._database.usage, int(self._now()) // DAY))

    async def write_usage(self, used: Mapping[tuple[str, str, int], int]) -> bool:
        """Add tokens, by owner, key and day, to what was used. False if that fails, which is logged."""
        rows = [Usage(owner, key, day, tokens) for (owner, key, day), tokens in used.items()]
        today = int(self._now()) // DAY
        try:
            await self._run(partial(self._database.add_usage, rows, keep_from=today - USAGE_DAYS))
        except StoreError as error:
            self._outage.failed(error)
            return False
        return True

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._run_sync(work, limiter=self._one_at_a_time)

    async def close(self) -> None:
        """Write what is to be written, and close the file. Cancellation: waits for both."""
        await self.write_uses()
        await self._run(self._database.close)


def identity_of(key: KeyRow) -> Identity:
    """Who the holder of a key is."""
    return Identity(
        owner=key.owner,
        scope=next(scope for scope in SCOPES if scope == key.scope),
        key=key.id,
        upstream_key=key.upstream_key,
        brings_upstream_key=bool(key.brings_upstream_key),
        limits=Limits(key.turns_per_minute, key.turns_at_once, key.tokens_per_day),
    )


@asynccontextmanager
async def open_keyring(path: str, now: Callable[[], float]) -> AsyncIterator[Keyring]:
    """The keys of a file, which is created if it isn't there, for as long as the block lasts.

    Raises:
        ConfigError: the file can't be used.
        StoreError: it can't be read.

    Cancellation: the file is closed first.
    """
    limiter = trio.CapacityLimiter(1)
    keyring = Keyring(await run_in_thread(partial(open_keys, path), limiter=limiter), now)
    try:
        async with open_inner_nursery() as nursery:
            await keyring.refresh()
            nursery.start_soon(keyring.run)
            try:
                yield keyring
            finally:
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_GRACE):
            await keyring.close()
