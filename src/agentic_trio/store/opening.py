"""The store that a configuration names."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from agentic_trio.errors import ConfigError
from agentic_trio.store.sqlite import SqliteStore, open_sqlite_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentic_trio.config import Config
    from agentic_trio.store.postgres.store import PostgresStore

    OpenedStore: TypeAlias = SqliteStore | PostgresStore


@asynccontextmanager
async def open_store(
    config: Config, *, observe: Callable[[int, float], None] = lambda units, seconds: None
) -> AsyncIterator[OpenedStore]:
    """The store of a configuration, for as long as the block lasts.

    Args:
        config: names the database.
        observe: is told of each batch that was written: its units, and its seconds.

    Raises:
        ConfigError: the database can't be used, or the extra that it needs is not installed.

    Cancellation: as for ``open_sqlite_store`` and ``open_postgres_store``.
    """
    if not config.in_postgresql:
        path = config.database_path
        async with open_sqlite_store(
            path, observe=observe, migration_backup=config.migration_backup
        ) as in_file:
            yield in_file
        return
    try:
        from agentic_trio.store.postgres.store import open_postgres_store
    except ImportError as error:
        raise ConfigError(
            f"a db_url of PostgreSQL needs the extra 'postgres', which is not installed ({error.name})"
        ) from error
    async with open_postgres_store(config.db_url, observe=observe) as in_postgres:
        yield in_postgres
