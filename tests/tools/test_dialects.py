"""Calls are found in whatever way a model server tells of them, whole or in pieces, with or without names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentic_trio.wire.create_response import parse_create_response
from agentic_trio.wire.hosting import Hosted, parse_mcp_tools
from agentic_trio.wire.responses import Snapshot
from agentic_trio.wire.tool_rounds import RoundsAccumulator
from tests.fake_upstream import Call, Script, Text, render_response
from tests.oracles import check_event_stream
from tests.playbook import NOW, counted_ids

if TYPE_CHECKING:
    from collections.abc import Iterable

Json = dict[str, Any]

TOOLS = [
    {"name": "run", "input_schema": {"type": "object"}, "annotations": {"read_only": False}},
    {"name": "ask", "input_schema": {"type": "object"}, "annotations": {"read_only": False}},
]
OUTPUT = (
    Text("First"),
    Call("s__run", ('{"n":', " 1}")),
    Call("s__ask", ('{"n":', " 2}")),
    Call("theirs", ('{"n":', " 3}")),
    Call("s__run", ('{"n": 4}',)),
)


DONE = b"data: [DONE]\n\n"


def follower() -> RoundsAccumulator:
    echo = parse_create_response(b'{"model":"tiny","input":"hi"}', counted_ids()).echo()
    following = RoundsAccumulator(Snapshot("resp_1", 1, echo), counted_ids(), lambda: NOW)
    never = {"tool_names": ["run"]}
    [server] = parse_mcp_tools([{"type": "mcp", "server_label": "s", "require_approval": {"never": never}}])
    hosted = Hosted(["theirs"])
    hosted.add_server(server, TOOLS)
    following.host(hosted, [])
    return following


def events_of(output: tuple[Any, ...] = OUTPUT, **script: Any) -> list[bytes]:
    return render_response(Script(output=output, **script), {"model": "tiny", "input": "hi"}, stream=True)


def changed(events: Iterable[bytes], change: Any) -> list[bytes]:
    """Events whose members a function changes; it returns None for one that is left out."""
    found = []
    for event in events:
        head, _, data = event.partition(b"data: ")
        members = change(json.loads(data))
        if members is not None:
            found.append(head + b"data: " + json.dumps(members).encode() + b"\n\n")
    return found


def follow(events: Iterable[bytes]) -> tuple[RoundsAccumulator, list[bytes]]:
    following = follower()
    told = following.begin()
    for event in events:
        told += following.receive(event)
    return following, told + following.end_of_stream()


def without(*types: str) -> Any:
    return lambda event: None if event["type"].removeprefix("response.") in types else event


def less(*names: str) -> Any:
    def change(event: Json) -> Json:
        kept = {name: value for name, value in event.items() if name not in names}
        if isinstance(kept.get("item"), dict) and "item_id" in names:
            kept["item"] = {name: value for name, value in kept["item"].items() if name != "id"}
        return kept

    return change


def empty_output(event: Json) -> Json:
    if event["type"] == "response.completed":
        event["response"]["output"] = []
    return event


def nameless(event: Json) -> Json:
    if event["type"] == "response.output_item.added":
        event["item"].pop("name", None)
    return event


DIALECTS: dict[str, list[Any]] = {
    "as vLLM": [],
    "no deltas": [without("function_call_arguments.delta")],
    "no arguments done": [without("function_call_arguments.done")],
    "no item done": [without("output_item.done")],
    "no item added": [without("output_item.added")],
    "only the final output": [
        without("output_item.added", "output_item.done", "function_call_arguments.delta"),
        without("function_call_arguments.done", "output_text.delta", "output_text.done"),
        without("content_part.added", "content_part.done"),
    ],
    "no final output": [empty_output],
    "no ids": [less("item_id")],
    "no numbers": [less("output_index")],
    "the name comes last": [nameless],
    "no done and no final output": [
        without("output_item.done", "function_call_arguments.done"),
        empty_output,
    ],
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_calls_are_found_in_any_dialect(dialect: str) -> None:
    events = events_of()
    for change in DIALECTS[dialect]:
        events = changed(events, change)
    following, told = follow(events)
    assert not following.ended
    assert following.waits_for_client
    calls = [(call.target.tool, json.loads(call.arguments)) for call in following.calls]
    assert sorted(calls, key=str) == [("run", {"n": 1}), ("run", {"n": 4})]
    for call in following.calls:
        told += following.settle(call, output="ok")
    following.conclude()
    told += following.terminal_events()
    check_event_stream(b"".join(told) + DONE, None, interleaved=True)
    items = json.loads(following.response())["output"]
    types = [item["type"] for item in items]
    assert sorted(types) == sorted(
        ["message", "mcp_call", "mcp_approval_request", "function_call", "mcp_call"]
    )
    asked = next(item for item in items if item["type"] == "mcp_approval_request")
    assert (asked["name"], json.loads(asked["arguments"])) == ("ask", {"n": 2})
    theirs = next(item for item in items if item["type"] == "function_call")
    assert json.loads(theirs["arguments"]) == {"n": 3}


def test_the_rounds_of_one_response_have_numbers_of_their_own() -> None:
    following, told = follow(events_of((Call("s__run", ('{"n": 1}',)),)))
    for text in ("second", "third"):
        for call in following.calls:
            told += following.settle(call, output="ok")
        following.next_round()
        output = (Text(text), Call("s__run", ('{"n": 2}',))) if text == "second" else (Text(text),)
        for event in events_of(output):
            told += following.receive(event)
    assert following.ended
    told += following.terminal_events()
    check_event_stream(b"".join(told) + DONE, None, interleaved=True)
    assert [item.added["type"] for item in following.items] == [
        *("mcp_call", "message", "mcp_call", "message"),
    ]


def test_whole_answers_keep_the_order_of_their_items() -> None:
    [body] = render_response(Script(output=OUTPUT), {"model": "tiny", "input": "hi"}, stream=False)
    following = follower()
    following.receive_json(body)
    types = [item.added["type"] for item in following.items]
    assert types == ["message", "mcp_call", "mcp_approval_request", "function_call", "mcp_call"]
    assert len(following.calls) == 2
