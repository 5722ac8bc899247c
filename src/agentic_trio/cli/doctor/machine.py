"""The machine that the gateway runs on: disk, clock, permissions, limits."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import time
from typing import TYPE_CHECKING

from agentic_trio.cli.doctor.database_health import database_file
from agentic_trio.cli.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentic_trio.config import Config

LEAST_FREE = 100 * 1024 * 1024
LITTLE_FREE = 1024 * 1024 * 1024
"""Bytes that are free on the database's disk, below which that is a problem, or a warning."""

SPARE_FILES = 200
"""Descriptors that a gateway uses beside those of its clients and their calls."""

BUILT = 1_735_689_600
"""Unix seconds, 2025-01-01: no clock that is right shows an earlier time."""

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"})


def examine_disk(config: Config) -> Iterator[Finding]:
    """Look at the file system that the database is on."""
    directory = _directory(config)
    if directory is None:
        return
    free = shutil.disk_usage(directory).free
    says = f"{free >> 20} MiB are free at {directory}."
    advice = "Make room: without it turns are refused. `agentic-trio db prune` makes the database smaller."
    if free < LEAST_FREE:
        yield problem("disk", says, advice)
    elif free < LITTLE_FREE:
        yield warning("disk", says, advice)
    else:
        yield ok("disk", says)
    kind = _file_system(directory)
    if kind in _NETWORK:
        yield problem(
            "disk",
            f"{directory} is on a network file system ({kind}), whose locks SQLite can't rely on.",
            "Put the database on a local disk (db_url).",
        )


def _directory(config: Config) -> str | None:
    path = database_file(config)
    directory = None if path is None else os.path.dirname(path)
    return directory if directory is not None and os.path.isdir(directory) else None


def _file_system(directory: str) -> str:
    """The kind of file system that a directory is on; empty if it can't be known."""
    try:
        with open("/proc/mounts", encoding="utf-8", errors="replace") as mounts:
            rows = [line.split()[1:3] for line in mounts]
    except OSError:
        return ""
    path = os.path.realpath(directory)
    above = [(point, kind) for point, kind in rows if f"{path}/".startswith(f"{point.rstrip('/')}/")]
    return max(above, key=lambda row: len(row[0]), default=("", ""))[1]


def examine_clock(config: Config) -> Iterator[Finding]:
    """Look whether the clock can be right. The model server's is compared later."""
    if time.time() < BUILT:
        now = time.strftime("%Y-%m-%d", time.gmtime())
        yield problem("clock", f"The clock says {now}.", "Set it: ids, expiry and retention need it.")


def examine_permissions(config: Config) -> Iterator[Finding]:
    """Look who may read what is secret, and as whom the gateway runs."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        yield warning("permissions", "This is root.", "Run the gateway as a user of its own.")
    open_to_others = [name for name in _private_files(config) if _others_may_read(name)]
    for name in open_to_others:
        yield warning("permissions", f"Others may read or write {name}.", f"chmod 600 {name}")
    if not open_to_others:
        yield ok("permissions", "No file with secrets can be read by others.")


def _private_files(config: Config) -> list[str]:
    names = [config.keyfile, config.keys_file, config.seal_keys_file]
    files = [source.name for source in map(config.source_of, config.found) if source.kind == "file"]
    holds_secret = any(config.found[name].source.kind == "file" for name in _secrets(config))
    names += files[:1] if holds_secret else []
    variables = [config.source_of(name).name for name in _secrets(config)]
    names += [os.environ.get(name) for name in variables if name.endswith("_FILE")]
    path = database_file(config)
    if path is not None:
        names += [path + suffix for suffix in ("", "-wal", "-shm", ".keys", ".backups")]
    return [name for name in names if name and os.path.isfile(name)]


def _secrets(config: Config) -> list[str]:
    from agentic_trio.config import SETTINGS

    return [name for name in config.found if SETTINGS[name].secret]


def _others_may_read(name: str) -> bool:
    return bool(stat.S_IMODE(os.stat(name).st_mode) & 0o077)


def examine_limits(config: Config) -> Iterator[Finding]:
    """Look whether as many files may be open as clients may connect."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.max_connections + config.max_concurrent_requests + SPARE_FILES
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        yield warning(
            "limits",
            f"A process may open {allowed} files; {needed} may be needed (max_connections).",
            f"Raise it (ulimit -n {needed}; LimitNOFILE={needed} in a systemd unit), or lower the settings.",
        )
    else:
        yield ok("limits", "As many files may be open as are needed.")
