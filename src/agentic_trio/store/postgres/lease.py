"""Which gateway has the database: a row with a counter that its holder raises every second.

A gateway that starts watches the counter by its own clock. While it grows the database is in use; when it has
stood still for ``DEAD_AFTER`` the holder is taken for dead, and the row names the new one. Each batch of
writes reads the row under a lock, so a holder that was only paused can't write any more. No lock of a session
and no clock of another machine decides anything.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import psycopg
import trio

from agentic_trio.store.group_commit import run_in_thread
from agentic_trio.store.postgres.connecting import Unusable, connect, is_lost, translated

if TYPE_CHECKING:
    from agentic_trio.store.postgres.connecting import Database

logger = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two beats."""

LOOK = 0.25
"""Seconds between two looks at another's counter."""

DEAD_AFTER = 5.0
"""Seconds without a beat after which a holder is dead."""

_INSERT = "INSERT INTO gateway (holder, beats) VALUES (%(holder)s, 0) ON CONFLICT DO NOTHING"
_READ = "SELECT holder, beats FROM gateway"
_TAKE = """
    UPDATE gateway SET holder = %(holder)s, beats = beats + 1
    WHERE holder = %(dead)s AND beats = %(beats)s
"""
_BEAT = "UPDATE gateway SET beats = beats + 1 WHERE holder = %(holder)s"
_GIVE_BACK = "DELETE FROM gateway WHERE holder = %(holder)s"


def take(db: Database, holder: bytes) -> None:
    """Become the holder, at once or when the last one has been seen to be dead.

    Raises:
        Unusable: another gateway uses the database.
    """
    seen = None
    until = time.monotonic() + DEAD_AFTER
    while True:
        if db.execute(_INSERT, {"holder": holder}).rowcount == 1:
            db.commit()
            return
        found = db.execute(_READ).fetchone()
        db.commit()
        if seen is None:
            logger.info("another gateway has used this database: waiting to see whether it still does")
        elif found is not None and found != seen:
            raise Unusable("it is in use by another gateway")
        seen = found
        if found is not None and time.monotonic() >= until:
            values = {"holder": holder, "dead": found[0], "beats": found[1]}
            if db.execute(_TAKE, values).rowcount == 1:
                db.commit()
                return
            raise Unusable("it is in use by another gateway")
        time.sleep(LOOK)


async def hold(url: str, holder: bytes) -> None:
    """Beat, until cancelled. What can't be reached is tried again; a holder that was replaced says so once.

    Cancellation: waits for a beat that has begun.
    """
    limiter = trio.CapacityLimiter(1)
    pulse = _Pulse(url, holder)
    try:
        while True:
            try:
                alive = await run_in_thread(pulse.beat, limiter=limiter)
            except psycopg.Error:
                # The writer, whose failures are told to clients, logs the outage.
                alive = True
            if not alive:
                logger.critical("another gateway has taken the database over: this one stores nothing more")
                return
            await trio.sleep(BEAT)
    finally:
        pulse.close()


class _Pulse:
    """A connection of its own, so that a writer that waits for a standby doesn't stop the beats."""

    def __init__(self, url: str, holder: bytes) -> None:
        self._url = url
        self._holder = holder
        self._connection: Database | None = None

    def beat(self) -> bool:
        """Raise the counter; False if another gateway is the holder."""
        if self._connection is None or is_lost(self._connection):
            self.close()
            self._connection = connect(self._url)
            self._connection.autocommit = True
        return self._connection.execute(_BEAT, {"holder": self._holder}).rowcount == 1

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def give_back(url: str, holder: bytes) -> None:
    """Leave the database to whoever comes next, who then needn't wait. Raises StoreError."""
    with translated(), connect(url) as db:
        db.execute(_GIVE_BACK, {"holder": holder})
