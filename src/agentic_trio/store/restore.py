"""Puts a backup in the place of a database."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

from agentic_trio.errors import ConfigError
from agentic_trio.store import files, schema
from agentic_trio.store.backup import BUSY_TIMEOUT, backup, note_backup, unused_name
from agentic_trio.store.failures import store_error
from agentic_trio.store.files import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

_LOGS = ("-wal", "-shm", "-journal")


def restore(source: str, path: str, *, progress: Callable[[int, int], None] | None = None) -> str | None:
    """Put a copy of the database at ``source`` at ``path``, which no gateway may have open.

    The database that was there is kept under another name. Blocks until done. If it fails, or the process
    dies, what was there is still there.

    Args:
        source: a backup, or any database of ours.
        path: where it is wanted.
        progress: called with the pages that remain and all of them.

    Returns:
        Where the database that was there is now; None if there was none.

    Raises:
        ConfigError: ``source`` isn't a whole database of ours, or ``path`` is in use or can't be written.
    """
    path = schema.resolve(path)
    schema.check_exists(source)
    schema.check_file(source)
    if os.path.exists(path) and os.path.samefile(source, path):
        raise refuse(path, "is the backup itself")
    files.check(path)
    with ExitStack() as stack:
        files.lock_alone(path, stack)
        if (process := files.locker_of(path)) is not None:
            raise ConfigError(f"the database {path} is in use by process {process}")
        try:
            kept = _replace(source, path, progress)
        except OSError as error:
            raise refuse(path, error.strerror or "can't be written") from error
    if kept is not None:
        note_backup(path, kept)
    return kept


def _replace(source: str, path: str, progress: Callable[[int, int], None] | None) -> str | None:
    """Put a whole copy at ``path``; returns where that which was there is."""
    made = f"{path}.restoring"
    # What a restoration before this one left when it was killed.
    for suffix in ("", *_LOGS):
        with suppress(FileNotFoundError):
            os.unlink(made + suffix)
    try:
        backup(source, made, progress=progress)
        _check(made)
        kept = _set_aside(path)
        os.replace(made, path)
        _sync_directory(path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(made)
    return kept


def _check(made: str) -> None:
    """Refuse a copy that is damaged."""
    try:
        with closing(schema.connect(made, uri=False, timeout=BUSY_TIMEOUT, read_only=True)) as connection:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()[0].decode(errors="replace")
    except sqlite3.Error as error:
        raise refuse(made, f"can't be read: {store_error(error)}") from error
    if said != "ok":
        raise refuse(made, f"is damaged: {said}")


def _set_aside(path: str) -> str | None:
    """Give the database that is there a second name, its only one when the first is replaced."""
    if not os.path.exists(path):
        return None
    _move_log_into(path)
    kept = unused_name(path + time.strftime(".before-restore-%Y%m%dT%H%M%SZ", time.gmtime()))
    os.link(path, kept)
    # A log that could not be moved in belongs to the old file, and would be applied to the new one.
    for suffix in _LOGS:
        with suppress(FileNotFoundError):
            os.rename(path + suffix, kept + suffix)
    return kept


def _move_log_into(path: str) -> None:
    """A damaged database keeps its log."""
    with (
        suppress(sqlite3.Error),
        closing(schema.connect(path, uri=False, timeout=BUSY_TIMEOUT)) as connection,
    ):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _sync_directory(path: str) -> None:
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
