"""The types for programs: as the OpenAPI document has them, as the SDK has them, and of use to a checker."""

from __future__ import annotations

import subprocess
import sys
import typing
from typing import Any, get_args, get_type_hints

import pytest
from openai.types.responses import (
    Response,
    ResponseOutputItem,
    ResponseStreamEvent,
)
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from agentic_trio import types
from tests.scripts.programs import ROOT, run_python

OURS = {"conversation_id", "presence_penalty", "frequency_penalty"}
"""Members of a request that vLLM and others take, and the SDK doesn't know."""


async def test_they_are_written_from_the_document() -> None:
    ran = await run_python("scripts/typed_dicts.py", "--check", cwd=ROOT)
    assert ran.code == 0, ran.err


def models(union: Any) -> dict[str, Any]:
    """The SDK's models by their ``type``."""
    found = get_args(get_args(union)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in found}


def tagged(union: Any) -> dict[str, list[Any]]:
    """Our members by each value that their ``type`` may have."""
    found: dict[str, list[Any]] = {}
    for member in get_args(union):
        hint = get_type_hints(member)["type"]
        assert typing.get_origin(hint) is typing.Literal, member
        for tag in get_args(hint):
            found.setdefault(tag, []).append(member)
    return found


def test_the_events_are_the_sdk_s_and_their_tags_tell_them_apart() -> None:
    ours = tagged(types.ResponseStreamEvent)
    assert ours.keys() == models(ResponseStreamEvent).keys()
    assert all(len(members) == 1 for members in ours.values())


def test_the_output_items_are_the_sdk_s_and_their_tags_tell_them_apart() -> None:
    ours = tagged(types.OutputItem)
    assert ours.keys() >= models(ResponseOutputItem).keys()
    assert all(len(members) == 1 for members in ours.values())


def test_an_event_s_members_are_the_sdk_s() -> None:
    sdk = models(ResponseStreamEvent)
    for tag, (member,) in tagged(types.ResponseStreamEvent).items():
        assert get_type_hints(member).keys() <= sdk[tag].model_fields.keys(), tag


def test_a_request_s_members_are_the_sdk_s() -> None:
    sdk = get_type_hints(ResponseCreateParamsNonStreaming).keys()
    ours = get_type_hints(types.CreateResponse).keys()
    assert ours - sdk == OURS
    assert types.CreateResponse.__required_keys__ == {"model"}


def test_a_response_s_members_are_the_sdk_s() -> None:
    required = {name for name, field in Response.model_fields.items() if field.is_required()}
    assert required <= types.Response.__required_keys__
    assert get_type_hints(types.Response).keys() - Response.model_fields.keys() == OURS | {
        "store",
        "content_filters",
    }


PROGRAM = """
from agentic_trio import Gateway

async def use(gateway: Gateway) -> None:
    {line}
"""

GOOD = {
    "a request": 'await gateway.create_response({"model": "m", "input": "hi", "temperature": 0.5})',
    "items": (
        'await gateway.create_response({"model": "m", "input": [{"role": "user", "content": "hi"}, '
        '{"type": "function_call_output", "call_id": "c", "output": "1"}]})'
    ),
    "parts": (
        'await gateway.create_response({"model": "m", "input": [{"role": "user", "content": '
        '[{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "data:"}]}]})'
    ),
    "output given back": (
        'r = await gateway.create_response({"model": "m"}); '
        'await gateway.create_response({"model": "m", "input": [*r["output"]]})'
    ),
    "an event by its tag": (
        'async with gateway.stream_response({"model": "m"}) as events:\n'
        "        async for event in events:\n"
        '            if event["type"] == "response.output_text.delta":\n'
        '                text: str = event["delta"]\n'
        '            elif event["type"] == "response.completed":\n'
        '                status: str = event["response"]["status"]'
    ),
    "an item by its tag": (
        'for item in (await gateway.get_response("r"))["output"]:\n'
        '        if item["type"] == "function_call":\n'
        '            call: str = item["call_id"]\n'
        '        elif item["type"] == "message":\n'
        '            for part in item["content"]:\n'
        '                if part["type"] == "output_text":\n'
        '                    text: str = part["text"]'
    ),
}

BAD = {
    "a misspelt member": (
        'await gateway.create_response({"modle": "m", "model": "m", "input": "hi"})',
        "modle",
    ),
    "a misspelt member beside the right ones": (
        'await gateway.create_response({"model": "m", "inptu": "hi"})',
        "inptu",
    ),
    "no model": ('await gateway.create_response({"input": "hi"})', "model"),
    "a value of another type": ('await gateway.create_response({"model": 1})', "model"),
    "another choice": ('await gateway.create_response({"model": "m", "truncation": "some"})', "truncation"),
    "a member of another event": (
        'async for event in gateway.follow_response("r"):\n'
        '        if event["type"] == "response.completed":\n'
        '            event["delta"]',
        "delta",
    ),
    "an event that there is not": (
        'async for event in gateway.follow_response("r"):\n        assert event["type"] != "response.endde"',
        "Non-overlapping",
    ),
    "a member of no response": ('(await gateway.get_response("r"))["outptu"]', "outptu"),
}


def check(code: str) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src").stdout


def test_a_checker_takes_what_is_right() -> None:
    code = "".join(
        PROGRAM.format(line=line).replace("use(", f"use_{n}(") for n, line in enumerate(GOOD.values())
    )
    assert check(code).startswith("Success")


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD.keys())
def test_a_checker_refuses(line: str, said: str) -> None:
    out = check(PROGRAM.format(line=line))
    assert "Found 1 error" in out, out
    assert said in out
