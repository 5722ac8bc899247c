"""The Response object has all of its members at every moment of its life."""

from __future__ import annotations

import json

import pytest

from agentic_trio.wire.responses import crashed, with_output
from tests.oracles import MEMBERS, check_response, parse_sse
from tests.playbook import REQUEST, new_response


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_that_runs_is_whole(status: str) -> None:
    snapshot = new_response().snapshot
    snapshot.status = status
    check_response(with_output(snapshot.body(), ()), REQUEST, status=status)


def test_how_a_response_ended_does_not_show_before_its_commit() -> None:
    response = new_response()
    before = response.snapshot.body()
    response.receive_json(b'{"status":"completed","output":[],"usage":{"input_tokens":1,"output_tokens":1}}')
    assert json.loads(response.response())["status"] == "completed"
    assert response.snapshot.under_way().body() == before


def test_a_background_response_is_queued_first_whatever_has_happened_since() -> None:
    response = new_response()
    queued, _ = parse_sse(b"".join(response.queue()))
    assert [each["type"] for each in queued] == ["response.created", "response.queued"]
    begun, _ = parse_sse(b"".join(response.begin()))
    assert [each["type"] for each in begun] == ["response.in_progress"]
    for _ in range(2):
        body = with_output(response.snapshot.queued().body(), ())
        assert json.loads(body) == check_response(queued[1]["response"], REQUEST, status="queued")
        response.receive_json(b'{"status":"completed","output":[],"usage":{}}')


def test_a_response_has_the_31_required_members() -> None:
    response = json.loads(new_response().response())
    assert len(MEMBERS) == 31
    assert MEMBERS.keys() <= response.keys()


def test_a_response_whose_server_crashed_is_a_failed_one() -> None:
    body = new_response().snapshot.body()
    response = check_response(with_output(crashed(body), ()), REQUEST, status="failed")
    assert response["error"]["code"] == "server_error"


def test_a_crash_changes_nothing_else() -> None:
    body = new_response({**REQUEST, "metadata": {"é": "1"}, "tools": [], "top_p": 0.25}).snapshot.body()
    before, after = json.loads(body), json.loads(crashed(body))
    assert {key for key in before if before[key] != after[key]} == {"status", "error"}


def test_the_output_is_spliced_as_it_is() -> None:
    items = [b'{"n":1.00}', b'{"n":2}']
    assert with_output(b'{"id":"resp_1"}', items) == b'{"id":"resp_1","output":[{"n":1.00},{"n":2}]}'
