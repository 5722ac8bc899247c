from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from agentic_trio import Config, Gateway, open_gateway, serve
from agentic_trio.net.nurseries import open_inner_nursery
from tests.fake_upstream import FakeUpstream, open_fake_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True)
class Served:
    """A gateway on a socket, before a fake upstream."""

    url: str
    gateway: Gateway
    upstream: FakeUpstream


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with open_fake_upstream() as upstream:
        config = Config(llm_api_base=upstream.url, db_url="sqlite://:memory:", port=0, graceful_timeout=0)
        async with open_gateway(config) as gateway, open_inner_nursery() as nursery:
            (url,) = await nursery.start(serve, gateway)
            yield Served(url, gateway, upstream)
            nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "LLM_API_BASE", "DATABASE_URL", "GATEWAY_PORT", "GATEWAY_HOST"):
        monkeypatch.delenv(name, raising=False)
