"""npm ``openai``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_upstream import Call, CustomCall, Reasoning, Script, Text

from .harness import MODEL
from .javascript import ScenarioError, Scenarios, run_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Served


@pytest.fixture(scope="module")
def js(npm: None) -> Iterator[Scenarios]:
    with run_node("openai") as scenarios:
        yield scenarios


def test_what_was_created_is_what_is_retrieved(js: Scenarios, served: Served) -> None:
    answer = js("create", url=served.url, input="hello", metadata={"k": "v"})
    assert answer["text"] == "echo: 1 items; last: hello"
    assert answer["retrieved"] == {**answer["created"]}
    assert answer["requestId"]


def test_unstored_response_is_the_model_servers(js: Scenarios, served: Served) -> None:
    assert js("create", url=served.url, input="hello", store=False)["text"] == "echo: 1 items; last: hello"


def test_chain_outlives_its_first_response(js: Scenarios, served: Served) -> None:
    answer = js("chain", url=served.url)
    assert answer["text"] == "echo: 5 items; last: three"
    texts = ["one", "echo: 1 items; last: one", "two", "echo: 3 items; last: two", "three"]
    assert answer["items"] == texts[::-1]
    assert [text for _, text in served.said] == texts


def test_events_come_in_order_and_are_numbered(js: Scenarios, served: Served) -> None:
    events = js("events", url=served.url, input="hello")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")


def test_stream_helper_follows_all_kinds_of_items(js: Scenarios, served: Served) -> None:
    output = (
        Reasoning("Hm.", summary=("One.",)),
        Text("First."),
        Call("weather", ('{"city":', ' "Oslo"}')),
        CustomCall("shell", ("l", "s")),
    )
    served.answers(Script(output=output))
    answer = js("streamHelper", url=served.url, input="go")
    assert answer["text"] == "First."
    kinds = ["reasoning", "message", "function_call", "custom_tool_call"]
    assert [item["type"] for item in answer["final"]["output"]] == kinds
    assert [item["id"] for item in answer["final"]["output"]] == [
        item["id"] for item in answer["stored"]["output"]
    ]


def test_broken_background_stream_is_resumed_where_it_was(js: Scenarios, served: Served) -> None:
    served.answers(Script(output=(Text("one two three"),)))
    answer = js("resume", url=served.url, after=4)
    assert answer["rest"][0]["sequence_number"] == 5
    assert answer["text"] == "one two three"


def test_background_response_is_polled_to_its_end(js: Scenarios, served: Served) -> None:
    answer = js("background", url=served.url)
    assert answer["first"] in ("queued", "in_progress")
    assert (answer["last"], answer["text"]) == ("completed", "echo: 1 items; last: go")


def test_background_response_is_cancelled_once_and_for_all(js: Scenarios, served: Served) -> None:
    served.answers(Script(hang=True))
    assert js("cancel", url=served.url) == ["cancelled", "cancelled"]


def test_parse_reads_what_a_schema_says(js: Scenarios, served: Served) -> None:
    served.answers(Script(output=(Text('{"name": "Oslo"}'),)))
    assert js("parse", url=served.url) == {"name": "Oslo"}
    assert served.requests[-1].json["text"]["format"]["name"] == "city"


def test_parse_reads_the_arguments_of_a_tool(js: Scenarios, served: Served) -> None:
    served.answers(Script(output=(Call("weather", '{"city": "Oslo"}'),)))
    assert js("parseTool", url=served.url) == {"city": "Oslo"}


@pytest.mark.parametrize("replay", [False, True], ids=["by id", "by replay"])
def test_tool_loop(js: Scenarios, served: Served, replay: bool) -> None:
    served.answers(Script(output=(Reasoning("Hm."), Call("weather", '{"city": "Oslo"}'))))
    assert js("toolLoop", url=served.url, replay=replay) == "echo: 4 items; last: rain"


def test_conversation_and_its_items(js: Scenarios, served: Served) -> None:
    answer = js("conversations", url=served.url)
    assert answer["updated"]["metadata"] == {"topic": "rye"}
    assert answer["named"] == {"id": answer["id"]}
    texts = ["zero", "1", "2", "3", "hello", "echo: 5 items; last: hello"]
    assert answer["listed"] == texts[::-1]
    assert answer["one"] == ["2"]
    assert answer["left"] == [text for text in texts if text != "2"]
    assert answer["deleted"] == {"id": answer["id"], "object": "conversation.deleted", "deleted": True}


HI = {"model": MODEL, "input": "hi"}
REFUSED: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "unknown response": (
        "responses.retrieve",
        ["resp_x"],
        {"status": 404, "code": None, "param": None},
    ),
    "unknown conversation": (
        "responses.create",
        [{**HI, "conversation": "conv_x", "stream": True}],
        {"status": 404, "code": None, "param": None},
    ),
    "unknown previous response": (
        "responses.create",
        [{**HI, "previous_response_id": "resp_x"}],
        {"status": 400, "code": "previous_response_not_found", "param": "previous_response_id"},
    ),
    "too few tokens": (
        "responses.create",
        [{**HI, "max_output_tokens": 1}],
        {"status": 400, "code": "integer_below_min_value", "param": "max_output_tokens"},
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_errors_are_told_with_status_code_and_param(js: Scenarios, served: Served, case: Any) -> None:
    call, given, expected = case
    with pytest.raises(ScenarioError) as caught:
        js("failure", url=served.url, call=call, given=given)
    error = caught.value.error
    assert {name: error.get(name) for name in expected} == expected
    assert error["type"] == "invalid_request_error"


def test_sdk_tries_again_after_429_and_gets_its_response(js: Scenarios, served: Served) -> None:
    served.answers(Script(status=429, headers={"retry-after": "0"}))
    assert js("retries", url=served.url) == "echo: 1 items; last: hi"
    assert len(served.requests) == 2
