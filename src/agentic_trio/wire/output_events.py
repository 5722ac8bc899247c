"""The events of an output: what the upstream says of its items in, what we say of ours out.

The rules are those of :mod:`agentic_trio.wire.accumulator`, which knows when an output begins and ends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agentic_trio.errors import UpstreamError
from agentic_trio.wire import sse
from agentic_trio.wire.dialect import JsonObject, decode_object, encode, normal_item, normal_part
from agentic_trio.wire.ids import MintId, item_prefix
from agentic_trio.wire.output import (
    BY_ITEM,
    DONES,
    FAMILIES,
    MAX_OUTPUT_ITEMS,
    PART_EVENTS,
    TEXT,
    Event,
    Family,
    OutputItem,
    Part,
    find_final,
    find_item,
    part_family,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

DELTA_COST = 64
"""What a delta costs in memory beside its text, in bytes."""


class OutputEvents:
    """Follows the items of one output. Sans-io.

    Attributes:
        items: in order.
        sequence: the number of the next event.
        left: how many bytes of output may still be kept; less than 0 when there were more.
    """

    def __init__(self, mint: MintId, limit: int) -> None:
        self.items: list[OutputItem] = []
        self.sequence = 0
        self.left = limit
        self._mint = mint

    def step(self, event: Event, members: JsonObject, out: list[bytes]) -> None:
        """Take an event that is no delta.

        Raises:
            UpstreamError: it isn't what its name says.
        """
        type = event.type
        family = DONES.get(type)
        if family is not None:
            self._text_done(family, event, members, out)
        elif type == "response.output_item.added":
            self._item_added(event, object_of(members, "item"), out)
        elif type == "response.output_item.done":
            self._item_done(event.output_index, object_of(members, "item"), out)
        elif type in ("response.content_part.added", "response.reasoning_summary_part.added"):
            self._part_added(event, object_of(members, "part"), out)
        elif type in ("response.content_part.done", "response.reasoning_summary_part.done"):
            self._part_done(event, object_of(members, "part"), out)
        else:
            self._pass_on(event, members, out)

    def finish(self, output: Iterable[object], *, whole: bool, out: list[bytes]) -> None:
        """Say that every item is done: those of the upstream's final output in its words.

        Args:
            output: the final output, as the upstream sent it.
            whole: whether the response is complete; otherwise what was still open was cut off.
            out: takes the events.
        """
        streamed = list(self.items)
        for index, item in enumerate(output):
            if isinstance(item, dict):
                known = find_final(streamed, index, item)
                if known is not None:
                    streamed.remove(known)
                self._finish(known or self._add(dict(item), index, out), item, out)
        for added in self.items:
            if added.final is None:
                added.cut = not whole
                self._close_item(added, added.so_far("completed" if whole else "incomplete"), out)

    def event(self, type: str, members: JsonObject) -> bytes:
        """One event of ours, with the next number."""
        return sse.encode(type, encode({"type": type, "sequence_number": self.next_number(), **members}))

    def next_number(self) -> int:
        """The next event's number, which is then used up."""
        number = self.sequence
        self.sequence = number + 1
        return number

    def delta(self, family: Family, event: Event, block: sse.Block, out: list[bytes]) -> None:
        """Take a delta; one whose bytes obey the rules already goes on as it came."""
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
        self.left -= len(delta) + DELTA_COST
        if (
            event.sequence_number == self.sequence
            and event.output_index == item.index
            and (family.index is None or getattr(event, family.index) == index)
            and (family is not TEXT or bytes(event.logprobs)[:1] == b"[")
            and item.old_id is not None
            and item.old_id in block.raw
            and block.raw.startswith(_HEADS[family.stem])
            and block.raw.count(b"\n") == 3
        ):
            self.sequence += 1
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
        return self.event(type, members)

    def _item_of(self, event: Event, family: Family, out: list[bytes]) -> OutputItem | None:
        """The open item that an event is about; added now if the upstream never did.

        None if it is done, and for a call that was never added: it can't be without its name, and what
        ends it tells all of it.
        """
        item = find_item(self.items, family.item, event.item_id, event.output_index)
        if item is None and family.index is not None:
            item = self._add({"type": family.item, "id": event.item_id}, event.output_index, out)
        return item if item is not None and item.final is None else None

    def _add(self, item: JsonObject, upstream_index: int | None, out: list[bytes]) -> OutputItem:
        if len(self.items) >= MAX_OUTPUT_ITEMS:
            raise UpstreamError("The model server sent too many items.")
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
        out.append(self.event("response.output_item.added", {"output_index": new.index, "item": added}))
        return new

    def _item_added(self, event: Event, item: JsonObject, out: list[bytes]) -> None:
        said = (item.get("type"), item.get("id"), event.output_index)
        told_twice = any(known.untouched and known.said == said for known in self.items)
        if not told_twice:
            self._add(item, event.output_index, out)

    def _part_of(self, item: OutputItem, family: Family, index: int | None, out: list[bytes]) -> int:
        """The index of the part that an event is about; added now if the upstream never did."""
        found = item.find_part(family, index)
        if found is None or (index is None and item.parts[family.place][found].text_done):
            return self._add_part(item, family, index, {"type": family.part}, out)
        return found

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
        return self.event(
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
        found = item.find_part(family, index)
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
        index = item.find_part(family, asked)
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
            index = item.find_part(family, asked)
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
        known = find_item(
            self.items,
            type if isinstance(type, str) else "message",
            id if isinstance(id, str) else None,
            upstream_index,
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
                % (self.next_number(), item.index, item.data),
            )
        )

    def _pass_on(self, event: Event, members: JsonObject, out: list[bytes]) -> None:
        """An event we know nothing of, about an open item or none: only its numbers are ours."""
        if not _EVENT_NAME.fullmatch(event.type):
            return
        members.pop("type", None)
        members.pop("sequence_number", None)
        if event.item_id is not None or event.output_index is not None:
            item = find_item(self.items, None, event.item_id, event.output_index)
            if item is None or item.final is not None:
                return
            if "item_id" in members:
                members["item_id"] = item.id
            if "output_index" in members:
                members["output_index"] = item.index
        out.append(self.event(event.type, members))


_HEADS = {family.stem: b"event: %b.delta\ndata: {" % family.stem.encode() for family in FAMILIES}


_EVENT_NAME = re.compile(r"response\.[a-z_]+(\.[a-z_]+)*")

_NO_NOTES: dict[str, JsonObject] = {"output_text": {"annotations": [], "logprobs": []}}
"""What a part that was only just added can't hold yet."""


def object_of(members: JsonObject, name: str) -> JsonObject:
    """A member that must be an object. Raises UpstreamError."""
    value = members.get(name)
    if not isinstance(value, dict):
        raise UpstreamError("The model server sent something that is not an event.")
    return value
