"""``/v1/responses``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.gateway.idempotency import IdempotencyKey
from agentic_trio.web.access import response_id
from agentic_trio.web.dispatch import Routes
from agentic_trio.web.outliving import outlives
from agentic_trio.web.queries import (
    boolean_argument,
    check_lists_are_served,
    included,
    integer_argument,
    metadata_filter,
    page_query,
)
from agentic_trio.web.relay import relay
from agentic_trio.web.reply import Reply
from agentic_trio.web.stream import event_stream
from agentic_trio.wire import checks
from agentic_trio.wire.create_response import route
from agentic_trio.wire.sealed_items import INCLUDED

if TYPE_CHECKING:
    from agentic_trio.gateway.gateway import Gateway
    from agentic_trio.gateway.turn import Turn
    from agentic_trio.web.scope import RequestScope
    from agentic_trio.wire.create_response import Routing

routes = Routes("responses")


@routes.handle("POST", "/v1/responses", direct=True)
async def create_response(request: RequestScope) -> Reply:
    """Create a response: stateful, or relayed when it is neither stored nor names state.

    The request's nursery scopes all that this takes. It holds the auth that goes upstream
    (``request.context``), the slot and the memory (``request.ticket``), and the turn, which in turn scopes
    the model server's stream, the accumulation of its events, and their persistence. A client that leaves
    cancels the nursery, and with it the turn, which records what had arrived before it ends. A turn that
    is to outlive its client runs in the gateway's service nursery instead; the choice is made here, once.
    """
    gateway = request.gateway
    request.begin_turn()
    finishes = outlives(request)
    body = await request.body()
    request.ticket.take_slot()
    if _is_relayed(gateway, body):
        request.ticket.begin_now()
        return await relay(request, "/v1/responses", body)
    if name := request.header(b"idempotency-key"):
        begun = await _once(request, body, name)
    else:
        begun = await gateway.turns.new(body, request.context, request.ticket)
    # What was made of the body is as large as itself: held beside it, each request would take twice as much.
    del body
    return begun if isinstance(begun, Reply) else await _follow(request, begun, finishes=finishes)


def _is_relayed(gateway: Gateway, body: bytes) -> bool:
    """Whether the client gets the model server's own answer: nothing is stored, sealed or run here."""
    routing = route(body)
    sealed = gateway.seals and routing.asks_for_sealed_reasoning
    return routing.relayed and not sealed and not routing.offers(gateway.hosted)


async def _follow(request: RequestScope, turn: Turn, *, finishes: bool) -> Reply:
    """Start a turn under its owner, if it isn't running, and reply with what it makes."""
    turns = request.gateway.turns
    request.response_id = turn.id
    if turns.find(turn.owner, turn.id) is not None:
        pass
    elif turn.call.background or (finishes and turn.call.store):
        turns.start(turn)
    elif turn.call.stream:
        _own(request, turn)
        request.nursery.start_soon(turns.run, turn)
    else:
        _own(request, turn)
        await turns.run(turn)
    return await _reply(request, turn)


def _own(request: RequestScope, turn: Turn) -> None:
    """Let the request's line of the log tell of the turn: it ends before the request does."""
    request.figures = turn.figures
    turn.figures.own_line = False


async def _reply(request: RequestScope, turn: Turn) -> Reply:
    if turn.call.stream:
        await turn.wait_head()
        return event_stream(turn.log)
    if turn.call.background:
        await turn.wait_head()
        return Reply(turn.queued())
    await turn.wait_ended()
    body = turn.result()
    request.ticket.charge(len(body))
    return Reply(body)


async def _once(request: RequestScope, body: bytes, name: str) -> Turn | Reply:
    """Begin a request that has an ``Idempotency-Key``: it runs once, and every repeat gets its response.

    The turn outlives its client: the repeat of a request whose response was lost would find it cancelled.
    """
    _key_length(name, "idempotency-key")
    gateway = request.gateway
    owner = request.context.owner
    key = IdempotencyKey.of(name, request.credentials(), body)
    async with gateway.keys.lock(owner, key.digest.hex()):
        turn = gateway.turns.find_repeated(owner, key)
        if turn is None:
            id = await gateway.responses.repeated(owner, key)
            if id is not None:
                return await _replay(request, id, route(body))
            turn = await gateway.turns.new(body, request.context, request.ticket, key=key)
            if not turn.call.store:
                # Nothing is kept for a repeat to get, so the repeat runs after this one.
                return await _follow(request, turn, finishes=False)
            gateway.turns.start(turn)
    return turn


async def _replay(request: RequestScope, id: str, routing: Routing) -> Reply:
    """Reply to a repeat whose first request has ended."""
    owner, responses = request.context.owner, request.gateway.responses
    request.response_id = id
    if routing.stream is True:
        return event_stream(await responses.repeated_stream(owner, id))
    return request.reply(await responses.read(owner, id, sealed=routing.asks_for_sealed_reasoning))


_key_length = checks.string(256)


@routes.handle("GET", "/v1/responses")
async def list_responses(request: RequestScope) -> Reply:
    """List responses, where that is switched on."""
    check_lists_are_served(request)
    query, metadata = page_query(request), metadata_filter(request)
    model = request.args.get("model")
    responses = request.gateway.responses
    return request.reply(await responses.page(request.context.owner, query, model=model, metadata=metadata))


@routes.handle("GET", "/v1/responses/<id>")
async def retrieve_response(request: RequestScope, id: str) -> Reply:
    """Read a response, or its stream from any event on."""
    owner, responses = request.context.owner, request.gateway.responses
    request.response_id = response_id(id)
    include = included(request)
    if not boolean_argument(request, "stream"):
        return request.reply(await responses.read(owner, id, sealed=INCLUDED in include))
    after = integer_argument(request, "starting_after", -1)
    return event_stream(await responses.stream(owner, id), max(after + 1, 0))


@routes.handle("POST", "/v1/responses/<id>/cancel")
async def cancel_response(request: RequestScope, id: str) -> Reply:
    """End a background response."""
    request.response_id = response_id(id)
    await request.body()
    return request.reply(await request.gateway.responses.cancel(request.context.owner, id))


@routes.handle("DELETE", "/v1/responses/<id>")
async def delete_response(request: RequestScope, id: str) -> Reply:
    """Forget a stored response."""
    request.response_id = response_id(id)
    return Reply(await request.gateway.responses.delete(request.context.owner, id))


@routes.handle("GET", "/v1/responses/<id>/input_items")
async def list_input_items(request: RequestScope, id: str) -> Reply:
    """List what the model was given."""
    request.response_id = response_id(id)
    query = page_query(request)
    return request.reply(await request.gateway.responses.input_items(request.context.owner, id, query))


@routes.handle("POST", "/v1/responses/input_tokens")
async def count_input_tokens(request: RequestScope) -> Reply:
    """Count the tokens that a request would give to the model."""
    gateway = request.gateway
    gateway.admission.check()
    body = await request.body()
    request.ticket.take_slot()
    _bound_in_time(request)
    return Reply(await gateway.counting.count(body, request.context, request.ticket))


@routes.handle("POST", "/v1/responses/compact")
async def compact(request: RequestScope) -> Reply:
    """Sum a context up, so that a client can go on with less."""
    gateway = request.gateway
    gateway.admission.check()
    body = await request.body()
    request.ticket.take_slot()
    _bound_in_time(request)
    return request.reply(await gateway.compacting.compact(body, request.context, request.ticket))


def _bound_in_time(request: RequestScope) -> None:
    """Give a request as long as a turn; it is 504 after that."""
    timeout = request.gateway.config.turn_timeout
    request.nursery.cancel_scope.deadline = trio.current_time() + timeout
