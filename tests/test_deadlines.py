"""Waits that may last so long and no longer. The clock begins at 0 and stands still unless all tasks wait."""

from __future__ import annotations

import math
import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agentic_trio.net.deadlines import Deadlines, open_deadlines


class Waiting:
    """Notes when its time was over."""

    def __init__(self, then=lambda: None):
        self.interrupted_at = []
        self.then = then

    def interrupt(self):
        self.interrupted_at.append(trio.current_time())
        self.then()


class Wakes(trio.abc.Instrument):
    """Counts how often the watching task ran."""

    count = 0

    def before_task_step(self, task):
        self.count += task.name.endswith("Deadlines.run")


@pytest.fixture
async def deadlines():
    async with open_deadlines() as deadlines:
        yield deadlines


async def test_a_wait_is_interrupted_once_when_it_is_due(deadlines, autojump_clock):
    wait = Waiting()
    deadlines.set(wait, 3)
    await trio.sleep(2.9)
    assert wait.interrupted_at == []
    await trio.sleep(100)
    assert wait.interrupted_at == [3]


async def test_a_wait_set_later_that_is_due_earlier_is_interrupted_first(deadlines, autojump_clock):
    late, soon = Waiting(), Waiting()
    deadlines.set(late, 10)
    await wait_all_tasks_blocked()
    deadlines.set(soon, 3)
    await trio.sleep(100)
    assert (soon.interrupted_at, late.interrupted_at) == ([3], [10])


@pytest.mark.parametrize(("first", "second"), [(3, 10), (10, 3)])
async def test_a_wait_set_again_is_due_when_it_was_set_for_last(deadlines, autojump_clock, first, second):
    wait = Waiting()
    deadlines.set(wait, first)
    await wait_all_tasks_blocked()
    deadlines.set(wait, second)
    await trio.sleep(100)
    assert wait.interrupted_at == [second]


async def test_a_cleared_wait_is_not_interrupted_but_those_behind_it_are(deadlines, autojump_clock):
    over, other = Waiting(), Waiting()
    deadlines.set(over, 3)
    deadlines.set(other, 5)
    await trio.sleep(1)
    deadlines.clear(over)
    await trio.sleep(100)
    assert (over.interrupted_at, other.interrupted_at) == ([], [5])


async def test_the_end_of_a_wait_may_end_another_that_is_due_at_the_same_time(deadlines, autojump_clock):
    first = Waiting(then=lambda: deadlines.clear(second))
    second = Waiting(then=lambda: deadlines.clear(first))
    for wait in (first, second):
        deadlines.set(wait, 3)
    await trio.sleep(100)
    assert (first.interrupted_at, second.interrupted_at) == ([3], [])


async def test_a_wait_that_was_interrupted_may_be_cleared_and_set_again(deadlines, autojump_clock):
    wait = Waiting()
    deadlines.set(wait, 3)
    await trio.sleep(5)
    deadlines.clear(wait)
    deadlines.set(wait, 7)
    await trio.sleep(100)
    assert wait.interrupted_at == [3, 7]


async def test_a_wait_may_be_set_again_by_its_interruption(deadlines, autojump_clock):
    wait = Waiting(lambda: deadlines.set(wait, trio.current_time() + 3))
    deadlines.set(wait, 3)
    await trio.sleep(10)
    assert wait.interrupted_at == [3, 6, 9]


async def test_all_that_are_due_are_interrupted_at_once(deadlines, autojump_clock):
    waits = [Waiting() for _ in range(10)]
    for wait in waits:
        deadlines.set(wait, 3)
    await trio.sleep(100)
    assert [wait.interrupted_at for wait in waits] == [[3]] * 10


async def test_what_is_due_already_is_interrupted_without_time_passing(deadlines, autojump_clock):
    now, before = Waiting(), Waiting()
    deadlines.set(now, 0)
    deadlines.set(before, -5)
    await trio.sleep(100)
    assert now.interrupted_at == before.interrupted_at == [0]


async def test_an_unbounded_wait_is_never_interrupted(deadlines, autojump_clock):
    unbounded, bounded = Waiting(), Waiting()
    deadlines.set(unbounded, math.inf)
    deadlines.set(bounded, 3)
    await trio.sleep(10_000)
    assert (unbounded.interrupted_at, bounded.interrupted_at) == ([], [3])


async def test_what_was_set_before_watching_began_is_interrupted(autojump_clock, nursery):
    deadlines, wait = Deadlines(), Waiting()
    deadlines.set(wait, 3)
    nursery.start_soon(deadlines.run)
    await trio.sleep(100)
    assert wait.interrupted_at == [3]
    nursery.cancel_scope.cancel()


async def test_nothing_keeps_it_awake_when_nothing_is_due(deadlines, autojump_clock):
    await wait_all_tasks_blocked()
    wakes = Wakes()
    trio.lowlevel.add_instrument(wakes)
    for _ in range(1000):
        wait = Waiting()
        deadlines.set(wait, 3)
        deadlines.clear(wait)
    await trio.sleep(1000)
    # Once for all those that were over by then.
    assert wakes.count == 1
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == math.inf


@pytest.mark.parametrize("seed", range(5))
async def test_of_any_waits_just_those_not_cleared_in_time_are_interrupted(deadlines, autojump_clock, seed):
    rng = random.Random(seed)
    waits = {}

    async def wait(due, over):
        waits[waiting := Waiting()] = [due] if due < over else []
        deadlines.set(waiting, due)
        await trio.sleep(over - trio.current_time())
        deadlines.clear(waiting)

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            await trio.sleep(rng.choice([0, 1]))
            now = int(trio.current_time())
            # Quarters and halves: nothing is cleared at the very time when it is due.
            nursery.start_soon(wait, now + rng.randrange(50) + 0.25, now + rng.randrange(50) + 0.5)
    await trio.sleep(100)
    assert {waiting: waiting.interrupted_at for waiting in waits} == waits
    assert any(waits.values())
    assert not all(waits.values())


async def test_nothing_is_interrupted_behind_the_block(autojump_clock):
    wait = Waiting()
    async with open_deadlines() as deadlines:
        deadlines.set(wait, 3)
    await trio.sleep(100)
    assert wait.interrupted_at == []


async def test_a_cancelled_block_ends_and_interrupts_nothing(autojump_clock):
    wait = Waiting()
    with trio.move_on_after(2) as scope:
        async with open_deadlines() as deadlines:
            deadlines.set(wait, 3)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await trio.sleep(100)
    assert wait.interrupted_at == []


async def test_what_the_block_raises_comes_out_as_it_is():
    error = KeyError()
    with pytest.raises(KeyError) as raised:
        async with open_deadlines():
            raise error
    assert raised.value is error
