"""A client that leaves, cancels or comes back at every event of a stream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.fake_upstream import Call, Reasoning, Script, Text
from tests.http_client import open_at_event, open_exchange
from tests.oracles import check_event_stream, check_response, check_resumed

from .ledger import ledger
from .world import check_ended_early, continued, ended, get, open_file_world, status_on_disk, streamed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http_client import Exchange
    from tests.web.harness import World

OUTPUT = Script(
    output=(
        Reasoning(("Let me", " see.")),
        Text(("It is", " ten", " o'clock.")),
        Call("now", ('{"zone"', ':"UTC"}')),
    )
)
TOOLS = [{"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}]
REQUEST = streamed(tools=TOOLS)

COUNT = 23
"""How many events that answer has, the model server's as ours. In the background there is one more."""


def stopping_after(events: int) -> Script:
    return OUTPUT.varied(stall_after=events)


async def leave(client: Exchange, index: int) -> None:
    """As browsers do, and as killed programs do."""
    await (client.reset() if index % 2 else client.fin())
    ledger.fault()


async def test_an_answer_has_as_many_events_as_are_tried(database: Path) -> None:
    async with open_file_world(database, OUTPUT) as world:
        assert len(await world.stream(tools=TOOLS)) == COUNT
        assert len(await world.stream(tools=TOOLS, background=True)) == COUNT + 1


async def test_leaving_at_any_event_records_exactly_what_had_arrived(database: Path) -> None:
    async with open_file_world(database) as world:
        for index in range(COUNT - 1):
            aborted = world.upstream.aborted
            world.upstream.script(stopping_after(index + 1))
            async with open_at_event(world.port, REQUEST, index + 1) as client:
                await world.upstream.wait_stalled(1)
                await leave(client, index)
            await world.upstream.wait_aborted(aborted + 1)
            assert len(client.events) == max(index + 1, 2), "the head is two events"
            await check_ended_early(world, client.id, client.events, status="cancelled")


async def test_leaving_at_the_last_event_changes_nothing(database: Path) -> None:
    async with open_file_world(database, OUTPUT) as world:
        async with open_at_event(world.port, REQUEST, COUNT) as client:
            await leave(client, COUNT)
        response = await ended(world.client, client.id, "completed")
        ledger.check(response == client.events[-1]["response"], response)


async def test_a_turn_that_is_to_finish_does_so_whenever_its_client_leaves(database: Path) -> None:
    async with open_file_world(database) as world:
        for index in range(COUNT - 1):
            conversation = await world.converse()
            world.upstream.script(stopping_after(index + 1))
            body = REQUEST | {"conversation": conversation}
            async with open_at_event(world.port, body, index + 1, x_on_disconnect="finish") as client:
                await world.upstream.wait_stalled(1)
                await leave(client, index)
            world.upstream.release()
            response = await ended(world.client, client.id, "completed")
            whole = await world.client.get(f"/v1/responses/{client.id}?stream=true")
            events = check_event_stream(whole.content, body)
            ledger.check(whole.content.startswith(client.body), "what was sent is how the stream begins")
            ledger.check(events[-1]["response"] == response, response)
            items = await world.items(f"/v1/conversations/{conversation}/items")
            ledger.check(items[1:] == response["output"], items)
        assert world.upstream.aborted == 0


async def test_cancelling_a_background_turn_at_any_event_records_exactly_what_had_arrived(
    database: Path,
) -> None:
    body = REQUEST | {"background": True}
    async with open_file_world(database) as world:
        # The first of the model server's events are told as three of ours.
        for index in range(2, COUNT):
            aborted = world.upstream.aborted
            world.upstream.script(stopping_after(index))
            async with open_at_event(world.port, body, index + 1) as client:
                await world.upstream.wait_stalled(1)
                first = await world.post(f"/v1/responses/{client.id}/cancel")
                again = await world.post(f"/v1/responses/{client.id}/cancel")
                ledger.fault()
                whole = await client.read()
            assert (first.status_code, first.content) == (200, again.content)
            assert whole.endswith(b"data: [DONE]\n\n")
            await world.upstream.wait_aborted(aborted + 1)
            response = await check_ended_early(world, client.id, client.events, status="cancelled")
            assert response == check_response(first.content, body, status="cancelled")


async def test_cancelling_a_turn_that_waits_for_its_start_calls_no_model(database: Path) -> None:
    async with open_file_world(database, stopping_after(0), max_background=1) as world:
        await world.create(background=True)
        await world.upstream.wait_stalled(1)
        queued = await world.create(background=True)
        assert queued["status"] == "queued"
        answer = await world.post(f"/v1/responses/{queued['id']}/cancel")
        ledger.fault()
        response = check_response(answer.content, status="cancelled")
        assert response["output"] == []
        ledger.check(json.loads(await get(world.client, queued["id"])) == response, response)
        assert len(world.upstream.requests) == 1


@pytest.mark.parametrize("background", [False, True])
async def test_a_stream_is_resumed_from_any_event_byte_for_byte(database: Path, background: bool) -> None:
    """By many readers at once: some come while it runs, the others when it has ended."""
    body = REQUEST | {"background": background}
    half = COUNT // 2
    async with open_file_world(database, stopping_after(half)) as world:
        resumed: dict[int, bytes] = {}

        async def resume(after: int) -> None:
            answer = await world.client.get(f"/v1/responses/{client.id}?stream=true&starting_after={after}")
            resumed[after] = answer.content

        async with open_at_event(world.port, body, half) as client:
            async with trio.open_nursery() as nursery:
                for after in range(-1, COUNT + background):
                    nursery.start_soon(resume, after)
                await trio.testing.wait_all_tasks_blocked(0.01)
                world.upstream.release()
            whole = await client.read()
        events = check_event_stream(whole, body)
        live = resumed.copy()
        for after in range(-1, COUNT + background):
            await resume(after)
        for found in (live, resumed):
            for after, answer in found.items():
                ledger.fault()
                check_resumed(answer, events, starting_after=after)
                ledger.check(whole.endswith(answer), after)


@pytest.mark.parametrize("how", ["before the head", "in the body"])
async def test_leaving_an_answer_that_is_not_streamed_aborts_the_model_server(
    database: Path, how: str
) -> None:
    scripts = {"before the head": Script(hang=True), "in the body": Script(stall_after=0, cut_bytes=40)}
    async with open_file_world(database, scripts[how], list_endpoints=True) as world:
        conversation = await world.converse()
        body = {"model": "tiny", "input": "hi", "conversation": conversation}
        async with open_exchange(world.port) as client:
            await client.request("POST", "/v1/responses", body)
            await world.upstream.wait_stalled(1)
            await leave(client, 0)
        await world.upstream.wait_aborted(1)
        [response] = await listed(world)
        ledger.check((response["status"], response["output"]) == ("cancelled", []), response)
        assert await world.items(f"/v1/conversations/{conversation}/items") == []
        await continued(world, response["id"], [])


@pytest.mark.parametrize("how", ["before the head", "in the body"])
async def test_an_answer_that_is_not_streamed_finishes_without_its_client_where_asked(
    database: Path, how: str
) -> None:
    scripts = {"before the head": Script(hang=True), "in the body": Script(stall_after=0, cut_bytes=40)}
    async with open_file_world(database, scripts[how], list_endpoints=True, on_disconnect="finish") as world:
        async with open_exchange(world.port) as client:
            await client.request("POST", "/v1/responses", {"model": "tiny", "input": "hi"})
            await world.upstream.wait_stalled(1)
            await leave(client, 1)
        world.upstream.release()
        [response] = await listed(world)
        ledger.check(response["status"] == "completed", response)
        assert status_on_disk(database, response["id"]) == "completed"
        assert world.upstream.aborted == 0
        await continued(world, response["id"], response["output"])


async def listed(world: World) -> list[Any]:
    """The responses that are stored, once there is one: nobody was told its id."""
    with trio.fail_after(10):
        while True:
            found: list[Any] = (await world.client.get("/v1/responses")).json()["data"]
            if found:
                return found
