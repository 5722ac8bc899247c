"""Connections that read: a few, each opened when it is first needed and again when it is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import psycopg
import trio

from agentic_trio.store.contract import DatabaseDown, StoreError
from agentic_trio.store.group_commit import run_in_thread
from agentic_trio.store.outage import Outage
from agentic_trio.store.postgres.connecting import connect, cut, is_lost, store_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.store.postgres.connecting import Database

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
"""Connections that read. Others wait."""

READ_TIMEOUT = 15.0
"""Seconds that a read may take. Its connection is cut then."""


class Readers:
    """Each read is one hop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._limiter = trio.CapacityLimiter(READERS)
        self._idle: list[Database] = []
        self._busy: dict[Database, float] = {}
        self._outage = Outage("be read")
        self._closed = False

    async def read(self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``work`` with a connection, again if that turns out to be lost.

        Raises:
            StoreError: the database failed, or the store is closed.

        Cancellation: a read that has begun is waited for, ``READ_TIMEOUT`` at most.
        """
        if self._closed:
            raise StoreError("the store is closed")
        try:
            result = await run_in_thread(
                lambda: self._read(lambda db: work(db, *args, **kwargs)), limiter=self._limiter
            )
        except StoreError as error:
            if not self._closed:
                self._outage.failed(error)
            raise
        self._outage.worked()
        return result

    async def read_at_once(
        self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``read``, for work of several statements: they see the database as of one moment."""

        def in_transaction(db: Database) -> T:
            with db.transaction():
                return work(db, *args, **kwargs)

        return await self.read(in_transaction)

    def _read(self, work: Callable[[Database], T]) -> T:
        try:
            while self._idle:
                try:
                    return self._run(self._idle.pop(), work)
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    if self._closed:
                        raise
                    # It was closed while it was idle, perhaps: so may the others have been.
            return self._run(connect(self._url, read_only=True), work)
        except psycopg.Error as error:
            raise store_error(error) from error

    def _run(self, db: Database, work: Callable[[Database], T]) -> T:
        # It may have been closed while this read waited for its turn.
        if self._closed:
            db.close()
            raise StoreError("the store is closed")
        self._busy[db] = began = time.monotonic()
        try:
            return work(db)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            db.close()
            if time.monotonic() >= began + READ_TIMEOUT:
                raise DatabaseDown("the database doesn't answer") from None
            raise
        finally:
            del self._busy[db]
            if not is_lost(db):
                self._idle.append(db)

    async def watch(self) -> None:
        """Cut reads off that take too long. Cancellation: stops watching."""
        while True:
            await trio.sleep(READ_TIMEOUT / 10)
            for db, began in list(self._busy.items()):
                if time.monotonic() >= began + READ_TIMEOUT:
                    cut(db)

    async def aclose(self) -> None:
        """Fail later reads, cut off those that have begun, and close the connections."""
        self._closed = True
        for db in list(self._busy):
            cut(db)
        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(self._take_place)
        while self._idle:
            self._idle.pop().close()

    async def _take_place(self) -> None:
        await self._limiter.acquire_on_behalf_of(object())
