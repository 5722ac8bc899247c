"""Random histories of two owners, compared step by step with a model that copies everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentic_trio.store.contract import (
    Conversation,
    Criteria,
    Item,
    ItemAlreadyInConversation,
    Missing,
    NotEnded,
    PageQuery,
)
from agentic_trio.store.sqlite import open_sqlite_store
from tests.store.model import Model, page
from tests.store.records import announcement, ending, run_inline

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentic_trio.store.contract import Place
    from agentic_trio.store.sqlite import SqliteStore
    from tests.store.model import Spot

EXPECTED = (Missing, NotEnded, ItemAlreadyInConversation)
CALLS = st.frozensets(st.sampled_from(["call_1", "call_2", "call_3"]), max_size=2)
NUMBER = st.integers(0, 30)
ITEMS = st.lists(st.tuples(st.sampled_from(["new", "new", "replay", "name"]), NUMBER), max_size=4)
PAGES = st.builds(
    lambda limit, order, after, before: (limit, order, after, before),
    st.integers(1, 6),
    st.sampled_from(["asc", "desc"]),
    st.none() | NUMBER,
    st.none() | NUMBER,
)
STATUS = st.sampled_from(["completed", "completed", "completed", "incomplete", "failed", "cancelled"])
SOURCE = st.sampled_from(
    ["response", "response", "conversation", "conversation", "both", "old", "odd", "nothing"]
)
TURN = st.tuples(st.just("turn"), SOURCE, NUMBER, NUMBER, STATUS, ITEMS, ITEMS, CALLS)
ANNOUNCE = st.tuples(st.just("announce"), SOURCE, NUMBER, NUMBER, ITEMS, CALLS)
END_ANNOUNCED = st.tuples(st.just("end_announced"), NUMBER, STATUS, ITEMS, CALLS)
ADD_ITEMS = st.tuples(st.just("add_items"), NUMBER, ITEMS, CALLS, CALLS)
DELETE_ITEM = st.tuples(st.just("delete_item"), NUMBER, NUMBER, CALLS, CALLS)
PAGE = st.tuples(st.just("page"), NUMBER, PAGES)
RARE = st.one_of(
    st.tuples(st.just("withdraw"), NUMBER),
    st.tuples(st.just("delete_response"), NUMBER),
    st.tuples(st.just("create"), ITEMS, CALLS),
    st.tuples(st.just("delete_conversation"), NUMBER),
    st.tuples(st.just("fail"), NUMBER),
    st.tuples(st.just("recover")),
    st.tuples(st.just("sweep"), st.integers(1, 5)),
    st.tuples(st.just("erase"), NUMBER),
)
STEP = st.sampled_from(
    [*[TURN] * 6, *[ANNOUNCE] * 2, *[END_ANNOUNCED] * 2, *[ADD_ITEMS] * 2, *[DELETE_ITEM] * 2, *[PAGE] * 2]
    + [RARE] * 2
).flatmap(lambda step: step)
STEPS = st.lists(STEP, min_size=20, max_size=60)


def recent(choices: Any, number: int) -> Any:
    """One of them, mostly a recent one: steps that have nothing to do with one another find nothing."""
    known = list(choices)
    return known[-1 - number % min(len(known), 3 if number % 2 else len(known))]


def pick(choices: Any, number: int) -> Any:
    """One of them, or now and then an id that nothing has."""
    return "nope" if not choices or number == 30 else recent(choices, number)


class Pair:
    """A store and its model; each step is done to both and must end the same way."""

    def __init__(self, store: SqliteStore, owner: str) -> None:
        self.store = store
        self.owner = owner
        self.model = Model()
        self.count = 0
        self.bases: list[tuple[Place | None, Spot | None, str | None]] = [(None, None, None)]
        self.announced: dict[str, tuple[Place | None, Spot | None, str | None, list[Item]]] = {}

    def new_id(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def make(self, recipe: list[tuple[str, int]]) -> list[Item]:
        made = []
        for kind, number in recipe:
            id, issued = self.new_id(f"msg_{self.owner}"), True
            data = f'{{"id":"{id}"}}'.encode()
            if kind == "replay" and self.model.issued:
                id = recent(self.model.issued, number)
                data = self.model.issued[id]
            elif kind == "name":
                id, issued = f"name_{number % 3}", False
                data = f'{{"id":"{id}","n":{self.count}}}'.encode()
            made.append(Item(id, data, issued))
        return made

    async def both(self, expected: Callable[[], Any], actual: Callable[[], Awaitable[Any]]) -> bool:
        """Do it to the model and to the store; answers whether it was not refused."""
        refused = None
        try:
            expected()
        except EXPECTED as error:
            refused = error
        if refused is None:
            await actual()
        else:
            with pytest.raises(type(refused)) as caught:
                await actual()
            assert caught.value.args == refused.args
        return refused is None

    async def base(
        self, source: str, response: int, conversation: int
    ) -> tuple[Place | None, Spot | None, str | None] | None:
        """What to continue: both sides' base and the conversation to name; None if it was refused."""
        if source == "old":
            return recent(self.bases, response)
        if source == "nothing":
            return (None, None, None)
        given = pick(self.model.answers, response) if source in ("response", "both", "odd") else None
        named = pick(self.model.talks, conversation) if source in ("conversation", "both") else None
        wanted: list[tuple[Spot | None, frozenset[str]]] = []
        found: list[Place | None] = []

        async def read() -> None:
            history = await self.store.history(self.owner, response=given, conversation=named)
            spot, calls = wanted[0]
            assert spot is not None
            assert list(history.items) == [item.data for item in spot.items()]
            assert history.open_calls == calls
            found.append(history.base)

        if not await self.both(lambda: wanted.append(self.model.history(given, named)), read):
            return None
        if source == "odd":
            named = pick(self.model.talks, conversation)
        base = (found[0], wanted[0][0], named)
        self.bases.append(base)
        return base

    async def turn(
        self, source: str, response: int, conversation: int, status: str, given: Any, made: Any, calls: Any
    ) -> None:
        base = await self.base(source, response, conversation)
        if base is not None:
            await self.finish(self.new_id("resp"), base, status, self.make(given), self.make(made), calls)

    async def finish(
        self,
        id: str,
        base: tuple[Place | None, Spot | None, str | None],
        status: str,
        given: list[Item],
        made: list[Item],
        calls: frozenset[str],
    ) -> None:
        place, spot, named = base
        body = f'{{"n":{self.count}}}'.encode()
        self.model.end(id, status, body, spot, named, given, made, calls)
        await self.store.end(
            ending(
                id,
                place,
                given,
                made,
                owner=self.owner,
                conversation=named,
                status=status,
                open_calls=calls,
                body=body,
            )
        )

    async def announce(self, source: str, response: int, conversation: int, given: Any, calls: Any) -> None:
        base = await self.base(source, response, conversation)
        if base is None:
            return
        id, input = self.new_id("resp"), self.make(given)
        place, spot, named = base
        done = await self.both(
            lambda: self.model.announce(id, b"{}", spot, named, input, calls),
            lambda: self.store.announce(
                announcement(
                    id, place, input, owner=self.owner, conversation=named, open_calls=calls, body=b"{}"
                )
            ),
        )
        if done:
            self.announced[id] = (*base, input)

    async def end_announced(self, number: int, status: str, made: Any, calls: Any) -> None:
        if self.announced:
            id = recent(self.announced, number)
            *base, input = self.announced[id]
            await self.finish(id, tuple(base), status, input, self.make(made), calls)

    async def fail(self, number: int) -> None:
        id = pick(self.model.answers, number)
        self.model.fail(id)
        await self.store.fail(self.owner, id, lambda body: b'{"failed":' + body + b"}")

    async def withdraw(self, number: int) -> None:
        id = pick(self.model.answers, number)
        self.model.withdraw(id)
        await self.store.withdraw(self.owner, id)

    async def delete_response(self, number: int) -> None:
        id = pick(self.model.answers, number)
        await self.both(
            lambda: self.model.delete_response(id), lambda: self.store.delete_response(self.owner, id)
        )

    async def create(self, given: Any, calls: Any) -> None:
        id, items = self.new_id("conv"), self.make(given)
        self.model.create(id, b"{}", items, calls)
        await self.store.create_conversation(self.owner, Conversation(id, 1, b"{}"), items, calls)

    async def add_items(self, number: int, given: Any, opened: Any, closed: Any) -> None:
        id, items = pick(self.model.talks, number), self.make(given)
        await self.both(
            lambda: self.model.add_items(id, items, opened, closed),
            lambda: self.store.add_items(self.owner, id, items, opened, closed),
        )

    async def delete_item(self, number: int, which: int, opens: Any, closes: Any) -> None:
        id = pick(self.model.talks, number)
        held = self.model.talks[id].line.tip().items() if id in self.model.talks else []
        item = pick([one.id for one in held], which)
        await self.both(
            lambda: self.model.delete_item(id, item, opens, closes),
            lambda: self.store.delete_item(self.owner, id, item, lambda data: (opens, closes)),
        )

    async def delete_conversation(self, number: int) -> None:
        id = pick(self.model.talks, number)

        def forget() -> None:
            self.model.talk(id)
            del self.model.talks[id]

        await self.both(forget, lambda: self.store.delete_conversation(self.owner, id))

    def sweep(self) -> None:
        """A base that nothing holds any more can't be continued, and by the contract nobody is about to."""
        self.bases = [(None, None, None)]
        under_way = {id for id, answer in self.model.answers.items() if answer.spot is None}
        self.announced = {id: known for id, known in self.announced.items() if id in under_way}

    async def erase(self, number: int) -> None:
        """Erase a conversation, when nothing is under way: what was in it is gone, wherever it was."""
        id = pick(self.model.talks, number)
        gone = self.model.erasable(id)
        selection = await self.store.select(Criteria(owner=self.owner, conversation=id))
        await self.store.purge(selection)
        assert {name for name, items in self.model.histories() if items & gone} <= {
            name for _, name in selection.names
        }
        self.model.forget({name for _, name in selection.names})
        assert not gone & {item.id for item in self.model.kept()}

    async def page(self, number: int, form: Any) -> None:
        limit, order, after, before = form
        lists = [(answer.given(), id, False) for id, answer in self.model.answers.items()]
        lists += [(talk.line.tip().items(), id, True) for id, talk in self.model.talks.items()]
        if not lists:
            return
        items, id, is_talk = recent(lists, number)
        names = [item.id for item in items]
        query = PageQuery(
            limit,
            order,
            None if after is None else pick(names, after),
            None if before is None else pick(names, before),
        )
        wanted: list[tuple[list[Item], bool]] = []

        async def read() -> None:
            list_items = self.store.conversation_items if is_talk else self.store.response_input
            found = await list_items(self.owner, id, query)
            assert (list(found.items), found.has_more) == wanted[0]

        await self.both(lambda: wanted.append(page(items, query)), read)

    async def check(self) -> None:
        everything = PageQuery(limit=10_000, order="asc")
        for id, answer in self.model.answers.items():
            stored = await self.store.response(self.owner, id)
            assert (stored.status, stored.body) == (answer.status, answer.body)
            assert list(stored.output) == [item.data for item in answer.output]
            assert list((await self.store.response_input(self.owner, id, everything)).items) == answer.given()
            if answer.spot:
                history = await self.store.history(self.owner, response=id)
                assert list(history.items) == [item.data for item in answer.spot.items()]
                assert history.open_calls == answer.open
        for id, talk in self.model.talks.items():
            items = talk.line.tip().items()
            assert list((await self.store.conversation_items(self.owner, id, everything)).items) == items
            names = [*self.model.issued, "name_0", "name_1", "name_2"]
            assert await self.store.in_conversation(self.owner, id, names) == {item.id for item in items}
            for item in {item.id: item for item in items}.values():
                assert await self.store.conversation_item(self.owner, id, item.id) == item
        known = [*self.model.issued, "name_0", "nope"]
        assert await self.store.find_items(self.owner, known) == self.model.known()
        listed, more = await self.store.list_responses(self.owner, everything)
        assert ([one.id for one in listed], more) == (list(self.model.answers), False)


async def do(step: tuple[Any, ...], pairs: list[Pair], actor: Pair) -> None:
    name, *arguments = step
    if name == "recover":
        expected = sum(pair.model.recover() for pair in pairs)
        assert await actor.store.recover(lambda body: b'{"failed":' + body + b"}") == expected
    elif name == "erase":
        for pair in pairs:
            pair.model.recover()
            pair.sweep()
        await actor.store.recover(lambda body: b'{"failed":' + body + b"}")
        await actor.erase(*arguments)
        await sweep(pairs, 100)
    elif name == "sweep":
        await sweep(pairs, *arguments)
    else:
        await getattr(actor, name)(*arguments)


async def sweep(pairs: list[Pair], limit: int) -> None:
    """Erase what nothing reaches, all of it and no more."""
    store = pairs[0].store
    mark = await store.deletions()
    while await store.sweep(mark, limit) >= limit:
        pass
    for pair in pairs:
        pair.sweep()
    assert await store.deletions() == 0
    assert await texts_on_disk(store) == {item.data for pair in pairs for item in pair.model.kept()}


async def texts_on_disk(store: SqliteStore) -> set[bytes]:
    rows = await store.writer.between(lambda db: db.execute("SELECT data FROM entry").fetchall())
    return {row[0] for row in rows}


@settings(
    max_examples=100, phases=[Phase.generate], deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(steps=STEPS, seed=st.integers(0, 3))
async def test_the_store_says_what_a_store_that_copies_everything_would(steps: Any, seed: int):
    async with open_sqlite_store(":memory:", run_sync=run_inline) as store:
        pairs = [Pair(store, "one"), Pair(store, "two")]
        for pair in pairs:
            await pair.create([("new", 0), ("new", 0), ("name", 0)], frozenset({"call_1"}))
        for number, step in enumerate(steps):
            # Every fourth step is the other owner's.
            await do(step, pairs, pairs[(number + seed) % 4 == 0])
        for pair in pairs:
            await pair.check()
        await sweep(pairs, 100)
        for pair in pairs:
            await pair.check()
