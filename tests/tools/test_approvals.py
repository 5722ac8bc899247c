"""A call that needs an approval is a question first, and is made once, when the answer has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import Call, Script, Text

if TYPE_CHECKING:
    from tests.tools.calculator import Calculator
    from tests.web.harness import World

Json = dict[str, Any]

ASK: Json = {"type": "mcp", "server_label": "calc"}
ADD = 'call calc__add {"a": 1, "b": 2}'
FUNCTION: Json = {"type": "function", "name": "lookup", "parameters": {"type": "object"}}


def answer(request: Json, approve: bool = True, **members: Any) -> Json:
    return {
        "type": "mcp_approval_response",
        "approval_request_id": request["id"],
        "approve": approve,
        **members,
    }


async def asked(world: World, **members: Any) -> tuple[Json, Json]:
    """A response that ends in a question, and the question."""
    response = await world.create(ADD, tools=[ASK], **members)
    request = response["output"][-1]
    assert request["type"] == "mcp_approval_request"
    return response, request


async def test_the_default_is_to_ask(world: World, calc: Calculator) -> None:
    response, request = await asked(world)
    assert request == {
        "id": request["id"],
        "type": "mcp_approval_request",
        "server_label": "calc",
        "name": "add",
        "arguments": '{"a": 1, "b": 2}',
    }
    assert response["status"] == "completed"
    assert calc.ran == []


async def test_a_question_is_told_in_two_events_with_nothing_between(world: World) -> None:
    events = await world.stream(ADD, tools=[ASK])
    about = [event for event in events if event.get("output_index") == 1]
    assert [event["type"] for event in about] == ["response.output_item.added", "response.output_item.done"]
    assert about[0]["item"] == about[1]["item"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_approved_call_is_made_and_told_first(world: World, calc: Calculator, stream: bool) -> None:
    response, request = await asked(world)
    members = {"tools": [ASK], "previous_response_id": response["id"]}
    if stream:
        events = await world.stream([answer(request)], **members)
        final = events[-1]["response"]
        assert [event["type"].removeprefix("response.") for event in events[:8]] == [
            "created",
            "in_progress",
            "output_item.added",
            "mcp_call.in_progress",
            "mcp_call_arguments.delta",
            "mcp_call_arguments.done",
            "mcp_call.completed",
            "output_item.done",
        ]
    else:
        final = await world.create([answer(request)], **members)
    assert [item["type"] for item in final["output"]] == ["mcp_call", "message"]
    call = final["output"][0]
    assert (call["approval_request_id"], call["output"], call["status"]) == (request["id"], "3", "completed")
    assert calc.ran == [("add", (1, 2))]
    shown = world.upstream.last.items
    assert [item["type"] for item in shown] == ["message", "function_call", "function_call_output"]
    assert shown[2]["output"] == "3"


async def test_a_denied_call_is_not_made_and_the_model_is_told(world: World, calc: Calculator) -> None:
    response, request = await asked(world)
    denial = answer(request, approve=False, reason="Not today.")
    final = await world.create([denial], tools=[ASK], previous_response_id=response["id"])
    assert [item["type"] for item in final["output"]] == ["message"]
    assert world.upstream.last.items[-1]["output"] == "The user did not approve this call. Not today."
    assert calc.ran == []


async def test_a_question_is_answered_once(world: World, calc: Calculator) -> None:
    response, request = await asked(world)
    members: Json = {"tools": [ASK], "previous_response_id": response["id"]}
    await world.create([answer(request)], **members)
    status, error = await world.refused([answer(request)], **members)
    assert (status, error["code"]) == (400, "approval_already_used")
    assert calc.ran == [("add", (1, 2))]


async def test_a_question_that_was_answered_in_the_history_is_not_answered_again(
    world: World, calc: Calculator
) -> None:
    response, request = await asked(world)
    denied = await world.create(
        [answer(request, approve=False)], tools=[ASK], previous_response_id=response["id"]
    )
    status, error = await world.refused([answer(request)], tools=[ASK], previous_response_id=denied["id"])
    assert (status, error["code"]) == (400, "approval_already_used")
    assert calc.ran == []


async def test_of_two_answers_at_once_one_makes_the_call(world: World, calc: Calculator) -> None:
    response, request = await asked(world)
    body = {
        "model": "tiny",
        "input": [answer(request)],
        "tools": [ASK],
        "previous_response_id": response["id"],
    }
    statuses = []

    async def approve() -> None:
        statuses.append((await world.post("/v1/responses", body)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(approve)
    assert sorted(statuses) == [200, 400, 400, 400, 400]
    assert calc.ran == [("add", (1, 2))]


async def test_an_answer_without_a_question_is_refused(world: World, calc: Calculator) -> None:
    status, error = await world.refused(
        [{"role": "user", "content": "hi"}, answer({"id": "mcpr_nothing"})], tools=[ASK]
    )
    assert (status, error["code"]) == (400, "approval_request_not_found")
    assert calc.ran == []


@pytest.mark.parametrize("missing", ["approve", "approval_request_id"])
async def test_half_an_answer_is_refused(world: World, missing: str) -> None:
    response, request = await asked(world)
    half = {name: value for name, value in answer(request).items() if name != missing}
    status, error = await world.refused([half], tools=[ASK], previous_response_id=response["id"])
    assert (status, error["code"]) == (400, "missing_required_parameter")


async def test_an_approval_needs_the_server_among_the_tools(world: World, calc: Calculator) -> None:
    response, request = await asked(world)
    for tools in ([], [FUNCTION]):
        status, error = await world.refused(
            [answer(request)], tools=tools, previous_response_id=response["id"]
        )
        assert (status, error["param"]) == (400, "tools")
    # What was refused has spent nothing.
    await world.create([answer(request)], tools=[ASK], previous_response_id=response["id"])
    assert calc.ran == [("add", (1, 2))]


async def test_a_client_that_keeps_its_own_history_repeats_an_approval(
    world: World, calc: Calculator
) -> None:
    first = await world.create(ADD, tools=[ASK], store=False)
    input = [{"role": "user", "content": ADD}, *first["output"], answer(first["output"][-1])]
    second = await world.create(input, tools=[ASK], store=False)
    assert [item["type"] for item in second["output"]] == ["mcp_call", "message"]
    input += [*second["output"], {"role": "user", "content": "and then?"}]
    third = await world.create(input, tools=[ASK], store=False)
    assert [item["type"] for item in third["output"]] == ["message"]
    assert calc.ran == [("add", (1, 2))]


async def test_an_approval_that_came_again_without_a_history_makes_no_second_call(
    world: World, calc: Calculator
) -> None:
    first = await world.create(ADD, tools=[ASK], store=False)
    input = [{"role": "user", "content": ADD}, *first["output"], answer(first["output"][-1])]
    await world.create(input, tools=[ASK], store=False)
    status, error = await world.refused(input, tools=[ASK], store=False)
    assert (status, error["code"]) == (400, "approval_already_used")
    assert calc.ran == [("add", (1, 2))]


@pytest.mark.parametrize(
    ("rule", "asks"),
    [
        ("always", True),
        (None, True),
        ("never", False),
        ({"never": {"tool_names": ["add"]}}, False),
        ({"never": {"tool_names": ["store"]}}, True),
        ({"never": {"read_only": True}}, False),
        ({"never": {"read_only": False}}, True),
        ({"always": {"tool_names": ["store"]}, "never": {"tool_names": ["add"]}}, False),
        ({"always": {"tool_names": ["add"]}, "never": {"tool_names": ["add"]}}, True),
        ({"never": {}}, True),
        ({}, True),
    ],
)
async def test_who_is_asked_follows_from_the_rule(world: World, rule: Any, asks: bool) -> None:
    response = await world.create(ADD, tools=[{**ASK, "require_approval": rule}])
    expected = ["mcp_approval_request"] if asks else ["mcp_call", "message"]
    assert [item["type"] for item in response["output"][1:]] == expected


@pytest.mark.parametrize(
    "rule", ["sometimes", 5, ["add"], {"never": "add"}, {"never": {"tool_names": "add"}}]
)
async def test_a_rule_that_is_none_is_refused(world: World, rule: Any) -> None:
    status, error = await world.refused(tools=[{**ASK, "require_approval": rule}])
    assert status == 400
    assert error["param"].startswith("tools[0].require_approval")


async def test_a_question_and_a_call_in_one_round(world: World, calc: Calculator) -> None:
    tool = {**ASK, "require_approval": {"never": {"tool_names": ["add"]}}}
    calls = (Call("calc__add", ('{"a": 1, "b": 2}',)), Call("calc__store", ('{"value": "x"}',)))
    world.upstream.script(Script(output=calls))
    response = await world.create("go", tools=[tool])
    types = [item["type"] for item in response["output"][1:]]
    assert types == ["mcp_call", "mcp_approval_request"]
    assert calc.ran == [("add", (1, 2))]
    world.upstream.script(Script(output=(Text("ok"),)))
    await world.create([answer(response["output"][2])], tools=[tool], previous_response_id=response["id"])
    assert calc.ran == [("add", (1, 2)), ("store", "x")]


async def test_a_question_in_a_conversation(world: World, calc: Calculator) -> None:
    conversation = await world.converse()
    _, request = await asked(world, conversation=conversation)
    final = await world.create([answer(request)], tools=[ASK], conversation=conversation)
    assert [item["type"] for item in final["output"]] == ["mcp_call", "message"]
    items = await world.items(f"/v1/conversations/{conversation}/items")
    assert [item["type"] for item in items] == [
        "message",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "message",
    ]
