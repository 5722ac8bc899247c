"""``/v1/responses``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from quart import Blueprint, Response

from agentic_trio.errors import NotFound
from agentic_trio.gateway.log import FellBehind
from agentic_trio.gateway.registry import check_repeat, fingerprint_of, idempotent_id
from agentic_trio.web.body import PlainBody
from agentic_trio.web.dispatch import json_response, require_list_endpoints, this_gateway, this_request
from agentic_trio.web.queries import (
    boolean_argument,
    check_include,
    integer_argument,
    metadata_filter,
    page_query,
)
from agentic_trio.web.relay import relay
from agentic_trio.web.reply import Reply, json_reply
from agentic_trio.wire import checks, sse
from agentic_trio.wire.create_response import route
from agentic_trio.wire.dialect import encode

if TYPE_CHECKING:
    from agentic_trio.gateway.log import EventLog
    from agentic_trio.gateway.turn import Turn
    from agentic_trio.web.dispatch import Scoped

routes = Blueprint("responses", __name__)

STREAM_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

KEEP_ALIVE = b": keep-alive\n\n"

_fell_behind = FellBehind()

FELL_BEHIND = sse.encode(
    "error", encode({"type": "error", "code": _fell_behind.code, "message": _fell_behind.message})
)
"""The last that a reader gets whose place in the log is gone. It has no number: it isn't the turn's."""


@routes.post("/v1/responses")
async def create_response() -> Response:
    """Create a response."""
    return (await respond(this_request())).response()


async def respond(request: Scoped) -> Reply:
    """Create a response: stateful, or relayed when it is neither stored nor names state."""
    place = request.stack.enter_context(ExitStack())
    place.enter_context(request.gateway.admission)
    body = await request.raw_body()
    if route(body).relayed:
        return await relay(request, "/v1/responses", body)
    key = request.field(b"idempotency-key")
    if not key:
        turn = request.gateway.turns.new(body, request.context)
        return await _follow(request, turn, place, outlives=_outlives(request))
    return await _once(request, body, key, place)


async def _once(request: Scoped, body: bytes, key: str, place: ExitStack) -> Reply:
    """Serve a request that may be repeated: it runs once, and every repeat gets its response.

    The turn outlives its client, or the repeat of a request whose answer was lost would find it cancelled.
    """
    gateway = request.gateway
    owner = request.context.owner
    id, fingerprint = idempotent_id(owner, key), fingerprint_of(body)
    async with gateway.keys.lock(owner, key):
        turn = gateway.turns.find(owner, id)
        if turn is not None:
            check_repeat(turn.fingerprint, fingerprint)
        elif await gateway.responses.repeated(owner, id, fingerprint):
            if route(body).stream is True:
                return event_stream(await gateway.responses.repeated_stream(owner, id))
            return json_reply(await gateway.responses.read(owner, id))
        else:
            turn = gateway.turns.new(body, request.context, id=id, fingerprint=fingerprint)
            if not turn.call.store:
                # Nothing is kept that its repeat could be given: that runs after this one.
                return await _follow(request, turn, place, outlives=False)
            gateway.turns.start(turn, place, request.held)
    return await _answer(turn)


async def _follow(request: Scoped, turn: Turn, place: ExitStack, *, outlives: bool) -> Reply:
    """Start a turn under its owner, chosen now, and answer with it."""
    gateway = request.gateway
    if turn.call.background or (outlives and turn.call.store):
        gateway.turns.start(turn, place, request.held)
    elif turn.call.stream:
        request.nursery.start_soon(gateway.turns.run, turn)
    else:
        await gateway.turns.run(turn)
    return await _answer(turn)


async def _answer(turn: Turn) -> Reply:
    if turn.call.stream:
        await turn.wait_head()
        return event_stream(turn.log)
    if turn.call.background:
        await turn.wait_head()
        return json_reply(turn.snapshot())
    await turn.wait_ended()
    return json_reply(turn.result())


_on_disconnect = checks.one_of("cancel", "finish")


def _outlives(request: Scoped) -> bool:
    """Whether a turn goes on without its client: by this request's header, or as configured."""
    policy = request.field(b"x-on-disconnect")
    if policy is None:
        policy = request.gateway.config.on_disconnect
    else:
        _on_disconnect(policy, "x-on-disconnect")
    return policy == "finish"


@routes.get("/v1/responses")
async def list_responses() -> Response:
    """List responses, where that is allowed."""
    require_list_endpoints()
    owner, model = this_request().context.owner, this_request().args.get("model")
    return json_response(
        await this_gateway().responses.page(owner, page_query(), model=model, metadata=metadata_filter())
    )


@routes.get("/v1/responses/<id>")
async def retrieve_response(id: str) -> Response:
    """Read a response, or its stream from any event on."""
    request = this_request()
    owner, responses = request.context.owner, this_gateway().responses
    check_include()
    if not boolean_argument("stream"):
        return json_response(await responses.read(owner, id))
    after = integer_argument("starting_after", -1)
    return event_stream(await responses.stream(owner, id), max(after + 1, 0)).response()


@routes.post("/v1/responses/<id>/cancel")
async def cancel_response(id: str) -> Response:
    """End a background response."""
    return json_response(await this_gateway().responses.cancel(this_request().context.owner, id))


@routes.delete("/v1/responses/<id>")
async def delete_response(id: str) -> Response:
    """Forget a stored response."""
    return json_response(await this_gateway().responses.delete(this_request().context.owner, id))


@routes.get("/v1/responses/<id>/input_items")
async def list_input_items(id: str) -> Response:
    """List what the model was given."""
    owner = this_request().context.owner
    return json_response(await this_gateway().responses.input_items(owner, id, page_query()))


@routes.post("/v1/responses/compact")
@routes.post("/v1/responses/input_tokens")
async def refuse_unserved() -> Response:
    """Endpoints of OpenAI's that are not served here. Without this they would be a response's id and 405;
    clients that can do without them look for 404."""
    path = this_request().path
    raise NotFound(f"Invalid URL (POST {path})", code="unknown_url")


def event_stream(log: EventLog, position: int = 0) -> Reply:
    """A turn's events as they come. Proxies are asked to keep nothing and to hold back nothing."""
    return Reply(EventBody(log, position), headers=list(STREAM_HEADERS))


class EventBody(PlainBody):
    """A reader of a log: everything new in one chunk."""

    def __init__(self, log: EventLog, position: int) -> None:
        self._log = log
        self._position = position
        self._ended = False

    @property
    def ended(self) -> bool:
        return self._ended

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            events = await self._log.read(self._position)
        except FellBehind:
            self._ended = True
            return FELL_BEHIND
        self._position += len(events)
        self._ended = self._log.exhausted(self._position)
        if self._ended:
            return b"".join((*events, sse.DONE))
        return b"".join(events) or KEEP_ALIVE
