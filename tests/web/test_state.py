"""What the model is given: chains, branches and conversations, seen at the upstream."""

from __future__ import annotations

from typing import Any

import pytest

from tests.http_client import open_under_way
from tests.oracles import check_error

from .harness import World, said, terminal, text

# Both ways to ask; a stream's response is that of its last event.


async def ask(world: World, stream: bool, input: Any, **members: Any) -> dict[str, Any]:
    if stream:
        return terminal(await world.stream(input, **members))
    return await world.create(input, **members)


both = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


# --------------------------------------------------------------------------- what goes upstream


@both
async def test_string_input_goes_upstream_as_one_user_message(world: World, stream: bool) -> None:
    await ask(world, stream, "hello")
    (item,) = world.upstream.last.items
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "hello"}],
        "status": "completed",
    }


@both
async def test_upstream_is_called_once_and_asked_for_no_state(world: World, stream: bool) -> None:
    conversation = await world.converse()
    await ask(world, stream, "one", store=True, conversation={"id": conversation}, background=False)
    (request,) = world.upstream.requests
    assert request.json.keys() == {"model", "input", "store", "stream"}
    assert request.json["store"] is False
    assert request.json["stream"] is stream


@both
async def test_all_other_members_go_upstream_as_sent(world: World, stream: bool) -> None:
    extras = {
        "temperature": 0.25,
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}],
        "tool_choice": "none",
        "metadata": {"k": "v"},
        "seed": 7,
        "chat_template_kwargs": {"enable_thinking": False},
        "max_output_tokens": 64,
    }
    await ask(world, stream, "hello", **extras)
    sent = world.upstream.last.json
    assert {name: sent[name] for name in extras} == extras


@both
async def test_null_members_do_not_go_upstream(world: World, stream: bool) -> None:
    nulls = dict.fromkeys(("instructions", "tools", "metadata", "conversation", "previous_response_id"))
    await ask(world, stream, "hello", **nulls)
    assert world.upstream.last.json.keys() == {"model", "input", "store", "stream"}


# --------------------------------------------------------------------------- chains


@both
async def test_chain_gives_the_model_every_earlier_turn_in_order(world: World, stream: bool) -> None:
    first = await ask(world, stream, "one")
    second = await ask(world, stream, "two", previous_response_id=first["id"])
    await ask(world, stream, "three", previous_response_id=second["id"])
    assert said(world.upstream.last) == [
        ("user", "one"),
        ("assistant", "echo: 1 items; last: one"),
        ("user", "two"),
        ("assistant", "echo: 3 items; last: two"),
        ("user", "three"),
    ]
    world.upstream.assert_stateless()


@both
async def test_history_goes_upstream_exactly_as_it_was_answered(world: World, stream: bool) -> None:
    first = await ask(world, stream, "one")
    given = world.upstream.last.items
    await ask(world, stream, "two", previous_response_id=first["id"])
    assert world.upstream.last.items[:-1] == [*given, *first["output"]]


async def test_input_items_of_a_response_are_what_the_model_was_given(world: World) -> None:
    first = await world.create("one")
    second = await world.create([{"role": "user", "content": "two"}], previous_response_id=first["id"])
    listed = await world.items(f"/v1/responses/{second['id']}/input_items")
    assert listed == world.upstream.last.items


async def test_branches_of_one_response_do_not_see_each_other(world: World) -> None:
    root = await world.create("root")
    left = await world.create("left", previous_response_id=root["id"])
    right = await world.create("right", previous_response_id=root["id"])
    await world.create("after left", previous_response_id=left["id"])
    assert [words for _, words in said(world.upstream.last)] == [
        "root",
        text(root),
        "left",
        text(left),
        "after left",
    ]
    await world.create("after right", previous_response_id=right["id"])
    assert [words for _, words in said(world.upstream.last)] == [
        "root",
        text(root),
        "right",
        text(right),
        "after right",
    ]


async def test_instructions_are_not_inherited(world: World) -> None:
    first = await world.create("one", instructions="Speak like a pirate.")
    second = await world.create("two", previous_response_id=first["id"])
    assert "instructions" not in world.upstream.last.json
    assert second["instructions"] is None


async def test_chain_survives_the_deletion_of_its_ancestor(world: World) -> None:
    first = await world.create("one")
    second = await world.create("two", previous_response_id=first["id"])
    assert (await world.client.delete(f"/v1/responses/{first['id']}")).status_code == 200
    await world.create("three", previous_response_id=second["id"])
    assert [words for _, words in said(world.upstream.last)][::2] == ["one", "two", "three"]


async def test_unstored_turn_sees_the_history_and_leaves_nothing(world: World) -> None:
    first = await world.create("one")
    second = await world.create("two", previous_response_id=first["id"], store=False)
    assert said(world.upstream.last)[0] == ("user", "one")
    world.upstream.assert_stateless()
    assert (await world.client.get(f"/v1/responses/{second['id']}")).status_code == 404
    status, error = await world.refused("three", previous_response_id=second["id"])
    assert (status, error["code"]) == (400, "previous_response_not_found")


async def test_unstored_turn_adds_nothing_to_its_conversation(world: World) -> None:
    conversation = await world.converse()
    await world.create("one", conversation=conversation)
    await world.create("two", conversation=conversation, store=False)
    assert said(world.upstream.last)[0] == ("user", "one")
    assert len(await world.items(f"/v1/conversations/{conversation}/items")) == 2


@both
async def test_unknown_previous_response_is_400_and_reaches_no_model(world: World, stream: bool) -> None:
    answer = await world.post(
        "/v1/responses",
        {"model": "tiny", "input": "x", "stream": stream, "previous_response_id": "resp_nope"},
    )
    error = check_error(
        answer.status_code,
        answer.content,
        code="previous_response_not_found",
        param="previous_response_id",
    )
    assert answer.status_code == 400
    assert error["message"] == "Previous response with id 'resp_nope' not found."
    assert world.upstream.requests == []


# --------------------------------------------------------------------------- conversations


def by_string(id: str) -> dict[str, Any]:
    return {"conversation": id}


def by_object(id: str) -> dict[str, Any]:
    return {"conversation": {"id": id}}


def by_alias(id: str) -> dict[str, Any]:
    return {"conversation_id": id}


def by_both(id: str) -> dict[str, Any]:
    return {"conversation": {"id": id}, "conversation_id": id}


namings = pytest.mark.parametrize("naming", [by_string, by_object, by_alias, by_both])


@both
@namings
async def test_conversation_gives_the_model_all_that_was_said(
    world: World, stream: bool, naming: Any
) -> None:
    conversation = await world.converse()
    await ask(world, stream, "one", **naming(conversation))
    await ask(world, stream, "two", **naming(conversation))
    assert said(world.upstream.last) == [
        ("user", "one"),
        ("assistant", "echo: 1 items; last: one"),
        ("user", "two"),
    ]
    world.upstream.assert_stateless()


@both
@namings
async def test_response_names_its_conversation_in_both_forms(world: World, stream: bool, naming: Any) -> None:
    conversation = await world.converse()
    response = await ask(world, stream, "one", **naming(conversation))
    assert response["conversation"] == {"id": conversation}
    assert response["conversation_id"] == conversation
    assert response["previous_response_id"] is None


@both
async def test_response_outside_of_conversations_names_none(world: World, stream: bool) -> None:
    response = await ask(world, stream, "one")
    assert "conversation" not in response
    assert response["conversation_id"] is None


async def test_conversation_begins_with_the_items_it_was_created_with(world: World) -> None:
    given = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "I am Ada."}]
    conversation = await world.converse(items=given)
    await world.create("Who am I?", conversation=conversation)
    assert said(world.upstream.last) == [
        ("system", "Be kind."),
        ("user", "I am Ada."),
        ("user", "Who am I?"),
    ]


async def test_items_of_a_conversation_are_what_its_next_turn_gives_the_model(world: World) -> None:
    conversation = await world.converse(items=[{"role": "user", "content": "zero"}])
    await world.create("one", conversation=conversation)
    listed = await world.items(f"/v1/conversations/{conversation}/items")
    await world.create("two", conversation=conversation)
    assert world.upstream.last.items[:-1] == listed


async def test_item_ids_in_the_conversation_are_those_of_the_response(world: World) -> None:
    conversation = await world.converse()
    response = await world.create("one", conversation=conversation)
    listed = await world.items(f"/v1/conversations/{conversation}/items")
    assert listed[1:] == response["output"]


async def test_turn_alone_continues_a_conversation_without_input(world: World) -> None:
    conversation = await world.converse(items=[{"role": "user", "content": "Say hi."}])
    answer = await world.post("/v1/responses", {"model": "tiny", "conversation": conversation})
    assert answer.status_code == 200, answer.text
    assert said(world.upstream.last) == [("user", "Say hi.")]


async def test_conversation_id_with_a_response_of_that_conversation_continues_it(world: World) -> None:
    conversation = await world.converse()
    first = await world.create("one", conversation_id=conversation)
    second = await world.create("two", conversation_id=conversation, previous_response_id=first["id"])
    assert said(world.upstream.last)[0] == ("user", "one")
    assert second["conversation_id"] == conversation
    assert second["previous_response_id"] == first["id"]
    assert len(await world.items(f"/v1/conversations/{conversation}/items")) == 4


async def test_conversation_id_with_a_response_of_elsewhere_is_400(world: World) -> None:
    conversation = await world.converse()
    stranger = await world.create("one")
    status, error = await world.refused(
        "two", conversation_id=conversation, previous_response_id=stranger["id"]
    )
    assert (status, error["code"]) == (400, "previous_response_not_found")
    assert len(world.upstream.requests) == 1


async def test_response_of_a_conversation_can_be_continued_outside_of_it(world: World) -> None:
    conversation = await world.converse()
    first = await world.create("one", conversation=conversation)
    await world.create("two", conversation=conversation)
    branch = await world.create("aside", previous_response_id=first["id"])
    assert [words for _, words in said(world.upstream.last)] == ["one", text(first), "aside"]
    assert "conversation" not in branch
    assert len(await world.items(f"/v1/conversations/{conversation}/items")) == 4


@pytest.mark.parametrize("naming", [by_string, by_object, by_alias])
@both
async def test_unknown_conversation_is_404_and_is_not_created(
    world: World, stream: bool, naming: Any
) -> None:
    body = {"model": "tiny", "input": "x", "stream": stream, **naming("conv_nope")}
    answer = await world.post("/v1/responses", body)
    error = check_error(answer.status_code, answer.content, code=None, param=None)
    assert answer.status_code == 404
    assert error["message"] == "Conversation with id 'conv_nope' not found."
    assert (await world.client.get("/v1/conversations/conv_nope")).status_code == 404
    assert (await world.client.get("/v1/conversations/conv_nope/items")).status_code == 404
    assert world.upstream.requests == []


async def test_second_turn_at_once_in_a_conversation_is_told_that_it_is_locked(world: World) -> None:
    conversation = await world.converse()
    slow = {"input": '!{"stall_after": 4} slow', "conversation": conversation}
    async with open_under_way(world.port, slow, b"response.in_progress") as client:
        await world.upstream.wait_stalled(1)
        status, error = await world.refused("me too", conversation=conversation)
        assert status == 400
        assert (error["code"], error["param"]) == ("conversation_locked", "conversation")
        world.upstream.release()
        await client.read()
    assert len(await world.items(f"/v1/conversations/{conversation}/items")) == 2


# --------------------------------------------------------------------------- tools and items


CALL = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


@both
async def test_tool_call_and_its_output_reach_the_model_as_one_history(world: World, stream: bool) -> None:
    asked = await ask(world, stream, 'call add {"a": 1}', tools=[CALL])
    (call,) = asked["output"]
    assert (call["type"], call["arguments"]) == ("function_call", '{"a": 1}')
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
    await ask(world, stream, [output], tools=[CALL], previous_response_id=asked["id"])
    assert [item["type"] for item in world.upstream.last.items] == [
        "message",
        "function_call",
        "function_call_output",
    ]


async def test_call_without_its_output_is_refused(world: World) -> None:
    asked = await world.create("call add {}", tools=[CALL])
    status, error = await world.refused("and?", previous_response_id=asked["id"])
    call_id = asked["output"][0]["call_id"]
    assert (status, error["param"]) == (400, "input")
    assert error["message"] == f"No tool output found for function call {call_id}."


async def test_output_without_its_call_is_refused(world: World) -> None:
    orphan = {"type": "function_call_output", "call_id": "call_x", "output": "2"}
    status, error = await world.refused([orphan])
    assert (status, error["param"]) == (400, "input")
    assert error["message"] == "No tool call found for function call output with call_id call_x."


async def test_reference_to_an_item_is_replaced_by_the_item(world: World) -> None:
    first = await world.create("one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    await world.create([reference, {"role": "user", "content": "two"}])
    assert world.upstream.last.items[0] == first["output"][0]
    world.upstream.assert_stateless()


async def test_reference_to_nothing_is_404(world: World) -> None:
    status, error = await world.refused([{"type": "item_reference", "id": "msg_nope"}])
    assert (status, error["param"]) == (404, "input")


async def test_output_items_replayed_with_their_ids_are_taken(world: World) -> None:
    first = await world.create("one")
    replay = [{"role": "user", "content": "one"}, *first["output"], {"role": "user", "content": "two"}]
    await world.create(replay)
    assert world.upstream.last.items[1] == first["output"][0]
