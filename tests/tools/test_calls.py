"""A response whose tools are run here: what the client gets, what the servers see, what is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_upstream import Call, Script, Text
from tests.web.harness import World, open_world

if TYPE_CHECKING:
    from tests.tools.calculator import Calculator

Json = dict[str, Any]

NEVER: Json = {"type": "mcp", "server_label": "calc", "require_approval": "never"}
ADD = 'call calc__add {"a": 1, "b": 2}'
FUNCTION: Json = {"type": "function", "name": "lookup", "parameters": {"type": "object"}}


def play(world: World, *scripts: Script) -> None:
    """Have the model answer with these, one after the other."""
    rest = iter(scripts)
    world.upstream.script(lambda _: next(rest))


def types(items: list[Json]) -> list[str]:
    return [item["type"] for item in items]


async def test_a_call_runs_and_the_model_goes_on_with_its_result(world: World, calc: Calculator) -> None:
    response = await world.create(ADD, tools=[NEVER])
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]
    listed, call, message = response["output"]
    assert [tool["name"] for tool in listed["tools"]] == ["add", "store", "fail", "wait", "large"]
    assert [tool["annotations"] for tool in listed["tools"][:2]] == [
        {"read_only": True},
        {"read_only": False},
    ]
    assert (call["server_label"], call["name"], call["status"]) == ("calc", "add", "completed")
    assert (call["output"], call["error"], call["approval_request_id"]) == ("3", None, None)
    assert message["content"][0]["text"] == "echo: 3 items; last: 3"
    assert calc.ran == [("add", (1, 2))]
    asked = world.upstream.requests[-1].json
    assert [item["type"] for item in asked["input"]] == ["message", "function_call", "function_call_output"]
    assert asked["input"][1]["name"] == "calc__add"
    assert {tool["name"] for tool in asked["tools"]} >= {"calc__add", "calc__store"}


async def test_the_usage_of_a_response_is_that_of_its_rounds(world: World) -> None:
    whole = await world.create(ADD, tools=[NEVER])
    rounds = [
        await world.create(request.items, tools=request.json["tools"])
        for request in world.upstream.requests[-2:]
    ]
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        assert whole["usage"][name] == sum(each["usage"][name] for each in rounds)


async def test_the_events_of_a_call_come_in_openais_order(world: World) -> None:
    events = await world.stream(ADD, tools=[NEVER])
    names = [
        event["type"].removeprefix("response.") for event in events if not event["type"].endswith("delta")
    ]
    assert names == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_recorded_is_what_was_told(world: World, stream: bool) -> None:
    if stream:
        told = (await world.stream(ADD, tools=[NEVER]))[-1]["response"]
    else:
        told = await world.create(ADD, tools=[NEVER])
    assert (await world.client.get(f"/v1/responses/{told['id']}")).json() == told


async def test_a_list_in_the_history_is_not_asked_for_again(world: World, calc: Calculator) -> None:
    first = await world.create(ADD, tools=[NEVER])
    calc.requests.clear()
    again = await world.create(
        'call calc__store {"value": "x"}', tools=[NEVER], previous_response_id=first["id"]
    )
    assert types(again["output"]) == ["mcp_call", "message"]
    assert calc.methods() == ["tools/call"]


async def test_calls_of_several_rounds_are_one_response(world: World, calc: Calculator) -> None:
    calls = [Call("calc__store", (f'{{"value": "{n}"}}',)) for n in range(3)]
    play(world, Script(output=(calls[0], calls[1])), Script(output=(calls[2],)), Script(output=(Text("ok"),)))
    response = await world.create("go", tools=[NEVER])
    assert types(response["output"]) == ["mcp_list_tools", *["mcp_call"] * 3, "message"]
    assert sorted(calc.ran) == [("store", "0"), ("store", "1"), ("store", "2")]


async def test_a_tool_that_fails_is_told_to_the_model_and_the_client(world: World) -> None:
    response = await world.create('call calc__fail {"why": "too late"}', tools=[NEVER])
    call, message = response["output"][1:]
    assert (call["status"], call["output"]) == ("failed", None)
    assert call["error"]["type"] == "mcp_tool_execution_error"
    assert call["error"]["content"] == [{"type": "text", "text": "Error executing tool fail"}]
    assert "Error: Error executing tool fail" in message["content"][0]["text"]


async def test_a_name_that_the_model_made_up_is_a_failed_call(world: World, calc: Calculator) -> None:
    play(world, Script(output=(Call("calc__nope", ("{}",)),)), Script(output=(Text("ok"),)))
    call = (await world.create("go", tools=[NEVER, FUNCTION]))["output"][1]
    assert (call["type"], call["name"], call["status"]) == ("mcp_call", "nope", "failed")
    assert call["error"] == {"type": "mcp_protocol_error", "code": -32602, "message": "Unknown tool: nope"}
    assert calc.ran == []


@pytest.mark.parametrize("arguments", ["[1]", "{", "nonsense", '"text"'])
async def test_arguments_that_are_no_object_are_told_to_the_model(
    world: World, calc: Calculator, arguments: str
) -> None:
    play(world, Script(output=(Call("calc__add", (arguments,)),)), Script(output=(Text("ok"),)))
    response = await world.create("go", tools=[NEVER])
    call = response["output"][1]
    assert call["error"]["code"] == -32602
    assert calc.ran == []
    assert response["status"] == "completed"


async def test_an_unknown_server_is_refused(world: World) -> None:
    status, error = await world.refused(tools=[{**NEVER, "server_label": "other"}])
    assert (status, error["code"], error["param"]) == (400, "unknown_mcp_server", "tools[0].server_label")


async def test_a_dead_server_is_a_424(world: World) -> None:
    async with open_world(mcp_servers=("calc=http://127.0.0.1:1/mcp",)) as dead:
        status, error = await dead.refused(tools=[NEVER])
    assert status == 424
    assert error == {
        "message": "Error retrieving tool list from MCP server: 'calc'. The server can't be reached.",
        "type": "external_connector_error",
        "param": "tools",
        "code": "http_error",
    }
    assert dead.upstream.requests == []


async def test_a_request_that_is_not_stored_leaves_no_row(world: World, calc: Calculator) -> None:
    response = await world.create(ADD, tools=[NEVER], store=False)
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]
    assert calc.ran == [("add", (1, 2))]
    assert (await world.client.get(f"/v1/responses/{response['id']}")).status_code == 404


async def test_a_request_without_such_a_tool_is_still_relayed(world: World) -> None:
    answer = await world.post(
        "/v1/responses", {"model": "tiny", "input": "hi", "store": False, "tools": [FUNCTION]}
    )
    assert answer.json()["id"] == "resp_" + answer.json()["id"].removeprefix("resp_")
    assert world.upstream.requests[-1].json["tools"] == [FUNCTION]
