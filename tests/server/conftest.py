from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from .app import App
from .harness import Server


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def ours(nursery: trio.Nursery) -> AsyncIterator[Server]:
    server = Server(nursery)
    yield server
    server.close_clients()


@pytest.fixture(params=["ours", "stock"])
async def server(request: Any, nursery: trio.Nursery) -> AsyncIterator[Server]:
    """Ours, and hypercorn's class under the same tests."""
    server = Server(nursery, request.param)
    yield server
    server.close_clients()
