"""npm ``ai`` with ``@ai-sdk/openai``, the Vercel AI SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_upstream import Call, Reasoning, Script, Text

from .javascript import ScenarioError, Scenarios, run_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Served

CALL = Script(output=(Reasoning("Hm."), Call("weather", '{"city": "Oslo"}')))
CALL_AGAIN = Script(output=(Call("weather", '{"city": "Rome"}'),))

both = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


@pytest.fixture(scope="module")
def js(npm: None) -> Iterator[Scenarios]:
    with run_node("ai_sdk") as scenarios:
        yield scenarios


def kinds(served: Served) -> list[str]:
    return [item.get("role") or item["type"] for item in served.requests[-1].items]


@both
def test_answer_has_text_id_and_usage(js: Scenarios, served: Served, stream: bool) -> None:
    answer = js("simple", url=served.url, stream=stream)
    assert answer["text"] == "echo: 2 items; last: hello"
    assert answer["id"].startswith("resp_")
    assert answer["outputTokens"] > 0


@both
def test_tool_loop_refers_to_items_by_their_ids(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL, CALL_AGAIN)
    answer = js("toolLoop", url=served.url, stream=stream)
    assert answer["steps"] == 3
    given = kinds(served)
    assert given == [
        "user",
        "reasoning",
        "function_call",
        "function_call_output",
        "function_call",
        "function_call_output",
    ]
    assert answer["text"] == "echo: 6 items; last: rain in Rome"


@both
def test_unstored_tool_loop_replays_everything(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL_AGAIN)
    answer = js("toolLoop", url=served.url, stream=stream, options={"store": False})
    assert answer["text"] == "echo: 3 items; last: rain in Rome"


@both
def test_turns_by_replay_of_all_messages(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL)
    answer = js("turns", url=served.url, stream=stream)
    assert answer["text"] == "echo: 6 items; last: Thanks."
    assert kinds(served)[-2:] == ["assistant", "user"]


@both
def test_previous_response_id_sends_only_what_is_new(js: Scenarios, served: Served, stream: bool) -> None:
    answer = js("previousResponse", url=served.url, stream=stream)
    assert answer["text"] == "echo: 3 items; last: two"


@both
def test_previous_response_id_with_a_tool_loop(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(Script(output=(Text("First."),)), CALL, CALL_AGAIN)
    answer = js("previousResponse", url=served.url, stream=stream)
    assert answer["steps"] == 3
    assert answer["text"].endswith("last: rain in Rome")


@both
def test_conversation_with_a_tool_loop(js: Scenarios, served: Served, stream: bool) -> None:
    served.answers(CALL, CALL_AGAIN)
    answer: Any = js("conversation", url=served.url, stream=stream)
    assert answer["first"]["steps"] == 3
    assert answer["first"]["text"].endswith("last: rain in Rome")
    assert answer["second"]["text"].endswith("last: Thanks.")
    ids = [item["id"] for item in answer["items"]]
    assert len(set(ids)) == len(ids)
    types = [item["type"] for item in answer["items"]]
    assert types.count("function_call") == 2


def test_structured_output_is_parsed(js: Scenarios, served: Served) -> None:
    served.answers(Script(output=(Text('{"name": "Oslo"}'),)))
    assert js("structured", url=served.url) == {"name": "Oslo"}
    assert served.requests[-1].json["text"]["format"]["type"] == "json_schema"


@both
def test_errors_keep_status_and_message(js: Scenarios, served: Served, stream: bool) -> None:
    with pytest.raises(ScenarioError, match="Previous response with id 'resp_x' not found") as caught:
        js("failure", url=served.url, stream=stream, options={"previousResponseId": "resp_x"})
    assert caught.value.error["status"] == 400


def test_model_that_fails_in_the_middle_is_an_error(js: Scenarios, served: Served) -> None:
    served.answers(Script(output=(Text("one two three"),), fail_after=6, error="Out of memory."))
    with pytest.raises(ScenarioError):
        js("failure", url=served.url, stream=True)
