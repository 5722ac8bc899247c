"""``/v1/responses``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Blueprint, Response
from quart.wrappers.response import ResponseBody

from agentic_trio.web.queries import metadata_filter, page_query
from agentic_trio.web.relay import relay
from agentic_trio.web.request import json_response, require_list_endpoints, this_gateway, this_request
from agentic_trio.wire import sse
from agentic_trio.wire.requests import route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from agentic_trio.eventlog import EventLog
    from agentic_trio.web.request import GatewayRequest

routes = Blueprint("responses", __name__)


@routes.post("/v1/responses")
async def create_response() -> Response:
    """Create a response: stateful, or relayed when it is neither stored nor names state."""
    request = this_request()
    body = await request.raw_body()
    if route(body).relayed:
        return await relay(request, "/v1/responses", body)
    return await _turn(request, body)


async def _turn(request: GatewayRequest, body: bytes) -> Response:
    gateway = this_gateway()
    turn = gateway.new_turn(body, request.context)
    if not turn.call.stream:
        await gateway.run(turn)
        return json_response(turn.result())
    request.nursery.start_soon(gateway.run, turn)
    await turn.wait_head()
    return event_stream(turn.log)


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
    """Read a stored response."""
    return json_response(await this_gateway().responses.read(this_request().context.owner, id))


@routes.delete("/v1/responses/<id>")
async def delete_response(id: str) -> Response:
    """Forget a stored response."""
    return json_response(await this_gateway().responses.delete(this_request().context.owner, id))


@routes.get("/v1/responses/<id>/input_items")
async def list_input_items(id: str) -> Response:
    """List what the model was given."""
    owner = this_request().context.owner
    return json_response(await this_gateway().responses.input_items(owner, id, page_query()))


@routes.websocket("/v1/responses")
async def refuse_websocket() -> tuple[str, int]:
    """There is no WebSocket transport: a client that is told so at once falls back to HTTP."""
    return "", 426


def event_stream(log: EventLog) -> Response:
    """A turn's events as they come. Proxies are asked to keep nothing and to hold back nothing."""
    response = Response(
        EventBody(log),
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        content_type="text/event-stream",
    )
    response.timeout = None
    return response


class EventBody(ResponseBody):
    """A reader of a log: everything new in one chunk."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._position = 0
        self._ended = False

    async def __aenter__(self) -> EventBody:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        events = await self._log.read(self._position)
        self._position += len(events)
        if self._log.exhausted(self._position):
            self._ended = True
            return b"".join(events) + sse.DONE
        return b"".join(events)
