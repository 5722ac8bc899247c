"""What clients send for conversations is checked, and what they are answered has OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.conversations import (
    call_effect,
    conversation_body,
    deleted_body,
    list_body,
    parse_conversation,
    parse_conversation_update,
    parse_new_items,
    removal_effect,
)
from agentic_trio.wire.items import parse_items
from tests.oracles import check_conversation, check_list
from tests.playbook import counted_ids

Json = dict[str, Any]

MESSAGE = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"metadata":null,"items":null}', b'{"store":true}', b'{"items":[]}']
)
def test_a_conversation_may_be_created_with_nothing(body: bytes) -> None:
    assert parse_conversation(body, counted_ids()) == (b"{}", [])


def test_a_conversation_is_created_with_metadata_and_items() -> None:
    body = json.dumps({"metadata": {"a": "b"}, "items": [MESSAGE, CALL, OUTPUT]}).encode()
    metadata, items = parse_conversation(body, counted_ids())
    assert json.loads(metadata) == {"a": "b"}
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"]


def too_long(length: int) -> str:
    return (
        f"Invalid 'items': array too long. Expected an array with maximum length 20, "
        f"but got an array with length {length} instead."
    )


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"store": False}, "invalid_value", "store"),
        ({"store": "no"}, "invalid_type", "store"),
        ({"items": {}}, "invalid_type", "items"),
        ({"items": [7]}, "invalid_type", "items[0]"),
        ({"items": [MESSAGE] * 21}, "array_above_max_length", "items"),
        ({"metadata": {"k": 7}}, "invalid_type", "metadata.k"),
        ({"metadata": {"k": "x" * 513}}, "string_above_max_length", "metadata.k"),
        ({"metadata": {"k" * 65: ""}}, "string_above_max_length", "metadata"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_conversation_with_wrong_members_is_refused(body: Json, code: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_conversation(json.dumps(body).encode(), counted_ids())
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("length", [21, 100])
def test_too_many_items_are_counted(length: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_new_items(json.dumps({"items": [MESSAGE] * length}).encode(), counted_ids())
    assert caught.value.message == too_long(length)


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{}", "missing_required_parameter"), (b'{"items":[]}', "empty_array"), (b"[", "invalid_json")],
)
def test_new_items_are_at_least_one(body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_new_items(body, counted_ids())
    assert caught.value.code == code


def test_an_update_needs_metadata() -> None:
    with pytest.raises(InvalidRequest, match="Missing required parameter: 'metadata'"):
        parse_conversation_update(b"{}")


def test_an_update_is_the_new_metadata() -> None:
    assert json.loads(parse_conversation_update(b'{"metadata":{"a":"b"}}')) == {"a": "b"}


def test_a_conversation_has_its_four_members() -> None:
    body = check_conversation(conversation_body("conv_1", 7, b'{"a":"b"}'), metadata={"a": "b"})
    assert set(body) == {"id", "object", "created_at", "metadata"}


def test_a_deletion_says_what_was_deleted() -> None:
    body = json.loads(deleted_body("conv_1", "conversation.deleted"))
    assert body == {"id": "conv_1", "object": "conversation.deleted", "deleted": True}


def test_a_list_has_the_ids_of_its_ends() -> None:
    items = parse_items([MESSAGE, CALL], "items", counted_ids())
    check_list(list_body([(item.id, item.data) for item in items], has_more=True), more=True)


def test_an_empty_list_has_null_for_its_ends() -> None:
    assert check_list(list_body([], has_more=False), ids=[], more=False) == []


@pytest.mark.parametrize(
    ("items", "opened", "closed"),
    [
        ([MESSAGE], set(), set()),
        ([CALL], {"c"}, set()),
        ([OUTPUT], set(), {"c"}),
        ([CALL, OUTPUT], set(), {"c"}),
        ([OUTPUT, CALL], {"c"}, {"c"}),
    ],
    ids=["message", "call", "output", "call and output", "output and call"],
)
def test_added_items_open_and_close_calls(items: list[Json], opened: set[str], closed: set[str]) -> None:
    assert call_effect(parse_items(items, "items", counted_ids())) == (opened, closed)


@pytest.mark.parametrize(
    ("item", "opened", "closed"),
    [(MESSAGE, set(), set()), (CALL, set(), {"c"}), (OUTPUT, {"c"}, set())],
    ids=["message", "call", "output"],
)
def test_a_removed_item_opens_or_closes_its_call(item: Json, opened: set[str], closed: set[str]) -> None:
    [taken] = parse_items([item], "items", counted_ids())
    assert removal_effect(taken.data) == (opened, closed)


Parse = Callable[..., Any]

PARSERS: dict[str, tuple[Parse, Json]] = {
    "create": (lambda body, **how: parse_conversation(body, counted_ids(), **how), {"store": True}),
    "update": (parse_conversation_update, {"metadata": {}}),
    "add items": (lambda body, **how: parse_new_items(body, counted_ids(), **how), {"items": [MESSAGE]}),
}


@pytest.mark.parametrize(("parse", "right"), PARSERS.values(), ids=PARSERS)
def test_an_unknown_member_is_ignored_or_refused_where_parameters_are_strict(
    parse: Parse, right: Json
) -> None:
    body = json.dumps({**right, "zzz": 1}).encode()
    parse(body)
    parse(json.dumps(right).encode(), strict=True)
    with pytest.raises(InvalidRequest) as caught:
        parse(body, strict=True)
    error = caught.value
    assert (error.code, error.param, error.message) == (
        "unknown_parameter",
        "zzz",
        "Unknown parameter: 'zzz'.",
    )


@pytest.mark.parametrize("name", ["create", "add items"])
def test_an_unknown_member_of_an_item_is_refused_where_parameters_are_strict(name: str) -> None:
    parse, _ = PARSERS[name]
    body = json.dumps({"items": [{**MESSAGE, "bogus": 1}]}).encode()
    parse(body)
    with pytest.raises(InvalidRequest) as caught:
        parse(body, strict=True)
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "items[0].bogus")
