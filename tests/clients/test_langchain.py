"""PyPI ``langchain-openai``: ``ChatOpenAI`` on the Responses API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.fake_upstream import Call, CustomCall, Reasoning, Refusal, Script, Text

from .harness import MODEL

if TYPE_CHECKING:
    from .harness import Served


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


@pytest.fixture(params=["responses/v1", "v0", "v1"])
def model(served: Served, request: pytest.FixtureRequest) -> ChatOpenAI:
    return chat(served, output_version=request.param)


def chat(served: Served, **members: Any) -> ChatOpenAI:
    settings = {"use_responses_api": True, "max_retries": 0, "timeout": 10, "output_version": "responses/v1"}
    return ChatOpenAI(model=MODEL, base_url=served.url, api_key="key", **settings | members)


def kinds(served: Served) -> list[str]:
    return [item.get("role") or item["type"] for item in served.requests[-1].items]


def test_invoke_gives_text_usage_and_id(model: ChatOpenAI, served: Served) -> None:
    message = model.invoke("hello")
    assert message.text == "echo: 1 items; last: hello"
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] > 0
    assert message.response_metadata["id"].startswith("resp_")
    assert message.response_metadata["status"] == "completed"


def test_stream_adds_up_to_what_invoke_gives(model: ChatOpenAI) -> None:
    chunks = list(model.stream("hello"))
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == "echo: 1 items; last: hello"
    assert whole.response_metadata["id"].startswith("resp_")
    assert whole.usage_metadata["output_tokens"] > 0
    assert len(chunks) > 4


def test_async_stream(served: Served) -> None:
    async def scenario() -> str:
        return "".join([chunk.text async for chunk in chat(served).astream("hello")])

    assert asyncio.run(scenario()) == "echo: 1 items; last: hello"


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_tool_loop_replays_items_with_their_ids(model: ChatOpenAI, served: Served, stream: bool) -> None:
    served.answers(
        Script(output=(Reasoning("Hm."), Text("Let me see."), Call("weather", '{"city": "Oslo"}')))
    )
    bound = model.bind_tools([weather])
    messages: list[Any] = [SystemMessage("Help."), HumanMessage("Weather?")]
    first: Any
    if stream:
        chunks = list(bound.stream(messages))
        first = chunks[0]
        for chunk in chunks[1:]:
            first += chunk
    else:
        first = bound.invoke(messages)
    (call,) = first.tool_calls
    assert call["args"] == {"city": "Oslo"}
    messages += [first, weather.invoke(call)]
    second = bound.invoke(messages)
    given = kinds(served)
    assert given[:2] == ["system", "user"]
    assert given[-2:] == ["function_call", "function_call_output"]
    assert second.text == f"echo: {len(given)} items; last: rain in Oslo"
    third = bound.invoke([*messages, second, HumanMessage("Thanks.")])
    assert third.text == f"echo: {len(given) + 2} items; last: Thanks."


def test_use_previous_response_id_sends_only_what_is_new(served: Served) -> None:
    served.answers(Script(output=(Reasoning("Hm."), Call("weather", '{"city": "Oslo"}'))))
    model = chat(served, use_previous_response_id=True)
    bound = model.bind_tools([weather])
    messages: list[Any] = [HumanMessage("Weather?")]
    messages.append(bound.invoke(messages))
    messages.append(weather.invoke(messages[-1].tool_calls[0]))
    messages.append(bound.invoke(messages))
    assert kinds(served) == ["user", "reasoning", "function_call", "function_call_output"]
    messages.append(HumanMessage("Thanks."))
    assert bound.invoke(messages).text == "echo: 6 items; last: Thanks."


def test_previous_response_id_by_hand(served: Served) -> None:
    model = chat(served)
    first = model.invoke("one")
    second = model.invoke("two", previous_response_id=first.response_metadata["id"])
    assert second.text == "echo: 3 items; last: two"


def test_conversation_by_hand(served: Served) -> None:
    model = chat(served)
    conversation = openai.OpenAI(base_url=served.url, api_key="key").conversations.create().id
    model.invoke("one", conversation=conversation)
    assert model.invoke("two", conversation=conversation).text == "echo: 3 items; last: two"


def test_structured_output_is_parsed(served: Served) -> None:
    class City(BaseModel):
        """A city."""

        name: str

    served.answers(*[Script(output=(Text('{"name": "Oslo"}'),))] * 2)
    model = chat(served)
    assert model.with_structured_output(City).invoke("Where?") == City(name="Oslo")
    assert list(model.with_structured_output(City).stream("Where?"))[-1] == City(name="Oslo")
    assert served.requests[-1].json["text"]["format"]["type"] == "json_schema"


def test_custom_tool_goes_round(served: Served) -> None:
    served.answers(Script(output=(CustomCall("shell", "ls"),)))
    bound = chat(served).bind_tools([{"type": "custom", "name": "shell", "description": "A shell."}])
    question = HumanMessage("Files?")
    first = bound.invoke([question])
    (call,) = first.tool_calls
    assert call["name"] == "shell"
    output = ToolMessage([{"type": "custom_tool_call_output", "output": "a.txt"}], tool_call_id=call["id"])
    second = bound.invoke([question, first, output])
    assert kinds(served) == ["user", "custom_tool_call", "custom_tool_call_output"]
    assert second.text.endswith("a.txt")


def test_refusal_is_told(served: Served) -> None:
    served.answers(Script(output=(Refusal("No."),)))
    message = chat(served).invoke("Do it!")
    assert isinstance(message, AIMessage)
    refusals = [block["refusal"] for block in message.content if block["type"] == "refusal"]
    assert refusals == ["No."]


def test_errors_keep_their_class(served: Served) -> None:
    model = chat(served)
    with pytest.raises(openai.BadRequestError) as caught:
        model.invoke("hi", previous_response_id="resp_x")
    assert caught.value.code == "previous_response_not_found"
    served.answers(Script(status=429, error="Slow down."))
    with pytest.raises(openai.RateLimitError):
        model.invoke("hi")
