"""The keys of a gateway's clients, in a small database beside the one that holds what they say.

It is a file of its own because commands write to it while gateways run: SQLite's rollback journal, which it
uses, is sound with several processes, as the write-ahead log of older versions of SQLite is not. Each change
gets a number, so that a gateway asks for what has changed since, whatever the number of keys.

Keys are known by their SHA-256 alone: they are random, so that no salt or slow hash would add anything.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from agentic_trio.errors import ConfigError
from agentic_trio.store import files
from agentic_trio.store.failures import store_error, translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SUFFIX = ".keys"
"""What the file's name adds to that of the database which it stands beside."""

APPLICATION_ID = 1097290859
"""``AgTk``: marks a SQLite file as one of ours that holds keys."""

VERSION = 1

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another process that is writing."""

_LIMITS = ("turns_per_minute", "turns_at_once", "tokens_per_day")

_SCHEMA = f"""
    CREATE TABLE key (
        id TEXT PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        scope TEXT NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
        created_at INTEGER NOT NULL,
        expires_at INTEGER,
        revoked_at INTEGER,
        last_used_at INTEGER,
        upstream_key TEXT,
        brings_upstream_key INTEGER NOT NULL,
        {" INTEGER, ".join(_LIMITS)} INTEGER,
        change INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX key_change ON key (change);
    CREATE INDEX key_name ON key (name);
    CREATE TABLE owner (
        name TEXT PRIMARY KEY,
        {" INTEGER, ".join(_LIMITS)} INTEGER,
        change INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX owner_change ON owner (change);
    CREATE TABLE usage (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        day INTEGER NOT NULL,
        tokens INTEGER NOT NULL,
        PRIMARY KEY (owner, key, day)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE latest (change INTEGER NOT NULL) STRICT;
    INSERT INTO latest VALUES (0);
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {VERSION};
"""


class KeyRow(NamedTuple):
    """A key as it is stored; times in Unix seconds.

    Attributes:
        id: names the key where the key itself must not be shown.
        digest: its SHA-256.
        last_used_at: the beginning of the hour of its last use; None if it was never used.
        upstream_key: what goes to the model server with its requests; None for the configured key.
        brings_upstream_key: 1 if its clients may bring a credential for the model server.
    """

    id: str
    digest: bytes
    owner: str
    name: str
    scope: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    upstream_key: str | None = None
    brings_upstream_key: int = 0
    turns_per_minute: int | None = None
    turns_at_once: int | None = None
    tokens_per_day: int | None = None


class OwnerRow(NamedTuple):
    """What an owner may use, all of its keys together; None where the settings say."""

    name: str
    turns_per_minute: int | None = None
    turns_at_once: int | None = None
    tokens_per_day: int | None = None


class Usage(NamedTuple):
    """Tokens of one owner's key on one day, counted from 1970-01-01; the key may be empty."""

    owner: str
    key: str
    day: int
    tokens: int


class Changes(NamedTuple):
    """What has changed since some change.

    Attributes:
        latest: the number of the last change.
        whole: whether this is all there is, since another file has taken the place of the one that was read.
    """

    latest: int
    whole: bool
    keys: Sequence[KeyRow]
    owners: Sequence[OwnerRow]


class NoSuchKey(LookupError):
    """No key has this id, nor is it the name of exactly one."""


_KEY_COLUMNS = ", ".join(KeyRow._fields)
_OWNER_COLUMNS = ", ".join(OwnerRow._fields)
_NEXT = "UPDATE latest SET change = change + 1"
_ADD = (
    f"INSERT INTO key ({_KEY_COLUMNS}, change)"
    f" VALUES ({', '.join(f':{name}' for name in KeyRow._fields)}, (SELECT change FROM latest))"
)
_SET_OWNER = (
    f"INSERT OR REPLACE INTO owner ({_OWNER_COLUMNS}, change)"
    f" VALUES ({', '.join(f':{name}' for name in OwnerRow._fields)}, (SELECT change FROM latest))"
)
_END = (
    "UPDATE key SET {column} = :at, change = (SELECT change FROM latest)"
    " WHERE id = :id AND ({column} IS NULL OR {column} > :at)"
)
_FORGET = (
    "UPDATE key SET owner = '', name = '', upstream_key = NULL, revoked_at = coalesce(revoked_at, :at),"
    " change = (SELECT change FROM latest) WHERE owner = :owner"
)
_REVOKE = _END.format(column="revoked_at")
_EXPIRE = _END.format(column="expires_at")


class KeyDatabase:
    """Keys, owners' limits, and what was used of them. Every method blocks, for milliseconds.

    Raises:
        StoreError: by every method: the database can't be read or written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection = _connect(path)
        self._file = os.stat(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, key: KeyRow) -> None:
        """Add a key."""
        with self._change() as db:
            db.execute(_ADD, key._asdict())

    def find(self, id: str) -> KeyRow:
        """The key with this id, or else the only one with this name that was not revoked.

        Raises:
            NoSuchKey: there is none, or several have the name.
        """
        with translated():
            rows = self._keys("id = :id", id=id) or self._keys("name = :id AND revoked_at IS NULL", id=id)
        if len(rows) != 1:
            raise NoSuchKey(id)
        return rows[0]

    def keys(self, owner: str | None = None) -> list[KeyRow]:
        """All keys, oldest first; of one owner if one is named."""
        with translated():
            if owner is None:
                return self._keys("TRUE ORDER BY created_at, id")
            return self._keys("owner = :owner ORDER BY created_at, id", owner=owner)

    def _keys(self, condition: str, **values: object) -> list[KeyRow]:
        rows = self._connection.execute(f"SELECT {_KEY_COLUMNS} FROM key WHERE {condition}", values)
        return [KeyRow(*row) for row in rows]

    def revoke(self, id: str, at: int) -> None:
        """Let a key be worth nothing from now on. One that was revoked already stays as it is."""
        with self._change() as db:
            db.execute(_REVOKE, {"id": id, "at": at})

    def rotate(self, old: str, new: KeyRow, *, until: int, at: int) -> None:
        """Add a key in another's place. The old one is worth something until then, and is revoked if that
        is now."""
        with self._change() as db:
            db.execute(_ADD, new._asdict())
            if until <= at:
                db.execute(_REVOKE, {"id": old, "at": at})
            else:
                db.execute(_EXPIRE, {"id": old, "at": until})

    def owners(self) -> list[OwnerRow]:
        """The owners that have limits of their own, by name."""
        with translated():
            rows = self._connection.execute(f"SELECT {_OWNER_COLUMNS} FROM owner ORDER BY name").fetchall()
        return [OwnerRow(*row) for row in rows]

    def set_owner(self, owner: OwnerRow) -> None:
        """Set what an owner may use."""
        with self._change() as db:
            db.execute(_SET_OWNER, owner._asdict())

    def forget_owner(self, owner: str, at: int) -> int:
        """Revoke an owner's keys and erase whose they were; returns how many there were.

        The rows stay without owner and name, since gateways that run must learn that they are revoked.
        """
        with self._change() as db:
            count = db.execute(_FORGET, {"owner": owner, "at": at}).rowcount
            db.execute("DELETE FROM owner WHERE name = :owner", {"owner": owner})
            db.execute("DELETE FROM usage WHERE owner = :owner", {"owner": owner})
        with translated():
            self._connection.execute("VACUUM")
        return count

    def changes(self, since: int) -> Changes:
        """What has changed after a change; after 0, everything. One statement if nothing has.

        Raises:
            FilesGone: the file was removed.
        """
        whole = self._reopen_if_replaced()
        with translated():
            latest = self._connection.execute("SELECT change FROM latest").fetchone()[0]
            if latest == since and not whole:
                return Changes(since, False, (), ())
            # A file that was put back from a copy is an older one.
            whole = whole or latest < since
            changed = {"since": 0 if whole else since, "latest": latest}
            condition = "change > :since AND change <= :latest"
            keys = self._keys(condition, **changed)
            found = f"SELECT {_OWNER_COLUMNS} FROM owner WHERE {condition}"
            owners = [OwnerRow(*row) for row in self._connection.execute(found, changed)]
            return Changes(latest, whole, keys, owners)

    def _reopen_if_replaced(self) -> bool:
        """Open what has taken the file's place: changes made there would not be seen here."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise files.FilesGone("the file of keys was removed") from error
        if (found.st_dev, found.st_ino) == (self._file.st_dev, self._file.st_ino):
            return False
        try:
            with translated():
                opened = _connect(self._path)
        except ConfigError as error:
            raise files.FilesGone("the file of keys was replaced by another program's") from error
        self._connection.close()
        self._connection, self._file = opened, found
        return True

    def note_use(self, used: Mapping[str, int]) -> None:
        """Record the hours in which keys, by id, were used last."""
        rows = [{"id": id, "at": at} for id, at in used.items()]
        with self._write() as db:
            db.executemany(
                "UPDATE key SET last_used_at = :at"
                " WHERE id = :id AND (last_used_at IS NULL OR last_used_at < :at)",
                rows,
            )

    def usage(self, day: int) -> list[Usage]:
        """What was used on a day."""
        with translated():
            rows = self._connection.execute(
                "SELECT owner, key, day, tokens FROM usage WHERE day = :day", {"day": day}
            ).fetchall()
        return [Usage(*row) for row in rows]

    def add_usage(self, used: Iterable[Usage], *, keep_from: int) -> None:
        """Add to what was used, and forget the days before one."""
        with self._write() as db:
            db.executemany(
                "INSERT INTO usage (owner, key, day, tokens) VALUES (:owner, :key, :day, :tokens)"
                " ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens",
                [each._asdict() for each in used],
            )
            db.execute("DELETE FROM usage WHERE day < :day", {"day": keep_from})

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction that running gateways are to see."""
        with self._write() as db:
            db.execute(_NEXT)
            yield db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        db = self._connection
        with translated():
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")


def open_keys(path: str, *, create: bool = True) -> KeyDatabase:
    """Open the keys in a file, which only its user may read.

    Args:
        path: the file.
        create: whether one is made if there is none.

    Raises:
        ConfigError: the file can't be used, or isn't one of keys.
    """
    path = os.path.realpath(path)
    files.check(path)
    if not create and not os.path.exists(path):
        raise files.refuse(path, "doesn't exist: there are no keys")
    try:
        files.create_private(path)
        database = KeyDatabase(path)
    except OSError as error:
        raise files.refuse(path, error.strerror or "can't be opened") from error
    except sqlite3.Error as error:
        raise files.refuse(path, str(store_error(error))) from error
    return database


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: str) -> None:
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA fullfsync = 1")
    db.execute("PRAGMA secure_delete = ON").fetchall()
    _check(db, path)
    if _version(db) == VERSION:
        return
    # Two processes may be making it.
    db.execute("BEGIN IMMEDIATE")
    try:
        if _version(db) != VERSION:
            for statement in _SCHEMA.split(";")[:-1]:
                db.execute(statement)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def _check(db: sqlite3.Connection, path: str) -> None:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (application or tables):
        raise files.refuse(path, "is not a file of keys")
    if _version(db) > VERSION:
        raise files.refuse(path, "was written by a newer version")
