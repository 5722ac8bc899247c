"""Bring the final form of an item together with what was streamed of it.

What the client has seen can't be taken back, so an item keeps each part that was streamed, whether or not
its final form has it. A server that neither announces nor numbers its items, and gives all of them one id,
streams two messages that look like one. Its final output tells them apart: the first message lacks a part
that was streamed under it, and the second one has it. That part stays where it was streamed, and the
second message is not sent again.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, NamedTuple

from agentic_trio.wire.output import part_family

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentic_trio.wire.dialect import JsonObject
    from agentic_trio.wire.output import Family, Text


class PartMatch(NamedTuple):
    """How the final parts of one place of an item meet those that were streamed.

    Attributes:
        both: streamed parts with their final forms, in the order of the latter.
        streamed: the parts that were only streamed.
        new: the final parts that were not streamed, with their families.
    """

    both: list[tuple[Text, JsonObject]]
    streamed: list[Text]
    new: list[tuple[Family, JsonObject]]


def match_parts(texts: Iterable[Text], finals: Iterable[JsonObject], place: str) -> PartMatch:
    """Match each final part with the next streamed part of its family.

    Final parts of families that don't belong at this place are left out: they are never streamed.
    """
    waiting: defaultdict[Family, deque[Text]] = defaultdict(deque)
    for text in texts:
        waiting[text.family].append(text)
    match = PartMatch([], [], [])
    for part in finals:
        family = family_at(place, part)
        if family is None:
            continue
        if waiting[family]:
            match.both.append((waiting[family].popleft(), part))
        else:
            match.new.append((family, part))
    match.streamed.extend(text for texts in waiting.values() for text in texts)
    return match


def family_at(place: str, part: JsonObject) -> Family | None:
    """The family of a part, if such parts are streamed at this place of their item."""
    family = part_family(part)
    return family if family is not None and family.place == place else None


class Unclaimed:
    """The texts that were streamed under an item whose final form lacks them, in order. Sans-io."""

    def __init__(self) -> None:
        self._texts: defaultdict[Family, deque[str]] = defaultdict(deque)
        self._claimed: Counter[Family] = Counter()

    def add(self, family: Family, text: str) -> None:
        """Remember a text. What is only white space may be left over anywhere, and is forgotten."""
        if text and not text.isspace():
            self._texts[family].append(text)

    def rest_of(self, item: JsonObject) -> JsonObject | None:
        """Return a final item less the parts that were streamed under another item; None if none is left.

        What it leaves out is claimed, and is not left out again.
        """
        if not self._texts:
            return item
        rest, left, claimed = dict(item), 0, 0
        for place in ("content", "summary"):
            parts = item.get(place)
            if isinstance(parts, list):
                rest[place] = [part for part in parts if not self._claim(part)]
                left += len(rest[place])
                claimed += len(parts) - len(rest[place])
        return None if claimed and not left else rest

    def _claim(self, part: object) -> bool:
        """Whether the text of a part is the next one of its family, or the beginning of that."""
        family = part_family(part)
        text = part.get(family.member) if family is not None and isinstance(part, dict) else None
        if family is None or not isinstance(text, str) or not text or not self._texts[family]:
            return False
        first, start = self._texts[family][0], self._claimed[family]
        if not first.startswith(text, start):
            return False
        self._claimed[family] += len(text)
        if self._claimed[family] == len(first):
            self._texts[family].popleft()
            self._claimed[family] = 0
        return True
