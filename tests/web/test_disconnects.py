"""A client that leaves: the model is stopped at once, and the turn is recorded with what had arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import Script, Text
from tests.http_client import Exchange, open_exchange, open_under_way
from tests.oracles import check_response

from .harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LEAVES = {"fin": Exchange.fin, "reset": Exchange.reset, "half-close": Exchange.half_close}
however = pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES.keys())

STALLED = Script(stall_after=6, output=(Text(("one ", "two ", "three ", "four")),))
"""Stops after two deltas."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(list_endpoints=True) as world:
        world.upstream.script(STALLED)
        yield world


async def recorded(world: World, id: str) -> Any:
    """The response, once its turn has ended."""
    turn = world.gateway.turns.find("", id)
    if turn is not None:
        with trio.fail_after(5):
            await turn.wait_ended()
    return check_response((await world.client.get(f"/v1/responses/{id}")).content)


async def ask(client: Exchange, **members: Any) -> None:
    await client.request("POST", "/v1/responses", {"model": "tiny", "input": "hi", **members})


@however
async def test_leaving_mid_stream_stops_the_model(world: World, leave: Any) -> None:
    async with open_under_way(world.port, {"input": "hi"}, b"two") as client:
        await leave(client)
        with trio.fail_after(5):
            await world.upstream.wait_aborted(1)
    assert world.upstream.live == 0


@however
async def test_leaving_mid_stream_records_cancelled_with_the_partial_output(world: World, leave: Any) -> None:
    async with open_under_way(world.port, {"input": "hi"}, b"two") as client:
        id = client.id
        await leave(client)
        await world.upstream.wait_aborted(1)
    response = await recorded(world, id)
    assert response["status"] == "cancelled"
    assert response["error"] is None
    (item,) = response["output"]
    assert item["content"][0]["text"] == "one two "
    assert item["status"] == "incomplete"


@however
async def test_leaving_before_the_answer_stops_the_model_and_records_cancelled(
    world: World, leave: Any
) -> None:
    world.upstream.script(Script(hang=True))
    async with open_exchange(world.port) as client:
        await ask(client)
        await world.upstream.wait_stalled(1)
        (id,) = world.gateway.turns._running
        await leave(client)
        with trio.fail_after(5):
            await world.upstream.wait_aborted(1)
    response = await recorded(world, id)
    assert (response["status"], response["output"]) == ("cancelled", [])


@however
async def test_leaving_before_the_upstreams_head_stops_the_model(world: World, leave: Any) -> None:
    world.upstream.script(Script(hang=True))
    async with open_exchange(world.port) as client:
        await ask(client, stream=True)
        await world.upstream.wait_stalled(1)
        await leave(client)
        with trio.fail_after(5):
            await world.upstream.wait_aborted(1)


@however
async def test_cancelled_turn_adds_nothing_to_its_conversation_and_gives_it_free(
    world: World, leave: Any
) -> None:
    conversation = await world.converse()
    async with open_under_way(world.port, {"input": "hi", "conversation": conversation}, b"two") as client:
        id = client.id
        await leave(client)
        await world.upstream.wait_aborted(1)
    await recorded(world, id)
    assert await world.items(f"/v1/conversations/{conversation}/items") == []
    world.upstream.script(None)
    await world.create("again", conversation=conversation)


async def test_cancelled_response_can_be_continued_with_its_partial_output(world: World) -> None:
    async with open_under_way(world.port, {"input": "hi"}, b"two") as client:
        id = client.id
        await client.reset()
        await world.upstream.wait_aborted(1)
    await recorded(world, id)
    world.upstream.script(None)
    await world.create("go on", previous_response_id=id)
    assert [item["role"] for item in world.upstream.last.items] == ["user", "assistant", "user"]


async def test_input_of_a_cancelled_response_can_be_read(world: World) -> None:
    async with open_under_way(world.port, {"input": "hi"}, b"two") as client:
        id = client.id
        await client.reset()
        await world.upstream.wait_aborted(1)
    await recorded(world, id)
    assert await world.items(f"/v1/responses/{id}/input_items") == world.upstream.last.items


async def test_fifty_clients_leaving_at_once_are_each_recorded_once(world: World) -> None:
    ids: list[str] = []

    async def leave_early(number: int) -> None:
        async with open_under_way(world.port, {"input": f"client {number}"}, b"two") as client:
            ids.append(client.id)
            await client.reset()

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(leave_early, number)
    with trio.fail_after(10):
        await world.upstream.wait_aborted(50)
    assert [(await recorded(world, id))["status"] for id in ids] == ["cancelled"] * 50
    listed = (await world.client.get("/v1/responses?limit=100")).json()["data"]
    assert sorted(response["id"] for response in listed) == sorted(ids)


async def test_turn_timeout_ends_a_stream_with_an_event_that_says_so() -> None:
    async with open_world(STALLED, turn_timeout=0.2) as world:
        async with open_under_way(world.port, {"input": "hi"}, b"two") as client:
            await client.read()
            id, events = client.id, client.events
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        assert events[-2]["code"] == "turn_timeout"
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "one two "
        assert (await world.client.get(f"/v1/responses/{id}")).json() == events[-1]["response"]
        await world.upstream.wait_aborted(1)


async def test_turn_timeout_without_stream_is_504() -> None:
    async with open_world(Script(hang=True), turn_timeout=0.2) as world:
        status, error = await world.refused("hi")
        assert (status, error["code"]) == (504, "turn_timeout")
        await world.upstream.wait_aborted(1)
