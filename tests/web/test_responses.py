"""``/v1/responses``: what is answered first, read later, listed and deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fake_upstream import Call, Dialect, Reasoning, Refusal, Script, Text
from tests.http_client import open_under_way
from tests.oracles import check_error, check_event_stream, check_list, check_response

from .harness import World, open_world, terminal

dialects = pytest.mark.parametrize("dialect", ["vllm", "llama_cpp", "transformers"])

ALL_MEMBERS = {
    "instructions": "Be brief.",
    "metadata": {"k": "v"},
    "max_output_tokens": 64,
    "max_tool_calls": 3,
    "parallel_tool_calls": False,
    "temperature": 0.5,
    "top_p": 0.25,
    "top_logprobs": 2,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}],
    "tool_choice": "auto",
    "truncation": "auto",
    "user": "ada",
    "safety_identifier": "s",
    "prompt_cache_key": "p",
    "service_tier": "flex",
    "store": True,
}


STALLED = {"input": '!{"stall_after": 5} hi'}
DELTA = b"response.output_text.delta"


async def post_stream(world: World, input: Any, **members: Any) -> bytes:
    body = {"model": "tiny", "input": input, "stream": True, **members}
    return (await world.post("/v1/responses", body)).content


def last_response(raw: bytes) -> bytes:
    """The bytes of the response in a stream's terminal event."""
    event = raw.removesuffix(b"data: [DONE]\n\n").rstrip(b"\n").rpartition(b"\ndata: ")[2]
    return event[event.index(b'"response":') + len(b'"response":') : -1]


# --------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_response_repeats_every_member_of_the_request(world: World, stream: bool) -> None:
    if stream:
        response = terminal(await world.stream("hi", **ALL_MEMBERS))
    else:
        response = await world.create("hi", **ALL_MEMBERS)
    assert (response["status"], response["max_output_tokens"]) == ("completed", 64)


async def test_null_members_are_absent_ones(world: World) -> None:
    response = await world.create("hi", **dict.fromkeys(ALL_MEMBERS))
    assert response["temperature"] == 1
    assert response["store"] is True


@dialects
async def test_json_and_stream_say_the_same_in_every_dialect(dialect: Dialect) -> None:
    async with open_world(Script(dialect=dialect)) as world:
        if dialect == "transformers":  # which streams whatever it is asked
            assert terminal(await world.stream("hi"))["status"] == "completed"
            return
        plain, streamed = await world.create("hi"), terminal(await world.stream("hi"))
        assert plain["status"] == streamed["status"] == "completed"
        assert [part["text"] for part in plain["output"][0]["content"]] == [
            part["text"] for part in streamed["output"][0]["content"]
        ]


@pytest.mark.parametrize(
    "item",
    [
        Text("a text"),
        Text("ünï©ödé 🦀"),
        Refusal("no"),
        Reasoning("because", ("in short",)),
        Call("f", '{"a":"b"}'),
    ],
    ids=["text", "unicode", "refusal", "reasoning", "call"],
)
async def test_every_kind_of_output_survives_the_round_trip(world: World, item: Any) -> None:
    world.upstream.script(Script(output=(item,)))
    response = terminal(await world.stream("hi"))
    read = await world.client.get(f"/v1/responses/{response['id']}")
    assert read.json() == response


async def test_stream_answers_as_an_event_stream_that_nobody_may_hold_back(world: World) -> None:
    answer = await world.post("/v1/responses", {"model": "tiny", "input": "hi", "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.content.endswith(b"\n\ndata: [DONE]\n\n")


async def test_deltas_reach_the_client_while_the_upstream_still_works(world: World) -> None:
    async with open_under_way(world.port, STALLED, DELTA) as client:
        await world.upstream.wait_stalled(1)
        world.upstream.release()
        check_event_stream(await client.read(), ending="response.completed")


async def test_length_stop_ends_a_stream_with_incomplete(world: World) -> None:
    world.upstream.script(Script(stop="length"))
    raw = await post_stream(world, "hi")
    response = terminal(check_event_stream(raw, ending="response.incomplete"))
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_length_stop_without_stream_answers_incomplete(world: World) -> None:
    world.upstream.script(Script(stop="length"))
    response = await world.create("hi")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}


# --------------------------------------------------------------------------- read again


async def test_get_answers_the_bytes_of_post(world: World) -> None:
    posted = await world.post("/v1/responses", {"model": "tiny", "input": "hi", **ALL_MEMBERS})
    read = await world.client.get(f"/v1/responses/{posted.json()['id']}")
    assert read.content == posted.content
    assert read.headers["content-type"] == posted.headers["content-type"] == "application/json"


@pytest.mark.parametrize("stop", ["stop", "length"])
@dialects
async def test_get_answers_the_bytes_of_the_terminal_event(dialect: Dialect, stop: Any) -> None:
    async with open_world(Script(dialect=dialect, stop=stop)) as world:
        streamed = last_response(await post_stream(world, "hi", **ALL_MEMBERS))
        read = await world.client.get(f"/v1/responses/{json.loads(streamed)['id']}")
        assert read.content == streamed


async def test_response_can_be_read_as_soon_as_its_terminal_event_was_seen(world: World) -> None:
    async with open_under_way(world.port, {"input": "hi"}, b"event: response.completed") as client:
        read = await world.client.get(f"/v1/responses/{client.id}")
    assert read.json()["status"] == "completed"


async def test_response_under_way_can_be_read_and_is_in_progress(world: World) -> None:
    async with open_under_way(world.port, STALLED, DELTA) as client:
        read = await world.client.get(f"/v1/responses/{client.id}")
    assert check_response(read.content, status="in_progress")["output"] == []


async def test_input_of_a_response_under_way_can_be_read(world: World) -> None:
    async with open_under_way(world.port, STALLED, DELTA) as client:
        assert await world.items(f"/v1/responses/{client.id}/input_items") == world.upstream.last.items


async def test_continuing_a_response_under_way_is_refused(world: World) -> None:
    async with open_under_way(world.port, STALLED, DELTA) as client:
        status, error = await world.refused("and?", previous_response_id=client.id)
    assert (status, error["code"]) == (400, "previous_response_not_ended")


# --------------------------------------------------------------------------- input items


async def test_input_items_come_newest_first(world: World) -> None:
    response = await world.create([{"role": "user", "content": word} for word in ("a", "b", "c")])
    answer = await world.client.get(f"/v1/responses/{response['id']}/input_items")
    listed = check_list(answer.content, more=False)
    assert [item["content"][0]["text"] for item in listed] == ["c", "b", "a"]


async def test_input_items_can_be_paged_through(world: World) -> None:
    response = await world.create([{"role": "user", "content": str(number)} for number in range(5)])
    path, after, pages = f"/v1/responses/{response['id']}/input_items", None, []
    while True:
        query = {"limit": 2} | ({"after": after} if after else {})
        page = (await world.client.get(path, params=query)).json()
        pages.append([item["content"][0]["text"] for item in check_list(page)])
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert pages == [["4", "3"], ["2", "1"], ["0"]]


# --------------------------------------------------------------------------- deletion


async def test_deleted_response_is_gone(world: World) -> None:
    response = await world.create("hi")
    path = f"/v1/responses/{response['id']}"
    deleted = await world.client.delete(path)
    assert deleted.status_code == 200
    assert deleted.json() == {"id": response["id"], "object": "response", "deleted": True}
    for again in (await world.client.get(path), await world.client.delete(path)):
        check_error(again.status_code, again.content, code=None, param=None)
        assert again.status_code == 404


async def test_deleting_a_response_under_way_is_refused(world: World) -> None:
    async with open_under_way(world.port, STALLED, DELTA) as client:
        deleted = await world.client.delete(f"/v1/responses/{client.id}")
    assert deleted.status_code == 400
    check_error(deleted.status_code, deleted.content)
