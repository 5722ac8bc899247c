"""The gateway's methods for programs: one for each route, named as in OpenAI's SDK.

They take and return the objects of :mod:`agentic_trio.types`, under the same bounds as requests that come
over HTTP.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import msgspec
import trio

from agentic_trio.context import CallContext, Identity, RequestContext, bearer
from agentic_trio.errors import NotFound
from agentic_trio.gateway.admission import Ticket
from agentic_trio.gateway.following import OpenResponse, ResponseEvents
from agentic_trio.gateway.idempotency import IdempotencyKey
from agentic_trio.gateway.items import page_query
from agentic_trio.gateway.turn import turn_timeout
from agentic_trio.wire import checks
from agentic_trio.wire.dialect import decode_object, refusal
from agentic_trio.wire.sealed_items import INCLUDED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from agentic_trio.config import Config
    from agentic_trio.gateway.admission import Admission
    from agentic_trio.gateway.conversations import Conversations
    from agentic_trio.gateway.locks import Locks
    from agentic_trio.gateway.registry import Registry
    from agentic_trio.gateway.responses import Responses
    from agentic_trio.gateway.turn import Turn
    from agentic_trio.store.contract import Order
    from agentic_trio.types import (
        Conversation,
        ConversationList,
        CreateResponse,
        DeletedConversation,
        DeletedResponse,
        InputItem,
        Item,
        ItemList,
        Model,
        ModelList,
        Response,
        ResponseList,
    )
    from agentic_trio.upstream.servers import ModelServers

OWN = CallContext()
"""A call of the program's own."""

_key_length = checks.string(256)
_includable = checks.one_of(*checks.INCLUDABLE)


class Embedding:
    """What a program calls instead of the HTTP routes. :class:`~agentic_trio.Gateway` is one.

    ``context`` says for whom a call is made; without one it is the single user of an open gateway. Each
    method raises :class:`~agentic_trio.errors.GatewayError` where the route answers with an error, and
    RuntimeError when the gateway's block is over, or outside Trio.
    """

    config: Config
    upstream: ModelServers
    admission: Admission
    turns: Registry
    keys: Locks
    responses: Responses
    conversations: Conversations
    closed: bool

    # ------------------------------------------------------------------ responses

    async def create_response(self, request: CreateResponse, *, context: CallContext = OWN) -> Response:
        """Create a response and wait for it: ``POST /v1/responses``.

        One with ``background`` is returned at once, as ``queued``.

        Cancellation: the call of the model server is closed, and the turn is recorded as ``cancelled``,
        unless ``context.on_disconnect`` is ``finish`` or the call has an idempotency key.
        """
        async with self.open_response({**request, "stream": False}, context=context) as response:
            return await (response.queued() if request.get("background") else response.result())

    @asynccontextmanager
    async def stream_response(
        self, request: CreateResponse, *, context: CallContext = OWN
    ) -> AsyncIterator[ResponseEvents]:
        """Create a response and follow its events inside the block: ``POST /v1/responses`` with ``stream``.

        Leaving the block early cancels the turn, as for :meth:`open_response`.

        Raises:
            GatewayError: the gateway or the model server refused the request.

        Cancellation: as leaving early.
        """
        async with self.open_response({**request, "stream": True}, context=context) as response:
            await response.accepted()
            yield response.events()

    @asynccontextmanager
    async def open_response(
        self, request: CreateResponse, *, context: CallContext = OWN
    ) -> AsyncIterator[OpenResponse]:
        """Begin a response; inside the block its id is known before the model server has answered.

        Leaving the block early cancels the turn, which is recorded with the output that had arrived. It goes
        on instead if the request has ``background``, if ``on_disconnect`` is ``finish`` and the response is
        stored, or if the call has an idempotency key.

        Raises:
            GatewayError: the gateway refused the request. What the model server refuses, and a history that
                isn't there, is raised by the methods of what this yields.

        Cancellation: as leaving early.
        """
        self._check_open()
        async with AsyncExitStack() as stack:
            begun = await self._begin(request, context, stack)
            if isinstance(begun, str):
                yield OpenResponse(self.responses, context.owner, begun, None)
                return
            try:
                yield OpenResponse(self.responses, context.owner, begun.id, begun)
            finally:
                if not self._outlives(begun, context):
                    begun.cancel()
                    await self.turns.wait_ended([begun])

    async def _begin(
        self, request: CreateResponse, context: CallContext, stack: AsyncExitStack
    ) -> Turn | str:
        """A turn that has been started for a request, or the id of the response of one with the same key.

        ``stack`` keeps the key of a request whose response isn't stored: its repeat runs after it.
        """
        body = msgspec.json.encode(request)
        if context.idempotency_key is None:
            return await self._start_turn(body, context)
        _key_length(context.idempotency_key, "idempotency_key")
        owner = context.owner
        key = IdempotencyKey.of(context.idempotency_key, context.credentials(), body)
        async with AsyncExitStack() as lock:
            await lock.enter_async_context(self.keys.lock(owner, key.digest.hex()))
            if (running := self.turns.find_repeated(owner, key)) is not None:
                return running
            if (id := await self.responses.repeated(owner, key)) is not None:
                return id
            turn = await self._start_turn(body, context, key)
            if not turn.call.store:
                await stack.enter_async_context(lock.pop_all())
        return turn

    async def _start_turn(self, body: bytes, context: CallContext, key: IdempotencyKey | None = None) -> Turn:
        with Ticket(self.admission) as ticket:
            ticket.reserve(len(body))
            ticket.take_slot()
            turn = await self.turns.new(body, self._request_context(context), ticket, key=key)
        self.turns.start(turn)
        return turn

    def _outlives(self, turn: Turn, context: CallContext) -> bool:
        """Whether a turn goes on when its block is left."""
        if turn.call.background:
            return True
        finishes = context.on_disconnect == "finish" or context.idempotency_key is not None
        return finishes and turn.call.store

    def follow_response(
        self, id: str, *, after: int | None = None, context: CallContext = OWN
    ) -> ResponseEvents:
        """Follow a response that was created with ``stream``, live or ended: ``GET`` with ``stream``.

        Args:
            id: the response's.
            after: the last event's ``sequence_number`` that is known already; none is sent again.
            context: for whom.

        Raises:
            GatewayError: raised by the first step: there is no such response or no stream of it. Later,
                :class:`~agentic_trio.FellBehind`.
        """
        self._check_open()
        return ResponseEvents(partial(self.responses.stream, context.owner, id), after)

    async def get_response(
        self, id: str, *, include: Sequence[str] = (), context: CallContext = OWN
    ) -> Response:
        """Read a response, stored or under way: ``GET /v1/responses/{id}``.

        Args:
            id: the response's.
            include: ``reasoning.encrypted_content`` seals its reasoning, for a client that carries it.
            context: for whom.
        """
        self._check_open()
        for index, name in enumerate(include):
            _includable(name, f"include[{index}]")
        found = await self.responses.read(context.owner, id, sealed=INCLUDED in include)
        return cast("Response", decode_object(found))

    async def cancel_response(self, id: str, *, context: CallContext = OWN) -> Response:
        """End a background response and return how it ended: ``POST /v1/responses/{id}/cancel``.

        Cancellation: it is told to end all the same.
        """
        self._check_open()
        return cast("Response", decode_object(await self.responses.cancel(context.owner, id)))

    async def delete_response(self, id: str, *, context: CallContext = OWN) -> DeletedResponse:
        """Forget a response: ``DELETE /v1/responses/{id}``. Those that continue it are untouched.

        Cancellation: it is deleted or it isn't.
        """
        self._check_open()
        return cast("DeletedResponse", decode_object(await self.responses.delete(context.owner, id)))

    async def list_input_items(
        self,
        id: str,
        *,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
        context: CallContext = OWN,
    ) -> ItemList:
        """A page of what the model was given: ``GET /v1/responses/{id}/input_items``."""
        self._check_open()
        query = page_query(limit, order, after, before)
        return cast("ItemList", decode_object(await self.responses.input_items(context.owner, id, query)))

    async def list_responses(
        self,
        *,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        context: CallContext = OWN,
    ) -> ResponseList:
        """A page of the responses by creation, all or those of a model or with this metadata.

        ``GET /v1/responses`` serves it only where ``list_endpoints`` is on; a program may always ask.
        """
        self._check_open()
        query = page_query(limit, order, after, before)
        found = await self.responses.page(context.owner, query, model=model, metadata=dict(metadata or {}))
        return cast("ResponseList", decode_object(found))

    # ------------------------------------------------------------------ conversations

    async def create_conversation(
        self,
        *,
        items: Sequence[InputItem] | None = None,
        metadata: Mapping[str, str] | None = None,
        context: CallContext = OWN,
    ) -> Conversation:
        """Create a conversation: ``POST /v1/conversations``.

        Cancellation: it exists afterwards or it doesn't; nobody knows its id.
        """
        self._check_open()
        body = msgspec.json.encode({"items": items, "metadata": metadata})
        return cast("Conversation", decode_object(await self.conversations.create(context.owner, body)))

    async def get_conversation(self, id: str, *, context: CallContext = OWN) -> Conversation:
        """Read a conversation: ``GET /v1/conversations/{id}``."""
        self._check_open()
        return cast("Conversation", decode_object(await self.conversations.read(context.owner, id)))

    async def update_conversation(
        self, id: str, *, metadata: Mapping[str, str] | None, context: CallContext = OWN
    ) -> Conversation:
        """Replace a conversation's metadata: ``POST /v1/conversations/{id}``.

        Cancellation: it is replaced or it isn't, here and for the changes below.
        """
        self._check_open()
        body = msgspec.json.encode({"metadata": metadata})
        return cast("Conversation", decode_object(await self.conversations.update(context.owner, id, body)))

    async def delete_conversation(
        self, id: str, *, responses: bool = False, context: CallContext = OWN
    ) -> DeletedConversation:
        """Forget a conversation: ``DELETE /v1/conversations/{id}``.

        Its responses stay, unless ``responses`` says otherwise.
        """
        self._check_open()
        delete = self.conversations.delete_with_responses if responses else self.conversations.delete
        return cast("DeletedConversation", decode_object(await delete(context.owner, id)))

    async def list_conversations(
        self,
        *,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
        metadata: Mapping[str, str] | None = None,
        context: CallContext = OWN,
    ) -> ConversationList:
        """A page of the conversations by creation, all or those with this metadata.

        ``GET /v1/conversations`` serves it only where ``list_endpoints`` is on; a program may always ask.
        """
        self._check_open()
        query = page_query(limit, order, after, before)
        found = await self.conversations.page(context.owner, query, metadata=dict(metadata or {}))
        return cast("ConversationList", decode_object(found))

    async def create_items(
        self, conversation: str, items: Sequence[InputItem], *, context: CallContext = OWN
    ) -> ItemList:
        """Append items to a conversation: ``POST /v1/conversations/{id}/items``."""
        self._check_open()
        body = msgspec.json.encode({"items": items})
        found = await self.conversations.add_items(context.owner, conversation, body)
        return cast("ItemList", decode_object(found))

    async def list_items(
        self,
        conversation: str,
        *,
        limit: int = 20,
        order: Order = "desc",
        after: str | None = None,
        before: str | None = None,
        context: CallContext = OWN,
    ) -> ItemList:
        """A page of a conversation's items: ``GET /v1/conversations/{id}/items``."""
        self._check_open()
        query = page_query(limit, order, after, before)
        return cast(
            "ItemList", decode_object(await self.conversations.items(context.owner, conversation, query))
        )

    async def get_item(self, conversation: str, id: str, *, context: CallContext = OWN) -> Item:
        """Read one item: ``GET /v1/conversations/{id}/items/{item}``."""
        self._check_open()
        return cast("Item", decode_object(await self.conversations.item(context.owner, conversation, id)))

    async def delete_item(self, conversation: str, id: str, *, context: CallContext = OWN) -> Conversation:
        """Drop one item and return the conversation: ``DELETE /v1/conversations/{id}/items/{item}``."""
        self._check_open()
        found = await self.conversations.delete_item(context.owner, conversation, id)
        return cast("Conversation", decode_object(found))

    # ------------------------------------------------------------------ models

    async def list_models(self, *, context: CallContext = OWN) -> ModelList:
        """The model server's models: ``GET /v1/models``. Cancellation: the call is closed."""
        return cast("ModelList", await self._ask_upstream("/v1/models", context))

    async def get_model(self, model: str, *, context: CallContext = OWN) -> Model:
        """One of them: ``GET /v1/models/{model}``. Cancellation: the call is closed."""
        if not {"", ".", ".."}.isdisjoint(model.replace("\\", "/").split("/")):
            raise NotFound(f"The model '{model}' does not exist.", code="model_not_found")
        return cast("Model", await self._ask_upstream(f"/v1/models/{quote(model, safe='/:@')}", context))

    async def _ask_upstream(self, path: str, context: CallContext) -> dict[str, Any]:
        self._check_open()
        headers = [(b"accept-encoding", b"identity")]
        call = self.upstream.forward("GET", path, b"", headers, b"", self._request_context(context))
        with Ticket(self.admission) as ticket, trio.move_on_after(self.config.turn_timeout):
            ticket.take_slot()
            async with call as answer:
                body = await answer.body()
            if answer.status == 200:
                return decode_object(body)
            raise refusal(max(answer.status, 400), body, answer.header(b"retry-after"))
        raise turn_timeout(self.config)

    # ------------------------------------------------------------------ all of them

    def _request_context(self, context: CallContext) -> RequestContext:
        return RequestContext(
            authorization=bearer(context.key or self.config.openai_api_key),
            owner=context.owner,
            identity=Identity(owner=context.owner),
        )

    def _check_open(self) -> None:
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError("agentic_trio needs Trio: anyio.run(..., backend='trio')")
        if self.closed:
            raise RuntimeError("the gateway is closed: its block is over")
