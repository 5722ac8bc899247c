"""A turn: one stored ``POST /v1/responses``, from its history to its commit."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import (
    GatewayError,
    InvalidRequest,
    ServiceUnavailable,
    TurnTimeout,
    UpstreamError,
)
from agentic_trio.gateway.items import linked_items, resolved, stored_items
from agentic_trio.gateway.log import EventLog
from agentic_trio.gateway.retries import Retries
from agentic_trio.gateway.store_errors import StateErrors
from agentic_trio.store.contract import (
    Announcement,
    Ending,
    History,
    HistoryTooLarge,
    Item,
    Missing,
    NotEnded,
)
from agentic_trio.wire.accumulator import Accumulator
from agentic_trio.wire.create_response import nothing_to_answer
from agentic_trio.wire.dialect import JsonObject, decode_object
from agentic_trio.wire.items import InputItem, opened_calls, pair_calls, refuse_dangling
from agentic_trio.wire.responses import Snapshot, with_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.context import RequestContext
    from agentic_trio.gateway.services import Services
    from agentic_trio.upstream.client import Answer
    from agentic_trio.wire.create_response import CreateResponse

logger = logging.getLogger("agentic_trio")

LINGER = 1.0
"""Seconds that the upstream is given to end its body after the terminal event, so that its connection
can be used again."""


class Turn:
    """One task runs it; any number of readers follow its log.

    Attributes:
        id: the response's id.
        owner: whose it is.
        log: its events, if it is streamed.
        held: its share of what may be in memory, until it ends.
        fingerprint: tells a repeat of its request from another request; None if it can't be repeated.
    """

    def __init__(
        self,
        call: CreateResponse,
        context: RequestContext,
        services: Services,
        *,
        id: str | None = None,
        fingerprint: bytes | None = None,
    ) -> None:
        self.call = call
        self.id = id or services.mint("resp")
        self.owner = context.owner
        self.log = EventLog()
        self.held = services.budget.share()
        self.fingerprint = fingerprint
        self._context = context
        self._services = services
        self._history = History()
        self._input: list[InputItem] = []
        self._waiting_calls: frozenset[str] = frozenset()
        self._created_at = int(services.now())
        snapshot = Snapshot(self.id, self._created_at, call.echo())
        self._response = Accumulator(snapshot, services.mint, services.now)
        self._waiting = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._told_to_end = False
        self._reason: GatewayError | None = None
        self._announcing = False
        self._announced = False
        self._called = False
        self._accepted = False
        self._head = trio.Event()
        self._ended = trio.Event()
        self._error: GatewayError | None = None
        self._refusal: GatewayError | None = None

    async def wait_head(self) -> None:
        """Wait until the request is taken, by the upstream or, in the background, by us.

        Raises:
            GatewayError: it was refused, so there is no response.
        """
        await self._head.wait()
        if self._refusal is not None:
            raise self._refusal

    async def wait_ended(self) -> None:
        """Wait until the turn is recorded, if it leaves a record, and its log closed: no checkpoint then."""
        if not self._ended.is_set():
            await self._ended.wait()

    @property
    def announced(self) -> bool:
        """Whether its id may be known to a client."""
        return self._head.is_set() and self._refusal is None

    def result(self) -> bytes:
        """The Response object, once ``run`` has returned.

        Raises:
            GatewayError: there is none.
        """
        if self._error is not None and not self.announced:
            raise self._error
        return self._response.response()

    def snapshot(self) -> bytes:
        """The Response object while the turn is running: what is done shows when it has ended."""
        return with_output(self._response.snapshot.under_way().body(), ())

    def events(self) -> TurnEvents:
        """The events as objects, from the first on, until the turn has ended."""
        return TurnEvents(self.log)

    def cancel(self, reason: GatewayError | None = None) -> None:
        """End the turn now, from outside of its owner. ``reason`` is what its readers are told."""
        self._told_to_end = True
        self._reason = reason
        self._waiting.cancel()
        self._scope.cancel()

    async def run(self) -> None:
        """Load the history, call the upstream, record how it ended. Never raises an expected failure.

        Cancellation: the upstream call is closed at once and the turn is recorded as ``cancelled`` with
        the output that had arrived; then ``trio.Cancelled`` goes on its way.
        """
        conversation = self.call.conversation
        try:
            async with AsyncExitStack() as held:
                held.enter_context(self.held)
                if conversation is not None and self.call.store:
                    with self._waiting:
                        await held.enter_async_context(self._services.locks.lock(self.owner, conversation))
                if self._waiting.cancelled_caught:
                    self._error = self._reason or ServiceUnavailable("The turn was cancelled.")
                else:
                    await self._run()
        except InvalidRequest as locked:
            self._error = locked
        except Exception:
            # Nor must a bug in telling how it ended; its log then ends without a terminal event.
            logger.exception("turn %s did not end well (request %s)", self.id, self._context.request_id)
            self._error = _bug()
        finally:
            if not self._head.is_set():
                self._refusal = self._error or ServiceUnavailable("The server is shutting down.")
                self._head.set()
            self.log.close()
            self._ended.set()

    async def _run(self) -> None:
        try:
            with self._scope, StateErrors():
                await self._work()
            if self._scope.cancelled_caught:
                self._cancelled(self._reason if self._told_to_end else self._too_long())
        except trio.Cancelled:
            self._cancelled(None)
            raise
        except GatewayError as error:
            self._failed(error)
        except Exception:
            # One bug must not end the other turns of its nursery.
            logger.exception("turn %s failed (request %s)", self.id, self._context.request_id)
            self._failed(_bug())
        finally:
            await self._end()

    async def _work(self) -> None:
        await self._prepare()
        if not self.call.background:
            await self._infer()
            return
        events = self._response.queue()
        await self._announce()
        self._tell(events)
        async with self._services.background:
            self._log(self._response.begin())
            await self._infer()

    async def _infer(self) -> None:
        """Call the upstream, again where that was asked for and nothing has been generated."""
        self._scope.deadline = trio.current_time() + self._services.config.turn_timeout
        self._called = True
        attempts = Retries(
            [*self._history.items, *(item.data for item in self._input)],
            retries=self._services.config.upstream_retries,
            truncates=self.call.truncates,
        )
        while True:
            body = self.call.upstream_body(attempts.items, stream=self.call.stream)
            try:
                async with self._services.upstream.stream(body, self._context, self._announce) as answer:
                    self._accepted = True
                    await self._take(answer)
                    return
            except UpstreamError as error:
                if self._accepted:
                    raise
                await attempts.after(error)

    async def _take(self, answer: Answer) -> None:
        streamed = (answer.header(b"content-type") or "").startswith("text/event-stream")
        if self.call.stream and not streamed:
            raise UpstreamError("The model server did not answer with an event stream.")
        if self.call.stream and not self._announced:
            # It has been done, unless the upstream answered before it had the whole request.
            await self._announce()
            self._tell(self._response.begin())
            # Its readers have this now, however much has come with the head.
            await trio.lowlevel.checkpoint()
        # Some servers stream whether they were asked to or not.
        if streamed:
            await self._follow(answer)
        else:
            self._response.receive_json(await answer.body())

    async def _follow(self, answer: Answer) -> None:
        """Turn the upstream's stream into the log's events."""
        with trio.CancelScope() as lingering:
            async for chunk in answer.chunks:
                if self._response.ended:
                    continue
                self._log(self._response.receive(chunk))
                if self._response.ended:
                    lingering.deadline = trio.current_time() + LINGER
        self._log(self._response.end_of_stream())

    def _log(self, events: Sequence[bytes]) -> None:
        if self.call.stream:
            self.log.extend(events)

    async def _prepare(self) -> None:
        """Read the history and settle the input, or refuse."""
        call = self.call
        if call.previous_response_id is not None or call.conversation is not None:
            self._history = await self._read_history()
            self.held.hold(sum(map(len, self._history.items)))
        self._input = await self._resolved(call.input)
        if not self._input and not self._history.items:
            raise nothing_to_answer()
        self._waiting_calls = pair_calls(self._history.open_calls, self._input, self._history.items)
        refuse_dangling(self._waiting_calls, self._input)

    async def _read_history(self) -> History:
        call, store = self.call, self._services.store
        try:
            if call.previous_response_id is not None:
                await self._services.unrecorded.settle(self.owner, call.previous_response_id)
            return await store.history(
                self.owner, response=call.previous_response_id, conversation=call.conversation
            )
        except Missing as missing:
            if missing.kind != "response":
                raise
            raise InvalidRequest(
                f"Previous response with id '{missing.id}' not found.",
                code="previous_response_not_found",
                param="previous_response_id",
            ) from None
        except HistoryTooLarge:
            raise InvalidRequest(
                "The history is larger than any model's context.",
                code="context_length_exceeded",
                param="input",
            ) from None
        except NotEnded as unfinished:
            raise InvalidRequest(
                f"Previous response with id '{unfinished.id}' is still in progress.",
                code="previous_response_not_ended",
                param="previous_response_id",
            ) from None

    async def _resolved(self, items: Sequence[InputItem]) -> list[InputItem]:
        """The input with its references replaced by what they refer to.

        To a conversation every id that we issued is a reference. Elsewhere only an ``item_reference`` is:
        an item that is replayed there goes to the model as it was sent.
        """
        store, conversation = self._services.store, self.call.conversation
        if conversation is not None:
            return await linked_items(store, self.owner, items, conversation=conversation, param="input")
        references = [item.id for item in items if item.type == "item_reference"]
        if not references:
            return list(items)
        found = await store.find_items(self.owner, references)
        return [resolved(item, found, "input") if item.type == "item_reference" else item for item in items]

    async def _announce(self) -> None:
        """Put the turn on disk, so that a crash can't make its id unknown, if anyone will know it before
        its end. In the foreground this is done while the upstream works."""
        if not self.call.store or not (self.call.stream or self.call.background) or self._announcing:
            return
        announcement = Announcement(
            owner=self.owner,
            id=self.id,
            created_at=self._created_at,
            status=self._response.snapshot.status,
            base=self._history.base,
            conversation=self.call.conversation,
            input=stored_items(self._input),
            open_calls=self._waiting_calls,
            body=self._response.snapshot.body(),
            fingerprint=self.fingerprint,
        )
        self._announcing = True
        try:
            await self._services.store.announce(announcement)
        except Exception:
            # A write that failed has left nothing; only one that was cancelled may be there.
            self._announcing = False
            raise

    def _tell(self, events: Sequence[bytes]) -> None:
        """Let the id leave: it is on disk, or will never be."""
        self._announced = True
        self._log(events)
        self._head.set()

    def _cancelled(self, reason: GatewayError | None) -> None:
        # What the upstream has finished stays finished, whoever left meanwhile.
        if not self._response.ended:
            self._error = reason or ServiceUnavailable("The turn was cancelled.")
            self._response.cancel(reason)

    def _too_long(self) -> TurnTimeout:
        return TurnTimeout(f"The turn took longer than {self._services.config.turn_timeout:g} s.")

    def _failed(self, error: GatewayError) -> None:
        # Nor does it unfinish when the connection breaks behind the terminal event.
        if not self._response.ended:
            self._error = error
            self._response.fail(error)

    async def _end(self) -> None:
        """Commit how the turn ended, and only then let anyone see it."""
        last = self._last_events()
        if self._leaves_a_row():
            with trio.CancelScope(shield=True, deadline=self._commit_deadline()) as bound:
                last = await self._commit(last)
            if bound.cancelled_caught:
                # It may be on disk or not: nobody may be told an ending. Those who ask get this one.
                logger.error("turn %s was not recorded in time", self.id)
                self._error = ServiceUnavailable("The response was not stored in time.")
                self._services.unrecorded.keep(self._ending(last))
                return
        elif self._announcing:
            await self._withdraw()
        self.log.extend(last)

    def _last_events(self) -> list[bytes]:
        return self._response.terminal_events() if self._announced and self.call.stream else []

    def _leaves_a_row(self) -> bool:
        """Whether there is anything to record: a refused request has no turn."""
        if not self.call.store or self._announced:
            return self.call.store
        if self.fingerprint is not None and self._error is not None:
            # Its client was told an error, if anything: its repeat is to run, not to be given this.
            return False
        cancelled = self._response.snapshot.status == "cancelled"
        return self._called and (self._accepted or cancelled)

    async def _withdraw(self) -> None:
        """Take back an announcement that may be on disk, and that nobody has been told of."""
        with trio.CancelScope(shield=True, deadline=self._commit_deadline()):
            try:
                await self._services.store.withdraw(self.owner, self.id)
                return
            except Exception:
                logger.exception("turn %s could not be withdrawn", self.id)
        # It must not be under way for ever.
        self._services.unrecorded.keep(self._ending([]))

    def _commit_deadline(self) -> float:
        return trio.current_time() + self._services.config.commit_timeout

    async def _commit(self, last: list[bytes]) -> list[bytes]:
        """Record the ending; answers the events that tell it."""
        try:
            await self._services.store.end(self._ending(last))
        except Exception:
            # Also what is no failure of the store: a bug, a history too long to grow.
            logger.exception("turn %s could not be recorded", self.id)
            self._error = ServiceUnavailable("The response could not be stored.")
            self._response.fail(self._error)
            last = self._last_events()
            if self._announcing:
                self._services.unrecorded.keep(self._ending(last))
        return last

    def _ending(self, last: list[bytes]) -> Ending:
        response = self._response
        logged = self.log.whole() if self._services.config.replay_retention else None
        return Ending(
            owner=self.owner,
            id=self.id,
            created_at=self._created_at,
            status=response.snapshot.status,
            base=self._history.base,
            conversation=self.call.conversation,
            input=stored_items(self._input),
            output=[Item(item.id, item.data, partial=item.unusable) for item in response.items],
            open_calls=self._waiting_calls
            | opened_calls(item.final or {} for item in response.items if not item.unusable),
            body=response.snapshot.body(),
            fingerprint=self.fingerprint,
            events=(*logged, *last) if self._announced and logged else (),
        )


class TurnEvents:
    """A reader of a turn's log for programs: one decoded event at a time.

    Raises ``FellBehind`` when it is read too slowly. Cancellation: no event is lost.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._position = 0
        self._ready: list[bytes] = []

    def __aiter__(self) -> TurnEvents:
        return self

    async def __anext__(self) -> JsonObject:
        while not self._ready:
            if self._log.exhausted(self._position):
                raise StopAsyncIteration
            self._ready = list(reversed(await self._log.read(self._position)))
            self._position += len(self._ready)
        event = self._ready.pop()
        return decode_object(event[event.index(b"\ndata: ") + 7 :])


def _bug() -> GatewayError:
    return GatewayError("The gateway failed.", code="internal_error")
