"""The life of one response: upstream bytes in, legal events out, and how it ended.

The rules, which hold whatever the upstream sends:

- ``response.created`` and ``response.in_progress`` come first, ours; the upstream's are dropped.
- ``sequence_number`` counts our events from 0. ``output_index`` counts items in the order in which they
  were added and is never reused. Item ids are ours: an upstream may repeat its own.
- Nothing is mentioned before it was added, and all that was added is done before the terminal event.
  What the upstream leaves out is made up from what it did send.
- There is one terminal event. It holds the items exactly as their ``output_item.done`` did.

An event whose bytes obey the rules already goes on as it came, but for the item's id.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentic_trio.errors import GatewayError, UpstreamError
from agentic_trio.wire import sse
from agentic_trio.wire.dialect import (
    JsonObject,
    decode_object,
    normal_item,
    normal_usage,
)
from agentic_trio.wire.ids import MintId, item_prefix
from agentic_trio.wire.output import (
    DELTAS,
    MAX_OUTPUT_ITEMS,
    Event,
    OutputItem,
    decode_event,
)
from agentic_trio.wire.output_events import OutputEvents, object_of
from agentic_trio.wire.responses import Snapshot, with_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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
"""How a response ended -> its terminal event. OpenAI has none of its own for a cancelled one."""

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
"""How much of one answer is kept in memory. A delta counts as its text and
``output_events.DELTA_COST`` more."""

RESPONSE_ERROR_CODES = frozenset(
    {"server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded"}
)
"""The codes that ``response.error`` may hold here; strict clients know no others."""


class Accumulator:
    """Follows one upstream answer, streamed or whole. Sans-io.

    Attributes:
        snapshot: the Response object, without its output.
        items: the output, in order.
        ended: whether the upstream has said how the response ended.
    """

    def __init__(self, snapshot: Snapshot, mint: MintId, now: Callable[[], float]) -> None:
        self.snapshot = snapshot
        self.ended = False
        self._mint = mint
        self._now = now
        self._decoder = sse.Decoder()
        self._output = OutputEvents(mint, MAX_OUTPUT_BYTES)
        self.items = self._output.items
        self._error: GatewayError | None = None

    def queue(self) -> list[bytes]:
        """The first events of a turn that has to wait for its start."""
        self.snapshot.status = "queued"
        return [self._lifecycle("response.created"), self._lifecycle("response.queued")]

    def begin(self) -> list[bytes]:
        """The events of the start, before anything has come from the upstream."""
        self.snapshot.status = "in_progress"
        events = [] if self._output.sequence else [self._lifecycle("response.created")]
        return [*events, self._lifecycle("response.in_progress")]

    def receive(self, chunk: bytes) -> list[bytes]:
        """Take what one read from the upstream returned; answer the events it makes, in order.

        What is no event stream ends the response as ``failed``.
        """
        try:
            blocks = self._decoder.feed(chunk)
        except sse.EventTooLarge:
            self.fail(UpstreamError("The model server sent an event that is too large."))
            return []
        return self._events(blocks)

    def receive_json(self, body: bytes) -> None:
        """Take a whole answer that was not streamed.

        Raises:
            UpstreamError: it is no Response object.
        """
        try:
            answer = decode_object(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("The model server sent something that is not a response.") from None
        output = answer.get("output")
        if not isinstance(output, list):
            raise UpstreamError("The model server sent something that is not a response.")
        if len(output) > MAX_OUTPUT_ITEMS:
            raise UpstreamError("The model server sent too many items.")
        for upstream_item in output:
            if isinstance(upstream_item, dict):
                type = upstream_item.get("type")
                id = self._mint(item_prefix(type if isinstance(type, str) else ""))
                final = normal_item(upstream_item, id, "completed")
                item = OutputItem(len(self.items), id, final, None)
                item.finish(final)
                self.items.append(item)
        self._conclude("response.completed", answer)

    def end_of_stream(self) -> list[bytes]:
        """The upstream closed its stream; if it never said how the response ended, it failed."""
        events: list[bytes] = []
        if not self.ended:
            events = self._events(self._decoder.end())
        if not self.ended:
            self.fail(UpstreamError("The model server broke off before the response was complete."))
        return events

    def fail(self, error: GatewayError) -> None:
        """The turn failed; what had arrived stays."""
        self._end("failed", error)

    def cancel(self, error: GatewayError | None = None) -> None:
        """The turn was cancelled; what had arrived stays. ``error`` says why, if anyone can still hear it."""
        self._end("cancelled", error)

    def _end(self, status: str, error: GatewayError | None) -> None:
        self.ended = True
        self.snapshot.status = status
        self.snapshot.completed_at = None
        self.snapshot.incomplete_details = None
        self._error = error
        if error is not None:
            code = error.code if error.code in RESPONSE_ERROR_CODES else "server_error"
            self.snapshot.error = {"code": code, "message": error.message}
        for item in self.items:
            if item.final is None:
                item.cut = True
                item.finish(item.so_far("incomplete"))

    def output(self) -> list[bytes]:
        """The output items' JSON texts, in order; those that had begun when the turn ended included."""
        return [item.data for item in self.items]

    def response(self) -> bytes:
        """The whole Response object, as it is now."""
        return with_output(self.snapshot.body(), self.output())

    def terminal_events(self) -> list[bytes]:
        """The last events: ``error`` first if there was one, then the one that holds the response.

        A turn that was cancelled for no error just ends: OpenAI has no event that says so. Nothing is
        used up by asking: if the ending can't be recorded, the turn ends in another way after all.
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
        out: list[bytes] = []
        for block in blocks:
            if self.ended or block.data == b"[DONE]":
                break
            try:
                self._take(block, out)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                self.fail(UpstreamError("The model server sent something that is not an event."))
            except UpstreamError as error:
                self.fail(error)
        return out

    def _take(self, block: sse.Block, out: list[bytes]) -> None:
        event = decode_event(block.data)
        family = DELTAS.get(event.type)
        if family is not None:
            self._output.delta(family, event, block, out)
        else:
            self._output.left -= len(block.data)
            self._step(event, decode_object(block.data), out)
        if self._output.left < 0 and not self.ended:
            raise UpstreamError("The model server's answer is too large.")

    def _step(self, event: Event, members: JsonObject, out: list[bytes]) -> None:
        type = event.type
        if type in ("response.completed", "response.incomplete", "response.failed"):
            self._terminal(type, object_of(members, "response"), out)
        elif type == "error":
            self.fail(_stream_error(members))
        elif type not in ("response.created", "response.queued", "response.in_progress"):
            self._output.step(event, members, out)

    def _terminal(self, type: str, answer: JsonObject, out: list[bytes]) -> None:
        """The upstream says how the response ended: close what is open, and keep its own words."""
        output = answer.get("output")
        whole = self._ending(type, answer) == "completed"
        self._output.finish(output if isinstance(output, list) else (), whole=whole, out=out)
        self._conclude(type, answer)

    def _ending(self, type: str, answer: JsonObject) -> str:
        said = answer.get("status")
        status = said if isinstance(said, str) else ""
        return ENDINGS.get((type, status), type.removeprefix("response."))

    def _conclude(self, type: str, answer: JsonObject) -> None:
        snapshot = self.snapshot
        snapshot.usage = normal_usage(answer.get("usage"))
        status = self._ending(type, answer)
        if status == "failed":
            self.fail(_stream_error(answer))
            return
        self.ended = True
        snapshot.status = status
        if status == "completed":
            snapshot.completed_at = int(self._now())
        else:
            details = answer.get("incomplete_details")
            reason = details.get("reason") if isinstance(details, dict) else None
            known = isinstance(reason, str) and reason
            snapshot.incomplete_details = {"reason": reason if known else "max_output_tokens"}


def _stream_error(members: JsonObject) -> UpstreamError:
    """What an ``error`` event or a failed response says went wrong."""
    error = members.get("error")
    if not isinstance(error, dict):
        error = members
    message, code = error.get("message"), error.get("code")
    return UpstreamError(
        message if isinstance(message, str) and message else "The model server failed.",
        code=code if isinstance(code, str) else None,
    )
