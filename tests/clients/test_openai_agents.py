"""PyPI ``openai-agents``: sessions on conversations, chains, streaming, tool loops, handoffs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
)
from openai import AsyncOpenAI, NotFoundError
from openai.types.shared import Reasoning as Effort
from pydantic import BaseModel

from tests.fake_upstream import Call, Reasoning, Script, Text

from .harness import MODEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .harness import Served

CALL = Script(output=(Reasoning("Hm."), Call("weather", '{"city": "Oslo"}')))
TWO_CALLS = Script(output=(Call("weather", '{"city": "Oslo"}'), Call("weather", '{"city": "Rome"}')))


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def run(served: Served, scenario: Callable[[AsyncOpenAI], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with AsyncOpenAI(
            base_url=served.url, api_key="key", max_retries=0, timeout=10, _strict_response_validation=True
        ) as client:
            return await scenario(client)

    return asyncio.run(main())


def agent(client: AsyncOpenAI, **members: Any) -> Agent[Any]:
    settings = {"name": "Bot", "instructions": "Help.", "tools": [weather]} | members
    return Agent(model=OpenAIResponsesModel(MODEL, client), **settings)


def kinds(served: Served) -> list[str]:
    return [item.get("role") or item["type"] for item in served.requests[-1].items]


def test_run_gives_the_models_answer(served: Served) -> None:
    result = run(served, lambda client: Runner.run(agent(client), "hello"))
    assert result.final_output == "echo: 1 items; last: hello"
    assert result.context_wrapper.usage.total_tokens > 0
    assert served.requests[-1].json["instructions"] == "Help."


@pytest.mark.parametrize("script", [CALL, TWO_CALLS], ids=["one call", "parallel calls"])
def test_tool_loop_replays_what_was_put_out(served: Served, script: Script) -> None:
    served.answers(script)
    result = run(served, lambda client: Runner.run(agent(client), "Weather?"))
    given = kinds(served)
    assert given[0] == "user"
    assert given.count("function_call") == given.count("function_call_output")
    assert result.final_output.startswith(f"echo: {len(given)} items; last: rain in")


def test_turns_by_replay_of_the_whole_result(served: Served) -> None:
    served.answers(CALL)

    async def scenario(client: AsyncOpenAI) -> Any:
        first = await Runner.run(agent(client), "Weather?")
        return await Runner.run(agent(client), [*first.to_input_list(), {"role": "user", "content": "And?"}])

    result = run(served, scenario)
    assert kinds(served) == [
        "user",
        "reasoning",
        "function_call",
        "function_call_output",
        "assistant",
        "user",
    ]
    assert result.final_output == "echo: 6 items; last: And?"


def test_previous_response_id_sends_only_what_is_new(served: Served) -> None:
    async def scenario(client: AsyncOpenAI) -> Any:
        first = await Runner.run(agent(client), "one")
        return await Runner.run(agent(client), "two", previous_response_id=first.last_response_id)

    result = run(served, scenario)
    assert result.final_output == "echo: 3 items; last: two"
    assert [text for _, text in served.said] == ["one", "echo: 1 items; last: one", "two"]


def test_auto_previous_response_id_chains_a_tool_loop(served: Served) -> None:
    served.answers(CALL)

    async def scenario(client: AsyncOpenAI) -> Any:
        first = await Runner.run(agent(client), "Weather?", auto_previous_response_id=True)
        response = await client.responses.retrieve(str(first.last_response_id))
        assert response.previous_response_id == first.raw_responses[0].response_id
        return await Runner.run(
            agent(client),
            "Thanks.",
            previous_response_id=first.last_response_id,
            auto_previous_response_id=True,
        )

    result = run(served, scenario)
    assert result.final_output == "echo: 6 items; last: Thanks."


@pytest.mark.parametrize("script", [CALL, TWO_CALLS], ids=["one call", "parallel calls"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_conversation_id_with_a_tool_loop(served: Served, stream: bool, script: Script) -> None:
    served.answers(script)

    async def scenario(client: AsyncOpenAI) -> Any:
        conversation = await client.conversations.create()
        for text in ("Weather?", "Thanks."):
            if stream:
                result: Any = Runner.run_streamed(agent(client), text, conversation_id=conversation.id)
                async for _ in result.stream_events():
                    pass
            else:
                result = await Runner.run(agent(client), text, conversation_id=conversation.id)
        return result, [
            item.model_dump() async for item in client.conversations.items.list(conversation.id, order="asc")
        ]

    result, items = run(served, scenario)
    assert result.final_output == f"echo: {len(items) - 1} items; last: Thanks."
    ids = [item["id"] for item in items]
    assert len(set(ids)) == len(ids)
    types = [item["type"] for item in items]
    assert (
        types.count("function_call")
        == types.count("function_call_output")
        == sum(isinstance(item, Call) for item in script.output)
    )


@pytest.mark.parametrize("script", [CALL, TWO_CALLS], ids=["one call", "parallel calls"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_session_on_a_conversation_remembers_a_tool_loop(
    served: Served, stream: bool, script: Script
) -> None:
    served.answers(script)

    async def scenario(client: AsyncOpenAI) -> Any:
        session = OpenAIConversationsSession(openai_client=client)
        for text in ("Weather?", "Thanks."):
            if stream:
                result: Any = Runner.run_streamed(agent(client), text, session=session)
                async for _ in result.stream_events():
                    pass
            else:
                result = await Runner.run(agent(client), text, session=session)
        return result, await session.get_items()

    result, items = run(served, scenario)
    assert len(items) == len(script.output) * 2 + 4 - sum(isinstance(i, Reasoning) for i in script.output)
    assert result.final_output == f"echo: {len(items) - 1} items; last: Thanks."
    assert [item.get("role") for item in items][-2:] == ["user", "assistant"]


def test_session_is_cut_popped_and_cleared(served: Served) -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        session = OpenAIConversationsSession(openai_client=client)
        await session.add_items([{"role": "user", "content": str(n)} for n in range(45)])
        assert len(await session.get_items()) == 45
        last: Any = await session.get_items(limit=2)
        assert [item["content"][0]["text"] for item in last] == ["43", "44"]
        popped: Any = await session.pop_item()
        assert popped["content"][0]["text"] == "44"
        assert len(await session.get_items()) == 44
        id = session.session_id
        await session.clear_session()
        with pytest.raises(NotFoundError):
            await client.conversations.retrieve(id)
        assert await session.get_items() == []

    run(served, scenario)


def test_session_goes_on_in_another_process(served: Served) -> None:
    async def scenario(client: AsyncOpenAI) -> Any:
        session = OpenAIConversationsSession(openai_client=client)
        await Runner.run(agent(client), "one", session=session)
        again = OpenAIConversationsSession(conversation_id=session.session_id, openai_client=client)
        return await Runner.run(agent(client), "two", session=again)

    assert run(served, scenario).final_output == "echo: 3 items; last: two"


def test_local_session_replays_items_with_their_ids(served: Served) -> None:
    served.answers(CALL)

    async def scenario(client: AsyncOpenAI) -> Any:
        session = SQLiteSession("s")
        await Runner.run(agent(client), "Weather?", session=session)
        return await Runner.run(agent(client), "Thanks.", session=session)

    assert run(served, scenario).final_output == "echo: 6 items; last: Thanks."


def test_streamed_run_tells_text_and_tools_as_they_come(served: Served) -> None:
    served.answers(CALL)

    async def scenario(client: AsyncOpenAI) -> Any:
        result = Runner.run_streamed(agent(client), "Weather?")
        seen, text = [], ""
        async for event in result.stream_events():
            if event.type == "run_item_stream_event":
                seen.append(event.name)
            elif event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                text += event.data.delta
        return result.final_output, seen, text

    final, seen, text = run(served, scenario)
    assert final == text == "echo: 4 items; last: rain in Oslo"
    assert seen == ["reasoning_item_created", "tool_called", "tool_output", "message_output_created"]


def test_structured_output_is_parsed(served: Served) -> None:
    class City(BaseModel):
        name: str

    served.answers(Script(output=(Text('{"name": "Oslo"}'),)))
    result = run(served, lambda client: Runner.run(agent(client, output_type=City), "Where?"))
    assert result.final_output == City(name="Oslo")
    assert served.requests[-1].json["text"]["format"]["type"] == "json_schema"


def test_handoff_in_a_conversation(served: Served) -> None:
    served.answers(Script(output=(Call("transfer_to_cook", "{}"),)))

    async def scenario(client: AsyncOpenAI) -> Any:
        conversation = await client.conversations.create()
        cook = agent(client, name="Cook", instructions="Cook.")
        return await Runner.run(agent(client, handoffs=[cook]), "Dinner?", conversation_id=conversation.id)

    result = run(served, scenario)
    assert result.last_agent.name == "Cook"
    assert served.requests[-1].json["instructions"] == "Cook."
    assert kinds(served) == ["user", "function_call", "function_call_output"]


def test_settings_reach_the_model(served: Served) -> None:
    settings = ModelSettings(
        temperature=0.3,
        max_tokens=50,
        reasoning=Effort(effort="low"),
        include_usage=True,
        response_include=["reasoning.encrypted_content"],
        metadata={"k": "v"},
        extra_body={"seed": 3},
    )
    run(served, lambda client: Runner.run(agent(client, model_settings=settings), "hello"))
    sent = served.requests[-1].json
    assert (sent["temperature"], sent["max_output_tokens"], sent["seed"]) == (0.3, 50, 3)
    assert (sent["reasoning"], sent["metadata"]) == ({"effort": "low"}, {"k": "v"})
    # The gateway seals reasoning itself, so the model server isn't asked to.
    assert "include" not in sent


def test_unstored_run_replays_everything(served: Served) -> None:
    served.answers(CALL)
    settings = ModelSettings(store=False)
    result = run(served, lambda client: Runner.run(agent(client, model_settings=settings), "Weather?"))
    assert result.final_output == "echo: 4 items; last: rain in Oslo"
