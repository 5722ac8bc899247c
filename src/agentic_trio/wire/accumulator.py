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

import re
from typing import TYPE_CHECKING

import msgspec

from agentic_trio.errors import GatewayError, UpstreamError
from agentic_trio.wire import sse
from agentic_trio.wire.dialect import (
    JsonObject,
    decode_object,
    encode,
    normal_item,
    normal_part,
    normal_usage,
)
from agentic_trio.wire.ids import MintId, item_prefix
from agentic_trio.wire.output import (
    BY_ITEM,
    DELTAS,
    DONES,
    FAMILIES,
    PART_EVENTS,
    TEXT,
    Event,
    Family,
    OutputItem,
    Part,
    decode_event,
    part_family,
)
from agentic_trio.wire.response import Snapshot, with_output

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
"""How much of one answer is kept in memory. A delta counts as its text and ``DELTA_COST`` more."""

DELTA_COST = 64

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
        self.items: list[OutputItem] = []
        self.ended = False
        self._mint = mint
        self._now = now
        self._decoder = sse.Decoder()
        self._sequence = 0
        self._left = MAX_OUTPUT_BYTES
        self._error: GatewayError | None = None

    def queue(self) -> list[bytes]:
        """The first events of a turn that has to wait for its start."""
        self.snapshot.status = "queued"
        return [self._lifecycle("response.created"), self._lifecycle("response.queued")]

    def begin(self) -> list[bytes]:
        """The events of the start, before anything has come from the upstream."""
        self.snapshot.status = "in_progress"
        events = [] if self._sequence else [self._lifecycle("response.created")]
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
        first = self._sequence
        events = []
        if self._error is not None:
            members = self._error.members()
            del members["type"]
            events.append(self._event("error", members))
        if self._error is not None or self.snapshot.status != "cancelled":
            events.append(self._lifecycle(TERMINAL[self.snapshot.status]))
        self._sequence = first
        return events

    def _lifecycle(self, type: str) -> bytes:
        number = self._next()
        return sse.encode(
            type,
            b'{"type":"%b","sequence_number":%d,"response":%b}' % (type.encode(), number, self.response()),
        )

    def _event(self, type: str, members: JsonObject) -> bytes:
        return sse.encode(type, encode({"type": type, "sequence_number": self._next(), **members}))

    def _next(self) -> int:
        number = self._sequence
        self._sequence = number + 1
        return number

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
            self._delta(family, event, block, out)
        else:
            self._left -= len(block.data)
            self._step(event, decode_object(block.data), out)
        if self._left < 0 and not self.ended:
            raise UpstreamError("The model server's answer is too large.")

    def _step(self, event: Event, members: JsonObject, out: list[bytes]) -> None:
        type = event.type
        family = DONES.get(type)
        if family is not None:
            self._text_done(family, event, members, out)
        elif type == "response.output_item.added":
            self._item_added(event, _object(members, "item"), out)
        elif type == "response.output_item.done":
            self._item_done(event.output_index, _object(members, "item"), out)
        elif type in ("response.content_part.added", "response.reasoning_summary_part.added"):
            self._part_added(event, _object(members, "part"), out)
        elif type in ("response.content_part.done", "response.reasoning_summary_part.done"):
            self._part_done(event, _object(members, "part"), out)
        elif type in ("response.completed", "response.incomplete", "response.failed"):
            out.extend(self._terminal(type, _object(members, "response")))
        elif type == "error":
            self.fail(_stream_error(members))
        elif type not in ("response.created", "response.queued", "response.in_progress"):
            self._pass_on(event, members, out)

    def _delta(self, family: Family, event: Event, block: sse.Block, out: list[bytes]) -> None:
        delta = event.delta
        if not isinstance(delta, str):
            return
        item = self._item_of(event, family, out)
        if item is None:
            return
        index = None
        growing: OutputItem | Part = item
        if family.index is not None:
            index = self._part_of(item, family, getattr(event, family.index), out)
            growing = item.parts[family.place][index]
        if growing.text_done:
            return
        growing.text.append(delta)
        self._left -= len(delta) + DELTA_COST
        if (
            event.sequence_number == self._sequence
            and event.output_index == item.index
            and (family.index is None or getattr(event, family.index) == index)
            and (family is not TEXT or bytes(event.logprobs)[:1] == b"[")
            and item.old_id is not None
            and item.old_id in block.raw
            and block.raw.startswith(_HEADS[family.stem])
            and block.raw.count(b"\n") == 3
        ):
            self._sequence += 1
            out.append(block.raw.replace(item.old_id, item.new_id, 1))
        else:
            out.append(self._located(f"{family.stem}.delta", item, family, index, decode_object(block.data)))

    def _located(
        self, type: str, item: OutputItem, family: Family, index: int | None, members: JsonObject
    ) -> bytes:
        """An event about an item's text, with our numbers in place of the upstream's."""
        members.pop("type", None)
        members.pop("sequence_number", None)
        members["item_id"] = item.id
        members["output_index"] = item.index
        if family.index is not None:
            members[family.index] = index
        if family is TEXT:
            members["logprobs"] = members.get("logprobs") or []
        return self._event(type, members)

    def _item_of(self, event: Event, family: Family, out: list[bytes]) -> OutputItem | None:
        """The open item that an event is about; added now if the upstream never did.

        None if it is done, and for a call that was never added: it can't be without its name, and what
        ends it tells all of it.
        """
        item = self._find(family.item, event.item_id, event.output_index)
        if item is None and family.index is not None:
            item = self._add({"type": family.item, "id": event.item_id}, event.output_index, out)
        return item if item is not None and item.final is None else None

    def _find(self, type: str | None, id: str | None, index: int | None) -> OutputItem | None:
        """The newest item that fits what an event says of it, or else an open one at its index."""
        for item in reversed(self.items):
            if (
                type in (None, item.added["type"])
                and (id is None or item.upstream_id in (None, id))
                and (index is None or item.upstream_index in (None, index))
            ):
                return item
        for item in reversed(self.items):
            if index is not None and item.fits(type, index) and item.final is None:
                return item
        return None

    def _add(self, item: JsonObject, upstream_index: int | None, out: list[bytes]) -> OutputItem:
        type = item.get("type")
        if not isinstance(type, str):
            type = item["type"] = "message"
        upstream_id = item.get("id")
        id = self._mint(item_prefix(type))
        added = normal_item(item, id, "in_progress")
        if type in ("message", "reasoning"):
            added.pop("content", None)
        if type == "message":
            added["content"] = []
        elif type == "reasoning":
            added["summary"] = []
        elif type in BY_ITEM:
            added[BY_ITEM[type].member] = ""
        if "status" in added:
            added["status"] = "in_progress"
        new = OutputItem(
            len(self.items), id, added, upstream_id if isinstance(upstream_id, str) else None, upstream_index
        )
        self.items.append(new)
        out.append(self._event("response.output_item.added", {"output_index": new.index, "item": added}))
        return new

    def _item_added(self, event: Event, item: JsonObject, out: list[bytes]) -> None:
        said = (item.get("type"), item.get("id"), event.output_index)
        told_twice = any(known.untouched and known.said == said for known in self.items)
        if not told_twice:
            self._add(item, event.output_index, out)

    def _part_of(self, item: OutputItem, family: Family, index: int | None, out: list[bytes]) -> int:
        """The index of the part that an event is about; added now if the upstream never did."""
        found = self._find_part(item, family, index)
        if found is None or (index is None and item.parts[family.place][found].text_done):
            return self._add_part(item, family, index, {"type": family.part}, out)
        return found

    def _find_part(self, item: OutputItem, family: Family, index: int | None) -> int | None:
        parts = item.parts[family.place]
        for position in reversed(range(len(parts))):
            part = parts[position]
            if part.family is family and (index is None or part.upstream_index in (None, index)):
                return position
        return None

    def _add_part(
        self, item: OutputItem, family: Family, upstream_index: int | None, part: JsonObject, out: list[bytes]
    ) -> int:
        parts = item.parts[family.place]
        index = len(parts)
        parts.append(Part(family, upstream_index))
        added = normal_part({**part, family.member: "", **_NO_NOTES.get(family.part, {})})
        out.append(self._part_event(PART_EVENTS[family.place][0], item, family, index, added))
        return index

    def _part_event(self, type: str, item: OutputItem, family: Family, index: int, part: JsonObject) -> bytes:
        assert family.index is not None
        return self._event(
            type, {"item_id": item.id, "output_index": item.index, family.index: index, "part": part}
        )

    def _part_added(self, event: Event, part: JsonObject, out: list[bytes]) -> None:
        family = part_family(part)
        if family is None:
            return
        item = self._item_of(event, family, out)
        if item is None:
            return
        index = getattr(event, family.index or "")
        found = self._find_part(item, family, index)
        # Without an index, one that has not begun to grow is the same one, told twice.
        if found is None or (index is None and item.parts[family.place][found].text):
            self._add_part(item, family, index, part, out)

    def _text_done(self, family: Family, event: Event, members: JsonObject, out: list[bytes]) -> None:
        item = self._item_of(event, family, out)
        if item is None:
            return
        value = members.get(family.member)
        text = value if isinstance(value, str) else None
        if family.index is None:
            if not item.text_done:
                self._field_done(item, family, text, members, out)
            return
        asked = getattr(event, family.index)
        index = self._find_part(item, family, asked)
        if index is None:
            index = self._add_part(item, family, asked, {"type": family.part}, out)
        if not item.parts[family.place][index].text_done:
            self._part_text_done(item, family, index, text, members, out)

    def _field_done(
        self, item: OutputItem, family: Family, text: str | None, members: JsonObject, out: list[bytes]
    ) -> None:
        self._finish_text(item, item, family, None, text, members, out)

    def _finish_text(
        self,
        growing: OutputItem | Part,
        item: OutputItem,
        family: Family,
        index: int | None,
        text: str | None,
        members: JsonObject,
        out: list[bytes],
    ) -> None:
        """Say that a text is done; what the deltas have left out of it comes as one more."""
        growing.text_done = True
        told = "".join(growing.text)
        if text is not None and text != told:
            growing.text = [text]
            if text.startswith(told):
                rest = {"delta": text.removeprefix(told)}
                out.append(self._located(f"{family.stem}.delta", item, family, index, rest))
        members[family.member] = "".join(growing.text)
        out.append(self._located(f"{family.stem}.done", item, family, index, members))

    def _part_text_done(
        self,
        item: OutputItem,
        family: Family,
        index: int,
        text: str | None,
        members: JsonObject,
        out: list[bytes],
    ) -> None:
        part = item.parts[family.place][index]
        self._finish_text(part, item, family, index, text, members, out)

    def _part_done(self, event: Event, part: JsonObject, out: list[bytes]) -> None:
        family = part_family(part)
        if family is None:
            return
        item = self._item_of(event, family, out)
        if item is not None:
            asked = getattr(event, family.index or "")
            index = self._find_part(item, family, asked)
            if index is None:
                index = self._add_part(item, family, asked, part, out)
            self._close_part(item, family, index, part, out)

    def _close_part(
        self, item: OutputItem, family: Family, index: int, final: JsonObject | None, out: list[bytes]
    ) -> None:
        part = item.parts[family.place][index]
        if part.done:
            return
        text = final.get(family.member) if final else None
        if not part.text_done:
            self._part_text_done(item, family, index, text if isinstance(text, str) else None, {}, out)
        part.done = True
        value = normal_part({**(final or {}), "type": family.part, family.member: "".join(part.text)})
        out.append(self._part_event(PART_EVENTS[family.place][1], item, family, index, value))

    def _item_done(self, upstream_index: int | None, item: JsonObject, out: list[bytes]) -> None:
        type, id = item.get("type"), item.get("id")
        known = self._find(
            type if isinstance(type, str) else "message", id if isinstance(id, str) else None, upstream_index
        )
        self._finish(known or self._add(dict(item), upstream_index, out), item, out)

    def _finish(self, known: OutputItem, item: JsonObject, out: list[bytes]) -> None:
        if known.final is None:
            self._close_item(known, normal_item(item, known.id, "completed"), out)

    def _close_item(self, item: OutputItem, final: JsonObject, out: list[bytes]) -> None:
        """Say that an item is done, after all of its parts, those that were never streamed included."""
        for place, parts in item.parts.items():
            finals = final.get(place) or [] if parts or final["type"] in ("message", "reasoning") else []
            for index, part in enumerate(finals):
                family = part_family(part)
                if family is None or family.place != place:
                    continue
                if index >= len(parts):
                    self._add_part(item, family, None, part, out)
                self._close_part(item, family, min(index, len(parts) - 1), part, out)
            for index, open_part in enumerate(parts):
                self._close_part(item, open_part.family, index, None, out)
        field = BY_ITEM.get(final["type"])
        if field is not None and not item.text_done and isinstance(final.get(field.member), str):
            self._field_done(item, field, final[field.member], {}, out)
        item.finish(final)
        out.append(
            sse.encode(
                "response.output_item.done",
                b'{"type":"response.output_item.done","sequence_number":%d,"output_index":%d,"item":%b}'
                % (self._next(), item.index, item.data),
            )
        )

    def _pass_on(self, event: Event, members: JsonObject, out: list[bytes]) -> None:
        """An event we know nothing of, about an open item or none: only its numbers are ours."""
        if not _EVENT_NAME.fullmatch(event.type):
            return
        members.pop("type", None)
        members.pop("sequence_number", None)
        if event.item_id is not None or event.output_index is not None:
            item = self._find(None, event.item_id, event.output_index)
            if item is None or item.final is not None:
                return
            if "item_id" in members:
                members["item_id"] = item.id
            if "output_index" in members:
                members["output_index"] = item.index
        out.append(self._event(event.type, members))

    def _terminal(self, type: str, answer: JsonObject) -> list[bytes]:
        """The upstream says how the response ended: close what is open, and keep its own words."""
        out: list[bytes] = []
        output = answer.get("output")
        streamed = list(self.items)
        for index, item in enumerate(output if isinstance(output, list) else ()):
            if isinstance(item, dict):
                known = _streamed(streamed, index, item)
                if known is not None:
                    streamed.remove(known)
                self._finish(known or self._add(dict(item), index, out), item, out)
        whole = self._ending(type, answer) == "completed"
        for added in self.items:
            if added.final is None:
                added.cut = not whole
                self._close_item(added, added.so_far("completed" if whole else "incomplete"), out)
        self._conclude(type, answer)
        return out

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


_HEADS = {family.stem: b"event: %b.delta\ndata: {" % family.stem.encode() for family in FAMILIES}


_EVENT_NAME = re.compile(r"response\.[a-z_]+(\.[a-z_]+)*")

_NO_NOTES: dict[str, JsonObject] = {"output_text": {"annotations": [], "logprobs": []}}
"""What a part that was only just added can't hold yet."""


def _streamed(items: Iterable[OutputItem], index: int, item: JsonObject) -> OutputItem | None:
    """The streamed item that one of the final output is: by its id, or by where it stands."""
    type, id = item.get("type"), item.get("id")
    if not isinstance(type, str):
        type = "message"
    alike = [known for known in items if known.added["type"] == type]
    by_id = [known for known in alike if id is not None and known.upstream_id == id]
    at_index = [known for known in alike if known.upstream_index == index]
    unnamed = [known for known in alike if known.upstream_id is None or id is None]
    return next(iter([*by_id, *at_index, *unnamed]), None)


def _object(members: JsonObject, name: str) -> JsonObject:
    value = members.get(name)
    if not isinstance(value, dict):
        raise UpstreamError("The model server sent something that is not an event.")
    return value


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
