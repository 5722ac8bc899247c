"""What a conversation must hold, and what its turns must have been given."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.simulation.client import seen_id
from tests.simulation.model_server import said

if TYPE_CHECKING:
    from tests.simulation.judge import Judge
    from tests.simulation.record import Call, Request, Said


@dataclass(eq=False)
class Block:
    """What one change adds: all of it, in one piece, or nothing.

    Attributes:
        items: what it adds for sure, if anything: a turn's output may be unknown.
        must: True if it was said to be there, False if it can't be, None if nobody can tell.
    """

    name: str
    began: int
    items: list[Said]
    must: bool | None = None
    seen: int | None = None
    """The tick at which a client knew that it was there."""
    calls: list[Call] = field(default_factory=list)
    at: int | None = None


class Conversation:
    """One conversation of a record."""

    def __init__(self, judge: Judge, opening: Request) -> None:
        self.judge = judge
        self.id = opening.json["id"]
        self.opening = opening
        final = judge.look_at[f"/v1/conversations/{self.id}/items?order=asc&limit=100"]
        self.final: list[Said] | None = said(final.json["data"]) if final.ok else None
        self.deletes = [
            each
            for each in judge.acts
            if each.method == "DELETE"
            and each.path.startswith(f"/v1/conversations/{self.id}")
            and (each.ok or not each.whole or (each.status or 0) >= 500)
        ]
        self.whole_deleted = any(each.path == f"/v1/conversations/{self.id}" for each in self.deletes)
        self.deleted = self._deleted_texts()

    def _deleted_texts(self) -> set[str]:
        """The texts of items that somebody has tried to delete."""
        texts = {}
        for request in self.judge.record.requests:
            if request.ok and request.path.endswith("/items") and request.kind == "application/json":
                texts.update({item["id"]: said([item])[0][1] for item in request.json["data"]})
        ids = [each.path.rsplit("/", 1)[1] for each in self.deletes if "/items/" in each.path]
        return {texts[id] for id in ids if id in texts}

    def check(self) -> None:
        judge, where = self.judge, self.id
        if self.final is None:
            judge.require(self.whole_deleted, "a conversation stays", where)
            return
        blocks = self.blocks()
        expected = {text for block in blocks for _, text in block.items}
        expected |= {call.text for block in blocks for call in block.calls}
        for role, text in self.final:
            known = text in expected or role in ("assistant", "reasoning")
            judge.require(known, "a conversation holds only what it was given", f"{where}: {text!r}")
        judge.require(
            len(set(self.final)) == len(self.final),
            "a conversation holds nothing twice",
            f"{where}: {self.final}",
        )
        for block in blocks:
            self._place(block)
        placed = sorted((block for block in blocks if block.at is not None), key=lambda block: block.at or 0)
        for one, other in pairwise(placed):
            late = other.seen is not None and other.seen < one.began
            judge.require(not late, "changes keep their order", f"{where}: {one.name}, then {other.name}")
        for block in blocks:
            for call in block.calls:
                self._history(block, call, blocks)

    def blocks(self) -> list[Block]:
        opening = self.opening
        found = [
            Block("the opening", opening.began, said((opening.body or {})["items"]), True, opening.ended)
        ]
        turns: dict[str, Block] = {}
        for request in self.judge.acts:
            body = request.body or {}
            if request.method != "POST":
                continue
            if request.path == f"/v1/conversations/{self.id}/items":
                must = (
                    True if request.ok else False if request.whole and (request.status or 0) < 500 else None
                )
                seen = request.ended if request.ok else None
                found.append(Block(request.id, request.began, said(body["items"]), must, seen))
            elif request.path == "/v1/responses" and body.get("conversation") == self.id:
                name = str(body["input"])
                if not body.get("store", True):
                    block = Block(request.id, request.began, said(body["input"]), False)
                    block.calls = self.judge.calls_of.get(request.id, [])
                    found.append(block)
                elif name not in turns:
                    turns[name] = self._turn(request)
                    found.append(turns[name])
        return found

    def _turn(self, first: Request) -> Block:
        """A turn, by all the requests that may have been answered with it."""
        judge = self.judge
        requests = [each for each in judge.creates if each.body == first.body]
        block = Block(first.id, first.began, said((first.body or {})["input"]))
        block.calls = [call for each in requests for call in judge.calls_of.get(each.id, [])]
        ids = {id for each in requests if (id := seen_id(each)) is not None}
        if not ids:
            refused = all(each.whole and (each.status or 0) < 500 for each in requests)
            block.must = False if refused else None
            return block
        ends = [each for id in ids for each in judge.sightings.get(id, []) if each.ended]
        if not ends:
            return block
        (id,) = ids
        block.items = [*block.items, *(judge.output(id) or [])]
        if ends[-1].status not in ("completed", "incomplete"):
            block.must = False
            return block
        told = [each for each in ends if each.request in judge.acts]
        block.seen = min((each.request.ended or 0 for each in told), default=None)
        # An ending that the disk was too slow for, or that came too late for its conversation, is outside.
        block.must = True if told and not judge.store_failed() and not self.whole_deleted else None
        return block

    def _place(self, block: Block) -> None:
        assert self.final is not None
        where = f"{self.id}: {block.name}"
        if not block.items:
            return
        here = [(role, text) for role, text in block.items if text not in self.deleted]
        kept = [each for each in self.final if each[1] not in self.deleted]
        found = [kept.index(each) for each in here if each in kept]
        if not found:
            missing = block.must is True and here
            self.judge.require(not missing, "what was added is there", f"{where}: {here} not in {self.final}")
            return
        self.judge.require(block.must is not False, "what failed adds nothing", f"{where}: {here}")
        together = found == list(range(found[0], found[0] + len(found)))
        if len(found) != len(here) or not together:
            self.judge.found("what is added is added as one", f"{where}: {here} in {self.final}")
        block.at = min(self.final.index(each) for each in block.items if each in self.final)

    def _history(self, block: Block, call: Call, blocks: list[Block]) -> None:
        """A turn is given what the conversation held: nothing less, nothing more, in its order."""
        assert self.final is not None
        given = call.input[: -len(self._input(block))]
        where = f"{self.id}: call {call.number} was given {given}, and it holds {self.final}"
        gone = [each for each in given if each not in self.final]
        judge = self.judge
        unknown = [text for _, text in gone if text not in self.deleted]
        judge.require(not unknown, "a turn is given what its conversation holds", f"{where}: {unknown}")
        kept = [each for each in given if each in self.final]
        # Of several tries the last one may be in it; the others saw an earlier moment.
        if block.at is not None and block.must is not False and call is block.calls[-1]:
            before = self.final[: block.at]
            judge.require(kept == before, "a turn is given all that came before it", where)
        else:
            judge.require(
                kept == self.final[: len(kept)], "a turn is given a moment of its conversation", where
            )
        for other in blocks:
            if other.at is None or other is block:
                continue
            present = [each for each in other.items if each in kept]
            known_before = other.seen is not None and other.seen < block.began
            if known_before and not present and any(text not in self.deleted for _, text in other.items):
                judge.found("a turn is given what was there before it", f"{where}: not {other.name}")
            if present and other.began > (call.opened or 0):
                judge.found("a turn is given nothing from the future", f"{where}: {other.name}")

    @staticmethod
    def _input(block: Block) -> list[Said]:
        return [each for each in block.items if each[0] == "user"]
