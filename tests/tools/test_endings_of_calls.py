"""However a response ends while its tools run, the record says what was done and what may have been."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentic_trio.gateway.rounds import ToolTurn
from tests.fake_upstream import Call, Script, Text
from tests.tools.calculator import open_calculator
from tests.tools.test_calls import ADD, NEVER, play, types
from tests.web.harness import World, open_world

if TYPE_CHECKING:
    from tests.tools.calculator import Calculator

Json = dict[str, Any]

WAIT = Call("calc__wait", ('{"name": "a"}',))
MAY_HAVE_RUN = "The call was interrupted: the tool may have run."


async def recorded(world: World, id: str) -> Json:
    answer = await world.client.get(f"/v1/responses/{id}")
    assert answer.status_code == 200, answer.text
    response: Json = answer.json()
    return response


async def started(world: World, calc: Calculator, **members: Any) -> str:
    """The id of a background response whose call is under way."""
    world.upstream.script(Script(output=(WAIT,)))
    response = await world.create("go", tools=[NEVER], background=True, **members)
    await calc.began.wait()
    return str(response["id"])


async def cancelled_call(calc: Calculator) -> None:
    """Wait until the server has seen that the call was cancelled."""
    with trio.fail_after(5):
        while not calc.cancelled:
            await trio.testing.wait_all_tasks_blocked(0.01)


# ``mcp`` leaves the generators of answers that are event streams to the garbage collector.
older_servers = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=["2026-07-28", "2025-06-18"])
def protocol(request: Any, monkeypatch: Any) -> str:
    """Servers of both kinds: those with sessions learn of a cancelled call by a message."""
    if request.param != "2026-07-28":
        from mcp.client import client

        monkeypatch.setattr(client, "negotiate_auto", lambda session: session.initialize())
    return str(request.param)


@older_servers
async def test_a_cancelled_response_says_that_the_call_may_have_run(
    world: World, calc: Calculator, protocol: str
) -> None:
    id = await started(world, calc)
    await world.post(f"/v1/responses/{id}/cancel")
    response = await recorded(world, id)
    assert response["status"] == "cancelled"
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call"]
    call = response["output"][1]
    assert (call["status"], call["output"]) == ("incomplete", None)
    assert call["error"] == {"type": "mcp_protocol_error", "code": -32603, "message": MAY_HAVE_RUN}
    await cancelled_call(calc)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_the_call(world: World, calc: Calculator, stream: bool) -> None:
    world.upstream.script(Script(output=(WAIT,)))
    body = {"model": "tiny", "input": "go", "tools": [NEVER], "stream": stream}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.post, "/v1/responses", body))
        await calc.began.wait()
        nursery.cancel_scope.cancel()
    await cancelled_call(calc)


async def test_the_next_turn_knows_that_a_call_may_have_run(world: World, calc: Calculator) -> None:
    id = await started(world, calc)
    await world.post(f"/v1/responses/{id}/cancel")
    world.upstream.script(Script(output=(Text("ok"),)))
    await world.create("and now?", tools=[NEVER], previous_response_id=id)
    shown = world.upstream.last.items
    assert [item["type"] for item in shown] == ["message", "function_call", "function_call_output", "message"]
    assert shown[2]["output"] == f"Error: {MAY_HAVE_RUN}"


async def test_a_deadline_ends_the_call_and_the_response(calc: Calculator) -> None:
    async with open_world(mcp_servers=(f"calc={calc.url}",), turn_timeout=0.5) as world:
        world.upstream.script(Script(output=(WAIT,)))
        body = {"model": "tiny", "input": "go", "tools": [NEVER], "stream": True}
        answer = await world.post("/v1/responses", body)
        assert b"turn_timeout" in answer.content
        assert MAY_HAVE_RUN.encode() in answer.content
        await cancelled_call(calc)


async def test_a_shutdown_ends_the_call_and_the_response(calc: Calculator) -> None:
    async with open_world(mcp_servers=(f"calc={calc.url}",)) as world:
        id = await started(world, calc)
        await world.gateway.turns.close()
        response = await recorded(world, id)
    assert response["status"] == "cancelled"
    assert response["output"][1]["error"]["message"] == MAY_HAVE_RUN
    await cancelled_call(calc)


async def test_what_had_ended_when_another_call_was_cancelled_is_kept(world: World, calc: Calculator) -> None:
    play(world, Script(output=(Call("calc__store", ('{"value": "x"}',)), WAIT)))
    turn = None
    async with trio.open_nursery() as nursery:
        body = {"model": "tiny", "input": "go", "tools": [NEVER], "stream": True, "background": True}
        nursery.start_soon(partial(world.post, "/v1/responses", body))
        await calc.began.wait()
        [turn] = world.gateway.turns._running.values()
        position = 0
        while b"mcp_call.completed" not in b"".join(turn.log.whole() or ()):
            position += len(await turn.log.read(position))
        turn.cancel()
    store, wait = (await recorded(world, turn.id))["output"][1:]
    assert (store["status"], store["output"]) == ("completed", "stored x")
    assert wait["status"] == "incomplete"


async def test_a_tool_that_is_too_slow_has_failed_and_the_model_is_told(calc: Calculator) -> None:
    async with open_world(mcp_servers=(f"calc={calc.url}",), mcp_call_timeout=0.3) as world:
        play(world, Script(output=(WAIT,)), Script(output=(Text("ok"),)))
        response = await world.create("go", tools=[NEVER])
    call = response["output"][1]
    assert call["error"] == {"type": "http_error", "code": 504, "message": "The tool did not answer in time."}
    assert response["status"] == "completed"
    await cancelled_call(calc)


async def test_a_response_that_is_retried_with_its_key_calls_nothing_again(calc: Calculator) -> None:
    async with open_world(mcp_servers=(f"calc={calc.url}",)) as world:
        play(world, Script(output=(Call("calc__store", ('{"value": "x"}',)),)), Script(status=500))
        body = {"model": "tiny", "input": "go", "tools": [NEVER]}
        headers = {"idempotency-key": "one"}
        first = await world.post("/v1/responses", body, headers=headers)
        again = await world.post("/v1/responses", body, headers=headers)
    assert first.status_code == 500
    assert again.json()["status"] == "failed"
    assert again.json()["output"][1]["output"] == "stored x"
    assert calc.ran == [("store", "x")]


async def test_a_store_that_fails_lets_no_call_leave(
    world: World, calc: Calculator, monkeypatch: Any
) -> None:
    from agentic_trio.store.contract import StoreError

    async def fail(*_: Any) -> None:
        raise StoreError("the disk is full")

    world.upstream.script(Script(output=(Call("calc__store", ('{"value": "x"}',)),)))
    monkeypatch.setattr("agentic_trio.gateway.recording.Recording.mark", fail)
    status, error = await world.refused("go", tools=[NEVER])
    assert (status, error["code"]) == (503, "service_unavailable")
    assert calc.ran == []


async def test_calls_are_marked_before_any_is_sent(world: World, calc: Calculator, monkeypatch: Any) -> None:
    order = []
    mark, make = ToolTurn._mark, ToolTurn._make_one

    async def marking(turn: Any) -> None:
        await mark(turn)
        order.append("marked")

    async def making(turn: Any, call: Any) -> None:
        order.append("made")
        await make(turn, call)

    monkeypatch.setattr(ToolTurn, "_mark", marking)
    monkeypatch.setattr(ToolTurn, "_make_one", making)
    two = Call("calc__store", ('{"value": "x"}',))
    play(world, Script(output=(two, two)), Script(output=(Text("ok"),)))
    await world.create("go", tools=[NEVER])
    assert order == ["marked", "made", "made"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_background_response_runs_its_tools(world: World, calc: Calculator, stream: bool) -> None:
    if stream:
        events = await world.stream(ADD, tools=[NEVER], background=True, interleaved=True)
        response = events[-1]["response"]
    else:
        response = await world.create(ADD, tools=[NEVER], background=True)
        with trio.fail_after(5):
            while response["status"] in ("queued", "in_progress"):
                response = await recorded(world, response["id"])
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]


async def test_a_background_response_whose_server_is_dead_has_failed() -> None:
    async with open_world(mcp_servers=("calc=http://127.0.0.1:1/mcp",)) as world:
        response = await world.create(ADD, tools=[NEVER], background=True)
        with trio.fail_after(5):
            while response["status"] in ("queued", "in_progress"):
                response = await recorded(world, response["id"])
    assert response["status"] == "failed"
    assert "Error retrieving tool list from MCP server: 'calc'" in response["error"]["message"]


async def test_a_stream_is_read_again_with_its_calls(world: World) -> None:
    events = await world.stream(ADD, tools=[NEVER])
    id = events[0]["response"]["id"]
    answer = await world.client.get(f"/v1/responses/{id}", params={"stream": "true", "starting_after": 5})
    assert answer.content.count(b"event: ") == len(events) - 6
    assert b"response.mcp_call.completed" in answer.content


async def test_an_embedded_response_runs_its_tools(world: World, calc: Calculator) -> None:
    request = {"model": "tiny", "input": ADD, "tools": [NEVER]}
    response = await world.gateway.create_response(request)
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]
    async with world.gateway.stream_response(request) as events:
        names = [event["type"] async for event in events]
    assert "response.mcp_call.completed" in names
    assert len(calc.ran) == 2


async def test_sessions_of_two_turns_are_two(world: World, calc: Calculator) -> None:
    await world.create(ADD, tools=[NEVER])
    await world.create(ADD, tools=[NEVER])
    probes = [method for _, method, _ in calc.requests if method == "server/discover"]
    assert len(probes) == 2


@older_servers
async def test_sessions_end_with_their_turns(protocol: str) -> None:
    async with open_calculator() as calc, open_world(mcp_servers=(f"calc={calc.url}",)) as world:
        await world.create(ADD, tools=[NEVER])
        ended = [verb for verb, _, _ in calc.requests if verb == "DELETE"]
        assert len(ended) == (0 if protocol == "2026-07-28" else 1)
