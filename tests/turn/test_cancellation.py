"""A turn that is cancelled anywhere leaves exactly one row that tells the truth, and nothing open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentic_trio.errors import GatewayError, ServiceUnavailable
from tests.fake_upstream import Call, Reasoning, Script, Text
from tests.oracles import ANY, check_event_stream, check_response, parse_sse
from tests.playbook import new_response
from tests.turn.stage import Stage, events, forever, log_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.gateway.turn import Turn

Json = dict[str, Any]


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when a task is about to take its n-th step."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()

    @property
    def came_too_late(self) -> bool:
        return self._left > 0


async def run_cancelled(turn: Turn, step: int) -> tuple[trio.CancelScope, bool]:
    """Run a turn, cancel it at its n-th step; also answers whether it had ended before."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await turn.run()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope, instrument.came_too_late


@dataclass
class Run:
    """A turn that was cancelled.

    Attributes:
        propagated: whether ``Cancelled`` came out of it.
        free: whether its conversation can be used again.
        refusal: what those are told who wait for its head.
    """

    stage: Stage
    turn: Turn
    propagated: bool
    free: bool = False
    refusal: GatewayError | None = None

    async def look_around(self) -> None:
        """See what is left behind for others."""
        with trio.fail_after(1):
            await self.turn.wait_ended()
            self.free = await self.stage.holds_nothing()
            try:
                await self.turn.wait_head()
            except GatewayError as refusal:
                self.refusal = refusal

    @property
    def finished(self) -> bool:
        """Whether the upstream had said how the response ended, and the turn had read it."""
        said = b"".join(self.stage.upstream.said)
        if self.turn.call.stream:
            return b"response.completed" in said
        return said == b"".join(whole(OUTPUT)) and not self.stage.upstream.reading

    def arrived(self, recorded: Json) -> list[Json]:
        """The output that the chunks make that were read, with the ids that were recorded."""
        response = new_response()
        said = b"".join(self.stage.upstream.said)
        if self.turn.call.stream:
            response.receive(said)
            response.cancel()
        elif self.finished:
            response.receive_json(said)
        ids = [item["id"] for item in recorded["output"]]
        output = [json.loads(item) for item in response.output()]
        return [{**item, "id": id} for item, id in zip(output, ids, strict=True)]


OUTPUT = Script(
    output=(Reasoning(("Hm", "."), summary=("S",)), Text(("Hel", "lo")), Call("now", ('{"a"', ":1}")))
)


def streaming() -> Stage:
    return Stage(events(OUTPUT))


def never_closing() -> Stage:
    return Stage([*events(OUTPUT), forever])


def at_once() -> Stage:
    return Stage([b"".join(events(OUTPUT))])


def not_streaming() -> Stage:
    return Stage(
        [body[start : start + 200] for body in whole(OUTPUT) for start in range(0, len(body), 200)],
        content_type=b"application/json",
    )


PLAYS: dict[str, tuple[Callable[[], Stage], dict[str, Any]]] = {
    "a stream": (streaming, {}),
    "a stream in a conversation": (streaming, {"conversation": "conv_1"}),
    "a stream that continues a chain": (streaming, {"previous_response_id": "resp_1"}),
    "a stream whose upstream keeps its connection open": (never_closing, {}),
    "a stream in one chunk": (at_once, {}),
    "no stream": (not_streaming, {"stream": False}),
    "no stream in a conversation": (not_streaming, {"stream": False, "conversation": "conv_1"}),
}


async def play(name: str) -> list[Run]:
    """Runs that were cancelled at the first step, the second, and so on until one got through."""
    make, members = PLAYS[name]
    runs: list[Run] = []
    while True:
        stage = make()
        turn = stage.turn(**members)
        scope, got_through = await run_cancelled(turn, len(runs) + 1)
        if got_through:
            assert stage.row().status == "completed"
            return runs
        run = Run(stage, turn, scope.cancelled_caught)
        await run.look_around()
        runs.append(run)


@pytest.fixture(scope="module", params=PLAYS)
def runs(request: pytest.FixtureRequest) -> list[Run]:
    return trio.run(play, request.param, clock=trio.testing.MockClock(autojump_threshold=0))


def test_exactly_one_row_is_left_once_the_upstream_was_called(runs: list[Run]) -> None:
    for run in runs:
        rows = run.stage.store.rows
        assert rows == {run.turn.id} if run.stage.upstream.bodies else rows <= {run.turn.id}
        assert run.stage.store.endings == len(rows)


def test_the_row_says_cancelled_unless_the_upstream_had_finished(runs: list[Run]) -> None:
    statuses = [(run.stage.row().status, run.finished) for run in runs if run.stage.store.rows]
    assert set(statuses) <= {("cancelled", False), ("completed", True)}
    assert statuses == sorted(statuses)


def test_the_row_holds_the_output_that_had_arrived(runs: list[Run]) -> None:
    for run in runs:
        if run.stage.store.rows:
            recorded = check_response(run.stage.recorded(), status=ANY)
            assert recorded["output"] == run.arrived(recorded)


def test_the_row_has_the_id_that_was_announced(runs: list[Run]) -> None:
    for run in runs:
        told, _ = parse_sse(log_of(run.turn))
        assert {each["response"]["id"] for each in told if "response" in each} <= {run.turn.id}
        assert run.stage.store.rows <= {run.turn.id}
        assert not told or run.stage.store.rows


def test_the_upstream_call_is_closed(runs: list[Run]) -> None:
    for run in runs:
        assert run.stage.upstream.open == 0


def test_an_upstream_that_had_not_finished_is_closed_early(runs: list[Run]) -> None:
    for run in runs:
        assert run.stage.upstream.closed_early or run.finished or not run.stage.upstream.bodies


def test_cancelled_goes_on_its_way_unless_the_turn_had_ended(runs: list[Run]) -> None:
    for run in runs:
        assert run.propagated or run.stage.row().status == "completed"


def test_readers_are_told_a_legal_stream_that_ends_if_the_row_does(runs: list[Run]) -> None:
    for run in runs:
        raw = log_of(run.turn)
        check_event_stream(raw, cut=True)
        completed = bool(run.stage.store.rows) and run.stage.row().status == "completed"
        assert (b"response.completed" in raw) is (completed and run.turn.call.stream)


def test_whoever_waits_for_its_head_learns_that_there_is_none(runs: list[Run]) -> None:
    for run in runs:
        announced = bool(log_of(run.turn))
        assert announced or isinstance(run.refusal, ServiceUnavailable)


def test_its_conversation_is_free_again(runs: list[Run]) -> None:
    assert all(run.free for run in runs)
