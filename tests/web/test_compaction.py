"""A context that is summed up: in a turn, beside one, or because it is large; and how large it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agentic_trio.gateway import counting, keys
from tests.fake_upstream import Call, Recorded, Script, Text
from tests.oracles import check_events

from .harness import Json, World, open_world, said, terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRIGGER: Json = {"type": "compaction_trigger"}
SUMMARY = "all of it in a nutshell"


def asks_for_summary(request: Recorded) -> bool:
    return request.path == "/v1/responses" and "hand the task over" in said(request)[-1][1]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as world:
        world.upstream.script(
            lambda request: Script(output=(Text(SUMMARY),)) if asks_for_summary(request) else None
        )
        yield world


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def texts(world: World) -> list[str]:
    return [text for _, text in said(world.upstream.last)]


async def test_a_trigger_makes_a_compaction_instead_of_an_answer(world: World) -> None:
    body = {
        "store": False,
        "tools": [{"type": "function", "name": "f"}],
        "text": {"format": {"type": "text"}},
    }
    events = await world.stream([user("one"), TRIGGER], **body)
    assert [each["type"] for each in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
    ]
    [item] = terminal(events)["output"]
    assert (item["type"], item["id"][:4]) == ("compaction", "cmp_")
    assert SUMMARY not in item["encrypted_content"]
    assert terminal(events)["usage"]["output_tokens"] > 0
    asked = world.upstream.last.json
    assert not {"tools", "text", "tool_choice"} & asked.keys()
    assert asked["stream"] is False
    # It comes back as a message.
    await world.create([item, user("two")], store=False)
    first, second = texts(world)
    assert first.endswith(SUMMARY)
    assert second == "two"


async def test_a_history_begins_at_its_last_compaction_and_is_listed_whole(world: World) -> None:
    first = await world.create("one")
    second = await world.create([user("two"), TRIGGER], previous_response_id=first["id"])
    assert [text for _, text in said(world.upstream.last)][:-1] == ["one", "echo: 1 items; last: one", "two"]
    third = await world.create("three", previous_response_id=second["id"])
    assert len(texts(world)) == 2
    assert texts(world)[0].endswith(SUMMARY)
    items = await world.items(f"/v1/responses/{third['id']}/input_items")
    assert [item["type"] for item in items] == ["message", "message", "message", "compaction", "message"]
    # A fork from before it reads the whole.
    await world.create("fork", previous_response_id=first["id"])
    assert texts(world) == ["one", "echo: 1 items; last: one", "fork"]


async def test_a_conversation_goes_on_from_its_compaction(world: World) -> None:
    conversation = await world.converse(items=[user("one")])
    await world.create([user("two"), TRIGGER], conversation=conversation)
    await world.create([user("three"), TRIGGER], conversation=conversation)
    await world.create("four", conversation=conversation)
    assert len(texts(world)) == 2
    types = [item["type"] for item in await world.items(f"/v1/conversations/{conversation}/items")]
    assert types == ["message", "message", "compaction", "message", "compaction", "message", "message"]


async def test_a_compaction_that_a_client_brings_is_an_item_like_others(world: World) -> None:
    answer = await world.post("/v1/responses/compact", {"model": "tiny", "input": [user("one"), user("two")]})
    window = answer.json()
    assert (window["object"], window["id"][:5]) == ("response.compaction", "resp_")
    assert [item["type"] for item in window["output"]] == ["message", "message", "compaction"]
    assert window["usage"]["input_tokens"] > 0
    assert (await world.client.get(f"/v1/responses/{window['id']}")).status_code == 404
    first = await world.create([*window["output"], user("three")])
    await world.create("four", previous_response_id=first["id"])
    assert texts(world)[:2] == ["one", "two"]
    assert texts(world)[2].endswith(SUMMARY)


async def test_a_stored_chain_is_compacted_by_name(world: World) -> None:
    first = await world.create("one")
    body = {"model": "tiny", "previous_response_id": first["id"]}
    answer = await world.post("/v1/responses/compact", body)
    assert [item["type"] for item in answer.json()["output"]] == ["message", "compaction"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_context_that_is_too_large_is_compacted_before_it_is_answered(
    world: World, stream: bool
) -> None:
    first = await world.create("word " * 2000)
    managed: Json = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}
    members = {"previous_response_id": first["id"], **managed}
    if stream:
        events = await world.stream("next", **members)
        check_events(events, {"model": "tiny", "input": "next", "stream": True, **members})
        assert [each["type"] for each in events][2:5] == [
            "response.output_item.added",
            "response.compaction.compacting",
            "response.output_item.done",
        ]
        response = terminal(events)
    else:
        response = await world.create("next", **members)
    assert [item["type"] for item in response["output"]] == ["compaction", "message"]
    assert texts(world)[0].endswith(SUMMARY)
    assert texts(world)[1:] == ["next"]
    # Usage is of both.
    assert response["usage"]["output_tokens"] > (await world.create("x"))["usage"]["output_tokens"]
    await world.create("after", previous_response_id=response["id"], **managed)
    assert len(texts(world)) == 3


async def test_a_small_context_is_left_alone(world: World) -> None:
    managed: Json = {"context_management": [{"type": "compaction"}]}
    response = await world.create("hi", **managed)
    assert [item["type"] for item in response["output"]] == ["message"]
    assert "context_management" not in world.upstream.last.json


async def test_an_output_keeps_its_call_over_a_compaction(world: World) -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    first = await world.create("call f {} " + "word " * 2000, tools=tools)
    [call] = first["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    managed = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}
    await world.create([output], previous_response_id=first["id"], tools=tools, **managed)
    assert [item["type"] for item in world.upstream.last.items] == [
        "message",
        "function_call",
        "function_call_output",
    ]


async def test_a_summary_that_is_refused_refuses_the_request(world: World) -> None:
    world.upstream.script(lambda _: Script(status=429, error="busy"))
    assert (await world.refused([user("one"), TRIGGER]))[0] == 429
    assert (await world.refused([user("one"), TRIGGER], stream=True))[0] == 429
    answer = await world.post("/v1/responses/compact", {"model": "tiny", "input": "x"})
    assert answer.status_code == 429
    world.upstream.script(lambda _: Script(output=(Call("f"),)))
    assert (await world.refused([user("one"), TRIGGER]))[0] == 502


async def test_a_context_too_long_to_be_summed_up_loses_its_oldest_items(world: World) -> None:
    def answer(request: Recorded) -> Script:
        if len(request.items) > 3:
            return Script(status=400, error="This model's maximum context length is 10 tokens.")
        return Script(output=(Text(SUMMARY),))

    world.upstream.script(answer)
    response = await world.create([*(user(f"{number}" * 50) for number in range(8)), TRIGGER])
    assert response["output"][0]["type"] == "compaction"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "compaction", "encrypted_content": "gAAAAABfake"},
        {"type": "compaction", "encrypted_content": None},
        {"type": "compaction"},
    ],
)
@pytest.mark.parametrize("store", [True, False])
async def test_a_compaction_that_can_t_be_opened_is_refused(world: World, item: Json, store: bool) -> None:
    status, error = await world.refused([item, user("x")], store=store)
    assert (status, error["code"]) == (400, "invalid_encrypted_content")
    assert not world.upstream.requests


async def test_an_open_call_can_t_be_compacted(world: World) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    status, error = await world.refused([user("x"), call, TRIGGER])
    assert status == 400
    assert "No tool output found" in error["message"]


@pytest.mark.parametrize(
    ("management", "param"),
    [
        ({}, "context_management"),
        ([7], "context_management[0]"),
        ([{}], "context_management[0].type"),
        ([{"type": "magic"}], "context_management[0].type"),
        ([{"type": "compaction", "compact_threshold": 999}], "context_management[0].compact_threshold"),
        ([{"type": "compaction"}] * 2, "context_management"),
    ],
)
async def test_what_can_t_be_managed_is_refused(world: World, management: object, param: str) -> None:
    status, error = await world.refused(context_management=management)
    assert (status, error["param"]) == (400, param)


async def test_without_the_extra_compaction_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "sealing", None)
    async with open_world() as world:
        status, error = await world.refused([user("one"), TRIGGER])
        assert (status, error["code"]) == (400, "unsupported_parameter")
        assert "'seal'" in error["message"]


# --------------------------------------------------------------------------- counting


async def count(world: World, input: object = "hi", **members: object) -> int:
    answer = await world.post("/v1/responses/input_tokens", {"model": "tiny", "input": input, **members})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"object", "input_tokens"}
    assert body["object"] == "response.input_tokens"
    return int(body["input_tokens"])


async def test_tokens_are_counted_by_a_probe_where_nothing_renders(world: World) -> None:
    first = await world.create("one")
    before = len(world.upstream.requests)
    members = {"previous_response_id": first["id"], "instructions": "Be brief."}
    assert (
        await count(world, "two", **members)
        == (await world.create("two", **members))["usage"]["input_tokens"]
    )
    render, probe, _ = world.upstream.requests[before:]
    assert render.path == counting.RENDER_PATH
    assert probe.json["max_output_tokens"] == 1
    assert probe.json["stream"] is False
    # What is absent isn't asked for again soon.
    await count(world)
    assert [each.path for each in world.upstream.requests[before + 3 :]] == ["/v1/responses"]


async def test_tokens_are_counted_by_the_renderer_where_there_is_one(world: World) -> None:
    world.upstream.elsewhere[counting.RENDER_PATH] = (200, json.dumps({"token_ids": [1, 2, 3]}).encode())
    assert await count(world, "two", max_output_tokens=100) == 3
    [render] = world.upstream.requests
    assert "max_output_tokens" not in render.json
    assert render.json["store"] is False


@pytest.mark.parametrize(
    ("status", "words", "told", "code"),
    [
        (400, "max_tokens must be at least 1, got 0", 400, "context_length_exceeded"),
        (400, "This model's maximum context length is 10 tokens", 400, "context_length_exceeded"),
        (500, "broken", 500, "upstream_error"),
    ],
)
async def test_what_the_renderer_refuses_is_told(
    world: World, status: int, words: str, told: int, code: str
) -> None:
    world.upstream.elsewhere[counting.RENDER_PATH] = (
        status,
        json.dumps({"error": {"message": words}}).encode(),
    )
    answer = await world.post("/v1/responses/input_tokens", {"model": "tiny", "input": "hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (told, code)


async def test_a_count_stores_nothing_and_is_refused_as_a_turn_is(world: World) -> None:
    async def refused(**body: object) -> tuple[int, str | None]:
        answer = await world.post("/v1/responses/input_tokens", body)
        return answer.status_code, answer.json()["error"]["code"]

    assert await refused(input="x") == (400, "missing_required_parameter")
    assert await refused(model="tiny", input="x", previous_response_id="resp_1") == (
        400,
        "previous_response_not_found",
    )
    assert await refused(model="tiny", input="x", conversation="conv_1") == (404, None)
    assert not world.upstream.requests
