"""How a batch is committed, and what is done when nobody knows whether it was.

Each transaction adds a row with a random id of its own to ``batch``. If the connection breaks, the same
transaction is run again with the same id. If the first one was committed, or still is about to be, the id's
unique key says so: the insert waits for it, and fails. Only looking for the rows would not do: the server may
commit after it has been asked.
"""

from __future__ import annotations

import math
import secrets
import time
from random import random
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from agentic_trio.store.contract import Announcement, DatabaseDown, Ending, StoreError
from agentic_trio.store.postgres import batch as turns
from agentic_trio.store.postgres import removal
from agentic_trio.store.postgres.connecting import connect, cut, is_lost, store_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentic_trio.store.group_commit import Unit
    from agentic_trio.store.postgres.connecting import Database

AGAIN = 5
"""How often a transaction that met another one is run again."""

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
"""Seconds between two attempts to find out whether a batch was committed, without the jitter."""

STUCK = 5.0
"""Seconds that a batch may take before further writes are refused at once."""

_MET_ANOTHER = (errors.SerializationFailure, errors.DeadlockDetected)

_SET = (
    "SELECT set_config('synchronous_commit', 'off', true)"
    " WHERE NOT %(durable)s AND current_setting('synchronous_commit') <> 'off'"
)
_FENCE = "SELECT holder FROM gateway FOR SHARE"
_CLAIM = "INSERT INTO batch (id) VALUES (%(id)s)"
_TIDY = "DELETE FROM batch WHERE id = %(id)s"


class Replaced(DatabaseDown):
    """Another gateway has taken the database over: nothing may be written by this one."""

    def __init__(self, reason: str = "another gateway has taken the database over") -> None:
        super().__init__(reason)


class Committer:
    """Commits batches on a connection of its own, which it opens again when it is lost.

    Attributes:
        closing: whether a doubtful batch is given up instead of being tried again.

    Args:
        url: the database's.
        holder: names this gateway in the table ``gateway``; a batch is refused once that names another.
    """

    def __init__(self, url: str, holder: bytes) -> None:
        self._url = url
        self._holder = holder
        self._connection: Database | None = None
        self._last = b""
        self._doubtful = False
        self._began = math.inf
        self.closing = False

    def commit(self, batch: list[Unit]) -> None:
        """Commit a batch; each unit gets its value or its error.

        Raises:
            StoreError: all of them failed.
        """
        self._began = time.monotonic()
        try:
            self._commit(batch)
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError):
                raise store_error(error) from error
            self._commit_alone(batch, error)
        finally:
            self._began = math.inf

    @property
    def stuck(self) -> bool:
        """Whether the batch that is being written has taken so long that another one needn't be tried."""
        return time.monotonic() >= self._began + STUCK

    def _commit_alone(self, batch: list[Unit], error: psycopg.Error) -> None:
        """A statement failed, and nobody knows whose: only that unit is to fail."""
        if len(batch) == 1:
            batch[0].error = store_error(error)
            return
        for unit in batch:
            unit.value = unit.error = None
            try:
                self._commit([unit])
            except psycopg.Error as own:
                unit.error = store_error(own)

    def _commit(self, batch: Sequence[Unit]) -> None:
        token = secrets.token_bytes(16)
        met = 0
        self._doubtful = False
        pause = FIRST_PAUSE
        reconnected = False
        while True:
            try:
                self._transact(self._connected(), batch, token)
            except _MET_ANOTHER:
                met += 1
                if met > AGAIN:
                    raise
            except errors.UniqueViolation as error:
                # With the same id in ``batch``, an earlier attempt was committed.
                if not self._doubtful or error.diag.constraint_name != "batch_pkey":
                    raise
                break
            except (psycopg.OperationalError, psycopg.InterfaceError):
                was_open = self._connection is not None
                self.disconnect()
                if self.closing or not (self._doubtful or (was_open and not reconnected)):
                    raise
                # A connection that was idle may have been closed meanwhile: that is tried again once.
                reconnected = True
                if self._doubtful:
                    time.sleep(pause * (1 + random()))
                    pause = min(2 * pause, LONGEST_PAUSE)
            else:
                break
        self._last = token
        self._doubtful = False

    def _send_commit(self, db: Database) -> None:
        # From here on it may be committed, whatever becomes of the connection.
        self._doubtful = True
        # Not commit(), which would wait here: in a pipeline it goes out with the statements before it.
        db.execute("COMMIT")

    def _connected(self) -> Database:
        if self._connection is None or is_lost(self._connection):
            self.disconnect()
            self._connection = connect(self._url)
        return self._connection

    def disconnect(self) -> None:
        """Close the connection; the next batch opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def cut(self) -> None:
        """Make a thread that waits for the database fail. The outcome of its batch stays unknown."""
        self.closing = True
        if self._connection is not None:
            cut(self._connection)

    def _transact(self, db: Database, batch: Sequence[Unit], token: bytes) -> None:
        try:
            writes = self._write_turns(db, batch, token)
            for thread in writes.revived:
                removal.revive(db, thread)
            for unit in batch:
                if not isinstance(unit.work, Announcement | Ending):
                    _attempt(db, unit)
            self._send_commit(db)
        except BaseException:
            if not is_lost(db):
                db.rollback()
            raise

    def _write_turns(self, db: Database, batch: Sequence[Unit], token: bytes) -> turns.Writes:
        """Look up and decide in one round trip, write in another, which the commit joins if it can."""
        mine = [unit for unit in batch if isinstance(unit.work, Announcement | Ending)]
        writes = turns.Writes()
        with db.pipeline():
            db.execute(_SET, {"durable": any(unit.durable for unit in batch)})
            fence = db.execute(_FENCE)
            db.execute(_TIDY, {"id": self._last})
            db.execute(_CLAIM, {"id": token})
            facts = turns.look_up(db, [unit.work for unit in mine])
            if fence.fetchone() != (self._holder,):
                raise Replaced
            for unit in mine:
                _decide(facts, writes, unit)
            turns.write(db, facts, writes)
            if len(mine) == len(batch) and not writes.revived:
                self._send_commit(db)
        return writes


def _decide(facts: turns.Facts, writes: turns.Writes, unit: Unit) -> None:
    """Decide what a turn writes. A refusal is its own, and leaves nothing in ``writes``."""
    unit.value = unit.error = None
    decide: Callable[..., None] = turns.announce if isinstance(unit.work, Announcement) else turns.end
    try:
        decide(facts, writes, unit.work)
    except Exception as error:
        unit.error = error


def _attempt(db: Database, unit: Unit) -> None:
    """Run a unit in a savepoint; what it raises is its own, unless the connection is gone."""
    unit.value = unit.error = None
    try:
        with db.transaction():
            unit.value = unit.work(db)
    except _MET_ANOTHER:
        raise
    except psycopg.Error as error:
        if is_lost(db):
            raise
        unit.error = store_error(error)
    except StoreError:
        raise
    except Exception as error:
        unit.error = error
