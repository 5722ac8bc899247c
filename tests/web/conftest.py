from collections.abc import AsyncIterator

import pytest

from agentic_trio.web.scope import RequestScope

from .harness import World, open_world


@pytest.fixture(autouse=True, params=["direct", "dispatched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in of requests for busy routes: to the handler, or through Quart's dispatch.

    Both must act alike. Our server takes the first; other ASGI servers and pages of other origins get the
    second, which these tests would otherwise not see.
    """
    way: str = request.param
    if way == "dispatched":
        monkeypatch.setattr(RequestScope, "direct", False)
    return way


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as world:
        yield world
