"""Which tools a model may call, how often, and what the client runs beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_upstream import Call, Script, Text
from tests.tools.test_calls import ADD, FUNCTION, NEVER, play, types
from tests.web.harness import World, open_world

if TYPE_CHECKING:
    from tests.tools.calculator import Calculator

Json = dict[str, Any]

STORE = Call("calc__store", ('{"value": "x"}',))


def offered(request: Any) -> list[str]:
    return [tool["name"] for tool in request.json["tools"]]


@pytest.mark.parametrize(
    ("allowed", "names"),
    [
        (None, ["add", "store", "fail", "wait", "large"]),
        ([], []),
        (["add"], ["add"]),
        ({"tool_names": ["store", "nope"]}, ["store"]),
        ({"read_only": True}, ["add"]),
        ({"read_only": True, "tool_names": ["store"]}, []),
    ],
)
async def test_only_what_is_allowed_is_offered(world: World, allowed: Any, names: list[str]) -> None:
    await world.create("hi", tools=[{**NEVER, "allowed_tools": allowed}])
    assert offered(world.upstream.last) == [f"calc__{name}" for name in names]


async def test_a_tool_that_is_not_allowed_is_not_called(world: World, calc: Calculator) -> None:
    play(world, Script(output=(STORE,)), Script(output=(Text("ok"),)))
    call = (await world.create("go", tools=[{**NEVER, "allowed_tools": ["add"]}]))["output"][1]
    assert (call["status"], call["error"]["message"]) == ("failed", "Unknown tool: store")
    assert calc.ran == []


@pytest.mark.parametrize("allowed", ["add", 5, [5], {"tool_names": "add"}, {"read_only": "yes"}])
async def test_a_choice_of_tools_that_is_none_is_refused(world: World, allowed: Any) -> None:
    status, error = await world.refused(tools=[{**NEVER, "allowed_tools": allowed}])
    assert status == 400
    assert error["param"].startswith("tools[0].allowed_tools")


async def test_a_choice_of_a_server_offers_its_tools_alone_and_once(world: World) -> None:
    choice = {"type": "mcp", "server_label": "calc"}
    play(world, Script(output=(STORE,)), Script(output=(Text("ok"),)))
    response = await world.create("go", tools=[NEVER, FUNCTION], tool_choice=choice)
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]
    first, second = world.upstream.requests[-2:]
    assert first.json["tool_choice"] == "required"
    assert "lookup" not in offered(first)
    assert "tool_choice" not in second.json
    assert "lookup" in offered(second)
    assert response["tool_choice"] == choice


async def test_a_choice_of_a_tool_is_one_of_its_function(world: World) -> None:
    choice = {"type": "mcp", "server_label": "calc", "name": "store"}
    play(world, Script(output=(STORE,)), Script(output=(Text("ok"),)))
    await world.create("go", tools=[NEVER], tool_choice=choice)
    first, second = world.upstream.requests[-2:]
    assert first.json["tool_choice"] == {"type": "function", "name": "calc__store"}
    assert "tool_choice" not in second.json


async def test_what_is_required_is_required_once(world: World) -> None:
    play(world, Script(output=(STORE,)), Script(output=(Text("ok"),)))
    await world.create("go", tools=[NEVER], tool_choice="required")
    assert [each.json.get("tool_choice") for each in world.upstream.requests[-2:]] == ["required", None]


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "mcp", "server_label": "other"},
        {"type": "mcp"},
        {"type": "mcp", "server_label": "calc", "name": "nope"},
    ],
)
async def test_a_choice_of_what_is_not_there_is_refused(world: World, choice: Json) -> None:
    status, error = await world.refused(tools=[NEVER], tool_choice=choice)
    assert status == 400
    assert error["param"].startswith("tool_choice")


async def test_calls_over_the_limit_are_not_made(world: World, calc: Calculator) -> None:
    play(world, Script(output=(STORE, STORE, STORE)), Script(output=(Text("ok"),)))
    response = await world.create("go", tools=[NEVER], max_tool_calls=2)
    calls = [item for item in response["output"] if item["type"] == "mcp_call"]
    assert [call["status"] for call in calls] == ["completed", "completed", "failed"]
    assert "No more tools" in calls[2]["error"]["content"][0]["text"]
    assert len(calc.ran) == 2
    last = world.upstream.last.json
    assert last["tool_choice"] == "none"
    assert "max_tool_calls" not in last


async def test_a_response_has_sixteen_rounds_at_most(world: World, calc: Calculator) -> None:
    world.upstream.script(Script(output=(STORE,)))
    response = await world.create("go", tools=[NEVER])
    assert response["status"] == "completed"
    assert len(world.upstream.requests) == 16
    assert world.upstream.last.json["tool_choice"] == "none"
    assert len(calc.ran) == 15
    assert response["output"][-1]["status"] == "failed"


async def test_the_rounds_share_the_tokens_of_the_response(world: World) -> None:
    play(world, Script(output=(STORE,)), Script(output=(Text("ok"),)))
    await world.create("go", tools=[NEVER], max_output_tokens=100)
    first, second = (each.json["max_output_tokens"] for each in world.upstream.requests[-2:])
    assert first == 100
    assert 0 < second < 100


async def test_a_response_whose_tokens_are_spent_ends_between_rounds(world: World, calc: Calculator) -> None:
    play(world, Script(output=(STORE,), response={"usage": {"input_tokens": 1, "output_tokens": 16}}))
    response = await world.create("go", tools=[NEVER], max_output_tokens=16)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call"]
    assert len(calc.ran) == 1


async def test_a_round_that_was_cut_off_calls_nothing(world: World, calc: Calculator) -> None:
    world.upstream.script(Script(output=(STORE, Text("and th")), stop="length"))
    for stream in (False, True):
        if stream:
            response = (await world.stream("go", tools=[NEVER], interleaved=True))[-1]["response"]
        else:
            response = await world.create("go", tools=[NEVER])
        assert response["status"] == "incomplete"
        call = response["output"][1]
        assert (call["status"], call["output"]) == ("incomplete", None)
        again = await world.post(
            "/v1/responses", {"model": "tiny", "input": "on", "previous_response_id": response["id"]}
        )
        assert again.status_code == 200, again.text
    assert calc.ran == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_function_of_the_client_ends_the_response(
    world: World, calc: Calculator, stream: bool
) -> None:
    lookup = Call("lookup", ('{"key": 1}',))
    world.upstream.script(Script(output=(STORE, lookup)))
    if stream:
        response = (await world.stream("go", tools=[NEVER, FUNCTION], interleaved=True))[-1]["response"]
    else:
        response = await world.create("go", tools=[NEVER, FUNCTION])
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "function_call"]
    assert response["output"][2]["name"] == "lookup"
    assert response["status"] == "completed"
    assert len(calc.ran) == 1
    output = {"type": "function_call_output", "call_id": response["output"][2]["call_id"], "output": "v"}
    world.upstream.script(Script(output=(Text("ok"),)))
    await world.create([output], tools=[NEVER, FUNCTION], previous_response_id=response["id"])
    shown = [item["type"] for item in world.upstream.last.items]
    assert shown.count("function_call") == shown.count("function_call_output") == 2


async def test_a_function_with_the_name_of_a_tool_is_refused(world: World) -> None:
    status, error = await world.refused(tools=[NEVER, {**FUNCTION, "name": "calc__add"}])
    assert (status, error["param"]) == (400, "tools")


async def test_two_servers_have_each_their_own_tools(calc: Calculator) -> None:
    async with open_world(mcp_servers=(f"one={calc.url}", f"two={calc.url}")) as world:
        tools = [{**NEVER, "server_label": label} for label in ("one", "two")]
        response = await world.create('call two__add {"a": 2, "b": 2}', tools=tools)
    assert [item.get("server_label") for item in response["output"]] == ["one", "two", "two", None]


async def test_one_label_twice_is_refused(world: World) -> None:
    status, error = await world.refused(tools=[NEVER, NEVER])
    assert (status, error["param"]) == (400, "tools[1].server_label")


@pytest.mark.parametrize("label", ["", "1a", "a b", "a" * 65, "ä", 5, None])
async def test_a_label_that_is_none_is_refused(world: World, label: Any) -> None:
    status, error = await world.refused(tools=[{**NEVER, "server_label": label}])
    assert (status, error["param"]) == (400, "tools[0].server_label")


@pytest.mark.parametrize("member", ["connector_id", "tunnel_id"])
async def test_a_server_that_only_openai_has_is_refused(world: World, member: str) -> None:
    status, error = await world.refused(tools=[{**NEVER, member: "x"}])
    assert (status, error["code"]) == (400, "unsupported_parameter")


async def test_a_refused_schema_is_asked_for_loosely(world: World) -> None:
    def choose(request: Any) -> Script:
        strict = any(tool["strict"] for tool in request.json["tools"])
        return (
            Script(status=400, error="The schema is no grammar.") if strict else Script(output=(Text("ok"),))
        )

    world.upstream.script(choose)
    response = await world.create("hi", tools=[NEVER])
    assert response["status"] == "completed"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_model_server_keeps_its_status(world: World, stream: bool) -> None:
    world.upstream.script(Script(status=429, error="Slow down."))
    status, error = await world.refused(ADD, tools=[NEVER], stream=stream)
    assert (status, error["message"]) == (429, "Slow down.")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_server_that_fails_in_a_later_round(
    world: World, calc: Calculator, stream: bool
) -> None:
    play(world, Script(output=(STORE,)), Script(status=500, error="Broken."))
    body = {"model": "tiny", "input": "go", "tools": [NEVER], "stream": stream}
    answer = await world.post("/v1/responses", body)
    if stream:
        assert answer.status_code == 200
        assert b"response.failed" in answer.content
    else:
        assert answer.status_code == 500
    assert len(calc.ran) == 1
