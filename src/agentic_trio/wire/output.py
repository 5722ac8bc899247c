"""What an output is made of: kinds of text, the texts that grow in items and parts, and the items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.wire.dialect import JsonObject, encode, normal_item, normal_part
from agentic_trio.wire.sealed_items import sealed_reasoning

if TYPE_CHECKING:
    from agentic_trio.wire.sealing import Seal


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """How one kind of text grows: in a content part, a summary part, or a member of its item.

    Attributes:
        item: the type of the items that hold such text.
        place: the item's member that lists the parts; empty if the text is the item's own member.
        part: the part's type.
        member: the member that holds the text, in the part or item and in the ``done`` event.
        index: the event's member that numbers the part.
        stem: the events' names, less ``.delta`` and ``.done``.
    """

    item: str
    place: str
    part: str
    member: str
    index: str | None
    stem: str


TEXT = Family("message", "content", "output_text", "text", "content_index", "response.output_text")
REFUSAL = Family("message", "content", "refusal", "refusal", "content_index", "response.refusal")
REASONING = Family(
    "reasoning", "content", "reasoning_text", "text", "content_index", "response.reasoning_text"
)
SUMMARY = Family(
    "reasoning", "summary", "summary_text", "text", "summary_index", "response.reasoning_summary_text"
)
ARGUMENTS = Family("function_call", "", "", "arguments", None, "response.function_call_arguments")
TOOL_INPUT = Family("custom_tool_call", "", "", "input", None, "response.custom_tool_call_input")
MCP_ARGUMENTS = Family("mcp_call", "", "", "arguments", None, "response.mcp_call_arguments")
CODE = Family("code_interpreter_call", "", "", "code", None, "response.code_interpreter_call_code")

FAMILIES = (TEXT, REFUSAL, REASONING, SUMMARY, ARGUMENTS, TOOL_INPUT, MCP_ARGUMENTS, CODE)
DELTAS = {f"{family.stem}.delta": family for family in FAMILIES}
DONES = {f"{family.stem}.done": family for family in FAMILIES}
BY_PART = {family.part: family for family in FAMILIES if family.part}
BY_ITEM = {family.item: family for family in (ARGUMENTS, TOOL_INPUT, MCP_ARGUMENTS, CODE)}


def part_family(part: Any) -> Family | None:
    """The family of a content or summary part, if it is one that we know."""
    type = part.get("type") if isinstance(part, dict) else None
    return BY_PART.get(type) if isinstance(type, str) else None


PART_EVENTS = {
    "content": ("response.content_part.added", "response.content_part.done"),
    "summary": ("response.reasoning_summary_part.added", "response.reasoning_summary_part.done"),
}
"""The item's member that lists parts -> the names of the events that open and close one."""


class Event(msgspec.Struct, gc=False):
    """The members of an upstream event that decide what happens to it."""

    type: str = ""
    sequence_number: int | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
    delta: Any = None
    logprobs: msgspec.Raw = msgspec.Raw(b"")

    def part_index(self, family: Family) -> int | None:
        """The number that the upstream gives to the part that this event is about."""
        return self.content_index if family.index == "content_index" else self.summary_index


decode_event = msgspec.json.Decoder(Event).decode

_DECIDING = frozenset(
    {"type", "sequence_number", "output_index", "content_index", "summary_index", "item_id"}
)


def event_of(members: JsonObject) -> Event:
    """Return the event that has these members. Raises msgspec.ValidationError."""
    event = msgspec.convert({name: members[name] for name in _DECIDING & members.keys()}, Event)
    event.delta = members.get("delta")
    return event


class Text:
    """A text that is growing: where it stands, and what has arrived of it.

    Attributes:
        family: what kind of text it is.
        item: the item that holds it.
        index: the number of its part, as the client knows it; None if the text is the item's own member.
        upstream_index: the number that the upstream gave to its part.
        pieces: what has arrived, in order.
        half: the first half of a character whose other half has not arrived.
        complete: whether its ``done`` event was sent.
        closed: its part as the ``done`` event showed it; None before.
    """

    __slots__ = ("closed", "complete", "family", "half", "index", "item", "pieces", "upstream_index")

    def __init__(
        self, family: Family, item: OutputItem, index: int | None = None, upstream_index: int | None = None
    ) -> None:
        self.family = family
        self.item = item
        self.index = index
        self.upstream_index = upstream_index
        self.pieces: list[str] = []
        self.half = ""
        self.complete = False
        self.closed: JsonObject | None = None

    def value(self) -> str:
        """The text so far."""
        return "".join(self.pieces)

    def part(self, final: JsonObject | None = None) -> JsonObject:
        """The part that holds the text, with the other members that the upstream gave it at its end."""
        return normal_part({**(final or {}), "type": self.family.part, self.family.member: self.value()})


def _index(text: Text) -> int:
    return text.index or 0


_ANY = object()
"""Stands in a key for a number that isn't asked for."""


class OutputItem:
    """An item of the output: as it was added, what has arrived of it, and its final bytes.

    Attributes:
        index: its place in the output.
        id: the id that the client knows.
        added: the item as its ``added`` event showed it.
        upstream_id: the upstream's id for it.
        upstream_index: the upstream's number for it.
        parts: the texts of its content and summary parts.
        own: the text that is a member of the item itself, for the types that have one.
        final: the whole item, once it is done.
        data: its JSON text as the client sees it, once it is done.
        stored: its JSON text as it is kept: without what is sealed for the client.
        cut: whether it was done only because the response ended.
    """

    __slots__ = (
        "_newest",
        "added",
        "cut",
        "data",
        "final",
        "id",
        "index",
        "new_id",
        "old_id",
        "own",
        "parts",
        "stored",
        "upstream_id",
        "upstream_index",
    )

    def __init__(
        self,
        index: int,
        id: str,
        added: JsonObject,
        upstream_id: str | None = None,
        upstream_index: int | None = None,
    ) -> None:
        self.index = index
        self.upstream_id = upstream_id
        self.upstream_index = upstream_index
        self.id = id
        self.added = added
        self.old_id = b'"item_id":%b' % encode(upstream_id) if upstream_id else None
        self.new_id = b'"item_id":%b' % encode(id)
        self.parts: dict[str, list[Text]] = {"content": [], "summary": []}
        self._newest: dict[tuple[Family, object], Text] = {}
        family = BY_ITEM.get(added["type"])
        self.own = None if family is None else Text(family, self)
        self.final: JsonObject | None = None
        self.data = self.stored = b""
        self.cut = False

    @property
    def untouched(self) -> bool:
        """Whether it was added and nothing has happened to it since."""
        grown = self.own is not None and (self.own.pieces or self.own.complete)
        return self.final is None and not (grown or any(self.parts.values()))

    @property
    def unusable(self) -> bool:
        """Whether it was cut off so early that no model can be asked to go on from it.

        That is a call without all of its arguments, and a message or reasoning without any text: vLLM
        fails with 500 on a history that contains an item without content.
        """
        if not self.cut:
            return False
        return self.own is not None or not any(text.pieces for text in self.parts["content"])

    def add_part(self, family: Family, upstream_index: int | None) -> Text:
        """Open a part; the text that will grow in it."""
        texts = self.parts[family.place]
        text = Text(family, self, len(texts), upstream_index)
        texts.append(text)
        self._newest[family, upstream_index] = self._newest[family, _ANY] = text
        return text

    def texts(self) -> list[Text]:
        """The texts that grow in it, its own or those of its parts."""
        return [self.own] if self.own is not None else [*self.parts["content"], *self.parts["summary"]]

    def find_part(self, family: Family, index: int | None) -> Text | None:
        """The newest part of this kind, and with this number where the upstream gave it one."""
        if index is None:
            return self._newest.get((family, _ANY))
        numbered, unnumbered = self._newest.get((family, index)), self._newest.get((family, None))
        if numbered is None or unnumbered is None:
            return numbered or unnumbered
        return max(numbered, unnumbered, key=_index)

    def finish(self, final: JsonObject, seal: Seal | None = None) -> None:
        """Close it; ``seal`` seals the reasoning of a client that asks for that."""
        self.stored = self.data = encode(final)
        self.final = final
        if seal is not None and (sealed := sealed_reasoning(final, seal)) is not final:
            self.final = sealed
            self.data = encode(sealed)

    def so_far(self, status: str) -> JsonObject:
        """The item with what has arrived of it."""
        item = dict(self.added)
        if "status" in item or item["type"] != "reasoning":
            item["status"] = status
        for place, texts in self.parts.items():
            if texts:
                item[place] = [text.part() for text in texts]
        if self.own is not None:
            item[self.own.family.member] = self.own.value()
        return item


def final_form(item: JsonObject, id: str, *, whole: bool) -> tuple[JsonObject, bool]:
    """Return an item in its final form, and whether it was cut off.

    Args:
        item: as the upstream sent it.
        id: our id for it.
        whole: whether the response is complete. Otherwise an item that was left ``in_progress`` was cut off.
    """
    open = item.get("status") == "in_progress"
    final = normal_item(item, id, "incomplete" if open and not whole else "completed")
    return final, open and final.get("status") == "incomplete"


def newly_added(item: JsonObject, type: str, id: str) -> JsonObject:
    """Return an item as its ``added`` event shows it: under our id, and with nothing in it yet."""
    added = normal_item(item, id, "in_progress")
    if type in ("message", "reasoning"):
        added.pop("content", None)
    if type == "message":
        added["content"] = []
    elif type == "reasoning":
        added["summary"] = []
    elif type in BY_ITEM:
        added[BY_ITEM[type].member] = ""
    # Outputs of programs and shells are whole when they are added, and say so.
    if "status" in added and not type.endswith("_output"):
        added["status"] = "in_progress"
    return added
