"""``/v1/conversations`` and their items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentic_trio.store import threads
from tests.oracles import check_conversation, check_error, check_list

from .harness import open_world

if TYPE_CHECKING:
    from .harness import World

USER = {"role": "user", "content": "hi"}


def users(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": str(number)} for number in range(count)]


def words(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


# --------------------------------------------------------------------------- creation


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"content": b""},
        {"content": b"", "headers": {"content-type": "application/json"}},
        {"json": {}},
        {"json": {"items": [], "metadata": {}}},
        {"json": {"items": None, "metadata": None, "store": None}},
        {"json": {"store": True}},
    ],
    ids=["no body", "empty body", "empty json body", "{}", "empty members", "nulls", "store"],
)
async def test_conversation_is_created_from_nothing(world: World, options: dict[str, Any]) -> None:
    answer = await world.client.post("/v1/conversations", **options)
    assert answer.status_code == 200, answer.text
    created = check_conversation(answer.content, metadata={})
    assert created.keys() == {"id", "object", "created_at", "metadata"}


async def test_get_answers_the_bytes_of_post(world: World) -> None:
    posted = await world.post("/v1/conversations", {"metadata": {"topic": "crabs", "ü": "🦀"}})
    read = await world.client.get(f"/v1/conversations/{posted.json()['id']}")
    assert read.content == posted.content


async def test_twenty_items_are_taken_in_order(world: World) -> None:
    conversation = await world.converse(items=users(20))
    listed = await world.items(f"/v1/conversations/{conversation}/items")
    assert words(listed) == [str(number) for number in range(20)]


async def test_metadata_may_be_as_large_as_the_limits(world: World) -> None:
    metadata = {f"{number:02d}".ljust(64, "k"): "v" * 512 for number in range(16)}
    await world.converse(metadata=metadata)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"store": False}, "invalid_value", "store"),
        ({"store": "no"}, "invalid_type", "store"),
        ({"items": users(21)}, "array_above_max_length", "items"),
        ({"items": {}}, "invalid_type", "items"),
        ({"items": [7]}, "invalid_type", "items[0]"),
        ({"items": [{"role": "bogus", "content": ""}]}, "invalid_value", "items[0]"),
        ({"items": [USER, {"role": "user"}]}, "missing_required_parameter", "items[1].content"),
        ({"items": [USER | {"id": "item_x"}]}, "invalid_value", "items[0].id"),
        ({"metadata": []}, "invalid_type", "metadata"),
        ({"metadata": "x"}, "invalid_type", "metadata"),
        ({"metadata": {"k": 1}}, "invalid_type", "metadata.k"),
        ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
        ({"metadata": {"k" * 65: "v"}}, "string_above_max_length", "metadata"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "object_above_max_properties", "metadata"),
        ([], "invalid_json", None),
        ("text", "invalid_json", None),
    ],
)
async def test_bad_conversation_is_refused(world: World, body: Any, code: str, param: str | None) -> None:
    answer = await world.post("/v1/conversations", body)
    assert answer.status_code == 400
    check_error(answer.status_code, answer.content, code=code, param=param)


async def test_21_items_are_refused_in_openais_words(world: World) -> None:
    answer = await world.post("/v1/conversations", {"items": users(21)})
    assert answer.json()["error"]["message"] == (
        "Invalid 'items': array too long. Expected an array with maximum length 20, "
        "but got an array with length 21 instead."
    )


# --------------------------------------------------------------------------- reading, changing, deleting


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/conversations/conv_nope"),
        ("POST", "/v1/conversations/conv_nope"),
        ("DELETE", "/v1/conversations/conv_nope"),
        ("GET", "/v1/conversations/conv_nope/items"),
        ("POST", "/v1/conversations/conv_nope/items"),
        ("GET", "/v1/conversations/conv_nope/items/msg_1"),
        ("DELETE", "/v1/conversations/conv_nope/items/msg_1"),
    ],
)
async def test_unknown_conversation_is_404(world: World, method: str, path: str) -> None:
    body = {"metadata": {}, "items": [USER]}
    answer = await world.client.request(method, path, json=body if method == "POST" else None)
    assert answer.status_code == 404
    error = check_error(answer.status_code, answer.content, code=None, param=None)
    assert error["message"] == "Conversation with id 'conv_nope' not found."


async def test_update_replaces_the_metadata(world: World) -> None:
    conversation = await world.converse(metadata={"a": "1", "b": "2"})
    path = f"/v1/conversations/{conversation}"
    updated = await world.post(path, {"metadata": {"c": "3"}})
    check_conversation(updated.content, metadata={"c": "3"})
    assert (await world.client.get(path)).content == updated.content


async def test_update_needs_metadata(world: World) -> None:
    conversation = await world.converse()
    answer = await world.post(f"/v1/conversations/{conversation}", {})
    check_error(answer.status_code, answer.content, code="missing_required_parameter", param="metadata")


async def test_deleted_conversation_is_gone_and_its_responses_stay(world: World) -> None:
    conversation = await world.converse()
    response = await world.create("hi", conversation=conversation)
    path = f"/v1/conversations/{conversation}"
    deleted = await world.client.delete(path)
    assert deleted.json() == {"id": conversation, "object": "conversation.deleted", "deleted": True}
    assert (await world.client.get(path)).status_code == 404
    assert (await world.client.delete(path)).status_code == 404
    assert (await world.refused("more", conversation=conversation))[0] == 404
    assert (await world.client.get(f"/v1/responses/{response['id']}")).json() == response


# --------------------------------------------------------------------------- items


async def test_empty_list_has_null_ends(world: World) -> None:
    conversation = await world.converse()
    answer = await world.client.get(f"/v1/conversations/{conversation}/items")
    assert answer.json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_items_come_newest_first_twenty_at_a_time(world: World) -> None:
    conversation = await world.converse(items=users(20))
    await world.post(f"/v1/conversations/{conversation}/items", {"items": users(1)})
    answer = await world.client.get(f"/v1/conversations/{conversation}/items")
    listed = check_list(answer.content, more=True)
    assert words(listed) == ["0", *(str(number) for number in reversed(range(1, 20)))]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_items_can_be_paged_through(world: World, order: str) -> None:
    conversation = await world.converse(items=users(7))
    path, after, seen, pages = f"/v1/conversations/{conversation}/items", None, [], 0
    while True:
        query = {"limit": 3, "order": order} | ({"after": after} if after else {})
        page = (await world.client.get(path, params=query)).json()
        seen += words(check_list(page))
        pages, after = pages + 1, page["last_id"]
        if not page["has_more"]:
            break
    wanted = [str(number) for number in range(7)]
    assert seen == (wanted if order == "asc" else wanted[::-1])
    assert pages == 3


async def test_after_an_unknown_item_is_404(world: World) -> None:
    conversation = await world.converse(items=users(1))
    answer = await world.client.get(f"/v1/conversations/{conversation}/items?after=msg_nope")
    error = check_error(answer.status_code, answer.content, code=None, param="after")
    assert answer.status_code == 404
    assert error["message"] == "No item found with id 'msg_nope'"


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("limit=0", "integer_below_min_value", "limit"),
        ("limit=-1", "integer_below_min_value", "limit"),
        ("limit=101", "integer_above_max_value", "limit"),
        ("limit=999999999999999999999999", "invalid_type", "limit"),
        ("limit=ten", "invalid_type", "limit"),
        ("limit=", "invalid_type", "limit"),
        ("limit=1.5", "invalid_type", "limit"),
        ("limit=%D9%A1", "invalid_type", "limit"),
        ("order=up", "invalid_value", "order"),
        ("order=", "invalid_value", "order"),
        ("include=bogus", "invalid_value", "include[0]"),
        ("include[]=message.output_text.logprobs&include[]=bogus", "invalid_value", "include[1]"),
        ("after=" + "x" * 300, "string_above_max_length", "after"),
    ],
)
@pytest.mark.parametrize("of", ["conversation", "response"])
async def test_bad_query_is_refused(world: World, of: str, query: str, code: str, param: str) -> None:
    if of == "conversation":
        path = f"/v1/conversations/{await world.converse()}/items"
    else:
        path = f"/v1/responses/{(await world.create())['id']}/input_items"
    answer = await world.client.get(f"{path}?{query}")
    assert answer.status_code == 400
    check_error(answer.status_code, answer.content, code=code, param=param)


@pytest.mark.parametrize(
    "query", ["include[]=message.output_text.logprobs", "include=code_interpreter_call.outputs", "after="]
)
async def test_legal_query_is_taken(world: World, query: str) -> None:
    conversation = await world.converse(items=users(1))
    answer = await world.client.get(f"/v1/conversations/{conversation}/items?{query}")
    assert len(check_list(answer.content)) == 1


async def test_unknown_members_are_refused_where_parameters_are_strict() -> None:
    async with open_world(strict_parameters=True) as world:
        conversation = await world.converse(metadata={"a": "b"}, items=users(1))
        path = f"/v1/conversations/{conversation}"
        for each, body in (
            ("/v1/conversations", {"zzz": 1}),
            (path, {"metadata": {}, "zzz": 1}),
            (f"{path}/items", {"items": users(1), "zzz": 1}),
        ):
            answer = await world.post(each, body)
            check_error(answer.status_code, answer.content, code="unknown_parameter", param="zzz")
            assert answer.status_code == 400
        assert (await world.client.get(path)).json()["metadata"] == {"a": "b"}
        assert len(await world.items(f"{path}/items")) == 1


async def test_a_reference_to_nothing_is_404_and_names_the_items(world: World) -> None:
    conversation = await world.converse()
    body = {"items": [{"type": "item_reference", "id": "msg_nope"}]}
    for path in ("/v1/conversations", f"/v1/conversations/{conversation}/items"):
        answer = await world.post(path, body)
        error = check_error(answer.status_code, answer.content, param="items")
        assert (answer.status_code, error["message"]) == (404, "Item with id 'msg_nope' not found.")


async def test_added_items_are_answered_in_the_order_sent(world: World) -> None:
    conversation = await world.converse(items=users(1))
    added = await world.post(f"/v1/conversations/{conversation}/items", {"items": users(3)})
    assert words(check_list(added.content, more=False)) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_required_parameter", "items"),
        ({"items": []}, "empty_array", "items"),
        ({"items": users(21)}, "array_above_max_length", "items"),
    ],
)
async def test_bad_items_are_refused_and_nothing_is_added(
    world: World, body: Any, code: str, param: str
) -> None:
    conversation = await world.converse()
    path = f"/v1/conversations/{conversation}/items"
    answer = await world.post(path, body)
    check_error(answer.status_code, answer.content, code=code, param=param)
    assert await world.items(path) == []


async def test_a_conversation_that_is_full_takes_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = await world.converse(items=users(3))
    monkeypatch.setattr(threads, "MAX_POSITION", 3)
    answer = await world.post(f"/v1/conversations/{conversation}/items", {"items": users(1)})
    check_error(answer.status_code, answer.content, code="context_length_exceeded", param="items")
    assert answer.status_code == 400
    assert len(await world.items(f"/v1/conversations/{conversation}/items")) == 3


async def test_one_item_can_be_read_and_dropped(world: World) -> None:
    conversation = await world.converse(items=users(2))
    first, second = await world.items(f"/v1/conversations/{conversation}/items")
    path = f"/v1/conversations/{conversation}/items/{first['id']}"
    assert (await world.client.get(path)).json() == first
    check_conversation((await world.client.delete(path)).content)
    assert (await world.client.get(path)).status_code == 404
    assert await world.items(f"/v1/conversations/{conversation}/items") == [second]


async def test_dropped_item_is_not_given_to_the_model(world: World) -> None:
    conversation = await world.converse(items=users(2))
    first, second = await world.items(f"/v1/conversations/{conversation}/items")
    await world.client.delete(f"/v1/conversations/{conversation}/items/{first['id']}")
    await world.create("next", conversation=conversation)
    assert world.upstream.last.items[0] == second


async def test_item_that_is_in_the_conversation_cannot_be_added_again(world: World) -> None:
    conversation = await world.converse(items=users(1))
    path = f"/v1/conversations/{conversation}/items"
    (item,) = await world.items(path)
    answer = await world.post(path, {"items": [item]})
    check_error(answer.status_code, answer.content, code="item_already_in_conversation", param="items")
    assert len(await world.items(path)) == 1


async def test_known_id_brings_its_stored_content(world: World) -> None:
    response = await world.create("hi")
    (item,) = response["output"]
    forged = item | {"content": [{"type": "output_text", "text": "forged"}]}
    conversation = await world.converse(items=[forged])
    assert await world.items(f"/v1/conversations/{conversation}/items") == [item]


# --------------------------------------------------------------------------- deletion with responses


async def test_a_conversation_is_deleted_with_its_responses(world: World) -> None:
    conversation = await world.converse(items=users(1))
    made = [await world.create(str(n), conversation=conversation) for n in range(3)]
    outside = await world.create("outside", previous_response_id=made[0]["id"])
    other = await world.create("other")
    answer = await world.client.delete(f"/v1/conversations/{conversation}?responses=true")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "id": conversation,
        "object": "conversation.deleted",
        "deleted": True,
        "responses_deleted": 3,
    }
    for response in made:
        assert (await world.client.get(f"/v1/responses/{response['id']}")).status_code == 404
    for response in (outside, other):
        assert (await world.client.get(f"/v1/responses/{response['id']}")).status_code == 200
    again = await world.client.delete(f"/v1/conversations/{conversation}?responses=true")
    assert again.status_code == 404
    await world.create("on", previous_response_id=outside["id"])


@pytest.mark.parametrize("query", ["", "?responses=false"])
async def test_responses_stay_when_a_conversation_is_deleted_alone(world: World, query: str) -> None:
    conversation = await world.converse()
    made = await world.create(conversation=conversation)
    answer = await world.client.delete(f"/v1/conversations/{conversation}{query}")
    assert answer.json() == {"id": conversation, "object": "conversation.deleted", "deleted": True}
    assert (await world.client.get(f"/v1/responses/{made['id']}")).status_code == 200


async def test_another_value_than_true_or_false_is_refused(world: World) -> None:
    conversation = await world.converse()
    answer = await world.client.delete(f"/v1/conversations/{conversation}?responses=yes")
    assert answer.status_code == 400
    check_error(answer.status_code, answer.content, param="responses")
    assert (await world.client.get(f"/v1/conversations/{conversation}")).status_code == 200


async def test_a_conversation_in_use_is_not_deleted_with_its_responses(world: World) -> None:
    conversation = await world.converse()
    slow = {"model": "tiny", "input": '!{"hang": true} slow', "conversation": conversation}
    started = await world.create(**slow | {"background": True})
    await world.upstream.wait_stalled(1)
    answer = await world.client.delete(f"/v1/conversations/{conversation}?responses=true")
    check_error(answer.status_code, answer.content, code="conversation_locked")
    await world.post(f"/v1/responses/{started['id']}/cancel")
    answer = await world.client.delete(f"/v1/conversations/{conversation}?responses=true")
    assert answer.json()["responses_deleted"] == 1
