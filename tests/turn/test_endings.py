"""However a turn ends: its row says so first, then its readers are told, and nothing stays open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.errors import GatewayError, InvalidRequest, ServiceUnavailable, TurnTimeout, UpstreamError
from agentic_trio.gateway import unrecorded
from agentic_trio.gateway.recording import Row
from agentic_trio.gateway.registry import Registry
from agentic_trio.store.contract import History, Missing, NotEnded, Place, StoreError, ThreadFull
from agentic_trio.wire.accumulator import Accumulator
from tests.fake_upstream import Call, Script
from tests.oracles import check_event_stream, check_response, parse_sse
from tests.playbook import terminal
from tests.turn.stage import HELLO, Stage, events, failing, forever, log_of, text_of, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.gateway.turn import Turn

Json = dict[str, Any]
Clock = object

DONE = b"data: [DONE]\n\n"
HALF = events()[:6]
"""A stream as far as its second delta: "Hello"."""


async def streamed(stage: Stage, **members: Any) -> list[Json]:
    """Run a streamed turn; what its readers were told."""
    turn = stage.turn(**members)
    await turn.run()
    return parse_sse(log_of(turn))[0]


async def refused(turn: Turn) -> GatewayError:
    """Run a turn whose head never comes; what those are told who wait for it."""
    await turn.run()
    with pytest.raises(GatewayError) as caught:
        await turn.wait_head()
    assert log_of(turn) == b""
    return caught.value


async def failed_result(turn: Turn) -> GatewayError:
    """Run a turn that is not streamed; what its client is told instead of a response."""
    await turn.run()
    with pytest.raises(GatewayError) as caught:
        turn.result()
    return caught.value


# --------------------------------------------------------------------------- a good end


async def test_a_stream_is_recorded_as_its_terminal_event_says() -> None:
    stage = Stage()
    told = await streamed(stage)
    assert stage.recorded() == told[-1]["response"]
    assert text_of(stage.recorded()) == "Hello!"


async def test_a_stream_is_legal_and_repeats_its_request() -> None:
    stage = Stage()
    turn = stage.turn(metadata={"a": "b"})
    await turn.run()
    request = {"model": "tiny", "input": "hi", "stream": True, "metadata": {"a": "b"}}
    check_event_stream(log_of(turn) + DONE, request, ending="response.completed")


async def test_a_whole_answer_is_recorded_as_it_is_answered() -> None:
    stage = Stage(whole())
    turn = stage.turn(stream=False)
    await turn.run()
    answered = check_response(turn.result(), {"model": "tiny", "input": "hi"}, status="completed")
    assert stage.recorded() == answered
    assert text_of(answered) == "Hello!"


@pytest.mark.parametrize("hasty", [False, True])
async def test_the_id_is_on_disk_before_anyone_is_told(hasty: bool) -> None:
    stage = Stage()
    stage.upstream.hasty = hasty
    turn = stage.turn()
    told: list[object] = []

    async def look() -> None:
        told.append(turn.log.whole())

    stage.store.before["announce"] = look
    await turn.run()
    assert told == [()]
    assert stage.store.announced.keys() == {turn.id}
    assert stage.store.calls.count("announce") == 1


async def test_the_end_is_on_disk_before_anyone_is_told() -> None:
    stage = Stage()
    turn = stage.turn()
    told: list[bytes] = []

    async def look() -> None:
        told.extend(turn.log.whole() or ())

    stage.store.before["end"] = look
    await turn.run()
    assert b"response.output_item.done" in told[-1]
    assert b"response.completed" in log_of(turn)


async def test_the_upstream_is_given_back_before_the_commit() -> None:
    stage = Stage()
    opened: list[int] = []

    async def look() -> None:
        opened.append(stage.upstream.open)

    stage.store.before["end"] = look
    await stage.turn().run()
    assert (opened, stage.upstream.closed_early) == ([0], 0)


async def test_the_whole_stream_is_kept_for_those_who_read_it_later() -> None:
    stage = Stage()
    turn = stage.turn()
    await turn.run()
    assert b"".join(stage.row().events) == log_of(turn)


async def test_a_length_stop_is_incomplete() -> None:
    stage = Stage(events(Script(output=HELLO.output, stop="length")))
    told = await streamed(stage)
    assert (told[-1]["type"], stage.row().status) == ("response.incomplete", "incomplete")


async def test_a_call_in_the_output_waits_for_its_answer() -> None:
    stage = Stage(events(Script(output=(Call("now"),))))
    await stage.turn().run()
    [item] = stage.recorded()["output"]
    assert stage.row().open_calls == {item["call_id"]}


async def test_a_call_that_was_cut_waits_for_nothing() -> None:
    stage = Stage(events(Script(output=(Call("now", ('{"a"', ": 1}")),)))[:4])
    await stage.turn().run()
    [item] = stage.row().output
    assert (item.partial, stage.row().open_calls) == (True, frozenset())


async def test_a_call_that_a_length_stop_cut_waits_for_nothing() -> None:
    story = events(Script(output=(Call("now", ('{"a"', ": 1}")),), stop="length"))
    stage = Stage([*story[:4], terminal(status="incomplete")])
    await stage.turn().run()
    [item] = stage.row().output
    assert (stage.row().status, item.partial, stage.row().open_calls) == ("incomplete", True, frozenset())


async def test_an_upstream_that_stays_connected_does_not_hold_up_the_end(
    autojump_clock: object,
) -> None:
    stage = Stage([*events(), forever])
    before = trio.current_time()
    told = await streamed(stage)
    assert told[-1]["type"] == "response.completed"
    assert trio.current_time() - before < 5


@pytest.mark.parametrize("error", [UpstreamError("It broke."), RuntimeError("a bug")], ids=["break", "bug"])
async def test_what_the_upstream_has_finished_stays_finished_when_its_connection_breaks(
    error: Exception,
) -> None:
    stage = Stage([*events(), failing(error)])
    told = await streamed(stage)
    assert (told[-1]["type"], stage.row().status) == ("response.completed", "completed")


# --------------------------------------------------------------------------- the upstream's fault


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_of_the_upstream_is_ours_with_its_status_and_headers(stream: bool) -> None:
    refusal = UpstreamError(
        "Slow down.", status=429, code="rate_limit_exceeded", headers={"retry-after": "7"}
    )
    stage = Stage(refusal=refusal)
    told = await refused(stage.turn(stream=stream))
    assert (told.status, told.message, told.headers) == (429, "Slow down.", {"retry-after": "7"})


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refused_turn_leaves_no_row(stream: bool) -> None:
    stage = Stage(refusal=UpstreamError("No."))
    await stage.turn(stream=stream).run()
    assert stage.store.rows == set()


async def test_a_stream_that_breaks_off_is_failed_with_what_had_arrived() -> None:
    stage = Stage([*HALF, failing(UpstreamError("The model server broke off its answer."))])
    turn = stage.turn()
    await turn.run()
    told = check_event_stream(log_of(turn) + DONE, ending="response.failed")
    assert told[-2]["message"] == "The model server broke off its answer."
    assert stage.recorded() == told[-1]["response"]
    assert text_of(stage.recorded()) == "Hello"


async def test_a_stream_that_ends_too_early_is_failed() -> None:
    stage = Stage(HALF)
    told = await streamed(stage)
    assert (told[-1]["type"], stage.row().status) == ("response.failed", "failed")


async def test_garbage_in_a_stream_fails_it() -> None:
    stage = Stage([*HALF, b"data: {\n\n", *events()[6:]])
    told = await streamed(stage)
    assert (told[-1]["type"], text_of(stage.recorded())) == ("response.failed", "Hello")


async def test_a_refusal_stays_a_status_while_the_store_is_slow_to_withdraw() -> None:
    stage = Stage(refusal=UpstreamError("No.", status=429))
    turn = stage.turn()

    async def quiet() -> None:
        for _ in range(3):
            turn.wake_if_quiet()

    stage.store.before["withdraw"] = quiet
    assert (await refused(turn)).status == 429
    assert stage.store.rows == set()
    assert log_of(turn) == b""


async def test_an_answer_to_a_stream_that_is_none_is_refused() -> None:
    stage = Stage(whole())
    error = await refused(stage.turn())
    assert (error.status, stage.upstream.open) == (502, 0)


async def test_a_whole_answer_that_is_no_response_is_failed() -> None:
    stage = Stage([b"<html>"], content_type=b"text/html")
    error = await failed_result(stage.turn(stream=False))
    assert (error.status, stage.row().status) == (502, "failed")


async def test_a_whole_answer_that_breaks_off_is_failed() -> None:
    stage = Stage([b'{"output":', failing(UpstreamError("It broke."))])
    error = await failed_result(stage.turn(stream=False))
    assert (error.message, stage.row().status) == ("It broke.", "failed")


async def test_an_upstream_that_streams_unasked_is_understood() -> None:
    stage = Stage()
    turn = stage.turn(stream=False)
    await turn.run()
    assert text_of(check_response(turn.result(), status="completed")) == "Hello!"
    assert log_of(turn) == b""


async def test_an_upstream_that_streams_unasked_and_breaks_off_is_failed() -> None:
    stage = Stage([*HALF, failing(UpstreamError("It broke."))])
    error = await failed_result(stage.turn(stream=False))
    assert (error.message, text_of(stage.recorded())) == ("It broke.", "Hello")


@pytest.mark.parametrize("kept", [0, 6], ids=["at once", "in the middle"])
async def test_a_bug_fails_its_own_turn_and_says_nothing_of_itself(
    kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage([*events()[:kept], failing(RuntimeError("/secret/path"))])
    turn = stage.turn()
    await turn.run()
    assert b"secret" not in log_of(turn)
    assert stage.row().status == "failed"
    assert "/secret/path" in caplog.text


async def test_a_bug_in_telling_the_end_stays_in_its_own_turn(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(self: Accumulator) -> list[bytes]:
        raise RuntimeError("/secret/path")

    stage = Stage()
    monkeypatch.setattr(Accumulator, "terminal_events", bug)
    turn = stage.turn()
    await turn.run()
    assert b"response.completed" not in log_of(turn)
    assert b"secret" not in log_of(turn)
    assert "/secret/path" in caplog.text


# --------------------------------------------------------------------------- deadlines and being told to end


async def test_a_turn_that_takes_too_long_is_cancelled_with_what_had_arrived(autojump_clock: Clock) -> None:
    stage = Stage([*HALF, forever], turn_timeout=10)
    told = await streamed(stage)
    assert (told[-2]["code"], told[-2]["message"]) == ("turn_timeout", "The turn took longer than 10 s.")
    assert stage.recorded() == told[-1]["response"]
    assert (stage.row().status, text_of(stage.recorded())) == ("cancelled", "Hello")


async def test_the_upstream_of_a_turn_that_takes_too_long_is_closed(autojump_clock: Clock) -> None:
    stage = Stage([forever], turn_timeout=10)
    await stage.turn().run()
    assert (stage.upstream.open, stage.upstream.closed_early) == (0, 1)


async def test_a_turn_without_a_stream_that_takes_too_long_is_a_timeout(autojump_clock: Clock) -> None:
    stage = Stage([forever], turn_timeout=10)
    error = await failed_result(stage.turn(stream=False))
    assert (error.status, stage.row().status) == (504, "cancelled")


async def run_until_idle(turn: Turn, nursery: trio.Nursery) -> None:
    nursery.start_soon(turn.run)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_turn_that_is_told_to_end_tells_its_readers_why() -> None:
    stage = Stage([*HALF, forever])
    turn = stage.turn()
    async with trio.open_nursery() as nursery:
        await run_until_idle(turn, nursery)
        turn.cancel(ServiceUnavailable("The server is shutting down."))
    told = parse_sse(log_of(turn))[0]
    assert [each["type"] for each in told[-2:]] == ["error", "response.failed"]
    assert told[-2]["message"] == "The server is shutting down."
    assert (stage.row().status, text_of(stage.recorded())) == ("cancelled", "Hello")


async def test_a_turn_that_is_told_to_end_without_a_reason_just_ends() -> None:
    stage = Stage([*HALF, forever])
    turn = stage.turn()
    async with trio.open_nursery() as nursery:
        await run_until_idle(turn, nursery)
        turn.cancel()
    told = check_event_stream(log_of(turn), cut=True)
    assert (told[-1]["type"], stage.row().status) == ("response.output_text.delta", "cancelled")


async def test_a_turn_that_is_told_to_end_before_it_starts_calls_nobody() -> None:
    stage = Stage()
    turn = stage.turn(conversation="conv_1")
    turn.cancel(ServiceUnavailable("The server is shutting down."))
    error = await refused(turn)
    assert (error.status, stage.upstream.bodies, stage.store.rows) == (503, [], set())


async def test_a_turn_that_is_told_to_end_during_its_commit_stays_what_it_is() -> None:
    stage = Stage()
    turn = stage.turn()

    async def cancel() -> None:
        turn.cancel(ServiceUnavailable("The server is shutting down."))

    stage.store.before["end"] = cancel
    await turn.run()
    assert (stage.row().status, b"response.completed" in log_of(turn)) == ("completed", True)


async def test_a_turn_is_told_to_end_while_it_waits_for_its_conversation(
    autojump_clock: object,
) -> None:
    stage = Stage(conversation_wait=60)
    turn = stage.turn(conversation="conv_1")
    before = trio.current_time()
    async with stage.locks.lock("", "conv_1"), trio.open_nursery() as nursery:
        await run_until_idle(turn, nursery)
        turn.cancel(ServiceUnavailable("The server is shutting down."))
    assert trio.current_time() == before
    assert stage.upstream.bodies == []


async def test_closing_ends_all_turns_and_waits_for_their_rows() -> None:
    stage = Stage([*HALF, forever])
    running = [stage.turn(), stage.turn(), stage.turn()]
    async with trio.open_nursery() as nursery:
        turns = Registry(stage.services, nursery)
        for turn in running:
            turns.start(turn)
        await trio.testing.wait_all_tasks_blocked()
        await turns.close()
        assert {row.status for row in stage.store.ended.values()} == {"cancelled"}
        assert stage.store.rows == {turn.id for turn in running}


async def test_a_turn_that_comes_after_closing_is_refused() -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        turns = Registry(stage.services, nursery)
        await turns.close()
        turn = stage.turn()
        await turns.run(turn)
    with pytest.raises(ServiceUnavailable):
        await turn.wait_head()
    assert stage.upstream.bodies == []


async def test_a_turn_of_the_service_nursery_outlives_the_one_who_started_it() -> None:
    stage = Stage()
    turn = stage.turn()
    async with trio.open_nursery() as nursery:
        turns = Registry(stage.services, nursery)
        with trio.CancelScope() as client:
            turns.start(turn)
            client.cancel()
            await turn.wait_head()
    assert client.cancelled_caught
    assert stage.row().status == "completed"


# --------------------------------------------------------------------------- the store's fault


async def test_a_commit_that_takes_too_long_leaves_out_the_terminal_event(
    autojump_clock: object,
) -> None:
    stage = Stage(commit_timeout=5)
    stage.store.before["end"] = forever
    turn = stage.turn()
    await turn.run()
    told = check_event_stream(log_of(turn), cut=True)
    assert told[-1]["type"] == "response.output_item.done"


async def test_a_commit_that_takes_too_long_is_an_error_without_a_stream(
    autojump_clock: object,
) -> None:
    stage = Stage(whole(), commit_timeout=5)
    stage.store.before["end"] = forever
    error = await failed_result(stage.turn(stream=False))
    assert (error.status, error.message) == (503, "The response was not stored in time.")


async def test_an_ending_that_took_too_long_is_told_to_those_who_ask(autojump_clock: Clock) -> None:
    stage = Stage(commit_timeout=5)
    stage.store.before["end"] = forever
    turn = stage.turn()
    await turn.run()
    kept = stage.services.unrecorded.find("", turn.id)
    assert kept is not None
    assert kept.status == "completed"


async def test_a_commit_that_takes_too_long_is_bounded_when_cancelled_too(autojump_clock: Clock) -> None:
    stage = Stage([*HALF, forever], commit_timeout=5)
    stage.store.before["end"] = forever
    before = trio.current_time()
    with trio.move_on_after(1) as client:
        await stage.turn().run()
    assert client.cancelled_caught
    assert trio.current_time() - before == 6


async def test_an_ending_that_the_store_refuses_is_told_as_a_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.store.before["end"] = failing(StoreError("/secret/disk is full"))
    turn = stage.turn()
    await turn.run()
    told = check_event_stream(log_of(turn) + DONE, ending="response.failed")
    assert told[-2]["message"] == "The response could not be stored."
    assert b"secret" not in log_of(turn)
    assert "/secret/disk is full" in caplog.text


async def test_an_ending_that_the_store_refuses_is_recorded_later() -> None:
    stage = Stage()
    stage.store.before["end"] = failing(StoreError("full"))
    told = await streamed(stage)
    del stage.store.before["end"]
    await stage.services.unrecorded.flush()
    assert stage.recorded() == told[-1]["response"]


async def test_an_ending_that_the_store_always_refuses_does_not_hold_up_the_others() -> None:
    stage = Stage()
    stage.store.before["end"] = failing(StoreError("full"))
    poison, other = stage.turn(), stage.turn()
    await poison.run()
    await other.run()

    async def refuse_poison() -> None:
        if stage.services.unrecorded.find("", other.id) is None or stage.store.calls.count("end") == 3:
            raise StoreError("refused")

    stage.store.before["end"] = refuse_poison
    await stage.services.unrecorded.flush()
    await stage.services.unrecorded.flush()
    assert list(stage.store.ended) == [other.id]


async def test_an_ending_that_was_given_up_becomes_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded, "MAX_UNRECORDED", 1)
    stage = Stage()
    care = stage.services.unrecorded
    stage.store.before["end"] = stage.store.before["fail"] = failing(StoreError("full"))
    first, second = stage.turn(), stage.turn()
    await first.run()
    await second.run()
    assert care.find("", first.id) is None
    with pytest.raises(StoreError):
        await care.settle("", first.id)
    await care.settle("another", first.id)
    stage.store.before.clear()
    await care.flush()
    assert list(stage.store.ended) == [second.id]
    failed = json.loads(stage.store.failed[first.id])
    assert (failed["status"], failed["error"]["message"]) == ("failed", "The response could not be stored.")
    await care.flush()
    assert stage.store.calls.count("fail") == 2


async def test_a_failure_that_the_store_always_refuses_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unrecorded, "MAX_UNRECORDED", 1)
    stage = Stage()
    stage.store.before["end"] = failing(StoreError("full"))
    turns = [stage.turn() for _ in range(3)]
    for turn in turns:
        await turn.run()

    async def refuse_first() -> None:
        if stage.store.calls.count("fail") == 1:
            raise StoreError("damaged")

    del stage.store.before["end"]
    stage.store.before["fail"] = refuse_first
    await stage.services.unrecorded.flush()
    assert list(stage.store.ended) == [turns[2].id]
    await stage.services.unrecorded.flush()
    assert list(stage.store.failed) == [turns[1].id, turns[0].id]


async def test_an_ending_that_can_never_be_recorded_becomes_a_failure() -> None:
    stage = Stage()
    stage.store.before["end"] = failing(ThreadFull())
    turn = stage.turn()
    await turn.run()
    await stage.services.unrecorded.flush()
    await stage.services.unrecorded.flush()
    assert list(stage.store.failed) == [turn.id]


async def test_of_endings_that_were_given_up_so_many_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrecorded, "MAX_UNRECORDED", 0)
    monkeypatch.setattr(unrecorded, "MAX_GIVEN_UP", 2)
    stage = Stage()
    stage.store.before["end"] = failing(StoreError("full"))
    turns = [stage.turn() for _ in range(3)]
    for turn in turns:
        await turn.run()
    await stage.services.unrecorded.flush()
    assert list(stage.store.failed) == [turn.id for turn in turns[1:]]


async def test_an_ending_that_the_store_refuses_is_an_error_where_nothing_is_streamed() -> None:
    stage = Stage(whole())
    stage.store.before["end"] = failing(StoreError("full"))
    error = await failed_result(stage.turn(stream=False))
    assert (error.status, error.message) == (503, "The response could not be stored.")


@pytest.mark.parametrize("error", [ThreadFull(), RuntimeError("/secret/path")], ids=["thread full", "bug"])
async def test_an_ending_that_can_never_be_stored_fails_its_own_turn_only(error: Exception) -> None:
    stage = Stage()
    stage.store.before["end"] = failing(error)
    turn = stage.turn()
    await turn.run()
    told = check_event_stream(log_of(turn) + DONE, ending="response.failed")
    assert told[-1]["response"]["status"] == "failed"
    assert b"secret" not in log_of(turn)


async def test_a_store_that_cannot_announce_refuses_the_turn() -> None:
    stage = Stage()
    stage.store.before["announce"] = failing(StoreError("full"))
    error = await refused(stage.turn())
    assert (error.status, stage.upstream.open, stage.upstream.closed_early) == (503, 0, 1)


async def test_a_turn_that_is_cancelled_while_it_reads_its_history_leaves_no_row(
    autojump_clock: Clock,
) -> None:
    stage = with_store("history", forever)
    with trio.move_on_after(1) as client:
        await stage.turn(conversation="conv_1").run()
    assert client.cancelled_caught
    assert (stage.store.rows, stage.upstream.bodies) == (set(), [])


async def test_a_conversation_that_went_away_before_the_announcement_is_not_found() -> None:
    stage = Stage()
    stage.store.before["announce"] = failing(Missing("conversation", "conv_1"))
    error = await refused(stage.turn(conversation="conv_1"))
    assert error.status == 404


async def test_a_store_that_cannot_be_read_refuses_the_turn_before_the_upstream_is_called() -> None:
    stage = Stage()
    stage.store.before["history"] = failing(StoreError("broken"))
    error = await refused(stage.turn(previous_response_id="resp_1"))
    assert (error.status, stage.upstream.bodies, stage.store.rows) == (503, [], set())


@pytest.mark.parametrize(
    ("missing", "members", "status", "code", "message"),
    [
        (
            Missing("response", "resp_1"),
            {"previous_response_id": "resp_1"},
            400,
            "previous_response_not_found",
            "Previous response with id 'resp_1' not found.",
        ),
        (
            Missing("conversation", "conv_1"),
            {"conversation": "conv_1"},
            404,
            None,
            "Conversation with id 'conv_1' not found.",
        ),
        (
            NotEnded("resp_1"),
            {"previous_response_id": "resp_1"},
            400,
            "previous_response_not_ended",
            "Previous response with id 'resp_1' is still in progress.",
        ),
    ],
    ids=["response", "conversation", "unfinished"],
)
async def test_a_history_that_is_not_there_is_refused_before_the_upstream_is_called(
    missing: Exception, members: Json, status: int, code: str | None, message: str
) -> None:
    stage = Stage()
    stage.store.before["history"] = failing(missing)
    error = await refused(stage.turn(**members))
    assert (error.status, error.code, error.message) == (status, code, message)
    assert (stage.upstream.bodies, stage.store.rows) == ([], set())


# --------------------------------------------------------------------------- one turn at a time

LOCKED = "Another process is currently operating on this conversation. Please retry in a few seconds."


async def test_a_second_turn_in_a_conversation_is_refused_before_the_upstream_is_called() -> None:
    stage = Stage([*HALF, forever])
    first = stage.turn(conversation="conv_1")
    async with trio.open_nursery() as nursery:
        await run_until_idle(first, nursery)
        error = await refused(stage.turn(conversation={"id": "conv_1"}))
        first.cancel()
    assert (error.status, error.code, error.param) == (400, "conversation_locked", "conversation")
    assert error.message == LOCKED
    assert len(stage.upstream.bodies) == 1


async def test_a_second_turn_waits_where_that_is_wanted(autojump_clock: Clock) -> None:
    stage = Stage(conversation_wait=5)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stage.turn(conversation="conv_1").run)
    assert [row.status for row in stage.store.ended.values()] == ["completed"] * 3


async def test_a_turn_in_another_conversation_need_not_wait() -> None:
    stage = Stage([*HALF, forever])
    async with trio.open_nursery() as nursery:
        for conversation in ("conv_1", "conv_2", None):
            await run_until_idle(stage.turn(conversation=conversation), nursery)
        assert len(stage.upstream.bodies) == 3
        nursery.cancel_scope.cancel()


ENDINGS: dict[str, Callable[[], Stage]] = {
    "completed": Stage,
    "refused": lambda: Stage(refusal=UpstreamError("No.")),
    "failed": lambda: Stage(HALF),
    "a bug": lambda: Stage([failing(RuntimeError("a bug"))]),
    "too late": lambda: Stage([forever], turn_timeout=5),
    "not stored": lambda: with_store("end", failing(StoreError("full"))),
    "not stored in time": lambda: with_store("end", forever),
    "not announced": lambda: with_store("announce", failing(StoreError("full"))),
    "no history": lambda: with_store("history", failing(Missing("conversation", "conv_1"))),
}


def with_store(method: str, what: Any) -> Stage:
    stage = Stage()
    stage.store.before[method] = what
    return stage


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_conversation_is_free_however_its_turn_ended(ending: str, autojump_clock: Clock) -> None:
    stage = ENDINGS[ending]()
    await stage.turn(conversation="conv_1").run()
    assert await stage.holds_nothing()


# --------------------------------------------------------------------------- what the model is given


def kept(**members: Any) -> bytes:
    return json.dumps({"id": "x", "type": "message", **members}).encode()


async def test_the_history_goes_upstream_before_the_input() -> None:
    stage = Stage()
    stage.store.found = History(Place(1, 2), [kept(n=1), kept(n=2)])
    await stage.turn(previous_response_id="resp_1").run()
    sent = stage.upstream.bodies[0]["input"]
    assert [item.get("n") for item in sent] == [1, 2, None]
    assert sent[2]["content"] == [{"type": "input_text", "text": "hi"}]


async def test_a_row_says_where_its_turn_began_and_what_it_adds() -> None:
    stage = Stage()
    stage.store.found = History(Place(1, 2), [kept()])
    await stage.turn(conversation="conv_1").run()
    row = stage.row()
    assert (row.base, row.conversation) == (Place(1, 2), "conv_1")
    assert [json.loads(item.data)["role"] for item in (*row.input, *row.output)] == ["user", "assistant"]


async def test_a_turn_that_is_not_stored_reads_its_history_and_leaves_no_row() -> None:
    stage = Stage()
    stage.store.found = History(Place(1, 2), [kept(n=1)])
    told = await streamed(stage, store=False, conversation="conv_1")
    assert told[-1]["response"]["store"] is False
    assert stage.store.calls == ["history"]
    assert stage.upstream.bodies[0]["input"][0]["n"] == 1


async def test_a_turn_that_is_not_stored_does_not_hold_its_conversation() -> None:
    stage = Stage([*HALF, forever])
    async with trio.open_nursery() as nursery:
        await run_until_idle(stage.turn(store=False, conversation="conv_1"), nursery)
        assert await stage.holds_nothing()
        nursery.cancel_scope.cancel()


async def test_a_reference_becomes_the_item_that_it_refers_to() -> None:
    stage = Stage()
    stage.store.items = {"msg_1": kept(n=1)}
    await stage.turn(input=[{"type": "item_reference", "id": "msg_1"}]).run()
    assert stage.upstream.bodies[0]["input"] == [json.loads(kept(n=1))]


async def test_a_reference_to_nothing_is_not_found() -> None:
    stage = Stage()
    error = await refused(stage.turn(input=[{"type": "item_reference", "id": "msg_1"}]))
    assert (error.status, error.message, error.param) == (404, "Item with id 'msg_1' not found.", "input")


async def test_an_item_that_its_conversation_holds_already_is_refused() -> None:
    stage = Stage()
    stage.store.present = frozenset({"msg_1"})
    message = {"type": "message", "id": "msg_1", "role": "user", "content": "hi"}
    error = await refused(stage.turn(input=[message], conversation="conv_1"))
    assert (error.code, error.message) == ("item_already_in_conversation", "Item already in conversation")


async def test_an_empty_input_without_a_history_is_refused() -> None:
    stage = Stage()
    error = await refused(stage.turn(input=[], conversation="conv_1"))
    assert (error.status, error.code) == (400, "missing_required_parameter")


async def test_an_empty_input_continues_a_history() -> None:
    stage = Stage()
    stage.store.found = History(Place(1, 2), [kept()])
    told = await streamed(stage, input=[], conversation="conv_1")
    assert told[-1]["type"] == "response.completed"


async def test_a_call_of_the_history_without_an_answer_is_refused() -> None:
    stage = Stage()
    stage.store.found = History(Place(1, 2), [kept()], frozenset({"call_1"}))
    error = await refused(stage.turn(previous_response_id="resp_1"))
    assert isinstance(error, InvalidRequest)
    assert error.message == "No tool output found for function call call_1."


async def test_a_context_that_is_too_long_is_tried_again_without_its_oldest_items() -> None:
    too_long = UpstreamError("Too long.", status=400, code="context_length_exceeded")
    stage = Stage(refusal=too_long)
    stage.store.found = History(Place(1, 9), [kept(n=n) for n in range(8)])
    await refused(stage.turn(previous_response_id="resp_1", truncation="auto"))
    lengths = [len(body["input"]) for body in stage.upstream.bodies]
    assert lengths == sorted(set(lengths), reverse=True)
    assert lengths[0] == 9
    assert {body["input"][-1]["role"] for body in stage.upstream.bodies} == {"user"}


async def test_a_context_that_is_too_long_is_refused_where_nothing_may_be_dropped() -> None:
    stage = Stage(refusal=UpstreamError("Too long.", status=400, code="context_length_exceeded"))
    stage.store.found = History(Place(1, 9), [kept(n=n) for n in range(8)])
    error = await refused(stage.turn(previous_response_id="resp_1"))
    assert (error.code, len(stage.upstream.bodies)) == ("context_length_exceeded", 1)


@pytest.mark.parametrize(("status", "calls"), [(503, 3), (429, 3), (400, 1), (401, 1)])
async def test_a_refusal_that_may_pass_is_tried_again_as_often_as_was_asked(
    status: int, calls: int, autojump_clock: Clock
) -> None:
    stage = Stage(refusal=UpstreamError("No.", status=status), upstream_retries=2)
    error = await refused(stage.turn())
    assert (error.status, len(stage.upstream.bodies)) == (status, calls)


async def test_a_wait_between_tries_counts_as_time_of_the_turn(autojump_clock: Clock) -> None:
    refusal = UpstreamError("No.", status=503, headers={"retry-after": "20"})
    stage = Stage(refusal=refusal, upstream_retries=5, turn_timeout=10)
    error = await refused(stage.turn())
    assert isinstance(error, TurnTimeout)


# --------------------------------------------------------------------------- in the background


async def test_a_background_turn_is_announced_as_queued_before_the_upstream_is_called() -> None:
    stage = Stage()
    turn = stage.turn(background=True)
    async with stage.services.background.slot("another"), trio.open_nursery() as nursery:
        nursery.start_soon(turn.run)
        await turn.wait_head()
        assert json.loads(turn.snapshot())["status"] == "queued"
        assert (stage.store.announced[turn.id].status, stage.upstream.bodies) == ("queued", [])
        nursery.cancel_scope.cancel()


async def test_the_stream_of_a_background_turn_is_legal() -> None:
    stage = Stage()
    turn = stage.turn(background=True)
    await turn.run()
    told = check_event_stream(log_of(turn) + DONE, ending="response.completed")
    assert [each["type"] for each in told[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_after_a_background_turn_was_announced_fails_it(stream: bool) -> None:
    stage = Stage(refusal=UpstreamError("No.", status=400))
    turn = stage.turn(background=True, stream=stream)
    await turn.run()
    await turn.wait_head()
    assert (stage.row().status, stage.recorded()["error"]["message"]) == ("failed", "No.")


async def test_only_so_many_background_turns_run_at_once() -> None:
    stage = Stage([forever])
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stage.turn(background=True).run)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(stage.store.announced), len(stage.upstream.bodies)) == (3, 1)
        nursery.cancel_scope.cancel()
    assert {row.status for row in stage.store.ended.values()} == {"cancelled"}


async def test_a_mark_that_could_not_be_written_has_left_nothing() -> None:
    stage = Stage()
    turn = stage.turn(stream=False)
    stage.store.before["announce"] = failing(StoreError("no space"))
    with pytest.raises(StoreError):
        await turn.recording.mark(turn._response, [])
    assert turn.recording.row is Row.NONE
    assert not turn.recording.marked
    del stage.store.before["announce"]
    await turn.recording.mark(turn._response, [])
    assert (turn.recording.row, turn.recording.marked) == (Row.ANNOUNCED, True)
