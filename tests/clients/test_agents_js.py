"""npm ``@openai/agents``: sessions on conversations, chains, streaming, tool loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fake_upstream import Call, Reasoning, Script, Text

from .javascript import ScenarioError, Scenarios, run_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Served

CALL = Script(output=(Reasoning("Hm."), Call("weather", '{"city": "Oslo"}')))
TYPES = ["message", "reasoning", "function_call", "function_call_output", "message", "message", "message"]

both = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


@pytest.fixture(scope="module")
def js(npm: None) -> Iterator[Scenarios]:
    with run_node("agents") as scenarios:
        yield scenarios


def test_run_gives_the_models_answer_and_counts(js: Scenarios, served: Served) -> None:
    answer = js("simple", url=served.url)
    assert answer["text"] == "echo: 1 items; last: hello"
    assert answer["usage"]["totalTokens"] > 0
    assert served.requests[-1].json["instructions"] == "Help."


@both
def test_tool_loop_replays_items_with_their_ids(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL)
    assert js("toolLoop", url=served.url, stream=stream) == [
        "echo: 4 items; last: rain in Oslo",
        "echo: 6 items; last: Thanks.",
    ]


@both
def test_previous_response_id_sends_only_what_is_new(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL)
    assert js("previousResponse", url=served.url, stream=stream) == "echo: 6 items; last: Thanks."


@both
def test_conversation_id_with_a_tool_loop(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL)
    answer = js("conversation", url=served.url, stream=stream)
    assert answer == {"finalOutput": "echo: 6 items; last: Thanks.", "types": TYPES}


@both
def test_session_on_a_conversation(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL)
    answer = js("session", url=served.url, stream=stream)
    assert answer["finalOutput"] == "echo: 6 items; last: Thanks."
    assert len(answer["types"]) == len(TYPES)
    assert (answer["popped"], answer["left"]) == ("assistant", len(TYPES) - 1)


def test_streamed_run_tells_text_and_tools_as_they_come(js: Scenarios, served: Served) -> None:
    served.answers(CALL)
    answer = js("streamed", url=served.url)
    assert answer["text"] == answer["finalOutput"] == "echo: 4 items; last: rain in Oslo"
    assert {"tool_called", "tool_output", "message_output_created"} <= set(answer["names"])


def test_structured_output_is_parsed(js: Scenarios, served: Served) -> None:
    served.answers(Script(output=(Text('{"name": "Oslo"}'),)))
    assert js("structured", url=served.url) == {"name": "Oslo"}
    assert served.requests[-1].json["text"]["format"]["type"] == "json_schema"


def test_errors_keep_status_and_code(js: Scenarios, served: Served) -> None:
    with pytest.raises(ScenarioError) as caught:
        js("failure", url=served.url)
    assert (caught.value.error["status"], caught.value.error["code"]) == (400, "previous_response_not_found")
