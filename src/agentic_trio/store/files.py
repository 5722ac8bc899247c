"""The database's files: private to their user, used by one process, and still where they were."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from agentic_trio.errors import ConfigError
from agentic_trio.store.contract import StoreError

if TYPE_CHECKING:
    from contextlib import ExitStack

logger = logging.getLogger(__name__)

PRIVATE = 0o600
"""The mode of every file: what they hold is what users say to a model."""

BESIDE = ("-wal", "-shm", ".lock")

CONTROL = ".control"
"""What the name of the control socket adds to the database's."""

_PID_BYTES = 20


def refuse(path: str, why: str) -> ConfigError:
    """The error that says why a file can't be used."""
    return ConfigError(f"store {path!r}: {why}")


def check(path: str) -> None:
    """Refuse a file that can't be used, without touching it.

    Raises:
        ConfigError: the file or its directory can't be used.
    """
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise refuse(path, "its directory doesn't exist")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise refuse(path, "its directory can't be written to")
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refuse(path, error.strerror or "can't be read") from error
    if not stat.S_ISREG(found.st_mode):
        raise refuse(path, "is a directory" if stat.S_ISDIR(found.st_mode) else "is not a regular file")
    if found.st_nlink > 1:
        # Under another name it would have another log, and each of them would lack what is in the other.
        raise refuse(path, "has another name, too (a hard link)")
    if not os.access(path, os.R_OK | os.W_OK):
        raise refuse(path, "can't be read and written")


def take(path: str, stack: ExitStack) -> None:
    """Create the files that aren't there, make all of them private, and lock them until ``stack`` unwinds.

    SQLite gives a log the mode of its database, so it is enough to create the latter.

    Raises:
        ConfigError: another process uses them, or they can't be created.
    """
    lock = lock_alone(path, stack)
    database = _open(path, "", stack)
    if sys.platform == "linux":
        # The lock file may have been removed, so the database is locked as well. Not elsewhere: there this
        # lock and SQLite's own, which are of another kind, exclude one another.
        _lock(path, database, lock)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    for suffix in ("", *BESIDE):
        _make_private(path + suffix)


def lock_alone(path: str, stack: ExitStack) -> int:
    """Lock the lock file of a database until ``stack`` unwinds; returns its descriptor.

    Raises:
        ConfigError: another process has it.
    """
    lock = _open(path, ".lock", stack)
    _lock(path, lock, lock)
    return lock


def _open(path: str, suffix: str, stack: ExitStack) -> int:
    """Open a file that is left open until SQLite has closed it too.

    Closing any of a file's descriptors drops the POSIX locks that SQLite has on it.
    """
    try:
        descriptor = os.open(path + suffix, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        what = "its lock file" if suffix else "it"
        raise refuse(path, f"{what} can't be opened: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    return descriptor


def _lock(path: str, descriptor: int, lock: int) -> None:
    """Lock a file until its descriptor is closed, or the process ends.

    The lock file is never removed: another process could then lock a new file of that name.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = _holder(descriptor, lock)
        by = "another gateway" if process is None else f"process {process}, another gateway"
        raise ConfigError(f"the database {path} is in use by {by}") from None
    except OSError as error:
        raise refuse(path, f"can't be locked: {error.strerror}") from error


def create_private(name: str) -> None:
    """Create a file that isn't there, and let only its owner read and write it. Raises OSError."""
    # One that is there is not opened: closing it would drop the locks that SQLite may have on it.
    with suppress(FileExistsError):
        os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
    _make_private(name)


def _holder(descriptor: int, lock: int) -> int | None:
    """The process that has locked a file, if it can be known."""
    process = os.pread(lock, _PID_BYTES, 0).strip() if descriptor == lock else b""
    return int(process) if process.isdigit() else _locker(os.fstat(descriptor).st_ino)


def _locker(inode: int) -> int | None:
    with suppress(OSError, ValueError), open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return int(fields[4])
    return None


def holder_of(path: str) -> int | None:
    """The process that has the database at ``path`` open; None if none has, or it can't be known."""
    return locker_of(f"{path}.lock") or locker_of(path)


def locker_of(name: str) -> int | None:
    """The process that has locked a file; None if none has, or it can't be known. Doesn't open the file."""
    with suppress(OSError):
        return _locker(os.stat(name).st_ino)
    return None


def _make_private(name: str) -> None:
    """Let only a file's owner read and write it, whatever the umask, or an earlier version, made of it."""
    try:
        mode = stat.S_IMODE(os.stat(name).st_mode)
        if mode != PRIVATE:
            os.chmod(name, PRIVATE)
        if mode & ~PRIVATE:
            logger.warning("%s had mode %04o, and has %04o now", name, mode, PRIVATE)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("others may read or write %s: %s", name, error.strerror)


class FilesGone(StoreError):
    """What is written now would not be found again."""


class Identity:
    """Which files a database is in, to be asked whether they are still there.

    Args:
        path: the database's; None if it is in memory, and has none.

    Attributes:
        gone: whether they weren't there when they were looked for last.
    """

    def __init__(self, path: str | None) -> None:
        names = () if path is None else (path, f"{path}-wal")
        self._files = {name: _identity(name) for name in names}
        self.gone = False

    def check(self) -> None:
        """Look whether the files at the paths are still those that are open.

        SQLite would go on writing to files that have no name, and are gone when they are closed.

        Raises:
            FilesGone: they are not.
        """
        self.gone = any(_identity(name) != known for name, known in self._files.items())
        self.refuse_if_gone()

    def refuse_if_gone(self) -> None:
        """Raise FilesGone if the last look found other files, or none.

        What was refused since then has been written all the same, and must not be read.
        """
        if self.gone:
            raise FilesGone("the database's file was removed or replaced")


def _identity(name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FilesGone("the database's file can't be found") from error
    return found.st_dev, found.st_ino
