"""A client that counts the events it has read, so that it can leave at any of them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.web.raw import RawClient

from .world import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class EventClient(RawClient):
    async def read_events(self, count: int) -> None:
        """Read until so many events are here."""
        with trio.fail_after(PATIENCE):
            while self.body.count(b"\n\n") < count:
                assert await self._next(), self.body

    async def read_head(self) -> None:
        """Read until the answer's head is here."""
        with trio.fail_after(PATIENCE):
            while self.head is None:
                await self._next()


@asynccontextmanager
async def open_client(port: int) -> AsyncIterator[EventClient]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield EventClient(stream)


@asynccontextmanager
async def open_at_event(port: int, body: Any, count: int, **headers: str) -> AsyncIterator[EventClient]:
    """A response that is streamed, of which so many events have been read."""
    async with open_client(port) as client:
        await client.request("POST", "/v1/responses", body, **headers)
        await client.read_events(count)
        yield client
