"""The Responses API over a WebSocket: the same turns, in lanes, and what is only kept while it is open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.web import responses_socket
from tests.fake_upstream import Call, Reasoning, Script, Text
from tests.oracles import check_events, check_response
from tests.websocket_client import Refused, Socket, open_socket

from .harness import World, open_world, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def socket(world: World) -> AsyncIterator[Socket]:
    async with open_socket(world.port) as socket:
        yield socket


async def stored(world: World, id: str) -> int:
    return (await world.client.get(f"/v1/responses/{id}")).status_code


async def test_a_response_is_told_as_a_stream_tells_it(world: World, socket: Socket) -> None:
    await socket.create("hi")
    events = await socket.events()
    check_events(events, {"model": "tiny", "input": "hi"}, ending="response.completed")
    response = events[-1]["response"]
    answer = await world.client.get(f"/v1/responses/{response['id']}")
    assert check_response(answer.content) == response


async def test_a_stored_response_is_continued_here_and_elsewhere(world: World, socket: Socket) -> None:
    first = await socket.respond("one")
    second = await socket.respond("two", previous_response_id=first["id"])
    await world.create("three", previous_response_id=second["id"])
    assert [text for _, text in said(world.upstream.last)][::2] == ["one", "two", "three"]


async def test_an_unstored_response_is_continued_from_memory(world: World, socket: Socket) -> None:
    first = await socket.respond("one", store=False)
    second = await socket.respond("two", store=False, previous_response_id=first["id"])
    assert [text for _, text in said(world.upstream.last)][::2] == ["one", "two"]
    assert second["previous_response_id"] == first["id"]
    assert await stored(world, first["id"]) == await stored(world, second["id"]) == 404
    # Only the newest of a lane is kept.
    frame = await socket.refused(store=False, previous_response_id=first["id"])
    assert frame["error"]["code"] == "previous_response_not_found"


async def test_a_stored_response_may_continue_an_unstored_one(world: World, socket: Socket) -> None:
    first = await socket.respond("one", store=False)
    second = await socket.respond("two", previous_response_id=first["id"])
    await world.create("three", previous_response_id=second["id"])
    assert [text for _, text in said(world.upstream.last)][::2] == ["one", "two", "three"]


async def test_what_is_kept_is_this_socket_s(world: World, socket: Socket) -> None:
    first = await socket.respond("one", store=False)
    async with open_socket(world.port) as other:
        frame = await other.refused(previous_response_id=first["id"])
    assert (frame["status"], frame["error"]["code"]) == (400, "previous_response_not_found")
    assert frame["error"]["param"] == "previous_response_id"


async def test_a_refusal_takes_away_what_it_would_have_continued(world: World, socket: Socket) -> None:
    first = await socket.respond("one", store=False)
    frame = await socket.refused('!{"status": 500} x', store=False, previous_response_id=first["id"])
    assert frame["status"] == 500
    assert (await socket.refused(previous_response_id=first["id"]))["status"] == 400


async def test_a_refusal_has_status_headers_and_words(world: World, socket: Socket) -> None:
    busy = {"status": 429, "headers": {"retry-after": "7"}, "error": "busy"}
    frame = await socket.refused(f"!{json.dumps(busy)} x", stream_id="a")
    assert frame["stream_id"] == "a"
    assert frame["status"] == 429
    error = frame["error"]
    assert (error["message"], error["code"]) == ("busy", "rate_limit_exceeded")
    assert error["headers"] == {"retry-after": "7"}


async def test_a_failure_in_a_response_is_nested_and_then_told(world: World, socket: Socket) -> None:
    await socket.create('!{"deltas": 9, "fail_after": 5} x')
    events = await socket.events()
    error, failed = events[-2:]
    assert error["type"] == "error"
    assert error["error"]["message"]
    assert failed["response"]["status"] == "failed"
    assert failed["sequence_number"] == error["sequence_number"] + 1


async def test_lanes_run_side_by_side_and_each_in_order(world: World, socket: Socket) -> None:
    await socket.create('!{"stall_after": 3} slow', stream_id="a")
    await socket.create("next", stream_id="a")
    await socket.create("quick", stream_id="b")
    await world.upstream.wait_stalled(1)
    told = await socket.events()
    while told[-1].get("stream_id") != "b" or told[-1]["type"] != "response.completed":
        told += await socket.events()
    assert not any(each["type"] == "response.completed" for each in told if each["stream_id"] == "a")
    world.upstream.release()
    ends = []
    while len(ends) < 2:
        ends += [each for each in await socket.events() if each["type"] == "response.completed"]
    assert [each["stream_id"] for each in ends] == ["a", "a"]
    assert "next" in json.dumps(ends[1]["response"]["output"])


async def test_a_lane_can_continue_what_another_was_given(world: World, socket: Socket) -> None:
    first = await socket.respond("one", store=False, stream_id="a")
    await socket.respond("two", store=False, stream_id="b", previous_response_id=first["id"])
    assert [text for _, text in said(world.upstream.last)][::2] == ["one", "two"]
    # A fork doesn't take it from the lane.
    await socket.respond("three", store=False, stream_id="c", previous_response_id=first["id"])
    assert [text for _, text in said(world.upstream.last)][::2] == ["one", "three"]


@pytest.mark.parametrize("store", [True, False])
async def test_a_warm_up_asks_nobody_and_can_be_continued(world: World, socket: Socket, store: bool) -> None:
    await socket.create("one", generate=False, store=store, tools=[])
    events = await socket.events()
    assert [each["type"] for each in events] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    response = events[-1]["response"]
    assert response["output"] == []
    assert not world.upstream.requests
    await socket.respond("two", store=store, previous_response_id=response["id"])
    assert [text for _, text in said(world.upstream.last)] == ["one", "two"]
    assert await stored(world, response["id"]) == (200 if store else 404)


async def test_a_warm_up_may_leave_a_call_open(world: World, socket: Socket) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    await socket.create([{"role": "user", "content": "x"}, call], generate=False, store=False)
    response = (await socket.events())[-1]["response"]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
    await socket.respond([output], store=False, previous_response_id=response["id"])
    assert [item["type"] for item in world.upstream.last.items][1:] == [
        "function_call",
        "function_call_output",
    ]


async def test_a_tool_loop_goes_on_without_being_stored(world: World, socket: Socket) -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    first = await socket.respond("call f {}", store=False, tools=tools)
    [call] = first["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    await socket.respond([output], store=False, previous_response_id=first["id"], tools=tools)
    frame = await socket.refused("and?", store=False, previous_response_id=first["id"])
    assert frame["error"]["code"] == "previous_response_not_found"


async def test_sealed_reasoning_is_shown_and_text_is_kept(world: World, socket: Socket) -> None:
    world.upstream.script(lambda _: Script(output=(Reasoning(text="because"), Text("yes"))))
    asked = {"store": False, "include": ["reasoning.encrypted_content"]}
    first = await socket.respond("one", **asked)
    assert first["output"][0]["encrypted_content"]
    await socket.respond("two", previous_response_id=first["id"], **asked)
    reasoning = next(item for item in world.upstream.last.items if item["type"] == "reasoning")
    assert reasoning["content"][0]["text"] == "because"
    assert "encrypted_content" not in reasoning


async def test_a_conversation_is_continued(world: World, socket: Socket) -> None:
    conversation = await world.converse()
    await socket.respond("one", conversation=conversation)
    await socket.respond("two", conversation={"id": conversation})
    assert len(await world.items(f"/v1/conversations/{conversation}/items")) == 4


async def test_a_background_response_outlives_its_socket(world: World) -> None:
    async with open_socket(world.port) as socket:
        await socket.create('!{"stall_after": 3} x', background=True)
        created = await socket.receive()
        assert created is not None
        assert created["response"]["status"] == "queued"
        await world.upstream.wait_stalled(1)
    world.upstream.release()
    await _wait_for(world, created["response"]["id"], "completed")


@pytest.mark.parametrize(("policy", "status"), [("cancel", "cancelled"), ("finish", "completed")])
async def test_leaving_ends_a_turn_or_not_as_was_asked(world: World, policy: str, status: str) -> None:
    async with open_socket(world.port, headers=[(b"x-on-disconnect", policy.encode())]) as socket:
        await socket.create('!{"stall_after": 4} x')
        created = await socket.receive()
        assert created is not None
    if policy == "finish":
        await world.upstream.wait_stalled(1)
        world.upstream.release()
    await _wait_for(world, created["response"]["id"], status)


async def _wait_for(world: World, id: str, status: str) -> None:
    async def ended() -> bool:
        found = (await world.client.get(f"/v1/responses/{id}")).json()["status"]
        return bool(found == status)

    with trio.fail_after(5):
        while not await ended():  # noqa: ASYNC110  (a socket's server can only be polled)
            await trio.sleep(0.01)


async def test_steering_is_refused_politely(socket: Socket) -> None:
    await socket.send({"type": "response.steer", "previous_response_id": "resp_1", "input": "no, left"})
    frame = await socket.receive()
    assert frame is not None
    assert frame["type"] == "response.steer.failed"
    assert frame["error"]["code"] == "steering_not_supported"
    assert frame["steer"] == {"input": "no, left", "previous_response_id": "resp_1"}


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[]", "invalid_json", None),
        ("1", "invalid_json", None),
        ("", "invalid_json", None),
        ("[" * 100_000, "invalid_json", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type":null}', "missing_required_parameter", "type"),
        ('{"type":7}', "invalid_type", "type"),
        ('{"type":"response.cancel"}', "invalid_value", "type"),
        ('{"type":"response.create"}', "missing_required_parameter", "model"),
        ('{"type":"response.create","model":null,"input":"x"}', "invalid_type", "model"),
        ('{"type":"response.create","model":"tiny","input":7}', "invalid_type", "input"),
        ('{"type":"response.create","model":"tiny","input":"x","stream_id":7}', "invalid_type", "stream_id"),
        ('{"type":"response.create","model":"tiny","input":"x","generate":1}', "invalid_type", "generate"),
        ('{"type":"response.create","stream_id":"%s"}' % ("x" * 257), "string_above_max_length", "stream_id"),
        ('{"type":"response.create","model":"tiny","input":"\\ud800"}', "invalid_json", None),
    ],
)
async def test_a_bad_message_is_refused_and_the_next_one_served(
    socket: Socket, message: str, code: str, param: str | None
) -> None:
    await socket.send(message)
    frame = await socket.receive()
    assert frame is not None
    assert (frame["type"], frame["status"]) == ("error", 400)
    assert (frame["error"]["code"], frame["error"]["param"]) == (code, param)
    assert (await socket.respond())["status"] == "completed"


async def test_a_thirty_third_stream_is_refused(world: World, socket: Socket) -> None:
    for number in range(responses_socket.MAX_LANES):
        await socket.respond(stream_id=f"s{number}", store=False)
    frame = await socket.refused(stream_id="one more")
    assert (frame["status"], frame["error"]["code"]) == (429, "websocket_stream_limit_reached")
    assert frame["stream_id"] == "one more"
    await socket.respond()
    await socket.respond(stream_id="s7")


async def test_a_seventeenth_stream_at_work_and_a_ninth_message_in_one_are_refused(
    world: World, socket: Socket
) -> None:
    for number in range(responses_socket.MAX_RUNNING):
        await socket.create('!{"stall_after": 2} x', stream_id=f"s{number}")
    await world.upstream.wait_stalled(responses_socket.MAX_RUNNING)
    await socket.create(stream_id="one more")
    assert await _error(socket) == "websocket_stream_limit_reached"
    for _ in range(responses_socket.MAX_QUEUED):
        await socket.create(stream_id="s3")
    await socket.create(stream_id="s3")
    assert await _error(socket) == "rate_limit_exceeded"
    world.upstream.release()
    ends = 0
    while ends < responses_socket.MAX_RUNNING + responses_socket.MAX_QUEUED:
        ends += (await socket.events())[-1]["type"] == "response.completed"
    await socket.respond(stream_id="one more")


async def _until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not holds():  # noqa: ASYNC110  (no event tells of what the server does)
            await trio.sleep(0.01)


async def _error(socket: Socket) -> str:
    while True:
        message = await socket.receive()
        assert message is not None
        if message["type"] == "error":
            return str(message["error"]["code"])


async def test_a_socket_has_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_socket, "LIFETIME", 0.05)
    async with open_socket(world.port) as socket:
        frame = await socket.receive()
        assert frame is not None
        assert frame["error"]["code"] == "websocket_connection_limit_reached"
        assert await socket.receive() is None
        assert socket.code == 1000


async def test_pages_of_other_origins_are_refused(world: World) -> None:
    with pytest.raises(Refused) as refused:
        async with open_socket(world.port, headers=[(b"origin", b"https://evil.example")]):
            pass
    assert (refused.value.status, refused.value.error["code"]) == (403, "origin_not_allowed")
    async with (
        open_world(cors_allowed_origins=("https://ok.example",)) as open_to_some,
        open_socket(open_to_some.port, headers=[(b"origin", b"https://ok.example")]) as socket,
    ):
        await socket.respond()


async def test_foreign_hosts_are_refused(world: World) -> None:
    with pytest.raises(Refused) as refused:
        async with open_socket(world.port, host="evil.example"):
            pass
    assert (refused.value.status, refused.value.error["code"]) == (403, "host_not_allowed")


async def test_there_is_no_socket_elsewhere(world: World) -> None:
    with pytest.raises(Refused) as refused:
        async with open_socket(world.port, "/v1/chat/completions"):
            pass
    assert refused.value.status == 426


async def test_the_client_s_authorization_goes_upstream(world: World) -> None:
    async with open_socket(world.port, headers=[(b"authorization", b"Bearer mine")]) as socket:
        await socket.respond()
    headers = dict(world.upstream.last.headers)
    assert headers["authorization"] == "Bearer mine"
    assert not {name for name in headers if name.startswith("sec-websocket")}
    assert "upgrade" not in headers


async def test_each_response_has_a_request_id_of_its_own(world: World) -> None:
    async with open_socket(world.port, headers=[(b"x-request-id", b"one-for-all")]) as socket:
        await socket.respond("one")
        await socket.respond("two")
    ids = {dict(request.headers)["x-request-id"] for request in world.upstream.requests}
    assert len(ids) == 2
    assert "one-for-all" not in ids


async def test_messages_count_towards_memory_and_give_it_back(world: World) -> None:
    left = world.gateway.admission.bytes_left
    async with open_socket(world.port) as socket:
        big = "x" * 1_000_000
        await socket.create(f'!{{"stall_after": 2}} {big}', store=False)
        await world.upstream.wait_stalled(1)
        assert world.gateway.admission.bytes_left < left - 900_000
        world.upstream.release()
        await socket.events()
        # The lane keeps what it can be continued with.
        assert world.gateway.admission.bytes_left < left - 900_000
        await socket.respond(store=False)
        await socket.close()
    admission = world.gateway.admission
    await _until(lambda: admission.bytes_left == left and admission.slots == 1000)


async def test_a_message_for_which_there_is_no_memory_closes_the_socket(world: World) -> None:
    world.gateway.admission.bytes_left = 100_000
    async with open_socket(world.port) as socket:
        await socket.create("x" * 1_000_000)
        assert await socket.receive() is None
        assert socket.code == 1013


async def test_a_lane_without_memory_is_not_continued(world: World, socket: Socket) -> None:
    world.gateway.admission.bytes_left = 60_000
    second = await socket.respond("x" * 70_000, store=False)
    frame = await socket.refused(store=False, previous_response_id=second["id"])
    assert frame["error"]["code"] == "previous_response_not_found"


async def test_a_call_is_cut_off_with_its_socket(world: World) -> None:
    world.upstream.script(lambda _: Script(output=(Call("f", ("{", "}")),), stall_after=4))
    async with open_socket(world.port) as socket:
        await socket.create("x", tools=[{"type": "function", "name": "f"}])
        await world.upstream.wait_stalled(1)
    with trio.fail_after(5):
        await world.upstream.wait_live(0)
