"""How many tokens a request would be: asked of the model server, which alone knows its template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from agentic_trio.errors import UpstreamError
from agentic_trio.gateway.parsing import parse_with_context
from agentic_trio.upstream.client import MAX_REFUSAL_BYTES
from agentic_trio.wire.dialect import decode_object, encode, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.context import RequestContext
    from agentic_trio.gateway.admission import Ticket
    from agentic_trio.gateway.services import Services
    from agentic_trio.wire.bodies import Members
    from agentic_trio.wire.create_response import CreateResponse
    from agentic_trio.wire.sealing import Seal

RENDER_PATH: Final = "/v1/responses/render"
"""vLLM renders a request to its tokens here, where ``--enable-scale-out`` is set."""

RENDER_ABSENT: Final = frozenset({403, 404, 405, 501})
"""The statuses with which a server says that it doesn't."""

RENDER_RETRY: Final = 60.0
"""Seconds after which a server that didn't render is asked again."""

NO_ROOM: Final = "max_tokens must be at least 1"
"""What vLLM's renderer says of a prompt that fills the context."""

_UNLIMITED: Members = {"max_output_tokens": b"", "max_tool_calls": b""}
_PROBE: Members = _UNLIMITED | {"max_output_tokens": b"1"}


class _Rendered(msgspec.Struct):
    token_ids: list[int]


_decode_rendered = msgspec.json.Decoder(_Rendered).decode


class Counting:
    """Counts the input tokens of requests, without storing anything."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def count(self, body: bytes, context: RequestContext, ticket: Ticket) -> bytes:
        """Count for the body of ``POST /v1/responses/input_tokens``; returns that of its answer.

        Raises:
            GatewayError: as a turn with this body would be refused.

        Cancellation: the call of the model server is closed.
        """
        call, items = await parse_with_context(body, context, self._services, ticket)
        tokens = await self.tokens(call, items, context)
        return encode({"object": "response.input_tokens", "input_tokens": tokens})

    async def tokens(self, call: CreateResponse, items: Sequence[bytes], context: RequestContext) -> int:
        """The tokens of a request with this context: exact, as the model server counts them."""
        seal = self._services.seal_of(context.owner)
        rendered = await self.rendered(call, items, context, seal)
        if rendered is not None:
            return rendered
        probe = call.upstream_body(items, stream=False, seal=seal, changed=_PROBE)
        async with self._services.upstream.stream(probe, context, trio.lowlevel.checkpoint) as answer:
            return _input_tokens(await answer.body())

    async def rendered(
        self, call: CreateResponse, items: Sequence[bytes], context: RequestContext, seal: Seal | None
    ) -> int | None:
        """The tokens that the model server renders a request to; None if it doesn't render."""
        if trio.current_time() < self._services.rendering.absent_until:
            return None
        body = call.upstream_body(items, stream=False, seal=seal, changed=_UNLIMITED)
        headers = [(b"content-type", b"application/json"), (b"accept-encoding", b"identity")]
        upstream = self._services.upstream
        async with upstream.forward("POST", RENDER_PATH, b"", headers, body, context) as answer:
            if answer.status == 200:
                return len(_token_ids(await answer.body()))
            words = await answer.beginning(MAX_REFUSAL_BYTES)
            retry_after = answer.header(b"retry-after")
        if answer.status in RENDER_ABSENT:
            self._services.rendering.absent_until = trio.current_time() + RENDER_RETRY
            return None
        error = refusal(answer.status if answer.status >= 400 else 502, words, retry_after)
        if NO_ROOM in error.message:
            error.status, error.code, error.param = 400, "context_length_exceeded", "input"
        raise error


def _token_ids(body: bytes) -> list[int]:
    try:
        return _decode_rendered(body).token_ids
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UpstreamError("The model server sent something that is not a rendered request.") from None


def _input_tokens(body: bytes) -> int:
    try:
        usage = decode_object(body)["usage"]["input_tokens"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        usage = None
    if not isinstance(usage, int):
        raise UpstreamError("The model server did not say how many tokens the input was.")
    return usage
