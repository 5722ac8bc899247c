"""What the store should say, worked out the simplest way: every history is a copy of all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentic_trio.store.contract import Item, ItemAlreadyInConversation, Missing, NotEnded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.store.contract import PageQuery

Calls = frozenset[str]


class Line:
    """Something that grows: a list of whole histories, one for each change."""

    def __init__(self, first: Sequence[Item] = (), conversation: bool = False) -> None:
        self.versions = [list(first)]
        self.conversation = conversation

    def add(self, history: Sequence[Item]) -> Spot:
        self.versions.append(list(history))
        return self.tip()

    def tip(self) -> Spot:
        return Spot(self, len(self.versions) - 1)


@dataclass(frozen=True)
class Spot:
    """Where a history ends."""

    line: Line
    version: int

    def items(self) -> list[Item]:
        return self.line.versions[self.version]

    def is_tip(self) -> bool:
        return self == self.line.tip()


@dataclass
class Talk:
    """A conversation."""

    id: str
    line: Line
    metadata: bytes
    open: Calls


@dataclass
class Answer:
    """A response."""

    status: str
    body: bytes
    talk: Talk | None
    base: Spot | None
    open: Calls
    input: list[Item]
    output: list[Item] = field(default_factory=list)
    spot: Spot | None = None

    def given(self) -> list[Item]:
        return (self.base.items() if self.base else []) + self.input


def issued_in(items: list[Item]) -> set[str]:
    return {item.id for item in items if item.issued}


@dataclass
class Model:
    """One owner's store."""

    answers: dict[str, Answer] = field(default_factory=dict)
    talks: dict[str, Talk] = field(default_factory=dict)
    issued: dict[str, bytes] = field(default_factory=dict)

    def talk(self, id: str) -> Talk:
        if id not in self.talks:
            raise Missing("conversation", id)
        return self.talks[id]

    def answer(self, id: str) -> Answer:
        if id not in self.answers:
            raise Missing("response", id)
        return self.answers[id]

    def history(self, response: str | None, conversation: str | None) -> tuple[Spot | None, Calls]:
        talk = None if conversation is None else self.talk(conversation)
        answer = None if response is None else self.answer(response)
        if talk and answer and answer.talk is not talk:
            assert response is not None
            raise Missing("response", response)
        if answer and answer.spot is None:
            assert response is not None
            raise NotEnded(response)
        if talk:
            return talk.line.tip(), talk.open
        return (answer.spot, answer.open) if answer else (None, frozenset())

    def announce(
        self,
        id: str,
        body: bytes,
        base: Spot | None,
        conversation: str | None,
        input: list[Item],
        open: Calls,
    ) -> None:
        talk = None if conversation is None else self.talk(conversation)
        if id not in self.answers or self.answers[id].spot is None:
            self.answers[id] = Answer("in_progress", body, talk, base, open, input)

    def end(
        self,
        id: str,
        status: str,
        body: bytes,
        base: Spot | None,
        conversation: str | None,
        input: list[Item],
        output: list[Item],
        open: Calls,
    ) -> None:
        known = self.answers.get(id)
        if known and known.spot:
            return
        talk = self.talks.get(conversation) if conversation is not None else None
        new = input + output
        spot = self._grow(status, base, conversation, talk, new, open)
        made_in = talk or (known.talk if known else None)
        self.answers[id] = Answer(status, body, made_in, base, open, input, output, spot)
        self._issue(new)

    def _grow(
        self,
        status: str,
        base: Spot | None,
        conversation: str | None,
        talk: Talk | None,
        new: list[Item],
        open: Calls,
    ) -> Spot:
        if base is None:
            return Line(new).tip()
        history = base.items() + new
        if status not in ("completed", "incomplete") or not base.is_tip():
            return Line(history).tip()
        if talk and talk.line is base.line:
            talk.open = open
            return base.line.add(history) if new else base
        if base.line.conversation or conversation is not None:
            return Line(history).tip()
        return base.line.add(history) if new else base

    def withdraw(self, id: str) -> None:
        if id in self.answers and self.answers[id].spot is None:
            del self.answers[id]

    def delete_response(self, id: str) -> None:
        if self.answer(id).spot is None:
            raise NotEnded(id)
        del self.answers[id]

    def create(self, id: str, metadata: bytes, items: list[Item], open: Calls) -> None:
        self.talks[id] = Talk(id, Line(items, conversation=True), metadata, open)
        self._issue(items)

    def add_items(self, id: str, items: list[Item], opened: Calls, closed: Calls) -> None:
        talk = self.talk(id)
        held = talk.line.tip().items()
        if {item.id for item in items if item.issued} & {item.id for item in held}:
            raise ItemAlreadyInConversation
        if items:
            talk.line.add(held + items)
        talk.open = talk.open - closed | opened
        self._issue(items)

    def delete_item(self, id: str, item: str, opens: Calls, closes: Calls) -> None:
        talk = self.talk(id)
        held = talk.line.tip().items()
        kept = [one for one in held if one.id != item]
        if len(kept) == len(held):
            raise Missing("item", item)
        talk.line.add(kept)
        talk.open = talk.open - closes | opens

    def recover(self) -> int:
        under_way = [id for id, answer in self.answers.items() if answer.spot is None]
        for id in under_way:
            self.fail(id)
        return len(under_way)

    def fail(self, id: str) -> None:
        answer = self.answers.get(id)
        if answer is None or answer.spot is not None:
            return
        name = answer.talk.id if answer.talk and self.talks.get(answer.talk.id) is answer.talk else None
        body = b'{"failed":' + answer.body + b"}"
        self.end(id, "failed", body, answer.base, name, answer.input, [], answer.open)

    def histories(self) -> list[tuple[str, set[str]]]:
        """Each response and conversation, with the ids of ours that it holds or follows."""
        found = [(id, issued_in(talk.line.tip().items())) for id, talk in self.talks.items()]
        for id, answer in self.answers.items():
            found.append((id, issued_in(answer.given() + answer.output)))
        return found

    def erasable(self, id: str) -> set[str]:
        """The ids of ours that are in a conversation, or were added by the responses made in it."""
        talk = self.talks.get(id)
        if talk is None:
            return set()
        made = [answer for answer in self.answers.values() if answer.talk is talk]
        return issued_in(
            [*talk.line.tip().items(), *(item for each in made for item in each.input + each.output)]
        )

    def forget(self, names: set[str]) -> None:
        """Remove responses and conversations, which leaves no item that only they had."""
        self.answers = {id: answer for id, answer in self.answers.items() if id not in names}
        self.talks = {id: talk for id, talk in self.talks.items() if id not in names}

    def kept(self) -> list[Item]:
        """Every item that something which was not deleted reaches."""
        kept = [item for talk in self.talks.values() for item in talk.line.tip().items()]
        for answer in self.answers.values():
            spot = answer.spot or answer.base
            kept += spot.items() if spot else []
        return kept

    def known(self) -> dict[str, bytes]:
        """What can be referred to."""
        return {item.id: item.data for item in self.kept() if item.issued}

    def _issue(self, items: list[Item]) -> None:
        for item in items:
            if item.issued:
                self.issued[item.id] = item.data


def page(items: list[Item], query: PageQuery) -> tuple[list[Item], bool]:
    """A page of a list that is oldest first."""
    listed = items if query.order == "asc" else items[::-1]
    names = [item.id for item in listed]
    for cursor in (query.after, query.before):
        if cursor is not None and cursor not in names:
            raise Missing("item", cursor)
    end = len(names) if query.before is None else names.index(query.before)
    begin = 0 if query.after is None else len(names) - names[::-1].index(query.after)
    part = listed[begin:end]
    if query.before is not None and query.after is None:
        return part[-query.limit :], len(part) > query.limit
    return part[: query.limit], len(part) > query.limit
