from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from agentic_trio.store.postgres.store import open_postgres_store
from agentic_trio.store.sqlite import open_sqlite_store
from tests.postgres import Server, installed, running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from agentic_trio.store.contract import MaintainedStore, Store

SERVERS = sorted(installed(), reverse=True)[: None if os.environ.get("ALL_POSTGRES_SERVERS") else 1]
"""The wheel's alone, since each more doubles the time; all of them where that is asked for."""


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[str], Server]]:
    """Name -> a PostgreSQL server, which is started when it is first asked for."""
    started: dict[str, Server] = {}
    with ExitStack() as stack:

        def find(name: str) -> Server:
            if name not in started:
                started[name] = stack.enter_context(running_server(name))
            return started[name]

        yield find


@pytest.fixture(params=SERVERS)
def postgres(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Server:
    """A PostgreSQL server, of each kind that is installed."""
    return server_of(request.param)


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """The URL of an empty database."""
    url = postgres.new_database()
    yield url
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "sqlite-memory", *SERVERS])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, server_of: Callable[[str], Server]
) -> AsyncIterator[Store]:
    """An empty store, of each kind that there is."""
    if request.param in SERVERS:
        async with open_postgres_store(server_of(request.param).emptied_database()) as in_postgres:
            yield in_postgres
        return
    async with open_sqlite_store(_path(request.param, tmp_path)) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "sqlite-memory"])
async def maintained(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MaintainedStore]:
    """An empty store that the commands of ``agentic-trio db`` can look after."""
    async with open_sqlite_store(_path(request.param, tmp_path)) as opened:
        yield opened


def _path(kind: str, directory: Path) -> str:
    return ":memory:" if kind == "sqlite-memory" else str(directory / "turns.db")
