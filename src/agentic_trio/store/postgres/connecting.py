"""Connections to PostgreSQL, and what their failures mean."""

from __future__ import annotations

import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg import errors, pq

from agentic_trio.store.contract import DatabaseDown, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

Database: TypeAlias = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT = 5
"""Seconds that connecting may take."""

_KEEPING_ALIVE = {
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "agentic-trio",
}
"""Without these, a peer that has vanished is noticed after hours. A URL's own parameters come first."""

_FULL = (errors.DiskFull, errors.OutOfMemory)
_READ_ONLY = errors.ReadOnlySqlTransaction


class _BinaryCursor(psycopg.Cursor[tuple[Any, ...]]):
    """Rows come in binary: the bytes of items then need no decoding."""

    def __init__(self, connection: Database, **options: Any) -> None:
        super().__init__(connection, **options)
        self.format = pq.Format.BINARY


class Unusable(Exception):
    """The database can't be used. One line without names, which a path or a password might be."""


def connect(url: str, *, read_only: bool = False) -> Database:
    """Open a connection.

    Raises:
        Unusable: the URL makes no sense.
        psycopg.Error: the server can't be reached, or refuses.
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # What the library says of a URL repeats it, password and all.
        raise Unusable("its URL can't be read, or has a parameter that there isn't") from None
    connection = psycopg.Connection.connect(
        url,
        cursor_factory=_BinaryCursor,
        **{name: value for name, value in _KEEPING_ALIVE.items() if name not in given},  # type: ignore[arg-type]
    )
    if read_only:
        # A read of one statement needs no transaction, which would cost two more round trips.
        connection.autocommit = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
    return connection


def is_lost(connection: Database) -> bool:
    """Whether a connection is good for nothing any more."""
    return connection.closed or connection.pgconn.status != pq.ConnStatus.OK


def cut(connection: Database) -> None:
    """Cut a connection off that another thread waits for: that thread gets an error at once.

    Nothing is sent. A cancel would turn a commit that waits for a standby into a success.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=connection.pgconn.socket) as handle:
        try:
            handle.shutdown(socket.SHUT_RDWR)
        finally:
            # libpq still owns the descriptor.
            handle.detach()


def store_error(error: psycopg.Error) -> StoreError:
    """The same failure without the statement, values or addresses of the original, which is chained to it."""
    down = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | _READ_ONLY)
    failure = (DatabaseDown if down else StoreError)(_reason(error))
    failure.__cause__ = error
    return failure


def _reason(error: psycopg.Error) -> str:
    if isinstance(error, _FULL):
        return "the database's disk or memory is full"
    if isinstance(error, _READ_ONLY):
        return "the database is read-only"
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return "the database can't be reached, or broke off"
    return f"the database refused a statement ({error.sqlstate or type(error).__name__})"


@contextmanager
def translated() -> Iterator[None]:
    """Inside this block, raise what psycopg raises as StoreError."""
    try:
        yield
    except psycopg.Error as error:
        raise store_error(error) from error


def raw(text: str) -> bytes:
    """An id or a name as it is stored. Any text is one, half a character included."""
    return text.encode("utf-8", "surrogatepass")


def text(stored: bytes) -> str:
    """The inverse of ``raw``."""
    return stored.decode("utf-8", "surrogatepass")
