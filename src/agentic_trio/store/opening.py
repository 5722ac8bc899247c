"""The store that a configuration names."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentic_trio.errors import ConfigError
from agentic_trio.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentic_trio.config import Config
    from agentic_trio.store.contract import Store


@asynccontextmanager
async def open_store(config: Config) -> AsyncIterator[Store]:
    """The store of a configuration, for as long as the block lasts.

    Raises:
        ConfigError: the database can't be used, or the extra that it needs is not installed.

    Cancellation: as for ``open_sqlite_store`` and ``open_postgres_store``.
    """
    if not config.in_postgresql:
        async with open_sqlite_store(config.database_path) as store:
            yield store
        return
    try:
        from agentic_trio.store.postgres.store import open_postgres_store
    except ImportError as error:
        raise ConfigError(
            f"a db_url of PostgreSQL needs the extra 'postgres', which is not installed ({error.name})"
        ) from error
    async with open_postgres_store(config.db_url) as in_postgres:
        yield in_postgres
