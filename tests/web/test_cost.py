"""The shape of a turn's cost, counted: what is new in it decides, not what came before it."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.net.direct import DirectStream
from tests.web.harness import open_world, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.harness import World

BURST = 208
DEPTHS = (10, 1000)


@pytest.fixture
def counted(monkeypatch) -> Counter[str]:
    """How often work left for a thread, and how often bytes left for a socket."""
    counts: Counter[str] = Counter()
    start_thread, send = trio.lowlevel.start_thread_soon, DirectStream.send_nowait

    def hop(*arguments):
        counts["hops"] += 1
        start_thread(*arguments)

    def count_send(stream, data):
        counts["sends"] += 1
        return send(stream, data)

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", hop)
    monkeypatch.setattr(DirectStream, "send_nowait", count_send)
    return counts


@contextmanager
def cost(counted: Counter[str]) -> Iterator[Counter[str]]:
    """What the block costs."""
    spent: Counter[str] = Counter()
    before = counted.copy()
    yield spent
    spent.update(counted - before)


async def deepen(world: World, id: str | None, turns: int) -> str:
    """Continue a chain by as many turns; its new end."""
    for _ in range(turns):
        response = await world.gateway.create_response(
            {"model": "tiny", "input": "on", "previous_response_id": id}
        )
        id = response["id"]
    assert id is not None
    return id


async def test_a_turn_takes_as_many_hops_and_sends_at_any_depth(counted, tmp_path):
    costs = []
    async with open_world(db_url=f"sqlite://{tmp_path}/cost.db") as world:
        id, depth = None, 0
        for wanted in DEPTHS:
            id = await deepen(world, id, wanted - depth)
            depth = wanted
            with cost(counted) as spent:
                response = await world.create(previous_response_id=id)
            assert text(response).startswith(f"echo: {2 * depth + 1} items")
            # One read of the history, one commit.
            assert spent["hops"] == 2
            costs.append(spent["hops"])
    assert len(set(costs)) == 1


async def test_a_first_turn_takes_one_hop(counted, tmp_path):
    async with open_world(db_url=f"sqlite://{tmp_path}/cost.db") as world:
        await world.client.get("/ready")  # waits for the writes of the start
        with cost(counted) as spent:
            await world.create()
    assert spent["hops"] == 1


async def test_a_whole_answer_leaves_in_one_send_each_way(counted):
    async with open_world() as world:
        await world.create()
        with cost(counted) as spent:
            await world.create()
    # The request upstream, the answer to the client.
    assert spent["sends"] == 2


async def test_a_burst_of_events_leaves_in_a_few_sends(counted):
    async with open_world() as world:
        with cost(counted) as spent:
            events = await world.stream(f'!{{"deltas": {BURST}, "writes": "burst"}} on and on')
    assert len(events) > BURST
    # One to the model server; then the first events, what each of its reads held, and the end.
    assert spent["sends"] <= 8
