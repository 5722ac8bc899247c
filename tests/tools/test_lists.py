"""What lists of tools may cost: they come from servers that clients may choose."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agentic_trio.tools import listing
from agentic_trio.tools.listing import ANY_OBJECT, ListCache, checked_schema

Json = dict[str, Any]


def of(**properties: Any) -> Json:
    return {"type": "object", "properties": properties}


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Json]:
    """The schemas that were checked, member by member, while all others wait."""
    found: list[Json] = []
    monkeypatch.setattr(Draft202012Validator, "check_schema", found.append)
    return found


COSTLY = {
    "many properties": of(**{f"p{number}": {} for number in range(3000)}),
    "many elements": of(a={"enum": list(range(3000))}),
    "many types": of(a={"type": [number if number % 2 else str(number) for number in range(100)]}),
    "a long pattern": of(a={"pattern": "a" * 70_000}),
}


@pytest.mark.parametrize("schema", COSTLY.values(), ids=COSTLY)
def test_a_schema_that_takes_long_to_check_is_any_object(schema: Json, checked: list[Json]) -> None:
    assert checked_schema(schema) is ANY_OBJECT
    assert not checked


def test_a_large_schema_of_a_tool_is_kept() -> None:
    schema = of(**{f"p{number}": {"type": "string", "description": "x" * 100} for number in range(300)})
    assert checked_schema(schema) is schema


def test_schemas_nested_too_deeply_are_any_object() -> None:
    schema = json.loads('{"type":"object","not":' + '{"not":' * 900 + "{}" + "}" * 901)
    assert checked_schema(schema) is ANY_OBJECT


async def test_lists_are_kept_within_their_bound_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_KEPT_BYTES", 3000)
    lists, tools = ListCache(60.0), [{"name": "x" * 980}]
    keys = [ListCache.key(f"http://{number}", {}) for number in range(5)]
    for key in keys:
        lists.keep(key, tools)
        lists.keep(key, tools)
    assert [lists.find(key) is not None for key in keys] == [False, False, True, True, True]


async def test_a_list_that_is_larger_than_the_bound_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_KEPT_BYTES", 3000)
    lists, key = ListCache(60.0), ListCache.key("http://a", {})
    lists.keep(key, [{"name": "x" * 4000}])
    assert lists.find(key) is None
