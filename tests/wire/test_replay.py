"""A stream that is made from a response is legal, and tells all that the response locks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentic_trio.errors import UpstreamError
from agentic_trio.wire.accumulator import TERMINAL
from agentic_trio.wire.replay import replayed
from agentic_trio.wire.responses import crashed, with_output
from tests.oracles import check_event_stream, parse_sse
from tests.playbook import REQUEST, event, new_response

DONE = b"data: [DONE]\n\n"
RECORDINGS = sorted((Path(__file__).parents[1] / "data").glob("*.sse"))


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_recorded_answer_told_again_is_a_legal_stream_that_ends_alike(
    recording: Path, share: float
) -> None:
    response = new_response()
    response.begin()
    raw = recording.read_bytes()
    response.receive(raw[: int(len(raw) * share)])
    response.end_of_stream()
    told = replayed(response.response())
    ending = TERMINAL[response.snapshot.status]
    assert check_event_stream(b"".join(told) + DONE, REQUEST, ending=ending)
    assert told[-1].endswith(b',"response":%b}\n\n' % response.response())


def test_a_crash_is_told_in_two_events() -> None:
    body = with_output(crashed(new_response().snapshot.body()), ())
    told, _ = parse_sse(b"".join(replayed(body)))
    assert [each["type"] for each in told] == ["response.created", "response.failed"]
    assert told[0]["response"]["status"] == "in_progress"
    assert told[0]["response"]["error"] is None
    assert told[1]["response"] == json.loads(body)


def test_what_is_under_way_has_nothing_to_be_told() -> None:
    assert replayed(new_response().response()) == ()


@pytest.mark.parametrize(("error", "last"), [(None, "done"), (UpstreamError("late"), "response.failed")])
def test_a_cancelled_response_ends_as_it_did(error: UpstreamError | None, last: str) -> None:
    response = new_response()
    response.begin()
    item = {"type": "message", "id": "m", "role": "assistant", "status": "in_progress", "content": []}
    response.receive(event("response.output_item.added", output_index=0, item=item))
    response.cancel(error)
    told, _ = parse_sse(b"".join(replayed(response.response())))
    assert told[-1]["type"].endswith(last)
