"""What a streamed output is made of: families of text, the parts they grow in, and their items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.wire.dialect import JsonObject, encode, normal_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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


MAX_OUTPUT_ITEMS = 2000
"""The items of one output. Each is looked for among the others, so that many would cost their square."""


class Event(msgspec.Struct, gc=False):
    """The members of an event that decide what happens to it."""

    type: str = ""
    sequence_number: int | None = None
    output_index: int | None = None
    content_index: int | None = None
    summary_index: int | None = None
    item_id: str | None = None
    delta: Any = None
    logprobs: msgspec.Raw = msgspec.Raw(b"")


decode_event = msgspec.json.Decoder(Event).decode


class Part:
    """A content or summary part that is being streamed."""

    __slots__ = ("done", "family", "text", "text_done", "upstream_index")

    def __init__(self, family: Family, upstream_index: int | None) -> None:
        self.family = family
        self.upstream_index = upstream_index
        self.text: list[str] = []
        self.text_done = False
        self.done = False

    def value(self) -> JsonObject:
        return normal_part({"type": self.family.part, self.family.member: "".join(self.text)})


class OutputItem:
    """An item of the output: as it was added, what has arrived of it, and its final bytes."""

    __slots__ = (
        "added",
        "cut",
        "data",
        "final",
        "id",
        "index",
        "new_id",
        "old_id",
        "parts",
        "text",
        "text_done",
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
        self.parts: dict[str, list[Part]] = {"content": [], "summary": []}
        self.text: list[str] = []
        self.text_done = False
        self.final: JsonObject | None = None
        self.data = b""
        self.cut = False

    @property
    def said(self) -> tuple[str, str | None, int | None]:
        """What the upstream's events say of it."""
        return self.added["type"], self.upstream_id, self.upstream_index

    @property
    def untouched(self) -> bool:
        """Whether it was added and nothing more."""
        return self.final is None and not (self.text or self.text_done or any(self.parts.values()))

    def fits(self, type: str | None, index: int) -> bool:
        return type in (None, self.added["type"]) and self.upstream_index == index

    def find_part(self, family: Family, index: int | None) -> int | None:
        """Where the newest part is that fits what an event says of it."""
        parts = self.parts[family.place]
        for position in reversed(range(len(parts))):
            part = parts[position]
            if part.family is family and (index is None or part.upstream_index in (None, index)):
                return position
        return None

    @property
    def unusable(self) -> bool:
        """Whether it was cut off so early that no model can be asked to go on from it.

        That is a call without all of its arguments, and a message or reasoning without any text: vLLM
        answers a history that holds an item without content with 500.
        """
        if not self.cut:
            return False
        return self.added["type"] in BY_ITEM or not any(part.text for part in self.parts["content"])

    def finish(self, final: JsonObject) -> None:
        self.final = final
        self.data = encode(final)

    def so_far(self, status: str) -> JsonObject:
        """The item with what has arrived of it."""
        item = dict(self.added)
        if "status" in item or item["type"] != "reasoning":
            item["status"] = status
        for place, parts in self.parts.items():
            if parts:
                item[place] = [part.value() for part in parts]
        family = BY_ITEM.get(item["type"])
        if family is not None:
            item[family.member] = "".join(self.text)
        return item


def find_item(
    items: Sequence[OutputItem], type: str | None, id: str | None, index: int | None
) -> OutputItem | None:
    """The newest item that fits what an event says of it, or else an open one at its index."""
    for item in reversed(items):
        if (
            type in (None, item.added["type"])
            and (id is None or item.upstream_id in (None, id))
            and (index is None or item.upstream_index in (None, index))
        ):
            return item
    for item in reversed(items):
        if index is not None and item.fits(type, index) and item.final is None:
            return item
    return None


def find_final(items: Iterable[OutputItem], index: int, item: JsonObject) -> OutputItem | None:
    """The streamed item that one of the final output is: by its id, or by where it stands."""
    type, id = item.get("type"), item.get("id")
    if not isinstance(type, str):
        type = "message"
    alike = [known for known in items if known.added["type"] == type]
    by_id = [known for known in alike if id is not None and known.upstream_id == id]
    at_index = [known for known in alike if known.upstream_index == index]
    unnamed = [known for known in alike if known.upstream_id is None or id is None]
    return next(iter([*by_id, *at_index, *unnamed]), None)
