"""PyPI ``pydantic-ai-slim[openai]``: ``OpenAIResponsesModel``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

from tests.fake_upstream import Call, Reasoning, Script, Text

from .harness import MODEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .harness import Served

CALL = Script(output=(Reasoning("Hm."), Text("Let me see."), Call("weather", '{"city": "Oslo"}')))


def run(
    served: Served, scenario: Callable[[Agent[Any, Any], AsyncOpenAI], Awaitable[Any]], **members: Any
) -> Any:
    async def main() -> Any:
        async with AsyncOpenAI(
            base_url=served.url, api_key="key", max_retries=0, timeout=10, _strict_response_validation=True
        ) as client:
            model = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=client))
            agent: Agent[Any, Any] = Agent(model, instructions="Help.", **members)

            @agent.tool_plain
            def weather(city: str) -> str:
                """The weather in a city."""
                return f"rain in {city}"

            return await scenario(agent, client)

    return asyncio.run(main())


def kinds(served: Served) -> list[str]:
    return [item.get("role") or item["type"] for item in served.requests[-1].items]


def test_run_gives_the_models_answer(served: Served) -> None:
    result = run(served, lambda agent, _: agent.run("hello"))
    assert result.output == "echo: 1 items; last: hello"
    assert result.usage.output_tokens > 0
    assert result.response.provider_response_id.startswith("resp_")


def test_tool_loop_replays_items_with_their_ids(served: Served) -> None:
    served.answers(CALL)

    async def scenario(agent: Agent[Any, Any], _: AsyncOpenAI) -> Any:
        first = await agent.run("Weather?")
        return first, await agent.run("Thanks.", message_history=first.all_messages())

    first, second = run(served, scenario)
    assert first.output == "echo: 5 items; last: rain in Oslo"
    assert kinds(served) == [
        "user",
        "reasoning",
        "assistant",
        "function_call",
        "function_call_output",
        "assistant",
        "user",
    ]
    assert second.output == "echo: 7 items; last: Thanks."


@pytest.mark.parametrize("setting", ["id", "auto"])
def test_previous_response_id_sends_only_what_is_new(served: Served, setting: str) -> None:
    served.answers(CALL)

    async def scenario(agent: Agent[Any, Any], _: AsyncOpenAI) -> Any:
        auto = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
        first = await agent.run("Weather?", model_settings=auto)
        if setting == "auto":
            return await agent.run("Thanks.", message_history=first.all_messages(), model_settings=auto)
        named = OpenAIResponsesModelSettings(
            openai_previous_response_id=str(first.response.provider_response_id)
        )
        return await agent.run("Thanks.", model_settings=named)

    assert run(served, scenario).output == "echo: 7 items; last: Thanks."


def test_conversation_remembers_a_tool_loop(served: Served) -> None:
    served.answers(CALL)

    async def scenario(agent: Agent[Any, Any], client: AsyncOpenAI) -> Any:
        conversation = await client.conversations.create()
        settings = OpenAIResponsesModelSettings(openai_conversation_id=conversation.id)
        first = await agent.run("Weather?", model_settings=settings)
        auto = OpenAIResponsesModelSettings(openai_conversation_id="auto")
        second = await agent.run("Thanks.", message_history=first.all_messages(), model_settings=auto)
        items = client.conversations.items.list(conversation.id, order="asc")
        return second, [item.type async for item in items]

    second, types = run(served, scenario)
    assert second.output == "echo: 7 items; last: Thanks."
    assert types == [
        "message",
        "reasoning",
        "message",
        "function_call",
        "function_call_output",
        "message",
        "message",
        "message",
    ]


def test_streamed_run_with_a_tool(served: Served) -> None:
    served.answers(CALL)

    async def scenario(agent: Agent[Any, Any], _: AsyncOpenAI) -> Any:
        async with agent.run_stream_events("Weather?") as events:
            return [event async for event in events]

    events = run(served, scenario)
    assert events[-1].result.output == "echo: 5 items; last: rain in Oslo"
    names = {type(event).__name__ for event in events}
    assert {"FunctionToolCallEvent", "FunctionToolResultEvent", "PartDeltaEvent"} <= names


def test_structured_output_is_parsed(served: Served) -> None:
    class City(BaseModel):
        name: str

    served.answers(Script(output=(Text('{"name": "Oslo"}'),)))
    result = run(served, lambda agent, _: agent.run("Where?"), output_type=NativeOutput(City))
    assert result.output == City(name="Oslo")
    assert served.requests[-1].json["text"]["format"]["type"] == "json_schema"


def test_structured_output_by_a_tool(served: Served) -> None:
    class City(BaseModel):
        name: str

    served.answers(Script(output=(Call("final_result", '{"name": "Oslo"}'),)))

    async def scenario(agent: Agent[Any, Any], _: AsyncOpenAI) -> Any:
        first = await agent.run("Where?")
        served.answers(Script(output=(Call("final_result", '{"name": "Rome"}'),)))
        return await agent.run("And?", message_history=first.all_messages())

    result = run(served, scenario, output_type=City)
    assert result.output == City(name="Rome")


def test_errors_keep_their_status(served: Served) -> None:
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="resp_x")
    with pytest.raises(ModelHTTPError) as caught:
        run(served, lambda agent, _: agent.run("hi", model_settings=settings))
    assert caught.value.status_code == 400
    body: Any = caught.value.body
    assert body["code"] == "previous_response_not_found"
