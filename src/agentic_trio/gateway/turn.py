"""A turn: one ``POST /v1/responses``, from its history to its commit."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import GatewayError, ServiceUnavailable, TurnTimeout, UpstreamError
from agentic_trio.gateway.log import MAX_LOG_BYTES, EventLog
from agentic_trio.gateway.quotas import BYTES_PER_TOKEN
from agentic_trio.gateway.recording import Recording, Row
from agentic_trio.gateway.rehydration import rehydrate
from agentic_trio.gateway.retries import Retries
from agentic_trio.gateway.store_errors import StateErrors
from agentic_trio.store.contract import APPENDING, History
from agentic_trio.telemetry.edges import event
from agentic_trio.telemetry.figures import Figures
from agentic_trio.wire.accumulator import Accumulator, not_a_stream
from agentic_trio.wire.affinity import Affinity
from agentic_trio.wire.cache_salt import salt_of
from agentic_trio.wire.compaction import last_compaction
from agentic_trio.wire.items import opened_calls
from agentic_trio.wire.responses import Snapshot, with_output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from agentic_trio.config import Config
    from agentic_trio.context import RequestContext
    from agentic_trio.gateway.admission import Ticket
    from agentic_trio.gateway.idempotency import IdempotencyKey
    from agentic_trio.gateway.rehydration import Context
    from agentic_trio.gateway.services import Services
    from agentic_trio.upstream.answer import Answer
    from agentic_trio.wire.bodies import Members
    from agentic_trio.wire.create_response import CreateResponse

logger = logging.getLogger(__name__)

LINGER = 1.0
"""Seconds that the model server gets to end its body after the terminal event, so that the connection
can be used again."""

LIFECYCLE_EVENTS = 4
"""How many events of a stream hold the whole Response object, and so repeat the request."""


class Call(Enum):
    """How far the call of the model server has come."""

    NOT_MADE = "it has not been called"
    MADE = "it may be working"
    ACCEPTED = "it has answered with a response"


class Turn:
    """Runs in one task; any number of readers follow its log.

    A turn owns its ticket, its conversation's lock, its call of the model server, its row and its log,
    and gives them back in that order's reverse. It takes five steps: take the conversation, read the
    history, call the model server, follow its answer, record how that ended. What it leaves behind:

    ============================================  ==========================
    how far it came                               row
    ============================================  ==========================
    its id was told                               one, however it ended
    a tool was called                             one: it may have run
    failed, and its request has a key             none: a retry runs again
    the model server accepted it                  one: the model has worked
    cancelled while the model server was called   one: the model may have
    anything else                                 none
    ============================================  ==========================

    Attributes:
        call: the request.
        log: the turn's events, if it is streamed.
        recording: its row.
        figures: what it knows of itself.
    """

    accumulator = Accumulator

    def __init__(
        self,
        call: CreateResponse,
        context: RequestContext,
        services: Services,
        ticket: Ticket,
        *,
        key: IdempotencyKey | None = None,
        local: History | None = None,
        generates: bool = True,
    ) -> None:
        self.call = call
        self.figures = Figures(
            request_id=context.request_id,
            owner=context.owner,
            route=context.route,
            began=services.clock(),
            clock=services.clock,
        )
        self.recording = Recording(call, self.figures, services, key=key)
        snapshot = Snapshot(self.recording.id, self.recording.created_at, call.echo())
        # The events that repeat the request come before any reader has had its turn.
        self.log = EventLog(MAX_LOG_BYTES + LIFECYCLE_EVENTS * len(snapshot.echo))
        self._seal = services.seal_of(context.owner)
        self._response = self.accumulator(
            snapshot, services.mint, services.now, self._seal if call.seals else None
        )
        self._context = context
        self._services = services
        self._ticket = ticket
        self._local = local
        self._generates = generates
        self._scope = trio.CancelScope()
        # Why ``_scope`` is cancelled: its deadline, unless ``cancel`` gives another reason.
        self._reason: Callable[[], GatewayError | None] = partial(turn_timeout, services.config)
        self._progress = Call.NOT_MADE
        self._error: GatewayError | None = None
        self._head = trio.Event()

    @property
    def id(self) -> str:
        """The response's id."""
        return self.recording.id

    @property
    def owner(self) -> str:
        """Whose response it is."""
        return self.recording.owner

    @property
    def announced(self) -> bool:
        """Whether a client may know the id."""
        return self.recording.row is Row.TOLD

    async def wait_head(self) -> None:
        """Wait until the model server, or the background queue, has taken the request.

        Raises:
            GatewayError: it was refused, so there is no response.
        """
        await self._head.wait()
        if not self.announced:
            raise self._error or ServiceUnavailable("The server is shutting down.")

    async def wait_ended(self) -> None:
        """Wait until the turn is recorded and its log closed. No checkpoint if it has ended."""
        if not self.log.closed.is_set():
            await self.log.closed.wait()

    def result(self) -> bytes:
        """The Response object of a turn that has ended. Raises GatewayError if there is none."""
        if self._error is not None and not self.announced:
            raise self._error
        return self._response.response()

    def snapshot(self) -> bytes:
        """The Response object while the turn runs: no output, and no ending before its commit."""
        return with_output(self._response.snapshot.under_way().body(), ())

    def queued(self) -> bytes:
        """The Response object that a background turn's client gets: ``queued``, as OpenAI's always is."""
        return with_output(self._response.snapshot.queued().body(), ())

    def continuation(self) -> History | None:
        """What a turn that continues this one would read if it were stored; None if none can continue it."""
        if self._response.snapshot.status not in APPENDING:
            return None
        context, made = self.recording.context, self._response.items
        usable = [item for item in made if not item.unusable]
        calls = opened_calls(item.final or {} for item in usable)
        made_now = [item.stored for item in usable]
        begins = last_compaction(made_now)
        items = made_now[begins:] if begins is not None else [*context.items(), *made_now]
        return History(items=items, open_calls=context.open_calls | calls)

    def wake_if_quiet(self) -> None:
        """Let readers send a comment, if nothing has happened since the last call.

        A stream whose model server has sent no head by then begins without it, if that is configured: its
        id leaves, and a refusal that comes later is told as events. One that has come is a status, also while
        the store takes its time to withdraw the announcement.
        """
        bridges = self.call.stream and self._services.config.bridge_silence
        if (
            self.log.wake_if_quiet()
            and bridges
            and self.recording.row is Row.ANNOUNCED
            and not self._response.ended
        ):
            self._tell(self._response.begin())

    def cancel(self, reason: GatewayError | None = None) -> None:
        """End the turn from outside its owner. Readers are told ``reason``."""
        self._reason = lambda: reason
        self._scope.cancel()

    async def run(self) -> None:
        """Take all five steps. Never raises an expected failure: readers and ``result`` do.

        Cancellation: the call of the model server is closed at once, the turn is recorded as
        ``cancelled`` with the output that had arrived, and ``trio.Cancelled`` is raised again.
        """
        try:
            async with AsyncExitStack() as owned:
                owned.enter_context(self._ticket)
                try:
                    await self._infer(owned)
                finally:
                    await self._record()
        except Exception:
            # A bug here must not cancel the other turns of the nursery. The log is closed without a
            # terminal event, so readers see a broken stream, never a false success.
            self._error = self._bug("did not end well")
            if self.announced and self.call.store and not self.figures.stored:
                self._services.observer.lost(self.id)
        finally:
            self._services.observer.turn(self.figures)
            self._head.set()
            self.log.close()

    async def _infer(self, owned: AsyncExitStack) -> None:
        """Find out how the response ends. Raises nothing but ``trio.Cancelled``."""
        try:
            with self._scope, StateErrors():
                await self._take_conversation(owned)
                self.recording.context = await self._rehydrated()
                self.figures.history = self.figures.clock()
                await self._take_turn()
            if self._scope.cancelled_caught:
                self._cancelled(self._reason())
        except trio.Cancelled:
            self._cancelled(None)
            raise
        except GatewayError as error:
            self._failed(error)
        except Exception:
            # One bug must not end the other turns of its nursery.
            self._failed(self._bug("failed"))

    async def _take_conversation(self, owned: AsyncExitStack) -> None:
        if self.call.conversation is not None and self.call.store:
            await owned.enter_async_context(self._services.locks.lock(self.owner, self.call.conversation))

    async def _rehydrated(self) -> Context:
        return await rehydrate(
            self.call, self.owner, self._services, self._ticket, local=self._local, answered=self._generates
        )

    async def _take_turn(self) -> None:
        """Call the model server, in the background once there is room."""
        if not self._generates:
            await self._warm_up()
            return
        if not self.call.background:
            await self._call_upstream()
            return
        queued = self._response.queue()
        await self.recording.announce(self._response)
        self._tell(queued)
        async with self._services.background.slot(self.owner, self._ticket.begin):
            self._log(self._response.begin())
            await self._call_upstream()

    async def _warm_up(self) -> None:
        """Make a response of nothing, which others can continue."""
        await self._announce()
        self._tell(self._response.begin())
        self._response.complete()

    async def _call_upstream(self) -> None:
        """Call the model server, again if that was asked for and nothing has been generated."""
        self._scope.deadline = trio.current_time() + self._services.config.turn_timeout
        await self._generate(self.recording.context.items())

    async def _generate(self, items: Sequence[bytes], changed: Members | None = None) -> None:
        """Get one answer of the model server. ``changed``: members that differ from the request's."""
        config = self._services.config
        if self._progress is Call.NOT_MADE:
            self._progress = Call.MADE
            self.figures.called = self.figures.clock()
        # The oldest item is the same along a thread and its forks, and its id makes it no other thread's.
        affinity = Affinity(self.call.model, items[0])
        retries = Retries(items, retries=config.upstream_retries, truncates=self.call.truncates)
        while True:
            accepted = False
            try:
                async with self._ask(retries.items, affinity, changed) as answer:
                    accepted, self._progress = True, Call.ACCEPTED
                    self.figures.head = self.figures.head or self.figures.clock()
                    await self._follow(answer)
                    if answer.server is not None:
                        answer.server.used(self._response.snapshot.usage)
                    return
            except UpstreamError as error:
                if accepted:
                    raise
                await retries.after(error)
                self.figures.retries += 1

    def _ask(
        self, items: Sequence[bytes], affinity: Affinity, changed: Members | None
    ) -> AbstractAsyncContextManager[Answer]:
        if self._services.config.cache_salt:
            changed = {**(changed or {}), "cache_salt": b'"%b"' % salt_of(self.owner)}
        # The body has no name here: it is the history's size, and gone once it is sent.
        return self._services.upstream.stream(
            self.call.upstream_body(items, stream=self.call.stream, seal=self._seal, changed=changed),
            self._context,
            self._announce,
            affinity,
        )

    async def _announce(self) -> None:
        """Announce the turn while the model server works."""
        await self.recording.announce(self._response)

    async def _follow(self, answer: Answer) -> None:
        """Turn the model server's answer into the response."""
        streamed = answer.is_event_stream
        if self.call.stream and not streamed:
            raise not_a_stream(await answer.body())
        if self.call.stream and not self.announced:
            # It has been announced already, unless the answer began before the request was sent whole.
            await self._announce()
            self._tell(self._response.begin())
            # Readers get this now, however much of the answer came with its head.
            await trio.lowlevel.checkpoint()
        # Some servers stream whether they were asked to or not.
        if streamed:
            await self._follow_stream(answer)
        else:
            body = await answer.body()
            self._ticket.charge(len(body))
            self.figures.answered = self.figures.clock()
            self._response.receive_json(body)

    async def _follow_stream(self, answer: Answer) -> None:
        def take(chunk: bytes) -> bool:
            if not self._response.followed:
                if not self.figures.first:
                    self.figures.first = self.figures.clock()
                self._ticket.charge(len(chunk))
                self._log(self._response.receive(chunk))
                if self._response.followed:
                    self.figures.answered = self.figures.clock()
                    lingering.deadline = trio.current_time() + LINGER
            return True

        with trio.CancelScope() as lingering:
            await answer.chunks.follow(take)
        self._log(self._response.end_of_stream())

    def _log(self, events: Sequence[bytes]) -> None:
        if self.call.stream:
            self.log.extend(events)

    def _tell(self, events: Sequence[bytes]) -> None:
        """Let the id leave: it is on disk, or never will be."""
        self.recording.row = Row.TOLD
        self._log(events)
        self._head.set()

    def _cancelled(self, reason: GatewayError | None) -> None:
        # What the model server has finished stays finished, whoever leaves meanwhile.
        if not self._response.ended:
            self._error = reason or ServiceUnavailable("The turn was cancelled.")
            self._response.cancel(reason)

    def _failed(self, error: GatewayError) -> None:
        # A connection that breaks after the terminal event doesn't change how the response ended.
        if not self._response.ended:
            self._error = error
            self._response.fail(error)

    def _bug(self, what: str) -> GatewayError:
        bug = event("bug", response_id=self.id, request_id=self._context.request_id)
        logger.exception("turn %s %s (request %s)", self.id, what, self._context.request_id, extra=bug)
        return GatewayError("The gateway failed.", code="internal_error")

    async def _record(self) -> None:
        """Record how the response ended, and only then let anyone see it."""
        recording = self.recording
        self._take_figures()
        if self._leaves_a_row():
            error = await recording.end(self._response, self.log)
            if error is not None:
                self._error = error
                self.figures.ending, self.figures.code = "failed", "not_stored"
            return
        if self.call.store and recording.row is not Row.NONE:
            await recording.withdraw(self._response, self.log)
        self.log.append_last(recording.last_events(self._response))

    def _take_figures(self) -> None:
        snapshot, error = self._response.snapshot, self._error
        refused = error is not None and self._progress is not Call.ACCEPTED and not self.announced
        ending = "refused" if refused and snapshot.status == "failed" else snapshot.status
        code = (snapshot.error or {}).get("code") if error is None else error.code or error.type
        self.figures.end(ending, code, snapshot.usage)
        if self._progress is Call.ACCEPTED or snapshot.status == "cancelled":
            self._ticket.use(
                self.figures.input_tokens + self.figures.output_tokens or self._estimated_tokens()
            )

    def _estimated_tokens(self) -> int:
        """About as many as a turn has used that was cut off before the model server has counted them."""
        if self._progress is Call.NOT_MADE:
            return 0
        given = sum(map(len, self.recording.context.items()))
        made = sum(len(item.data) for item in self._response.items)
        return (given + made) // BYTES_PER_TOKEN

    def _leaves_a_row(self) -> bool:
        """See the table above. A refused request is no turn."""
        if not self.call.store or self.announced:
            return self.call.store
        if self.recording.marked:
            # A tool may have run. A retry with the same key finds this, and runs nothing again.
            return True
        if self.recording.key is not None and self._error is not None:
            # The client got an error at most. A retry with the same key must run again, so leave no row
            # for it to find.
            return False
        cancelled = self._response.snapshot.status == "cancelled"
        return self._progress is Call.ACCEPTED or (cancelled and self._progress is Call.MADE)


def turn_timeout(config: Config) -> TurnTimeout:
    """A turn or a relay took too long."""
    return TurnTimeout(f"The turn took longer than {config.turn_timeout:g} s.")
