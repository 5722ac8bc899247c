"""``web_search`` runs as a tool of an MCP server, with OpenAI's item and events around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_upstream import Call, Script, Text
from tests.tools.hostile import Hostile, open_hostile
from tests.tools.test_calls import play, types
from tests.web.harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Json = dict[str, Any]

SEARCH: Json = {"type": "web_search"}
ASK = Call("web_search", ('{"query": "trio"}',))
FOUND = "Trio: a friendly library (https://trio.readthedocs.io/). See also https://a.example/x."


@pytest.fixture
async def engine() -> AsyncIterator[Hostile]:
    async with open_hostile() as server:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}, "q": {"type": "string"}}}
        server.tools = [
            {"name": "news", "inputSchema": {"type": "object"}},
            {"name": "find_search", "inputSchema": schema},
        ]
        server.answers["tools/call"] = {"content": [{"type": "text", "text": FOUND}]}
        yield server


@pytest.fixture
async def world(engine: Hostile) -> AsyncIterator[World]:
    async with open_world(mcp_servers=(f"web={engine.url}",), web_search_server="web") as world:
        yield world


def searches(engine: Hostile) -> list[Json]:
    return [body["params"] for _, _, body in engine.seen if body.get("method") == "tools/call"]


async def test_a_search_is_shown_as_openai_shows_it(world: World, engine: Hostile) -> None:
    play(world, Script(output=(ASK,)), Script(output=(Text("found"),)))
    events = await world.stream("go", tools=[SEARCH])
    about = [event for event in events if event.get("output_index") == 0]
    assert [event["type"].removeprefix("response.") for event in about] == [
        "output_item.added",
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "output_item.done",
    ]
    assert about[0]["item"]["action"] == {"type": "search", "query": "trio"}
    response = events[-1]["response"]
    assert types(response["output"]) == ["web_search_call", "message"]
    assert response["output"][0]["status"] == "completed"
    assert response["tools"] == [SEARCH]
    [search] = searches(engine)
    assert (search["name"], search["arguments"]) == ("find_search", {"q": "trio"})
    assert world.upstream.last.items[-1]["output"] == FOUND


async def test_later_turns_show_the_model_what_was_found(world: World) -> None:
    play(world, Script(output=(ASK,)), Script(output=(Text("found"),)), Script(output=(Text("ok"),)))
    first = await world.create("go", tools=[SEARCH])
    await world.create("and?", previous_response_id=first["id"])
    shown = world.upstream.last.items
    assert [item["type"] for item in shown][1:3] == ["function_call", "function_call_output"]
    assert shown[2]["output"] == FOUND


@pytest.mark.parametrize("type", ["web_search", "web_search_preview", "web_search_2025_08_26"])
async def test_sources_are_shown_where_they_are_asked_for(world: World, type: str) -> None:
    play(world, Script(output=(ASK,)), Script(output=(Text("found"),)))
    include = ["web_search_call.action.sources"]
    response = await world.create("go", tools=[{"type": type}], include=include)
    assert response["output"][0]["action"]["sources"] == [
        {"type": "url", "url": "https://trio.readthedocs.io/"},
        {"type": "url", "url": "https://a.example/x"},
    ]


async def test_a_search_that_fails_is_told_to_the_model(world: World, engine: Hostile) -> None:
    engine.answers["tools/call"] = {"content": [{"type": "text", "text": "quota"}], "isError": True}
    play(world, Script(output=(ASK,)), Script(output=(Text("hm"),)))
    response = await world.create("go", tools=[SEARCH])
    assert response["output"][0]["status"] == "failed"
    assert world.upstream.last.items[-1]["output"] == "Error: quota"


async def test_a_dead_search_server_harms_no_request_that_does_not_search() -> None:
    async with open_world(mcp_servers=("web=http://127.0.0.1:1/",), web_search_server="web") as world:
        response = await world.create("hi", tools=[SEARCH])
        assert types(response["output"]) == ["message"]
        play(world, Script(output=(ASK,)), Script(output=(Text("hm"),)))
        response = await world.create("go", tools=[SEARCH])
    assert response["output"][0]["status"] == "failed"
    assert "can't be reached" in world.upstream.last.items[-1]["output"]


async def test_a_choice_of_the_search_offers_it_alone(world: World) -> None:
    play(world, Script(output=(ASK,)), Script(output=(Text("found"),)))
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    await world.create("go", tools=[function, SEARCH], tool_choice={"type": "web_search_preview"})
    first = world.upstream.requests[0].json
    assert [tool["name"] for tool in first["tools"]] == ["web_search"]
    assert first["tool_choice"] == "required"


async def test_the_search_of_a_request_that_is_not_stored(world: World, engine: Hostile) -> None:
    play(world, Script(output=(ASK,)), Script(output=(Text("found"),)))
    response = await world.create("go", tools=[SEARCH], store=False)
    assert types(response["output"]) == ["web_search_call", "message"]
    assert len(searches(engine)) == 1


async def test_without_a_server_the_tool_is_left_out_as_before() -> None:
    async with open_world() as world:
        await world.create("hi", tools=[SEARCH])
    assert world.upstream.last.json["tools"] == []
