"""OpenAI's own SDK as the client, sync and async, its types checked strictly."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import openai
import pytest
import trio

from tests.fake_upstream import Call, Script
from tests.web.harness import World, open_world, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The SDK stops reading at `[DONE]`, and leaves its generators to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator '(http|openai):ResourceWarning")

ASK: dict[str, Any] = {"model": "tiny", "input": "hi"}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as world:
        yield world


def sync_client(world: World) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{world.url}/v1", api_key="sk-x", max_retries=0, _strict_response_validation=True
    )


@asynccontextmanager
async def open_client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key="sk-x", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


async def in_thread(world: World, use: Any) -> Any:
    def run() -> Any:
        with sync_client(world) as client:
            return use(client)

    return await trio.to_thread.run_sync(run)


# --------------------------------------------------------------------------- sync


async def test_sync_response_is_created_read_and_deleted(world: World) -> None:
    def use(client: openai.OpenAI) -> None:
        created = client.responses.create(**ASK)
        assert created.output_text == "echo: 1 items; last: hi"
        assert client.responses.retrieve(created.id) == created
        assert client.responses.delete(created.id) is None
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(created.id)

    await in_thread(world, use)


async def test_sync_chain_remembers(world: World) -> None:
    def use(client: openai.OpenAI) -> None:
        first = client.responses.create(**ASK)
        client.responses.create(**ASK, previous_response_id=first.id)

    await in_thread(world, use)
    assert [role for role, _ in said(world.upstream.last)] == ["user", "assistant", "user"]


async def test_sync_raw_stream_has_every_event(world: World) -> None:
    def use(client: openai.OpenAI) -> list[str]:
        with client.responses.create(**ASK, stream=True) as stream:
            return [event.type for event in stream]

    types = await in_thread(world, use)
    assert (types[0], types[-1]) == ("response.created", "response.completed")


async def test_sync_stream_helper_accumulates_the_answer(world: World) -> None:
    def use(client: openai.OpenAI) -> Any:
        with client.responses.stream(**ASK) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            return text, stream.get_final_response().output_text

    text, final = await in_thread(world, use)
    assert text == final == "echo: 1 items; last: hi"


async def test_sync_conversation_remembers_and_lists_its_items(world: World) -> None:
    def use(client: openai.OpenAI) -> list[Any]:
        conversation = client.conversations.create(metadata={"topic": "crabs"})
        client.responses.create(**ASK, conversation=conversation.id)
        response = client.responses.create(**ASK, conversation={"id": conversation.id})
        assert response.conversation is not None
        assert response.conversation.id == conversation.id
        assert client.conversations.retrieve(conversation.id) == conversation
        updated = client.conversations.update(conversation.id, metadata={"topic": "fish"})
        assert updated.metadata == {"topic": "fish"}
        items = list(client.conversations.items.list(conversation.id, limit=3))
        assert client.conversations.items.retrieve(items[0].id, conversation_id=conversation.id) == items[0]
        assert client.conversations.delete(conversation.id).deleted
        return items

    items = await in_thread(world, use)
    assert [item.role for item in items] == ["assistant", "user", "assistant", "user"]


# --------------------------------------------------------------------------- async


async def test_async_response_is_created_read_and_deleted(world: World) -> None:
    async with open_client(world) as client:
        created = await client.responses.create(**ASK)
        assert await client.responses.retrieve(created.id) == created
        await client.responses.delete(created.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(created.id)


async def test_async_stream_helper_accumulates_the_answer(world: World) -> None:
    async with open_client(world) as client, client.responses.stream(**ASK) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert types[-1] == "response.completed"
    assert final.output_text == "echo: 1 items; last: hi"


async def test_async_input_items_are_paged_through(world: World) -> None:
    async with open_client(world) as client:
        items = [{"role": "user", "content": str(number)} for number in range(25)]
        created = await client.responses.create(model="tiny", input=items)  # type: ignore[arg-type]
        listed = [item async for item in client.responses.input_items.list(created.id, limit=10)]
    assert [item.content[0].text for item in listed] == [str(number) for number in reversed(range(25))]


async def test_async_tool_loop(world: World) -> None:
    async with open_client(world) as client:
        asked = await client.responses.create(model="tiny", input='call add {"a": 1}', tools=[TOOL])  # type: ignore[list-item]
        (call,) = asked.output
        assert call.type == "function_call"
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "2"}
        final = await client.responses.create(
            model="tiny",
            input=[output],  # type: ignore[list-item]
            previous_response_id=asked.id,
            tools=[TOOL],  # type: ignore[list-item]
        )
    assert final.output_text == "echo: 3 items; last: 2"


async def test_async_replay_of_output_items_is_taken(world: World) -> None:
    """openai-agents' default loop: the whole output comes back as input, ids and all."""
    async with open_client(world) as client:
        first = await client.responses.create(**ASK)
        replay = [{"role": "user", "content": "hi"}, *(item.to_dict() for item in first.output)]
        again = await client.responses.create(
            model="tiny",
            input=[*replay, {"role": "user", "content": "more"}],  # type: ignore[list-item]
        )
    assert again.output_text == "echo: 3 items; last: more"


async def test_async_stream_of_a_call_has_its_arguments(world: World) -> None:
    world.upstream.script(Script(output=(Call("add", '{"a":1}'),)))
    async with (
        open_client(world) as client,
        client.responses.stream(**ASK, tools=[TOOL]) as stream,  # type: ignore[list-item]
    ):
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    assert call.arguments == '{"a":1}'


async def test_models_and_chat_are_relayed(world: World) -> None:
    async with open_client(world) as client:
        assert [model.id async for model in client.models.list()] == ["tiny"]
        chat = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}]
        )
    assert chat.choices[0].message.content == "echo: 1 items; last: hi"


# --------------------------------------------------------------------------- errors

ERRORS = {
    400: (openai.BadRequestError, {"previous_response_id": "resp_nope"}),
    404: (openai.NotFoundError, {"conversation": "conv_nope"}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("kind", "members"), ERRORS.values(), ids=ERRORS.keys())
async def test_refusal_is_the_sdks_exception(
    world: World, stream: bool, kind: type[openai.APIStatusError], members: dict[str, Any]
) -> None:
    async with open_client(world) as client:
        with pytest.raises(kind) as raised:
            await client.responses.create(**ASK, **members, stream=stream)
    assert raised.value.body.keys() == {"message", "type", "param", "code"}  # type: ignore[attr-defined]
    assert raised.value.request_id is not None


STATUSES = {
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    429: openai.RateLimitError,
    503: openai.InternalServerError,
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
async def test_upstreams_refusal_is_the_sdks_exception(
    world: World, stream: bool, status: int, kind: type[openai.APIStatusError]
) -> None:
    world.upstream.script(Script(status=status))
    async with open_client(world) as client:
        with pytest.raises(kind):
            await client.responses.create(**ASK, stream=stream)


async def test_sdk_tries_a_429_again(world: World) -> None:
    scripts = iter([Script(status=429, headers={"retry-after": "0"}), None])
    world.upstream.script(lambda _: next(scripts))
    async with open_client(world) as client:
        answer = await partial(client.with_options(max_retries=1).responses.create, **ASK)()
    assert answer.output_text == "echo: 1 items; last: hi"


async def test_failure_mid_stream_reaches_the_sdk_as_events(world: World) -> None:
    world.upstream.script(Script(cut_after=6))
    async with open_client(world) as client:
        types = [event.type async for event in await client.responses.create(**ASK, stream=True)]
    assert types[-2:] == ["error", "response.failed"]
