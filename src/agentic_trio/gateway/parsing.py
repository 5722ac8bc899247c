"""A request's body becomes a call, without keeping the loop from other tasks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from agentic_trio.gateway.rehydration import rehydrate
from agentic_trio.gateway.store_errors import StateErrors
from agentic_trio.wire.create_response import parse_create_response, parse_steps

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentic_trio.context import RequestContext
    from agentic_trio.gateway.admission import Ticket
    from agentic_trio.gateway.services import Services
    from agentic_trio.wire.create_response import CreateResponse

LARGE_BODY = 256 * 1024
"""Bytes of a body from which on it is parsed in slices. Smaller ones take a few milliseconds."""

PARSING_SLICE = 0.005
"""Seconds after which parsing a large body gives way to other tasks."""


async def parse(
    body: bytes, services: Services, *, hosted: Collection[str] = (), seals: bool = False
) -> CreateResponse:
    """Parse a body as ``parse_create_response`` does; a large one in slices, between which others run.

    Cancellation: nothing has happened.
    """
    mint, strict = services.mint, services.config.strict_parameters
    if len(body) < LARGE_BODY:
        return parse_create_response(body, mint, strict=strict, hosted=hosted, seals=seals)
    steps = parse_steps(body, mint, strict=strict, hosted=hosted, seals=seals)
    began = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as parsed:
            call: CreateResponse = parsed.value
            return call
        if time.perf_counter() - began > PARSING_SLICE:
            await trio.lowlevel.checkpoint()
            began = time.perf_counter()


async def parse_with_context(
    body: bytes, context: RequestContext, services: Services, ticket: Ticket
) -> tuple[CreateResponse, list[bytes]]:
    """The call of a body that becomes no turn, and the items that its model would be given.

    Raises:
        GatewayError: as a turn with this body would be refused.

    Cancellation: nothing has happened.
    """
    call = await parse(body, services)
    with StateErrors():
        found = await rehydrate(call, context.owner, services, ticket)
    return call, found.items()
