"""Slots go round among owners, whoever has how many waiting."""

from __future__ import annotations

import trio
import trio.testing

from agentic_trio.gateway.fair_queue import FairQueue


async def work(queue: FairQueue, owner: str, done: list[str], gate: trio.Event) -> None:
    async with queue.slot(owner):
        done.append(owner)
        await gate.wait()


async def test_slots_go_round_among_the_owners_who_wait():
    queue, done, gate = FairQueue(1), [], trio.Event()
    async with trio.open_nursery() as nursery:
        for owner in ("a",) * 4 + ("b",) * 2 + ("c",):
            nursery.start_soon(work, queue, owner, done, gate)
            await trio.testing.wait_all_tasks_blocked()
        assert done == ["a"]
        gate.set()
    assert done == ["a", "b", "c", "a", "b", "a", "a"]
    assert queue.borrowed == 0


async def test_one_that_may_not_begin_lets_the_others_pass():
    queue, done, gate = FairQueue(2), [], trio.Event()
    gate.set()
    may = False

    async def careful() -> None:
        async with queue.slot("a", lambda: may):
            done.append("careful")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(careful)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(work, queue, "b", done, gate)
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["b"]
        may = True
        queue.wake()
    assert done == ["b", "careful"]


async def test_a_cancelled_waiter_leaves_nothing_behind():
    queue, done, gate = FairQueue(1), [], trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, queue, "a", done, gate)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0):
            await work(queue, "b", done, gate)
        with trio.CancelScope() as scope:
            # A slot that is given in the same moment is given back.
            scope.cancel()
            await work(queue, "c", done, gate)
        assert queue.waiting("b") == queue.waiting("c") == 0
        gate.set()
    assert queue.borrowed == 0
    async with queue.slot("d"):
        assert queue.borrowed == 1
