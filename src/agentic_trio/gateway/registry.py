"""The turns that run: who owns them, who may follow them, and how they end together."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import InvalidRequest, ServiceUnavailable
from agentic_trio.gateway.admission import TooManyRequests
from agentic_trio.gateway.turn import Turn
from agentic_trio.wire.create_response import parse_create_response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentic_trio.context import RequestContext
    from agentic_trio.gateway.budget import Share
    from agentic_trio.gateway.services import Services

QUEUED_PER_SLOT = 10
"""How many background turns may wait for each that may run."""


class Registry:
    """The turns of one gateway, by the id of their response."""

    def __init__(self, services: Services, service: trio.Nursery) -> None:
        self._services = services
        self._service = service
        self._running: dict[str, Turn] = {}
        self._in_background = 0
        self._most_in_background = services.config.max_background * (1 + QUEUED_PER_SLOT)
        self._closed = False

    def new(
        self, body: bytes, context: RequestContext, *, id: str | None = None, fingerprint: bytes | None = None
    ) -> Turn:
        """A turn for a request's body, not yet running.

        Raises:
            InvalidRequest: the body is not a right one.
        """
        call = parse_create_response(
            body, self._services.mint, strict=self._services.config.strict_parameters
        )
        return Turn(call, context, self._services, id=id, fingerprint=fingerprint)

    async def run(self, turn: Turn) -> None:
        """Run a turn in the caller's task, which owns it. See ``Turn.run``."""
        self._running[turn.id] = turn
        if self._closed:
            turn.cancel(_shutting_down())
        try:
            await turn.run()
        finally:
            del self._running[turn.id]

    def start(self, turn: Turn, place: ExitStack | None = None, held: Share | None = None) -> None:
        """Run a turn that outlives its request: the gateway owns it.

        Args:
            turn: a new one.
            place: the request's among those at the model server. What is in it goes over to the turn,
                until that ends; a background turn has its own bound, and leaves it alone.
            held: the request's share of what may be in memory. It goes over to the turn.

        Raises:
            TooManyRequests: as many background turns wait as may.
        """
        background = turn.call.background
        if background and self._in_background >= self._most_in_background:
            raise TooManyRequests("Too many background responses are waiting. Please retry later.")
        if held is not None:
            held.give_to(turn.held)
        self._running[turn.id] = turn
        if background:
            self._in_background += 1
            self._service.start_soon(self._run_in_background, turn)
        else:
            self._service.start_soon(self._run_owned, turn, place.pop_all() if place else ExitStack())

    async def _run_owned(self, turn: Turn, place: ExitStack) -> None:
        with place:
            await self.run(turn)

    async def _run_in_background(self, turn: Turn) -> None:
        try:
            await self.run(turn)
        finally:
            self._in_background -= 1

    def find(self, owner: str, id: str) -> Turn | None:
        """A running turn of this owner."""
        turn = self._running.get(id)
        return turn if turn is not None and turn.owner == owner else None

    async def nudge_quiet(self) -> None:
        """Wake, now and then, the readers of streams that are quiet, so that they say they are there.

        Cancellation: nobody is woken any more.
        """
        while True:
            await trio.sleep(self._services.config.keep_alive_interval / 2)
            for turn in self._running.values():
                turn.log.nudge()

    async def wait_for_running(self) -> None:
        """Wait until every turn that runs now has ended. Cancellation: stops waiting."""
        for turn in list(self._running.values()):
            await turn.wait_ended()

    async def drain(self, deadline: float) -> None:
        """Wait until no turn runs, until ``deadline`` (in Trio's time) at most."""
        with trio.move_on_at(deadline):
            while self._running:
                await next(iter(self._running.values())).wait_ended()
                await trio.lowlevel.checkpoint()

    def end_all(self) -> None:
        """End the turns that run, and those that come; each is recorded and tells its readers why."""
        self._closed = True
        for turn in list(self._running.values()):
            turn.cancel(_shutting_down())

    async def close(self) -> None:
        """End all turns and wait until they are recorded."""
        self.end_all()
        await self.wait_ended(list(self._running.values()))

    async def wait_ended(self, turns: Iterable[Turn]) -> None:
        """Wait until turns that were told to end have done so.

        Cancellation: put off until then, for as long as a commit may take.
        """
        bound = self._services.config.commit_timeout + 1
        with trio.CancelScope(shield=True, deadline=trio.current_time() + bound):
            for turn in turns:
                await turn.wait_ended()


def _shutting_down() -> ServiceUnavailable:
    return ServiceUnavailable("The server is shutting down.")


def idempotent_id(owner: str, key: str) -> str:
    """The response id that belongs to an idempotency key: one key, one response."""
    digest = hashlib.sha256(f"{len(owner)}:{owner}{key}".encode()).hexdigest()
    return f"resp_{digest[:48]}"


def fingerprint_of(body: bytes) -> bytes:
    """What tells a repeated request from another one."""
    return hashlib.sha256(body).digest()


def key_in_use() -> InvalidRequest:
    """The first request with an idempotency key has not got so far that a repeat could follow it."""
    return InvalidRequest(
        "A request with this Idempotency-Key is in progress. Please retry in a few seconds.",
        status=409,
        code="idempotency_key_in_use",
    )


def check_repeat(known: bytes | None, fingerprint: bytes) -> None:
    """Refuse an idempotency key that another request has used. Raises InvalidRequest."""
    if known != fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was used for another request.", code="idempotency_key_reused"
        )
