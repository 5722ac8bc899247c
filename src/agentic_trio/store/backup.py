"""A copy of a database, whole and of one moment, also while a gateway writes to it."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.store import schema
from agentic_trio.store.failures import store_error
from agentic_trio.store.files import PRIVATE, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

PAGES = 1024
"""Pages that are copied between two calls of ``progress``."""

logger = logging.getLogger(__name__)

BUSY_TIMEOUT = 5.0

LIST = ".backups"
"""What the name of the file that lists a database's backups adds to the database's."""

_LONGEST_LIST = 1024 * 1024


def backup(path: str, target: str, *, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy the database at ``path`` to ``target``, a new file that only its owner may read.

    Takes no lock of the gateway's and holds up nothing that it does: what it writes meanwhile is not in
    the copy. A plain copy of the file would lack what is still in its log. Blocks until done; on failure
    nothing is left at ``target``. Not to be called in a process that has the database open: closing a
    file that was only looked at drops the locks that SQLite has on it in the same process.

    Args:
        path: the database, in use or not.
        target: must not exist.
        progress: called with the pages that remain and all of them.

    Raises:
        ConfigError: ``path`` isn't a database of ours, ``target`` exists or can't be written, or the
            database can't be read.
    """
    path = schema.resolve(path)
    schema.check_file(path)
    schema.check_exists(path)
    _create(target)
    try:
        _copy(path, target, progress)
    except sqlite3.Error as error:
        os.unlink(target)
        raise refuse(path, f"could not be copied: {store_error(error)}") from error
    except BaseException:
        os.unlink(target)
        raise


def back_up_before_migration(path: str) -> str | None:
    """Copy the database at ``path``, which this process has locked and not opened, if it is to be migrated.

    Returns:
        The copy's path; None if there is nothing to migrate.

    Raises:
        ConfigError: it can't be copied.
    """
    version = schema.version_in_header(path)
    if not 0 < version < schema.VERSION:
        return None
    target = unused_name(f"{path}.schema-{version}")
    _create(target)
    try:
        _copy(path, target, None)
    except BaseException as error:
        os.unlink(target)
        if isinstance(error, sqlite3.Error):
            raise refuse(path, f"can't be backed up before its migration: {store_error(error)}") from error
        raise
    note_backup(path, target)
    logger.info("the database is backed up to %s before it is migrated from schema %d", target, version)
    return target


def unused_name(name: str) -> str:
    """The name, or the first free one of those that follow it with a number."""
    found, number = name, 1
    while os.path.lexists(found):
        number += 1
        found = f"{name}-{number}"
    return found


def note_backup(path: str, target: str) -> None:
    """Add a copy to the list of a database's backups, which an erasure names: it has what is erased.

    Raises:
        ConfigError: the list can't be written.
    """
    name = schema.resolve(path) + LIST
    line = msgspec.json.encode({"path": os.path.abspath(target), "made_at": int(time.time())}) + b"\n"
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
        with open(descriptor, "ab") as file:
            file.write(line)
    except OSError as error:
        raise refuse(name, error.strerror or "can't be written") from error


def backups_of(path: str) -> list[dict[str, Any]]:
    """The copies of a database that this program made and that are still where they were made.

    Each has its ``path`` and ``made_at``, in Unix seconds; the oldest comes first.
    """
    try:
        with open(schema.resolve(path) + LIST, "rb") as file:
            lines = file.read(_LONGEST_LIST).splitlines()
    except OSError:
        return []
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        with suppress(msgspec.DecodeError):
            each = _entry.decode(line)
            found[each.path] = {"path": each.path, "made_at": each.made_at}
    return [each for each in found.values() if os.path.exists(each["path"])]


class _Entry(msgspec.Struct):
    path: str
    made_at: int


_entry = msgspec.json.Decoder(_Entry)


def _create(target: str) -> None:
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
        os.chmod(target, PRIVATE)
    except OSError as error:
        raise refuse(target, error.strerror or "can't be created") from error


def _copy(path: str, target: str, progress: Callable[[int, int], None] | None) -> None:
    def report(status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(remaining, total)

    with (
        closing(schema.connect(path, uri=False, timeout=BUSY_TIMEOUT, read_only=True)) as source,
        closing(schema.connect(target, uri=False, timeout=BUSY_TIMEOUT)) as copy,
    ):
        # One snapshot for all of it: without one, the copy begins anew whenever the gateway writes.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        source.backup(copy, pages=PAGES, progress=report)
        source.execute("ROLLBACK")
        # The copy is one file: it has the source's mode, but no log.
        copy.execute("PRAGMA journal_mode = DELETE").fetchone()
