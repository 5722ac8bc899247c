"""The events of an output: what the upstream says of its items comes in, what we say of ours goes out.

An output is a list of items. A message or reasoning item holds parts, and a text grows in each part; a
call holds one text of its own, its arguments. Items, parts and texts live alike: they are opened, they
grow by deltas, they are closed once, and each of these steps is an event for the client.

An event of the upstream is handled in three moves. Find the item and the :class:`Text` that it is about,
and open what the upstream forgot to open. Change the text. Send the events for that, with our ids and
numbers. Closing goes from the inside out: an item closes its parts first, and a part its text. Each of
them is closed once, by whatever comes first (its ``done`` event, the final output, the end of the
stream); what comes later changes nothing.

The rules of the whole stream are those of :mod:`agentic_trio.wire.accumulator`, which knows when an
output begins and ends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agentic_trio.errors import UpstreamError
from agentic_trio.wire import sse
from agentic_trio.wire.dialect import JsonObject, encode, normal_part
from agentic_trio.wire.ids import MintId, item_prefix
from agentic_trio.wire.mending import decode_upstream, split_half
from agentic_trio.wire.output import (
    DONES,
    FAMILIES,
    PART_EVENTS,
    REASONING,
    SUMMARY,
    TEXT,
    Event,
    Family,
    OutputItem,
    Text,
    final_form,
    newly_added,
    part_family,
)
from agentic_trio.wire.output_lookup import FinalLookup, ItemLookup
from agentic_trio.wire.reconciliation import Unclaimed, family_at, match_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentic_trio.wire.sealing import Seal

DELTA_COST = 64
"""What a delta costs in memory beside its text, in bytes."""

MAX_OUTPUT_ITEMS = 2000
"""The items of one output. Each costs some kilobytes here, in the log and in the store."""


MAX_OUTPUT_PARTS = 2000
"""The parts of all items of one output. Each makes four events, however little the upstream sent for it."""


class OutputEvents:
    """Follows the items of one output. Sans-io.

    Attributes:
        items: the items, in order.
        sequence: the number of the next event.
        left: how many bytes of output may still be kept; less than 0 when there were more.
    """

    def __init__(self, mint: MintId, limit: int, seal: Seal | None = None) -> None:
        self.items: list[OutputItem] = []
        self.sequence = 0
        self.left = limit
        self._mint = mint
        self._seal = seal
        self._lookup = ItemLookup()
        self._unclaimed = Unclaimed()
        self._parts = 0
        self._last: tuple[tuple[object, ...], Text | None] = ((), None)
        self._sent: list[bytes] = []

    def take_sent(self) -> list[bytes]:
        """The events that were made since this was last called, in order."""
        sent, self._sent = self._sent, []
        return sent

    def event(self, type: str, members: JsonObject) -> bytes:
        """One event of ours, with the next number. It is returned, not sent."""
        return sse.encode(type, encode({"type": type, "sequence_number": self.next_number(), **members}))

    def next_number(self) -> int:
        """Use up the next event's number and return it."""
        number = self.sequence
        self.sequence = number + 1
        return number

    def _send(self, type: str, members: JsonObject) -> None:
        self._sent.append(self.event(type, members))

    def delta(
        self, family: Family, event: Event, block: sse.Block, members: JsonObject | None = None
    ) -> None:
        """Take a delta. If its bytes obey the rules already, only the item's id is replaced in them.

        Args:
            family: the kind of text that grows.
            event: the event's members that decide.
            block: the event's bytes.
            members: all of the event's members, if its bytes were no JSON and had to be mended.
        """
        delta = event.delta
        if not isinstance(delta, str):
            return
        place = (family, event.item_id, event.output_index, event.content_index, event.summary_index)
        if place != self._last[0]:
            # Nearly all deltas grow the text that the one before grew.
            self._last = (place, self._text_of_delta(family, event))
        text = self._last[1]
        if text is None or text.complete:
            return
        if members is not None or text.half:
            self._mended_delta(text, delta, members or decode_upstream(block.data))
            return
        text.pieces.append(delta)
        self.left -= len(delta) + DELTA_COST
        old_id = text.item.old_id
        if old_id is not None and self._passes(text, event, block, old_id):
            self.sequence += 1
            self._sent.append(block.raw.replace(old_id, text.item.new_id, 1))
        else:
            self._send_text_event(text, "delta", decode_upstream(block.data))

    def _mended_delta(self, text: Text, delta: str, members: JsonObject) -> None:
        """Take a delta that may begin or end inside a character. Half a character waits for the rest."""
        delta, text.half = split_half(text.half + delta)
        if delta:
            text.pieces.append(delta)
            self.left -= len(delta) + DELTA_COST
            self._send_text_event(text, "delta", members | {"delta": delta})

    def step(self, event: Event, members: JsonObject) -> None:
        """Take an event that is no delta.

        Raises:
            UpstreamError: it isn't what its name says.
        """
        self._last = ((), None)
        type = event.type
        family = DONES.get(type)
        if family is not None:
            self._text_done(family, event, members)
        elif type == "response.output_item.added":
            self._item_added(event, object_of(members, "item"))
        elif type == "response.output_item.done":
            self._item_done(event, object_of(members, "item"))
        elif type in ("response.content_part.added", "response.reasoning_summary_part.added"):
            self._part_added(event, self._part_of(event, members))
        elif type in ("response.content_part.done", "response.reasoning_summary_part.done"):
            self._part_done(event, self._part_of(event, members))
        else:
            self._pass_on(event, members)

    def finish(self, output: Iterable[object], *, whole: bool) -> None:
        """Close every item: those that are in the upstream's final output, as they stand there.

        Args:
            output: the final output, as the upstream sent it.
            whole: whether the response is complete; otherwise what was still open was cut off.
        """
        finals = [item for item in output if isinstance(item, dict)]
        if len(finals) > MAX_OUTPUT_ITEMS:
            raise UpstreamError("The model server sent too many items.")
        for index, known in enumerate(FinalLookup(self._current()).match(finals)):
            final = finals[index] if known is not None else self._unclaimed.rest_of(finals[index])
            if final is not None:
                self._finish_final(known, final, index, whole=whole)
        for open_item in self._current():
            if open_item.final is None:
                open_item.cut = not whole
                for text in open_item.texts():
                    self._end_character(text)
                self._close_item(open_item, open_item.so_far("completed" if whole else "incomplete"))

    def _finish_final(self, known: OutputItem | None, final: JsonObject, index: int, *, whole: bool) -> None:
        self._finish(known or self._add(dict(final), index), final, whole=whole)

    def _current(self) -> Sequence[OutputItem]:
        """The items that the upstream's answer is about."""
        return self.items

    def cut_off(self) -> None:
        """Close every open item as it is: no more will come. No events are made of it."""
        for item in self.items:
            if item.final is None:
                item.cut = True
                item.finish(item.so_far("incomplete"))

    def add_whole(self, item: JsonObject, between: str = "") -> None:
        """Add a whole item that isn't the upstream's. ``between``: an event before its end."""
        type = item["type"]
        id = self._mint(item_prefix(type))
        whole = {"id": id, **item}
        own = OutputItem(len(self.items), id, whole)
        # The upstream knows nothing of it, so nothing that it says is about it.
        self.items.append(own)
        place = {"output_index": own.index}
        self._send("response.output_item.added", {**place, "item": whole})
        if between:
            self._send(between, {**place, "item_id": id})
        own.finish(whole)
        self._send("response.output_item.done", {**place, "item": whole})

    def _item_added(self, event: Event, item: JsonObject) -> None:
        if not self._lookup.repeated(item.get("type"), item.get("id"), event.output_index):
            self._add(item, event.output_index)

    def _item_done(self, event: Event, item: JsonObject) -> None:
        type, id = item.get("type"), item.get("id")
        known = self._lookup.find(
            type if isinstance(type, str) else "message",
            id if isinstance(id, str) else None,
            event.output_index,
        )
        self._finish(known or self._add(dict(item), event.output_index), item, whole=True)

    def _part_added(self, event: Event, part: JsonObject) -> None:
        family = part_family(part)
        item = None if family is None else self._item_of(event, family)
        if family is None or item is None:
            return
        index = event.part_index(family)
        known = item.find_part(family, index)
        # Without a number, a part in which nothing has grown yet is the same one, announced twice.
        if known is None or (index is None and known.pieces):
            self._add_part(item, family, index, part)

    def _part_done(self, event: Event, part: JsonObject) -> None:
        family = part_family(part)
        item = None if family is None else self._item_of(event, family)
        if family is None or item is None:
            return
        index = event.part_index(family)
        self._close_part(item.find_part(family, index) or self._add_part(item, family, index, part), part)

    def _text_done(self, family: Family, event: Event, members: JsonObject) -> None:
        item = self._item_of(event, family)
        if item is None:
            return
        text = item.own
        if text is None:
            index = event.part_index(family)
            text = item.find_part(family, index) or self._add_part(item, family, index, {})
        if not text.complete:
            self._complete(text, members.get(family.member), members)

    def _pass_on(self, event: Event, members: JsonObject) -> None:
        """Send on an event that we know nothing of, with our ids and numbers, unless its item is closed."""
        if not _EVENT_NAME.fullmatch(event.type):
            return
        members.pop("type", None)
        members.pop("sequence_number", None)
        if event.item_id is not None or event.output_index is not None:
            item = self._lookup.find(None, event.item_id, event.output_index)
            if item is None or item.final is not None:
                return
            if "item_id" in members:
                members["item_id"] = item.id
            if "output_index" in members:
                members["output_index"] = item.index
        self._send(event.type, members)

    def _item_of(self, event: Event, family: Family) -> OutputItem | None:
        """The open item that an event is about; opened now if the upstream never did.

        None if it is closed already, and for a call that was never opened: that can't be done without
        its name, and the event that ends it has the whole of it.
        """
        item = self._lookup.find(family.item, event.item_id, event.output_index)
        if item is None and family.index is not None:
            item = self._add({"type": family.item, "id": event.item_id}, event.output_index)
        return item if item is not None and item.final is None else None

    def _part_of(self, event: Event, members: JsonObject) -> JsonObject:
        """The part that an event is about; from its name and its item if the upstream left it out."""
        part = members.get("part")
        if isinstance(part, dict):
            return part
        if event.type.startswith("response.reasoning_summary_part"):
            return {"type": SUMMARY.part}
        item = self._lookup.find(None, event.item_id, event.output_index)
        type = item.added["type"] if item is not None else ""
        return {"type": {TEXT.item: TEXT.part, REASONING.item: REASONING.part}.get(type)}

    def _text_of_delta(self, family: Family, event: Event) -> Text | None:
        """The text that a delta is about; its part is opened now if the upstream never did."""
        item = self._item_of(event, family)
        if item is None or item.own is not None:
            return None if item is None else item.own
        index = event.part_index(family)
        text = item.find_part(family, index)
        if text is None or (index is None and text.complete):
            return self._add_part(item, family, index, {})
        return text

    def _add(self, item: JsonObject, upstream_index: int | None) -> OutputItem:
        if len(self.items) >= MAX_OUTPUT_ITEMS:
            raise UpstreamError("The model server sent too many items.")
        type = item.get("type")
        if not isinstance(type, str):
            type = item["type"] = "message"
        upstream_id = item.get("id")
        id = self._mint(item_prefix(type))
        new = OutputItem(
            len(self.items),
            id,
            newly_added(item, type, id),
            upstream_id if isinstance(upstream_id, str) else None,
            upstream_index,
        )
        self.items.append(new)
        self._lookup.add(new)
        self._send("response.output_item.added", {"output_index": new.index, "item": new.added})
        return new

    def _add_part(
        self, item: OutputItem, family: Family, upstream_index: int | None, part: JsonObject
    ) -> Text:
        self._parts += 1
        if self._parts > MAX_OUTPUT_PARTS:
            raise UpstreamError("The model server sent too many content parts.")
        self._close_last_parts(item, family.place, upstream_index)
        text = item.add_part(family, upstream_index)
        empty = {**(part or {"type": family.part}), family.member: "", **_NO_NOTES.get(family.part, {})}
        self._send_part_event(PART_EVENTS[family.place][0], text, normal_part(empty))
        return text

    def _close_last_parts(self, item: OutputItem, place: str, next_index: int | None) -> None:
        """Close the last parts of one place, unless their numbers say that they may go on beside the next."""
        for text in reversed(item.parts[place]):
            numbers = {text.upstream_index, next_index}
            if text.closed is not None or (None not in numbers and len(numbers) == 2):
                break
            self._close_part(text, None)

    def _complete(self, text: Text, final: object, members: JsonObject) -> None:
        """Close a text. What the upstream's deltas left out of it is sent as one more delta.

        A text that the upstream's last word contradicts stays as the client has read it.

        Args:
            text: it may not be complete yet.
            final: the whole text in the upstream's words, if it is a string.
            members: what else the upstream said in its ``done`` event.
        """
        if not isinstance(final, str):
            self._end_character(text)
        text.complete = True
        sent = text.value()
        if isinstance(final, str) and final != sent:
            if final.startswith(sent):
                text.pieces = [final]
                self._send_text_event(text, "delta", {"delta": final.removeprefix(sent)})
            elif not text.family.place:
                # Arguments are run, not read: the last word is right, and clients take them from ``done``.
                text.pieces = [final]
            elif sent.startswith(final):
                # The rest may belong to an item that the upstream never told apart from this one.
                self._unclaimed.add(text.family, sent.removeprefix(final))
        members[text.family.member] = text.value()
        self._send_text_event(text, "done", members)

    def _end_character(self, text: Text) -> None:
        """Send U+FFFD for half a character whose other half never came."""
        if text.half and not text.complete:
            text.half = ""
            text.pieces.append("\ufffd")
            self._send_text_event(text, "delta", {"delta": "\ufffd"})

    def _close_part(self, text: Text, final: JsonObject | None) -> None:
        if text.closed is not None:
            return
        if not text.complete:
            self._complete(text, final.get(text.family.member) if final else None, {})
        text.closed = text.part(final)
        self._send_part_event(PART_EVENTS[text.family.place][1], text, text.closed)

    def _close_parts(self, item: OutputItem, place: str, finals: list[JsonObject]) -> list[JsonObject]:
        """Close the parts of one place, and return what the item finally holds there, in order."""
        match = match_parts(item.parts[place], finals, place)
        held: dict[int | None, JsonObject] = {}
        for text, part in match.both:
            self._close_part(text, part)
            held[text.index] = text.part(part)
        for text in match.streamed:
            self._close_part(text, None)
            held[text.index] = text.closed or text.part()
            if finals:
                self._unclaimed.add(text.family, text.value())
        for family, part in match.new:
            text = self._add_part(item, family, None, part)
            self._close_part(text, part)
            held[text.index] = text.part(part)
        known = iter([held[text.index] for text in item.parts[place]])
        return [next(known) if family_at(place, part) else part for part in finals] + list(known)

    def _finish(self, item: OutputItem, final: JsonObject, *, whole: bool) -> None:
        """Close an item as the upstream's final words have it, unless it is closed."""
        if item.final is None:
            form, item.cut = final_form(final, item.id, whole=whole)
            self._close_item(item, form)

    def _close_item(self, item: OutputItem, final: JsonObject) -> None:
        for place, texts in item.parts.items():
            if texts or (final.get(place) and final["type"] in ("message", "reasoning")):
                final[place] = self._close_parts(item, place, final.get(place) or [])
        own = item.own
        if own is not None and not own.complete and isinstance(final.get(own.family.member), str):
            self._complete(own, final[own.family.member], {})
        item.finish(final, self._seal)
        # Spliced from the item's own bytes, which the terminal event and the store repeat.
        done = b'{"type":"response.output_item.done","sequence_number":%d,"output_index":%d,"item":%b}'
        data = done % (self.next_number(), item.index, item.data)
        self._sent.append(sse.encode("response.output_item.done", data))

    def _passes(self, text: Text, event: Event, block: sse.Block, old_id: bytes) -> bool:
        """Whether a delta's bytes say all that ours would, once the id is replaced in them."""
        family = text.family
        return (
            event.sequence_number == self.sequence
            and event.output_index == text.item.index
            and (family.index is None or event.part_index(family) == text.index)
            and (family is not TEXT or bytes(event.logprobs)[:1] == b"[")
            and old_id in block.raw
            and block.raw.startswith(_HEADS[family.stem])
            and block.raw.count(b"\n") == 3
            and (block.raw.isascii() or _is_utf8(block.raw))
        )

    def _send_text_event(self, text: Text, verb: str, members: JsonObject) -> None:
        """Send a ``delta`` or ``done``, with our ids and numbers in place of the upstream's."""
        family = text.family
        members.pop("type", None)
        members.pop("sequence_number", None)
        members["item_id"] = text.item.id
        members["output_index"] = text.item.index
        if family.index is not None:
            members[family.index] = text.index
        if family is TEXT:
            members["logprobs"] = members.get("logprobs") or []
        self._send(f"{family.stem}.{verb}", members)

    def _send_part_event(self, type: str, text: Text, part: JsonObject) -> None:
        assert text.family.index is not None
        place = {"item_id": text.item.id, "output_index": text.item.index, text.family.index: text.index}
        self._send(type, {**place, "part": part})


def _is_utf8(raw: bytes) -> bool:
    """True; what isn't UTF-8 raises UnicodeDecodeError, also in members that nothing here looks at."""
    raw.decode()
    return True


_HEADS = {family.stem: b"event: %b.delta\ndata: {" % family.stem.encode() for family in FAMILIES}
"""How the bytes of a delta begin that may pass as they are."""

_EVENT_NAME = re.compile(r"response\.[a-z_]+(\.[a-z_]+)*")

_NO_NOTES: dict[str, JsonObject] = {"output_text": {"annotations": [], "logprobs": []}}
"""What a part that was only just added can't hold yet."""


def object_of(members: JsonObject, name: str) -> JsonObject:
    """A member that must be an object. Raises UpstreamError."""
    value = members.get(name)
    if not isinstance(value, dict):
        raise UpstreamError("The model server sent something that is not an event.")
    return value
