"""The turns that run: who owns them, who may follow them, and how they end together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import ServiceUnavailable
from agentic_trio.gateway.admission import TooManyRequests
from agentic_trio.gateway.compacting import CompactingTurn
from agentic_trio.gateway.parsing import parse
from agentic_trio.gateway.rounds import ToolTurn
from agentic_trio.gateway.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentic_trio.context import RequestContext
    from agentic_trio.gateway.admission import Ticket
    from agentic_trio.gateway.idempotency import IdempotencyKey
    from agentic_trio.gateway.services import Services
    from agentic_trio.store.contract import History
    from agentic_trio.wire.create_response import CreateResponse

QUEUED_PER_SLOT = 10
"""How many background turns may wait for each that may run."""


class Registry:
    """The turns of one gateway, by the id of their response.

    Args:
        services: what turns work with.
        service: owns the turns that outlive their request.
    """

    def __init__(self, services: Services, service: trio.Nursery) -> None:
        self._services = services
        self._service = service
        self._running: dict[str, Turn] = {}
        self._keyed: dict[tuple[str, bytes], Turn] = {}
        self._in_background = 0
        self._most_in_background = services.config.max_background * (1 + QUEUED_PER_SLOT)
        self._closed = False

    async def new(
        self,
        body: bytes,
        context: RequestContext,
        ticket: Ticket,
        *,
        key: IdempotencyKey | None = None,
        local: History | None = None,
        generates: bool = True,
    ) -> Turn:
        """A turn for a request's body. It has taken over the ticket, and must now be run or started.

        Args:
            body: the request's.
            context: the request's own values.
            ticket: has its slot and its memory.
            key: what makes another request a repeat of it.
            local: what it continues, where that isn't stored.
            generates: whether the model is asked for an answer.

        Raises:
            InvalidRequest: the body is not a valid request. The ticket is untouched, here and below.
            TooManyRequests: as many background turns wait as may.

        Cancellation: the ticket is untouched.
        """
        services = self._services
        call = await parse(body, services, hosted=services.hosted, seals=services.sealing is not None)
        if call.background:
            if self._in_background >= self._most_in_background or not self._has_share(context.owner):
                raise TooManyRequests(
                    "Too many background responses are waiting. Please retry later.", "background"
                )
            ticket.give_slot_back()
        else:
            ticket.begin_now()
        kind = _kind_of(call)
        return kind(call, context, services, ticket.pop_all(), key=key, local=local, generates=generates)

    def _has_share(self, owner: str) -> bool:
        """Whether another background turn of an owner may wait: fewer of its wait than there is room for yet.

        So one owner can't fill the queue alone. There is no owner where nobody has to say who they are.
        """
        left = self._most_in_background - self._in_background
        return not owner or self._services.background.waiting(owner) < left

    def __len__(self) -> int:
        """How many turns run, or wait in the background."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """How many background turns wait."""
        return max(self._in_background - self._services.background.borrowed, 0)

    async def run(self, turn: Turn) -> None:
        """Run a turn in the caller's task, which owns it. Cancellation: as for ``Turn.run``."""
        self._add(turn)
        if self._closed:
            turn.cancel(_shutting_down())
        try:
            await turn.run()
        finally:
            self._remove(turn)

    def start(self, turn: Turn) -> None:
        """Run a turn that outlives its request: the gateway's service nursery owns it."""
        self._add(turn)
        if turn.call.background:
            self._in_background += 1
            self._service.start_soon(self._run_in_background, turn)
        else:
            self._service.start_soon(self.run, turn)

    async def _run_in_background(self, turn: Turn) -> None:
        try:
            await self.run(turn)
        finally:
            self._in_background -= 1

    def _add(self, turn: Turn) -> None:
        self._running[turn.id] = turn
        if turn.recording.key is not None:
            self._keyed[turn.owner, turn.recording.key.digest] = turn

    def _remove(self, turn: Turn) -> None:
        del self._running[turn.id]
        key = turn.recording.key
        if key is not None and self._keyed.get((turn.owner, key.digest)) is turn:
            del self._keyed[turn.owner, key.digest]

    def find(self, owner: str, id: str) -> Turn | None:
        """A running turn of this owner."""
        turn = self._running.get(id)
        return turn if turn is not None and turn.owner == owner else None

    def find_repeated(self, owner: str, key: IdempotencyKey) -> Turn | None:
        """A running turn of this owner whose request has this key.

        Raises:
            InvalidRequest: it has another body.
        """
        turn = self._keyed.get((owner, key.digest))
        if turn is not None and turn.recording.key is not None:
            key.check(turn.recording.key.fingerprint)
        return turn

    async def wake_quiet(self) -> None:
        """Wake the readers of quiet streams every so often, so that they send a comment.

        Cancellation: nobody is woken any more.
        """
        while True:
            await trio.sleep(self._services.config.keep_alive_interval / 2)
            for turn in list(self._running.values()):
                turn.wake_if_quiet()

    def running(self) -> list[Turn]:
        """The turns that run now."""
        return list(self._running.values())

    async def wait_for_running(self) -> None:
        """Wait until every turn that runs now has ended. Cancellation: stops waiting."""
        for turn in list(self._running.values()):
            await turn.wait_ended()

    async def drain(self, deadline: float) -> None:
        """Wait until no turn runs, or until ``deadline`` on Trio's clock.

        Cancellation: the turns go on.
        """
        with trio.move_on_at(deadline):
            while self._running:
                await next(iter(self._running.values())).wait_ended()
                await trio.lowlevel.checkpoint()

    def end_all(self) -> None:
        """End the turns that run, and those still to come; each is recorded and tells its readers why."""
        self._closed = True
        for turn in list(self._running.values()):
            turn.cancel(_shutting_down())

    async def close(self) -> None:
        """End all turns and wait until they are recorded. Cancellation: as for ``wait_ended``."""
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


def _kind_of(call: CreateResponse) -> type[Turn]:
    if call.compacts:
        return CompactingTurn
    if call.runs_tools:
        return ToolTurn
    return Turn if call.compact_threshold is None else CompactingTurn


def _shutting_down() -> ServiceUnavailable:
    return ServiceUnavailable("The server is shutting down.")
