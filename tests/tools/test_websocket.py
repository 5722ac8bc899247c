"""Tools over a WebSocket: the same turns, stored or kept by the connection alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.tools.test_calls import ADD, NEVER, types
from tests.websocket_client import open_socket

if TYPE_CHECKING:
    from tests.tools.calculator import Calculator
    from tests.web.harness import World

ASK: dict[str, Any] = {"type": "mcp", "server_label": "calc"}


@pytest.mark.parametrize("store", [False, True])
async def test_a_call_over_a_websocket(world: World, calc: Calculator, store: bool) -> None:
    async with open_socket(world.port) as socket:
        response = await socket.respond(ADD, tools=[NEVER], store=store)
        assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]
        again = await socket.respond(ADD, tools=[NEVER], store=store, previous_response_id=response["id"])
        assert types(again["output"]) == ["mcp_call", "message"]
    assert len(calc.ran) == 2


@pytest.mark.parametrize("store", [False, True])
async def test_a_question_over_a_websocket(world: World, calc: Calculator, store: bool) -> None:
    async with open_socket(world.port) as socket:
        first = await socket.respond(ADD, tools=[ASK], store=store)
        answer = {
            "type": "mcp_approval_response",
            "approval_request_id": first["output"][-1]["id"],
            "approve": True,
        }
        members = {"tools": [ASK], "store": store, "previous_response_id": first["id"]}
        second = await socket.respond([answer], **members)
        assert types(second["output"]) == ["mcp_call", "message"]
        frame = await socket.refused(input=[answer], **members)
        assert frame["error"]["code"] in ("approval_already_used", "previous_response_not_found")
    assert calc.ran == [("add", (1, 2))]


async def test_a_client_that_leaves_its_socket_cancels_the_call(world: World, calc: Calculator) -> None:
    async with open_socket(world.port) as socket:
        await socket.create('call calc__wait {"name": "a"}', tools=[NEVER])
        await calc.began.wait()
    with trio.fail_after(5):
        while not calc.cancelled:
            await trio.testing.wait_all_tasks_blocked(0.01)
