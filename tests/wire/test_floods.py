"""Requests and answers of many small things are refused before they cost much, and messages stay short."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.bodies import MAX_MEMBERS, MAX_VALUES
from agentic_trio.wire.checks import MAX_INCLUDED, MAX_QUOTED, MAX_TOOLS
from agentic_trio.wire.conversations import parse_conversation, parse_new_items
from agentic_trio.wire.create_response import (
    MAX_NAME_LENGTH,
    parse_create_response,
    parse_steps,
    route,
)
from agentic_trio.wire.items import MAX_PARTS, InputItem, pair_calls
from agentic_trio.wire.output_events import MAX_OUTPUT_PARTS
from tests.playbook import Playbook, counted_ids, event, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]


def parsed(body: bytes, *, strict: bool = False) -> Any:
    return parse_create_response(body, counted_ids(), strict=strict)


def many(value: bytes, count: int = MAX_VALUES + 1) -> bytes:
    return b",".join([value] * count)


FLOODS = {
    "tools": b'{"model":"m","input":"x","tools":[%b]}' % many(b'{"type":""}'),
    "unknown members": b'{"model":"m","input":"x",%b}' % many(b'"k":0'),
    "a schema": b'{"model":"m","input":"x","tools":[{"type":"function","name":"f","parameters":{"a":[%b]}}]}'
    % many(b"{}"),
    "items": b'{"model":"m","input":[%b]}' % many(b"{}"),
    "numbers": b'{"model":"m","input":[%b]}' % many(b"1"),
    "strings": b'{"model":"m","input":[%b]}' % many(b'""'),
    "strings of quotes": b'{"model":"m","input":[%b]}' % many(b'"\\\\\\""'),
    "metadata": b'{"model":"m","input":"x","metadata":{%b}}' % many(b'"k":""'),
    "brackets": b'{"model":"m","input":%b' % (b"[" * MAX_VALUES),
}


@pytest.mark.parametrize("body", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("read", [route, parsed, lambda body: parse_conversation(body, counted_ids())])
def test_a_flood_of_values_is_refused(body: bytes, read: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert caught.value.code == "too_many_values"


@pytest.mark.parametrize("words", ["a, b, ", "[{", '{"a":1},', "\\,", '\\\\",', '"', "\\"])
def test_a_text_may_have_any_characters(words: str) -> None:
    text = words * MAX_VALUES
    body = json.dumps({"model": "m", "input": text}).encode()
    assert not route(body).relayed
    [item] = parsed(body).input
    assert json.loads(item.data)["content"][0]["text"] == text


def refused(body: bytes | Json, *, strict: bool = False) -> InvalidRequest:
    raw = body if isinstance(body, bytes) else json.dumps({"model": "m", "input": "x", **body}).encode()
    with pytest.raises(InvalidRequest) as caught:
        parsed(raw, strict=strict)
    return caught.value


@pytest.mark.parametrize(
    ("members", "code", "param"),
    [
        ({str(n): 0 for n in range(MAX_MEMBERS)}, "object_above_max_properties", None),
        ({"tools": [{"type": "x"}] * (MAX_TOOLS + 1)}, "array_above_max_length", "tools"),
        (
            {"include": ["message.output_text.logprobs"] * (MAX_INCLUDED + 1)},
            "array_above_max_length",
            "include",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": ""}] * (MAX_PARTS + 1)}]},
            "array_above_max_length",
            "input[0].content",
        ),
        ({"conversation": "c" * (MAX_NAME_LENGTH + 1)}, "string_above_max_length", "conversation"),
        ({"conversation_id": "c" * (MAX_NAME_LENGTH + 1)}, "string_above_max_length", "conversation_id"),
        (
            {"previous_response_id": "c" * (MAX_NAME_LENGTH + 1)},
            "string_above_max_length",
            "previous_response_id",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_parts_of_a_request_are_bounded(members: Json, code: str, param: str | None) -> None:
    error = refused(members)
    assert (error.code, error.param) == (code, param)


LONG = "x" * 200_000
USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("members", "strict"),
    [
        ({LONG: 1}, True),
        ({"input": [{**USER, LONG: 1}]}, True),
        ({"input": [{"role": LONG, "content": "hi"}]}, False),
        ({"input": [{"role": "user", "content": [{"type": LONG}]}]}, False),
        ({"input": [{"type": "message", "id": f"fc_{LONG}", **USER}]}, False),
        ({"input": [{"type": "item_reference", "id": LONG}]}, False),
        ({"truncation": LONG}, False),
        ({"include": [LONG]}, False),
        ({"tool_choice": LONG}, False),
        ({"tools": [{"type": "mcp", "server_label": LONG}]}, False),
        ({"tool_choice": {"type": "mcp", "server_label": LONG}}, False),
        ({"reasoning": {"effort": LONG}}, False),
        ({"text": {"format": {"type": LONG}}}, False),
        ({"text": {"verbosity": LONG}}, False),
        ({"metadata": {LONG: "x"}}, False),
        ({"metadata": {"k": LONG}}, False),
        ({"max_output_tokens": -(10**3000)}, False),
        ({"safety_identifier": LONG}, False),
        ({"previous_response_id": LONG}, False),
    ],
    ids=lambda value: next(iter(value))[:20] if isinstance(value, dict) else "",
)
def test_a_message_never_repeats_a_long_value(members: Json, strict: bool) -> None:
    error = refused(members, strict=strict)
    assert len(error.message) < 500 + MAX_QUOTED
    assert len(error.param or "") < 50 + MAX_QUOTED


def test_a_message_never_repeats_a_long_call_id() -> None:
    output = InputItem("fco_1", "function_call_output", b"", named=False, call_id=LONG)
    with pytest.raises(InvalidRequest) as caught:
        pair_calls(frozenset(), [output], [])
    assert len(caught.value.message) < 100 + MAX_QUOTED


class Counted(list[bytes]):
    """A history that counts how often it is gone through."""

    passes = 0

    def __iter__(self) -> Iterator[bytes]:
        self.passes += 1
        return super().__iter__()


def test_a_history_is_searched_once_for_the_calls_of_all_outputs() -> None:
    history = Counted([b'{"id":"fc_1","type":"function_call","call_id":"c%d"}' % n for n in range(20)])
    outputs = [
        InputItem(f"fco_{n}", "function_call_output", b"", named=False, call_id=f"c{n % 20}")
        for n in range(200)
    ]
    assert pair_calls(frozenset(), outputs, history) == frozenset()
    assert history.passes == 1


@pytest.mark.parametrize(
    "data",
    [
        b'{"id":"x","type":"function_call","call_id":"a\\"\\\\"}',
        b'{"id":"x","type":"dream","inner":{"call_id":"b"},"call_id":"a\\"\\\\"}',
        b'{"id":"x","type":"dream","call_id":"a\\"\\\\","inner":{"call_id":"b"}}',
        '{"id":"x","type":"dream","text":"é","call_id":"a\\"\\\\"}'.encode(),
    ],
)
def test_a_call_is_found_in_a_stored_item_however_it_is_spelled(data: bytes) -> None:
    output = InputItem("fco_1", "function_call_output", b"", named=False, call_id='a"\\')
    assert pair_calls(frozenset(), [output], [data]) == frozenset()


def test_a_request_is_parsed_in_steps_of_an_item() -> None:
    body = json.dumps({"model": "m", "input": [USER] * 50}).encode()
    steps = parse_steps(body, counted_ids())
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            call = finished.value
            break
        count += 1
    assert count == 50
    assert call == parsed(body)


def test_the_items_of_a_conversation_are_few_whatever_their_size() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_new_items(json.dumps({"items": [USER] * 21}).encode(), counted_ids())
    assert caught.value.code == "array_above_max_length"


@pytest.mark.parametrize("kind", ["delta", "final"])
def test_an_output_has_a_bounded_number_of_parts(kind: str) -> None:
    play = Playbook()
    if kind == "final":
        parts = [{"type": "output_text", "text": ""}] * (MAX_OUTPUT_PARTS + 1)
        play >> terminal({"type": "message", "content": parts})
    else:
        for index in range(MAX_OUTPUT_PARTS + 1):
            play.response.receive(
                event("response.output_text.delta", output_index=0, content_index=index, delta="x")
            )
    assert play.response.snapshot.status == "failed"
    assert play.response.snapshot.error is not None
    assert "too many content parts" in play.response.snapshot.error["message"]
