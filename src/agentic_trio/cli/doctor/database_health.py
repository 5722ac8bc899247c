"""The database: whether it can be used, is whole, and is backed up."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from agentic_trio.cli.doctor.findings import Finding, ok, problem, warning
from agentic_trio.config import SQLITE
from agentic_trio.errors import ConfigError
from agentic_trio.store import files, inspection, schema
from agentic_trio.store.backup import backups_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentic_trio.config import Config

CHECK = "store"

OLD_BACKUP = 7 * 86_400
"""Seconds after which a backup is old."""


def database_file(config: Config) -> str | None:
    """The database's file, absolute; None if it is none: in memory, or a server's."""
    try:
        path = config.database_path
    except ConfigError:
        return None
    return None if path == schema.MEMORY else schema.resolve(path)


def examine_database(config: Config) -> Iterator[Finding]:
    """Look at the database as ``agentic-trio db check`` does, also while a gateway uses it."""
    path = database_file(config)
    if path is None and config.db_url.startswith(SQLITE):
        yield warning(CHECK, "Nothing is kept after the end: the database is in memory.", "Set db_url.")
        return
    if path is None:
        yield ok(CHECK, "The database is a server's, which is not looked at here.")
        return
    try:
        schema.check_file(path)
        if not os.path.exists(path):
            yield ok(CHECK, f"There is no database at {path} yet: the gateway makes one.")
            return
        yield from _examine_file(path)
    except ConfigError as error:
        yield problem(CHECK, f"The database can't be used: {error}.", "Mend it, or set another db_url.")


def _examine_file(path: str) -> Iterator[Finding]:
    problems = inspection.check(path, progress=lambda done, whole: None, quick=True)
    for line in problems:
        advice = "Stop the gateway, and restore a backup: `agentic-trio db restore`."
        yield problem(CHECK, f"The database is damaged: {line}.", advice)
    found = inspection.stats(path, progress=lambda done, whole: None)
    process = files.holder_of(path)
    use = "no gateway uses it" if process is None else f"it is in use by process {process}"
    if not problems:
        says = f"{path} is whole: {found['responses']} responses, {found['size'] >> 20} MiB, and {use}"
        yield ok(CHECK, f"{says} (SQLite {found['sqlite']}).")
    if found["schema"] < schema.VERSION:
        says = f"The database is of schema {found['schema']}, and this version has {schema.VERSION}."
        yield warning(CHECK, says, "None: the gateway backs it up and migrates it.")
    yield from _examine_backups(path)


def _examine_backups(path: str) -> Iterator[Finding]:
    backups = backups_of(path)
    age = time.time() - backups[-1]["made_at"] if backups else None
    if age is not None and age < OLD_BACKUP:
        yield ok(CHECK, f"The last backup is {backups[-1]['path']}.")
        return
    says = "There is no backup." if age is None else f"The last backup is {age // 86_400:.0f} days old."
    yield warning(CHECK, says, "`agentic-trio db backup FILE` makes one, also while the gateway runs.")
