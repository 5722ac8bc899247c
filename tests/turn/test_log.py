"""One writes, any number follow; who is too slow is told, and holds nobody up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from agentic_trio.gateway.log import EventLog, FellBehind, TurnEvents
from tests.oracles import check_events
from tests.turn.stage import Stage, events, forever, log_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def follow(log: EventLog, into: list[bytes], pause: Callable[[], Awaitable[None]]) -> None:
    """Read a log to its end, as fast as ``pause`` lets."""
    while new := await log.read(len(into)):
        into.extend(new)
        await pause()


async def test_readers_of_any_pace_see_the_same_bytes(autojump_clock: object) -> None:
    async def model_pauses() -> None:
        await trio.sleep(1)

    stage = Stage([piece for each in events() for piece in (each, model_pauses)])
    turn = stage.turn()
    seen: list[list[bytes]] = [[], [], [], []]
    async with trio.open_nursery() as nursery:
        for pace, into in enumerate(seen):
            nursery.start_soon(follow, turn.log, into, partial(trio.sleep, 1.5 * pace))
        nursery.start_soon(turn.run)
    assert [b"".join(into) for into in seen] == [log_of(turn)] * 4


async def test_a_reader_that_comes_later_sees_all_of_it() -> None:
    stage = Stage()
    turn = stage.turn()
    await turn.run()
    late: list[bytes] = []
    await follow(turn.log, late, trio.lowlevel.checkpoint)
    assert b"".join(late) == log_of(turn)


async def test_a_slow_reader_gets_many_events_at_once() -> None:
    log = EventLog()
    for number in range(5):
        log.extend([b"%d" % number])
    assert list(await log.read(2)) == [b"2", b"3", b"4"]


async def test_a_reader_waits_for_what_is_new() -> None:
    log = EventLog()
    seen: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, log, seen, trio.lowlevel.checkpoint)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        log.extend([b"a"])
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [b"a"]
        log.close()


async def test_a_reader_that_is_cancelled_loses_nothing() -> None:
    log = EventLog()
    with trio.CancelScope() as scope:
        scope.cancel()
        await log.read(0)
    log.extend([b"a"])
    assert list(await log.read(0)) == [b"a"]


async def test_a_reader_that_leaves_does_not_hold_up_the_turn() -> None:
    stage = Stage()
    turn = stage.turn()
    async with trio.open_nursery() as readers:
        readers.start_soon(follow, turn.log, [], forever)
        await turn.run()
        readers.cancel_scope.cancel()
    assert stage.row().status == "completed"


async def test_a_reader_that_has_fallen_behind_the_bound_is_told() -> None:
    log = EventLog(max_bytes=10)
    log.extend([b"12345", b"67890"])
    assert len(await log.read(0)) == 2
    log.extend([b"x"])
    with pytest.raises(FellBehind):
        await log.read(0)
    assert list(await log.read(1)) == [b"67890", b"x"]


async def test_a_reader_that_has_fallen_behind_is_told_after_the_end_too() -> None:
    log = EventLog(max_bytes=1)
    log.extend([b"12345", b"67890"])
    log.close()
    with pytest.raises(FellBehind):
        await log.read(0)


async def test_an_event_larger_than_the_bound_can_still_be_read() -> None:
    log = EventLog(max_bytes=1)
    log.extend([b"12345"])
    assert list(await log.read(0)) == [b"12345"]


async def test_a_reader_that_falls_behind_while_it_waits_is_told_when_it_reads_on() -> None:
    log = EventLog(max_bytes=3)
    seen: list[bytes] = []

    async def fall_behind() -> None:
        log.extend([b"12", b"34", b"56"])

    log.extend([b"0"])
    with pytest.raises(FellBehind):
        await follow(log, seen, fall_behind)
    assert seen == [b"0"]


def test_a_log_from_which_events_were_dropped_is_not_whole() -> None:
    log = EventLog(max_bytes=3)
    log.extend([b"12"])
    assert log.whole() == (b"12",)
    log.extend([b"34"])
    assert log.whole() is None


async def test_a_log_that_is_closed_says_when_it_is_exhausted() -> None:
    log = EventLog()
    log.extend([b"a"])
    assert not log.exhausted(1)
    log.close()
    assert (log.exhausted(0), log.exhausted(1)) == (False, True)
    assert list(await log.read(1)) == []


async def test_the_events_of_a_turn_can_be_read_as_objects() -> None:
    stage = Stage()
    turn = stage.turn()
    await turn.run()
    check_events([event async for event in TurnEvents(turn.log)], ending="response.completed")


async def test_a_reader_that_keeps_up_is_never_cut_off() -> None:
    log = EventLog(max_bytes=10)
    seen: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, log, seen, trio.lowlevel.checkpoint)
        for number in range(5):
            await trio.testing.wait_all_tasks_blocked()
            log.extend([b"%d" % number * 8] * 3)
            log.extend([b"%d" % number * 8] * 3)
        await trio.testing.wait_all_tasks_blocked()
        log.close()
    assert seen == [b"%d" % number * 8 for number in range(5) for _ in range(6)]


async def test_what_a_reader_that_left_had_not_read_is_dropped() -> None:
    log = EventLog(max_bytes=10)
    with trio.move_on_after(0):
        await log.read(0)
    log.extend([b"x" * 8] * 3)
    with pytest.raises(FellBehind):
        await log.read(0)
    assert list(await log.read(2)) == [b"x" * 8]


async def test_a_stream_that_repeats_a_large_request_is_whole() -> None:
    large = "x" * 6_000_000
    stage = Stage()
    turn = stage.turn(instructions=large)
    seen: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn.run)
        await turn.wait_head()
        await follow(turn.log, seen, trio.lowlevel.checkpoint)
    assert b"".join(seen).count(large.encode()) == 3
