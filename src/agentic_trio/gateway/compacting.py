"""Compaction: the model server sums up a context, and a turn goes on from the summary, or ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import InvalidRequest, UpstreamError
from agentic_trio.gateway.counting import Counting
from agentic_trio.gateway.parsing import parse_with_context
from agentic_trio.gateway.retries import Retries
from agentic_trio.gateway.turn import Call, Turn
from agentic_trio.wire.affinity import Affinity
from agentic_trio.wire.compaction import (
    COMPACTION,
    REQUEST,
    SUMMARY_MEMBERS,
    Summary,
    compacted_window,
    read_summary,
    tail_of,
)
from agentic_trio.wire.dialect import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentic_trio.context import RequestContext
    from agentic_trio.gateway.admission import Ticket
    from agentic_trio.gateway.services import Services
    from agentic_trio.wire.create_response import CreateResponse
    from agentic_trio.wire.sealing import Seal

BYTES_A_TOKEN = 4
"""How large a token is taken to be where the model server doesn't render."""


async def summarise(
    call: CreateResponse,
    items: Sequence[bytes],
    context: RequestContext,
    services: Services,
    meanwhile: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
) -> Summary:
    """Have the request's model sum up a context. One that is too long loses its oldest items first.

    ``meanwhile`` is awaited while the model server works.

    Raises:
        InvalidRequest: nothing can be sealed here.
        UpstreamError: the model server failed, or wrote nothing.

    Cancellation: the call of the model server is closed.
    """
    seal = _required(services.seal_of(context.owner))
    affinity = Affinity(call.model, items[0])
    retries = Retries(items, retries=services.config.upstream_retries, truncates=True)
    while True:
        body = call.upstream_body([*retries.items, REQUEST], stream=False, seal=seal, changed=SUMMARY_MEMBERS)
        try:
            async with services.upstream.stream(body, context, meanwhile, affinity) as answer:
                return read_summary(await answer.body())
        except UpstreamError as error:
            await retries.after(error)


def _required(seal: Seal | None) -> Seal:
    if seal is None:
        raise InvalidRequest(
            "Unsupported parameter: compaction needs the extra 'seal' of agentic-trio, "
            "which is not installed here.",
            code="unsupported_parameter",
            param="input",
        )
    return seal


class CompactingTurn(Turn):
    """A turn whose context is summed up: because its request asks for it, or when it is too large.

    Where the request asks, the compaction is all of its output. Otherwise it comes first, and the model
    answers on it and on the request's own input.
    """

    async def _call_upstream(self) -> None:
        self._scope.deadline = trio.current_time() + self._services.config.turn_timeout
        items = self.recording.context.items()
        if self.call.compacts:
            await self._compact(items, marked=False)
            self._response.complete()
        elif await self._is_too_large(items):
            compaction = await self._compact(items, marked=True)
            await self._generate([compaction, *self._tail()])
        else:
            await self._generate(items)

    async def _is_too_large(self, items: Sequence[bytes]) -> bool:
        threshold = self.call.compact_threshold
        if threshold is None or len(items) < 2:
            return False
        counting = Counting(self._services)
        tokens = await counting.rendered(self.call, items, self._context, self._seal)
        if tokens is None:
            tokens = sum(map(len, items)) // BYTES_A_TOKEN
        return tokens > threshold

    async def _compact(self, items: Sequence[bytes], *, marked: bool) -> bytes:
        """Put a compaction of these items into the output; returns it."""
        self._progress = Call.MADE
        summary = await summarise(self.call, items, self._context, self._services, self._announce)
        self._progress = Call.ACCEPTED
        if self.call.stream and not self.announced:
            await self._announce()
            self._tell(self._response.begin())
        seal = _required(self._seal)
        item = {"encrypted_content": seal.seal(COMPACTION, summary.text)}
        self._log(self._response.compact(item, summary.usage, marked=marked))
        return self._response.items[-1].data

    def _tail(self) -> list[bytes]:
        """The request's own input, with the calls whose outputs it has."""
        context = self.recording.context
        return tail_of([item.data for item in context.input], context.history.items)


class Compacting:
    """``POST /v1/responses/compact``: the compaction alone, stored nowhere."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def compact(self, body: bytes, context: RequestContext, ticket: Ticket) -> bytes:
        """Compact what a body names; returns the answer's body: the user's messages, and the compaction.

        Raises:
            GatewayError: as a turn with this body would be refused.

        Cancellation: the call of the model server is closed.
        """
        services = self._services
        call, items = await parse_with_context(body, context, services, ticket)
        summary = await summarise(call, items, context, services)
        seal = _required(services.seal_of(context.owner))
        compaction = encode(
            {
                "id": services.mint("cmp"),
                "type": COMPACTION,
                "encrypted_content": seal.seal(COMPACTION, summary.text),
            }
        )
        return compacted_window(
            services.mint("resp"), int(services.now()), [*items, compaction], summary.usage
        )
