"""The other tests of this folder run over both ways in; here each is the one that its name says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentic_trio.web.dispatch import RequestNursery

if TYPE_CHECKING:
    from .harness import World

ASK = {"model": "tiny", "input": "hi"}


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that went through Quart's dispatch."""
    paths = []
    dispatch = RequestNursery._dispatch

    async def noting(self: RequestNursery, *arguments: object) -> None:
        paths.append(self.scope["path"])
        await dispatch(self, *arguments)

    monkeypatch.setattr(RequestNursery, "_dispatch", noting)
    return paths


async def test_a_busy_route_is_dispatched_only_where_that_is_asked_for(
    world: World, way: str, dispatched: list[str]
) -> None:
    await world.post("/v1/responses", ASK)
    assert dispatched == ([] if way == "direct" else ["/v1/responses"])


async def test_what_a_page_sends_is_dispatched_either_way(world: World, dispatched: list[str]) -> None:
    await world.post("/v1/responses", ASK, headers={"origin": world.url})
    assert dispatched == ["/v1/responses"]
