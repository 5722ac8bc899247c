"""The gateway: it owns the store, the model server's client and the turns."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from agentic_trio.context import RequestContext, bearer
from agentic_trio.errors import ServiceUnavailable
from agentic_trio.holds import Holds
from agentic_trio.nurseries import open_inner_nursery
from agentic_trio.state import Conversations, Responses, state_errors
from agentic_trio.store.sqlite import open_sqlite_store
from agentic_trio.turn import Services, Turn
from agentic_trio.upstream.client import open_upstream
from agentic_trio.wire.dialect import decode_object
from agentic_trio.wire.ids import mint_id
from agentic_trio.wire.requests import parse_create_response
from agentic_trio.wire.response import crashed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentic_trio.config import Config

JsonObject = dict[str, Any]


class Gateway:
    """Stateful responses and conversations over a stateless model server.

    Made by :func:`open_gateway`. The methods here are for Trio programs: they take and answer Python
    objects, act for the single user with the configured key, and raise
    :class:`~agentic_trio.errors.GatewayError`.

    Attributes:
        config: what it was opened with.
        upstream: the model server.
        responses: stored responses, as JSON text.
        conversations: conversations and their items, as JSON text.
    """

    def __init__(self, services: Services, service: trio.Nursery) -> None:
        self.config = services.config
        self.upstream = services.upstream
        self.responses = Responses(services.store)
        self.conversations = Conversations(services.store, services.holds, services.mint, services.now)
        self._services = services
        self._service = service
        self._turns: set[Turn] = set()
        self._closing = False

    async def create_response(self, request: JsonObject) -> JsonObject:
        """Create a response, as ``POST /v1/responses`` does, and answer the Response object.

        Cancellation: the upstream call is closed, and the turn is recorded as ``cancelled``.
        """
        turn = self.new_turn(msgspec.json.encode({**request, "stream": False}), self.own_context())
        await self.run(turn)
        return decode_object(turn.result())

    @asynccontextmanager
    async def stream_response(self, request: JsonObject) -> AsyncIterator[AsyncIterator[JsonObject]]:
        """Create a response and follow its events inside the block.

        Leaving the block early cancels the turn, which is recorded with the output that had arrived.

        Raises:
            GatewayError: the request was refused, by the gateway or by the model server.

        Cancellation: as leaving early.
        """
        turn = self.new_turn(msgspec.json.encode({**request, "stream": True}), self.own_context())
        self._service.start_soon(self.run, turn)
        try:
            await turn.wait_head()
            yield turn.events()
        finally:
            turn.cancel()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.config.commit_timeout):
                await turn.wait_ended()

    async def create_conversation(
        self, *, items: list[JsonObject] | None = None, metadata: dict[str, str] | None = None
    ) -> JsonObject:
        """Create a conversation, as ``POST /v1/conversations`` does.

        Cancellation: it exists afterwards or it doesn't; nobody knows its id.
        """
        body = msgspec.json.encode({"items": items, "metadata": metadata})
        return decode_object(await self.conversations.create("", body))

    async def get_response(self, id: str) -> JsonObject:
        """Read a stored response, as ``GET /v1/responses/{id}`` does."""
        return decode_object(await self.responses.read("", id))

    async def get_conversation(self, id: str) -> JsonObject:
        """Read a conversation, as ``GET /v1/conversations/{id}`` does."""
        return decode_object(await self.conversations.read("", id))

    def own_context(self) -> RequestContext:
        """The context of the program that embeds the gateway."""
        return RequestContext(authorization=bearer(self.config.openai_api_key))

    def new_turn(self, body: bytes, context: RequestContext) -> Turn:
        """A turn for a request's body, not yet running.

        Raises:
            InvalidRequest: the body is not a right one.
        """
        call = parse_create_response(body, self._services.mint, strict=self.config.strict_parameters)
        return Turn(call, context, self._services)

    async def run(self, turn: Turn) -> None:
        """Run a turn in the caller's task, so that it ends when ``close`` is called. See ``Turn.run``."""
        if self._closing:
            turn.cancel(_shutting_down())
        self._turns.add(turn)
        try:
            await turn.run()
        finally:
            self._turns.discard(turn)

    def close(self) -> None:
        """End the turns that still run; each is recorded as ``cancelled`` and tells its readers why."""
        self._closing = True
        for turn in list(self._turns):
            turn.cancel(_shutting_down())

    async def probe(self) -> None:
        """Ask the model server and the store whether they work. Raises GatewayError."""
        with state_errors():
            await self._services.store.probe()
        await self.upstream.probe(self.own_context())


def _shutting_down() -> ServiceUnavailable:
    return ServiceUnavailable("The server is shutting down.")


@asynccontextmanager
async def open_gateway(config: Config) -> AsyncIterator[Gateway]:
    """A gateway for as long as the block lasts.

    Raises:
        ConfigError: the database can't be used.

    Cancellation: turns are ended and recorded before the store closes.
    """
    async with open_sqlite_store(config.database_path) as store, open_upstream(config) as upstream:
        await store.recover(crashed)
        services = Services(config, store, upstream, Holds(config.conversation_wait), mint_id, time.time)
        async with open_inner_nursery() as service:
            gateway = Gateway(services, service)
            try:
                yield gateway
            finally:
                gateway.close()
