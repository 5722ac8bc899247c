"""What goes to the model server and back as it is."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import NotFound
from agentic_trio.web.dispatch import Routes
from agentic_trio.web.forwarding import to_client
from agentic_trio.web.metering import Meter
from agentic_trio.web.reply import Chunks, Reply
from agentic_trio.wire.cache_salt import salted

if TYPE_CHECKING:
    from agentic_trio.upstream.answer import Answer
    from agentic_trio.web.dispatch import Handler
    from agentic_trio.web.reply import SendNowait
    from agentic_trio.web.scope import RequestScope

routes = Routes("relay")

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
)
"""What is posted to the model server and never looked into."""

SALTED = frozenset({"/v1/responses", "/v1/chat/completions", "/v1/completions"})
"""Where vLLM takes a ``cache_salt``."""


def _relays(handler: Handler) -> Handler:
    for path in PATHS:
        routes.handle("POST", path, direct=True)(handler)
    return handler


@_relays
async def relay_as_is(request: RequestScope) -> Reply:
    """Relay to the same path upstream."""
    request.begin_turn()
    request.ticket.begin_now()
    return await _relay_as_is(request)


async def _relay_as_is(request: RequestScope) -> Reply:
    body = await request.body()
    request.ticket.take_slot()
    return await relay(request, request.scope["raw_path"].decode("ascii"), body)


@routes.handle("GET", "/v1/models")
@routes.handle("GET", "/v1/models/<path:model>")
async def relay_models(request: RequestScope, model: str = "") -> Reply:
    """Relay a look at the model server's models.

    Raises:
        NotFound: the path has dot segments. They would be resolved on the way, and lead to any path there.
    """
    if not {".", ".."}.isdisjoint(model.replace("\\", "/").split("/")):
        raise NotFound(f"Invalid URL ({request.where})", code="unknown_url")
    # It asks for no tokens, so it counts against no quota.
    request.gateway.admission.check()
    return await _relay_as_is(request)


async def relay(request: RequestScope, path: str, body: bytes) -> Reply:
    """Send a request upstream, and its answer back as it comes.

    The upstream call is over when the request is, however it ends, and after ``turn_timeout`` at the
    latest: a server that drips bytes must not keep a slot for ever. The client is told so by a 504, or once
    its answer has begun by its being cut short.

    Raises:
        UpstreamError: the upstream could not be reached, or broke off before its first byte.
    """
    timeout = request.gateway.config.turn_timeout
    request.nursery.cancel_scope.deadline = trio.current_time() + timeout
    context = request.context
    if request.gateway.config.cache_salt and path in SALTED:
        body = salted(body, context.owner)
    headers = list(context.headers)
    # The bytes go back as they come, so the upstream may only use an encoding that the client takes; and none
    # if they are to be looked into.
    encodings = None if request.place is not None else request.header(b"accept-encoding")
    headers.append((b"accept-encoding", (encodings or "identity").encode("latin-1")))
    method = request.scope["method"]
    call = request.gateway.upstream.forward(
        "GET" if method == "HEAD" else method,
        path,
        request.scope["query_string"],
        headers,
        body,
        request.context,
    )
    asked = perf_counter()
    answer = await request.stack.enter_async_context(call)
    reply_body = RelayBody(answer, _meter(request, answer, len(body)))
    await reply_body.begin()
    request.model_seconds = perf_counter() - asked
    returned = to_client([(name.lower(), value) for name, value in answer.headers])
    if reply_body.is_event_stream:
        returned = [field for field in returned if field[0] != b"x-accel-buffering"]
        returned.append((b"x-accel-buffering", b"no"))
    return Reply(reply_body, answer.status, returned)


def _meter(request: RequestScope, answer: Answer, asked: int) -> Meter | None:
    """What counts the tokens of an answer, when the request is over; None if nobody wants to know."""
    if request.place is None or answer.status != 200:
        return None
    meter = Meter(request.place, asked)
    request.stack.callback(meter.finish)
    return meter


class RelayBody(Chunks):
    """The upstream's chunks. If they break off, so does the answer: the client must not take it for whole.

    Attributes:
        is_event_stream: whether a first event may be long in coming.
    """

    def __init__(self, answer: Answer, meter: Meter | None = None) -> None:
        self._chunks = answer.chunks
        self._meter = meter
        self._first: list[bytes] = []
        self._send_nowait: SendNowait | None = None
        self.is_event_stream = answer.is_event_stream

    async def begin(self) -> None:
        """Wait for the first bytes, so that an upstream that dies before them is a 502.

        A stream whose first event is still to come is not waited for: an empty chunk sends its head.
        """
        if self.is_event_stream and self._chunks.waits:
            self._first = [b""]
        elif not self._chunks.ended:
            with suppress(StopAsyncIteration):
                self._first = [await anext(self._chunks)]

    @property
    def ended(self) -> bool:
        return not self._first and self._chunks.ended

    def attach(self, send_nowait: SendNowait) -> None:
        # What is metered has to be seen.
        if self.is_event_stream and self._meter is None:
            self._send_nowait = send_nowait

    async def __anext__(self) -> bytes:
        if self._send_nowait is None:
            chunk = self._first.pop() if self._first else await anext(self._chunks)
            if self._meter is not None:
                self._meter.feed(chunk)
            return chunk
        if self._first:
            return self._first.pop()
        await self._chunks.follow(self._send_nowait)
        if self._chunks.ended:
            raise StopAsyncIteration
        return b""
