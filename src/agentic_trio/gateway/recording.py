"""A turn's row in the store: announced while the turn runs, then ended or withdrawn."""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any

import trio

from agentic_trio.errors import GatewayError, ServiceUnavailable
from agentic_trio.gateway.admission import RETRY_AFTER
from agentic_trio.gateway.items import stored_items
from agentic_trio.gateway.rehydration import Context
from agentic_trio.store.contract import Announcement, Ending, Item, StoreError
from agentic_trio.telemetry.edges import event
from agentic_trio.wire.items import CALLS, decode_kind, opened_calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.gateway.idempotency import IdempotencyKey
    from agentic_trio.gateway.log import EventLog
    from agentic_trio.gateway.services import Services
    from agentic_trio.telemetry.figures import Figures
    from agentic_trio.wire.accumulator import Accumulator
    from agentic_trio.wire.create_response import CreateResponse

logger = logging.getLogger(__name__)


MAX_MODEL = 256
"""Characters of a model's name that are kept beside the response's own text."""


class Row(Enum):
    """What the store holds of a turn that has not ended."""

    NONE = "nothing"
    UNSURE = "an announcement, unless its write was cancelled; nobody has been told the id"
    ANNOUNCED = "an announcement; nobody has been told the id"
    TOLD = "an announcement, if the turn is stored; a client may know the id"


class Recording:
    """Writes one turn's row, and decides what readers may see of its end.

    Attributes:
        id: the response's id.
        owner: whose response it is.
        key: what makes another request a repeat of this one; None if nothing does.
        created_at: Unix seconds.
        context: what the turn continues, once that is known.
        row: what the store holds.
        marked: whether a tool may have run.

    Args:
        figures: the turn's, whose owner it is.
    """

    def __init__(
        self,
        call: CreateResponse,
        figures: Figures,
        services: Services,
        *,
        key: IdempotencyKey | None = None,
    ) -> None:
        self.id = services.mint("resp")
        self.owner = figures.owner
        self.key = key
        self.created_at = int(services.now())
        self.context = Context()
        self.row = Row.NONE
        self.marked = False
        self._call = call
        self._services = services
        self._figures = figures
        figures.response_id, figures.model = self.id, call.model[:MAX_MODEL]

    async def announce(self, response: Accumulator) -> None:
        """Put the turn on disk before anyone is told its id, so that no crash makes the id unknown.

        A turn that is not stored, or whose client learns the id with the whole answer, needs none.

        Raises:
            Missing: the conversation is gone.
            StoreError: it could not be written, and nothing was.

        Cancellation: it may be on disk or not.
        """
        call = self._call
        if not call.store or not (call.stream or call.background) or self.row is not Row.NONE:
            return
        self.row = Row.UNSURE
        try:
            await self._services.store.announce(self._announcement(response))
        except Exception:
            # A write that failed has left nothing; only a cancelled one may be on disk.
            self.row = Row.NONE
            raise
        self.row = Row.ANNOUNCED

    async def mark(self, response: Accumulator, output: Sequence[Item]) -> None:
        """Put on disk that tools are about to be called, and what has been made so far.

        If the process dies after this, the response is found as failed, with ``output``. A turn that is
        not stored leaves no mark.

        Raises:
            StoreError: it could not be written, so nothing may be called.

        Cancellation: it may be on disk or not; nothing may be called.
        """
        if not self._call.store:
            return
        before = self.row
        if before is Row.NONE:
            self.row = Row.UNSURE
        try:
            await self._services.store.announce(self._announcement(response, output))
        except Exception:
            # See ``announce``.
            self.row = before
            raise
        if self.row is Row.UNSURE:
            self.row = Row.ANNOUNCED
        self.marked = True

    def _announcement(self, response: Accumulator, output: Sequence[Item] = ()) -> Announcement:
        call = self._call
        made = (decode_kind(item.data) for item in output if not item.partial)
        opened = frozenset(kind.call_id for kind in made if kind.type in CALLS and kind.call_id is not None)
        return Announcement(
            owner=self.owner,
            id=self.id,
            created_at=self.created_at,
            status=response.snapshot.status,
            base=self.context.history.base,
            conversation=call.conversation,
            input=stored_items(self.context.input),
            open_calls=self.context.open_calls | opened,
            body=response.snapshot.body(),
            fingerprint=self.key and self.key.fingerprint,
            key=self.key and self.key.digest,
            output=output,
            figures=self._figures,
        )

    async def end(self, response: Accumulator, log: EventLog) -> GatewayError | None:
        """Commit how the turn ended, and only then append its last events to the log.

        Returns:
            None if it was recorded; otherwise what to tell the client instead of success.

        Cancellation: put off for ``commit_timeout`` at most.
        """
        last = self.last_events(response)
        with trio.CancelScope(shield=True, deadline=self._deadline()) as bound:
            try:
                await self._services.store.end(self._ending(response, log, last))
            except Exception as error:
                # Not only a failing store: a bug, or a history too long to grow, ends here too.
                self._log_failure("turn %s could not be recorded: %s", error)
                return self._not_recorded(response, log)
        if bound.cancelled_caught:
            # Whether it is on disk is unknown, so readers see a stream without an end. GET tells this ending.
            logger.error("turn %s was not recorded in time", self.id, extra=self._event())
            self._services.unrecorded.keep(self._ending(response, log, last))
            return ServiceUnavailable("The response was not stored in time.")
        self._figures.stored = self._figures.clock()
        log.append_last(last)
        return None

    def _not_recorded(self, response: Accumulator, log: EventLog) -> GatewayError:
        error = ServiceUnavailable("The response could not be stored.", headers={"retry-after": RETRY_AFTER})
        response.fail(error)
        last = self.last_events(response)
        if self.row is not Row.NONE:
            self._services.unrecorded.keep(self._ending(response, log, last))
        log.append_last(last)
        return error

    async def withdraw(self, response: Accumulator, log: EventLog) -> None:
        """Take back an announcement that may be on disk, and that nobody was told of.

        Cancellation: put off for ``commit_timeout`` at most.
        """
        with trio.CancelScope(shield=True, deadline=self._deadline()):
            try:
                await self._services.store.withdraw(self.owner, self.id)
                return
            except Exception as error:
                self._log_failure("turn %s could not be withdrawn: %s", error)
        # Without an ending it would be in progress until the next start.
        self._services.unrecorded.keep(self._ending(response, log, []))

    def _log_failure(self, message: str, error: Exception) -> None:
        """One line for a store that fails: it logs the outage itself, once, with its cause."""
        traceback = None if isinstance(error, StoreError) else error
        # Any other error's words may be a client's.
        words = error if isinstance(error, StoreError) else type(error).__name__
        logger.error(message, self.id, words, exc_info=traceback, extra=self._event())

    def _event(self) -> dict[str, Any]:
        return event("not_recorded", response_id=self.id)

    def last_events(self, response: Accumulator) -> list[bytes]:
        """The events that end the stream; none for a client that was never told the id."""
        return response.terminal_events() if self.row is Row.TOLD and self._call.stream else []

    def _deadline(self) -> float:
        return trio.current_time() + self._services.config.commit_timeout

    def _ending(self, response: Accumulator, log: EventLog, last: Sequence[bytes]) -> Ending:
        logged = log.whole() if self._services.config.replay_retention else None
        context = self.context
        return Ending(
            owner=self.owner,
            id=self.id,
            created_at=self.created_at,
            status=response.snapshot.status,
            base=context.history.base,
            conversation=self._call.conversation,
            input=stored_items(context.input),
            output=[Item(item.id, item.stored, partial=item.unusable) for item in response.items],
            open_calls=context.open_calls
            | opened_calls(item.final or {} for item in response.items if not item.unusable),
            body=response.snapshot.body(),
            fingerprint=self.key and self.key.fingerprint,
            key=self.key and self.key.digest,
            events=(*logged, *last) if self.row is Row.TOLD and logged else (),
            figures=self._figures,
        )
