from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentic_trio.store.sqlite import open_sqlite_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentic_trio.store.contract import Store


@pytest.fixture(params=["sqlite", "sqlite-memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store, of each kind that there is."""
    path = ":memory:" if request.param == "sqlite-memory" else str(tmp_path / "turns.db")
    async with open_sqlite_store(path) as opened:
        yield opened
