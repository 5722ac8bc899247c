"""The database file: what is in it, whose it is, and how it is brought up to date."""

from __future__ import annotations

import os
import sqlite3
import uuid
from typing import TYPE_CHECKING

from agentic_trio.store import files
from agentic_trio.store.files import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY = ":memory:"

APPLICATION_ID = 1097290866
"""``AgTr``, at offset 68 of the file's header: marks a SQLite file as ours."""

MARK = f"PRAGMA application_id = {APPLICATION_ID}"
"""Writes the mark. Repeating it changes nothing, and is a real write all the same."""

PAGE_SIZE = 8192
"""A page holds 7 items of 1 KB; one of 4096 holds 3: 1.9 bytes of file for each of an item, not 2.1."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """
        CREATE TABLE thread (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            owner TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('chain', 'conversation')),
            parent INTEGER,
            fork INTEGER NOT NULL,
            head INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX thread_parent ON thread (parent) WHERE parent IS NOT NULL",
        """
        CREATE TABLE entry (
            key INTEGER PRIMARY KEY,
            item TEXT NOT NULL,
            issued INTEGER NOT NULL,
            dropped INTEGER,
            data TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX entry_item ON entry (item, issued)",
        """
        CREATE TABLE response (
            key INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            owner TEXT NOT NULL,
            thread INTEGER,
            base INTEGER,
            first INTEGER,
            last INTEGER,
            conversation INTEGER,
            status TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            open TEXT,
            pending TEXT,
            body TEXT NOT NULL,
            fingerprint BLOB,
            UNIQUE (owner, id)
        ) STRICT
        """,
        """
        CREATE TABLE event (
            response INTEGER PRIMARY KEY,
            created_at INTEGER NOT NULL,
            data BLOB NOT NULL
        ) STRICT
        """,
        "CREATE INDEX response_owner ON response (owner, key)",
        "CREATE INDEX response_thread ON response (thread)",
        "CREATE INDEX response_pending ON response (key) WHERE pending IS NOT NULL",
        """
        CREATE TABLE conversation (
            thread INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            owner TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            open TEXT,
            metadata TEXT NOT NULL,
            UNIQUE (owner, id)
        ) STRICT
        """,
        "CREATE INDEX conversation_owner ON conversation (owner, thread)",
        "PRAGMA user_version = 1",
    ),
    (
        "ALTER TABLE response ADD COLUMN idempotency_key BLOB",
        """
        CREATE UNIQUE INDEX response_idempotency_key ON response (owner, idempotency_key)
            WHERE idempotency_key IS NOT NULL
        """,
        "DROP INDEX response_thread",
        "CREATE INDEX response_thread ON response (thread, last, first)",
        "ALTER TABLE thread ADD COLUMN living INTEGER NOT NULL DEFAULT 1",
        "DROP INDEX thread_parent",
        "CREATE INDEX thread_parent ON thread (parent, living, fork) WHERE parent IS NOT NULL",
        "CREATE INDEX entry_dropped ON entry (key) WHERE dropped IS NOT NULL",
        """
        CREATE TABLE tombstone (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            thread INTEGER NOT NULL,
            position INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX tombstone_thread ON tombstone (thread, position)",
        # Version 1 didn't record what had been deleted, so every thread is looked at once.
        "INSERT INTO tombstone (thread, position) SELECT id, head FROM thread",
        """
        WITH RECURSIVE alive (id) AS (
            SELECT thread FROM response WHERE thread IS NOT NULL
            UNION SELECT thread FROM conversation
            UNION SELECT parent FROM thread JOIN alive ON thread.id = alive.id WHERE parent IS NOT NULL
        )
        UPDATE thread SET living = 0 WHERE id NOT IN (SELECT id FROM alive)
        """,
        "CREATE TABLE probe (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT",
        "PRAGMA user_version = 2",
    ),
    (
        "ALTER TABLE response ADD COLUMN made TEXT",
        "CREATE TABLE approval (digest BLOB PRIMARY KEY) STRICT, WITHOUT ROWID",
        "ALTER TABLE response ADD COLUMN request_id TEXT",
        "ALTER TABLE response ADD COLUMN route TEXT",
        "ALTER TABLE response ADD COLUMN model TEXT",
        "ALTER TABLE response ADD COLUMN code TEXT",
        "ALTER TABLE response ADD COLUMN history_us INTEGER",
        "ALTER TABLE response ADD COLUMN head_us INTEGER",
        "ALTER TABLE response ADD COLUMN first_event_us INTEGER",
        "ALTER TABLE response ADD COLUMN upstream_us INTEGER",
        "ALTER TABLE response ADD COLUMN total_us INTEGER",
        "ALTER TABLE response ADD COLUMN commit_us INTEGER",
        "ALTER TABLE response ADD COLUMN input_tokens INTEGER",
        "ALTER TABLE response ADD COLUMN output_tokens INTEGER",
        "ALTER TABLE response ADD COLUMN cached_tokens INTEGER",
        "ALTER TABLE response ADD COLUMN retries INTEGER",
        "CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT",
        """
        CREATE INDEX entry_compaction ON entry (key)
            WHERE issued = 1 AND item GLOB 'cmp_*'
        """,
        # When a conversation was used last isn't known: no retention erases it before its time.
        "ALTER TABLE conversation ADD COLUMN used_at INTEGER NOT NULL DEFAULT 0",
        "UPDATE conversation SET used_at = CAST(strftime('%s', 'now') AS INTEGER)",
        "CREATE INDEX conversation_used ON conversation (used_at)",
        "CREATE INDEX response_created ON response (created_at)",
        "PRAGMA user_version = 3",
    ),
)
"""The statements that lead from each version to the next; the last of each sets the version."""

VERSION = len(MIGRATIONS)

_MAGIC = b"SQLite format 3\0"
_HEADER = 108
_LEAF = 0x0D


def resolve(path: str) -> str:
    """The file behind a path, absolute: two names of one file must lead to one lock."""
    return path if path == MEMORY else os.path.realpath(path)


def check_exists(path: str) -> None:
    """Raise ConfigError if there is no database at ``path``."""
    if not os.path.exists(resolve(path)):
        raise refuse(path, "doesn't exist")


def check_file(path: str) -> None:
    """Refuse a file that isn't ours, without opening it in SQLite, which may write to it.

    Raises:
        ConfigError: the file or its directory can't be used, or the file is another program's, or was
            written by a newer version.
    """
    files.check(path)
    if os.path.exists(path):
        _check_header(path)


def _check_header(path: str) -> None:
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER)
    except OSError as error:
        raise refuse(path, error.strerror or "can't be read") from error
    if not header:
        return
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        raise refuse(path, "is not a SQLite database")
    application = int.from_bytes(header[68:72], "big")
    version = int.from_bytes(header[60:64], "big")
    if application != APPLICATION_ID and (application or version or not _is_empty(path, header)):
        raise refuse(path, "is another program's database")
    _check_version(path, version)


def version_in_header(path: str) -> int:
    """The schema's version, as the file's header has it; 0 for a new file."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(_HEADER)[60:64], "big")


def _is_empty(path: str, header: bytes) -> bool:
    """Whether it has no table: its schema's root page, at offset 100, is empty, and so is its log."""
    return (
        header[100] == _LEAF
        and header[103:105] == b"\0\0"
        and not any(
            os.path.exists(path + suffix) and os.path.getsize(path + suffix)
            for suffix in ("-wal", "-journal")
        )
    )


def _check_version(path: str, version: int) -> None:
    if version > VERSION:
        raise refuse(path, f"was written by a newer version (schema {version}, this one knows {VERSION})")


def connect(target: str, *, uri: bool, timeout: float, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode whose text is bytes: no item is decoded on its way through."""
    connection = sqlite3.connect(
        target, timeout=timeout, isolation_level=None, check_same_thread=False, uri=uri
    )
    connection.text_factory = bytes
    if read_only:
        connection.execute("PRAGMA query_only = 1")
    return connection


def memory_uri() -> str:
    """A database in memory that several connections of this process may open."""
    return f"file:/{uuid.uuid4().hex}?vfs=memdb"


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Create or migrate the database, and set it up for the writer.

    Raises:
        ConfigError: it is another program's, newer, or can't be kept in WAL mode.
        sqlite3.Error: it can't be read or written.
    """
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    version = _identify(connection, path)
    if version < VERSION:
        _migrate(connection, version)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != b"wal" and path != MEMORY:
        raise refuse(path, "its file system can't hold a write-ahead log")
    # Otherwise a statement's journal is a file, made and removed in each transaction.
    connection.execute("PRAGMA temp_store = MEMORY")
    # Deleted text is overwritten, so that it is not read from the free parts of the file.
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    # On macOS a plain fsync leaves the data in the drive's cache.
    connection.execute("PRAGMA fullfsync = 1")
    connection.execute("PRAGMA journal_size_limit = 67108864")


def _identify(connection: sqlite3.Connection, path: str) -> int:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if application or version or tables:
            raise refuse(path, "is another program's database")
    _check_version(path, version)
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    # A new file gets its mark before it has a log, so that its header alone shows whose it is.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(MARK)
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    # An older gateway reads the version in the file itself, before SQLite would look into the log.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
