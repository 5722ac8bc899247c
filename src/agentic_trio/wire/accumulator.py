"""The life of one response: the upstream's bytes go in, legal events and an ending come out.

These rules hold whatever the upstream sends:

- The stream opens with our own ``response.created`` and ``response.in_progress``. The upstream's are dropped.
- ``sequence_number`` counts our events from 0. ``output_index`` counts items in the order in which they
  were added, and is never reused. Item ids are ours, because an upstream may repeat its own.
- No event refers to an item or part before it was added, and each of them is done before the terminal
  event. What the upstream leaves out is filled in from what it did send.
- There is one terminal event. It holds the items exactly as their ``output_item.done`` events did.

An event that already obeys these rules passes byte for byte, except for the item's id.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from agentic_trio.errors import GatewayError, UpstreamError
from agentic_trio.wire import sse
from agentic_trio.wire.dialect import (
    JsonObject,
    normal_usage,
    reported_error,
    reports_error,
    summed_usage,
)
from agentic_trio.wire.ids import MintId, item_prefix
from agentic_trio.wire.mending import decode_mended, decode_upstream
from agentic_trio.wire.output import DELTAS, Event, OutputItem, decode_event, event_of, final_form
from agentic_trio.wire.output_events import MAX_OUTPUT_ITEMS, OutputEvents, object_of
from agentic_trio.wire.responses import Snapshot, reported_members, with_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentic_trio.wire.sealing import Seal


ENDINGS = {
    ("response.completed", "incomplete"): "incomplete",
    ("response.completed", "failed"): "failed",
    ("response.completed", "cancelled"): "failed",
    ("response.incomplete", "failed"): "failed",
}
"""(terminal event, status in it) -> status, where the event's name alone would be wrong."""

TERMINAL = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "failed": "response.failed",
    "cancelled": "response.failed",
}
"""How a response ended -> its terminal event. OpenAI has no separate one for a cancelled response."""

ERRORS = frozenset({"error", "response.error"})
"""Events that always report an error. An event that isn't the Responses API's does if it has an ``error``."""

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
"""The most that is kept in memory of one answer. A delta counts as the length of its text plus
``output_events.DELTA_COST``."""

RESPONSE_ERROR_CODES = frozenset(
    {"server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded"}
)
"""Those of our own codes that ``response.error`` may hold. The others become ``server_error`` there. A code
that the model server sent is kept even if OpenAI doesn't list it: clients act on ``insufficient_quota``."""

OUR_UPSTREAM_CODES = frozenset({"upstream_error", "upstream_timeout", "upstream_unreachable"})
"""The codes that we give an UpstreamError, as opposed to those that the model server sent."""


class Accumulator:
    """Follows one answer of the upstream, streamed or whole. Sans-io.

    Args:
        snapshot: the Response object at the start.
        mint: makes the ids of items.
        now: Unix time in seconds.
        seal: seals the reasoning of a client that asks for that.

    Attributes:
        snapshot: the Response object, without its output.
        items: the output items, in order.
        followed: whether the upstream's answer has said all that it has to say.
        ended: whether it is settled how the response ended.
    """

    def __init__(
        self, snapshot: Snapshot, mint: MintId, now: Callable[[], float], seal: Seal | None = None
    ) -> None:
        self.snapshot = snapshot
        self.followed = False
        self.ended = False
        self._mint = mint
        self._now = now
        self._decoder = sse.Decoder()
        self._seal = seal
        self._spent: JsonObject | None = None
        self._output = self._events_of(mint, seal)
        self.items = self._output.items
        self._error: GatewayError | None = None

    def _events_of(self, mint: MintId, seal: Seal | None) -> OutputEvents:
        return OutputEvents(mint, MAX_OUTPUT_BYTES, seal)

    def queue(self) -> list[bytes]:
        """Return the opening events of a turn that has to wait before it runs."""
        self.snapshot.status = "queued"
        return [self._lifecycle("response.created"), self._lifecycle("response.queued")]

    def begin(self) -> list[bytes]:
        """Return the events that open the stream, before the upstream has sent anything."""
        self.snapshot.status = "in_progress"
        events = [] if self._output.sequence else [self._lifecycle("response.created")]
        return [*events, self._lifecycle("response.in_progress")]

    def receive(self, chunk: bytes) -> list[bytes]:
        """Take the bytes of one read from the upstream and return the events that follow from them, in order.

        If the bytes are not an event stream, the response has ``failed``.
        """
        try:
            blocks = self._decoder.feed(chunk)
        except sse.EventTooLarge:
            self.fail(UpstreamError("The model server sent an event that is too large."))
            return []
        return self._events(blocks)

    def receive_json(self, body: bytes) -> None:
        """Take an answer that was not streamed.

        Raises:
            UpstreamError: the answer is not a Response object.
        """
        try:
            answer = decode_upstream(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("The model server sent something that is not a response.") from None
        output = whole_output(answer)
        whole = self._ending("response.completed", answer) == "completed"
        for upstream_item in output:
            if isinstance(upstream_item, dict):
                type = upstream_item.get("type")
                id = self._mint(item_prefix(type if isinstance(type, str) else ""))
                final, cut = final_form(upstream_item, id, whole=whole)
                item = OutputItem(len(self.items), id, final, None)
                item.cut = cut
                item.finish(final, self._seal)
                self.items.append(item)
        self._conclude("response.completed", answer)

    def end_of_stream(self) -> list[bytes]:
        """Take the end of the upstream's stream. Without a terminal event before it, the response failed."""
        events: list[bytes] = []
        if not self.followed:
            events = self._events(self._decoder.end())
        if not self.followed:
            self.fail(UpstreamError("The model server broke off before the response was complete."))
        return events

    def compact(self, item: JsonObject, usage: JsonObject | None, *, marked: bool) -> list[bytes]:
        """Add a compaction; return the events for that.

        Args:
            item: its members beside its id and type.
            usage: what it took, which counts towards the response's.
            marked: whether an event of its own says that the context is compacted.
        """
        self._spent = usage
        self.snapshot.usage = usage
        self._output.add_whole(
            {"type": "compaction", **item}, "response.compaction.compacting" if marked else ""
        )
        return self._output.take_sent()

    def complete(self) -> None:
        """The response is complete as it is, without a word of the upstream."""
        self.ended = True
        self.snapshot.status = "completed"
        self.snapshot.completed_at = int(self._now())

    def fail(self, error: GatewayError) -> None:
        """End the response as ``failed``. The output that has arrived is kept."""
        self._end("failed", error)

    def cancel(self, error: GatewayError | None = None) -> None:
        """End the response as ``cancelled``. The output that has arrived is kept.

        Args:
            error: the reason, if a client may still be reading.
        """
        self._end("cancelled", error)

    def _end(self, status: str, error: GatewayError | None) -> None:
        self.followed = self.ended = True
        self.snapshot.status = status
        self.snapshot.completed_at = None
        self.snapshot.incomplete_details = None
        self._error = error
        if error is not None:
            self.snapshot.error = {"code": _response_code(error), "message": error.message}
        self._output.cut_off()

    def output(self) -> list[bytes]:
        """Return the JSON texts of the output items, in order. Items that were cut off are among them."""
        return [item.data for item in self.items]

    def response(self) -> bytes:
        """Return the whole Response object as it is now."""
        return with_output(self.snapshot.body(), self.output())

    def terminal_events(self) -> list[bytes]:
        """Return the last events: ``error`` if there was one, then the event that holds the response.

        A turn that was cancelled without an error ends without either, since OpenAI has no event for that.
        No sequence numbers are used up: if the ending can't be stored, the turn ends in another way and
        this is called again.
        """
        first = self._output.sequence
        events = []
        if self._error is not None:
            members = self._error.members()
            del members["type"]
            events.append(self._output.event("error", members))
        if self._error is not None or self.snapshot.status != "cancelled":
            events.append(self._lifecycle(TERMINAL[self.snapshot.status]))
        self._output.sequence = first
        return events

    def _lifecycle(self, type: str) -> bytes:
        number = self._output.next_number()
        return sse.encode(
            type,
            b'{"type":"%b","sequence_number":%d,"response":%b}' % (type.encode(), number, self.response()),
        )

    def _events(self, blocks: Iterable[sse.Block]) -> list[bytes]:
        for block in blocks:
            if self.followed or block.data == b"[DONE]":
                break
            try:
                self._take(block)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                self.fail(UpstreamError("The model server sent something that is not an event."))
            except UpstreamError as error:
                self.fail(error)
        return self._output.take_sent()

    def _take(self, block: sse.Block) -> None:
        members = None
        try:
            event = decode_event(block.data)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            members = decode_mended(block.data)
            event = event_of(members)
        if not event.type:
            # Some servers name an event only in its ``event`` line, so its bytes can't pass unchanged.
            event.type, event.sequence_number = sse.event_name(block.raw), None
        family = DELTAS.get(event.type)
        if family is not None:
            self._output.delta(family, event, block, members)
        else:
            self._output.left -= len(block.data)
            self._step(event, members or decode_upstream(block.data))
        if self._output.left < 0 and not self.followed:
            raise UpstreamError("The model server's answer is too large.")

    def _step(self, event: Event, members: JsonObject) -> None:
        type = event.type
        if type in ("response.completed", "response.incomplete", "response.failed"):
            self._terminal(type, object_of(members, "response"))
        elif type in ERRORS or (not type.startswith("response.") and reports_error(members)):
            self.fail(reported_error(members))
        elif type not in ("response.created", "response.queued", "response.in_progress"):
            self._output.step(event, members)

    def _terminal(self, type: str, answer: JsonObject) -> None:
        """Close what is open in the words of the final output, and end as the upstream says."""
        output = answer.get("output")
        whole = self._ending(type, answer) == "completed"
        self._output.finish(output if isinstance(output, list) else (), whole=whole)
        self._conclude(type, answer)

    def _ending(self, type: str, answer: JsonObject) -> str:
        said = answer.get("status")
        status = said if isinstance(said, str) else ""
        return ENDINGS.get((type, status), type.removeprefix("response."))

    def _conclude(self, type: str, answer: JsonObject) -> None:
        snapshot = self.snapshot
        snapshot.usage = normal_usage(answer.get("usage"))
        if self._spent is not None:
            snapshot.usage = summed_usage(self._spent, snapshot.usage)
        snapshot.reported = reported_members(answer)
        status = self._ending(type, answer)
        reason = _incomplete_reason(answer)
        if status == "failed":
            self.fail(reported_error(answer))
            snapshot.incomplete_details = {"reason": reason} if reason else None
            return
        self.followed = self.ended = True
        snapshot.status = status
        if status == "completed":
            snapshot.completed_at = int(self._now())
        else:
            snapshot.incomplete_details = {"reason": reason or "max_output_tokens"}


def not_a_stream(body: bytes) -> UpstreamError:
    """Return the error for an upstream that was asked for a stream and sent something else.

    If that is an error, its own words and code are kept.
    """
    try:
        answer = decode_upstream(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        answer = {}
    if reports_error(answer):
        return reported_error(answer)
    return UpstreamError("The model server did not answer with an event stream.")


def whole_output(answer: JsonObject) -> list[object]:
    """Return the items of an answer that was not streamed.

    Raises:
        UpstreamError: it has none, or too many.
    """
    status, output = answer.get("status"), answer.get("output")
    ended = isinstance(status, str) and status in TERMINAL
    if not ended and reports_error(answer):
        raise reported_error(answer)
    if output is None and ended:
        output = []
    if not isinstance(output, list):
        raise UpstreamError("The model server sent something that is not a response.")
    if len(output) > MAX_OUTPUT_ITEMS:
        raise UpstreamError("The model server sent too many items.")
    return output


def _incomplete_reason(answer: JsonObject) -> str | None:
    details = answer.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return reason if isinstance(reason, str) and reason else None


def _response_code(error: GatewayError) -> str:
    """The code in ``response.error``: one that clients know, or the model server's own if it is a word."""
    code = error.code or ""
    theirs = isinstance(error, UpstreamError) and code not in OUR_UPSTREAM_CODES
    return code if code in RESPONSE_ERROR_CODES or (theirs and _WORD.fullmatch(code)) else "server_error"


_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{3,63}")
