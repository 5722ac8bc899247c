"""What becomes of every member of a request: ``docs/fields.md``, row by row.

A row says what the model server received, and what the Response object repeats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentic_trio.wire.create_response import (
    ECHO_DEFAULTS,
    ECHOED_IF_GIVEN,
    FIELDS,
    HOSTED_FIELDS,
    OTHER_FIELDS,
)
from tests.web.harness import open_world

DOCUMENT = Path(__file__).parents[2] / "docs" / "fields.md"

TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": False}
ABSENT = object()


@dataclass
class Field:
    """One member: a value for it, what goes upstream of it, and what is echoed."""

    value: Any
    upstream: Any = ABSENT
    echo: Any = ABSENT


def same(value: Any) -> Field:
    """A member that is forwarded and echoed."""
    return Field(value, value, value)


ROWS = {
    "background": Field(False, ABSENT, False),
    "frequency_penalty": same(0.5),
    "include": Field(["message.output_text.logprobs"], ["message.output_text.logprobs"]),
    "instructions": same("be brief"),
    "max_output_tokens": same(64),
    "max_tool_calls": same(3),
    "metadata": same({"a": "b"}),
    "model": same("tiny"),
    "parallel_tool_calls": same(False),
    "presence_penalty": same(0.25),
    "prompt_cache_key": same("k"),
    "prompt_cache_options": same({"mode": "implicit", "ttl": "30m"}),
    "prompt_cache_retention": same("24h"),
    "reasoning": Field({"effort": "low"}, {"effort": "low"}, {"effort": "low", "summary": None}),
    "safety_identifier": same("user-1"),
    "service_tier": same("auto"),
    "store": Field(True, False, True),
    "stream": Field(False, False),
    "stream_options": Field({"include_obfuscation": False}),
    "temperature": same(0.5),
    "text": same({"format": {"type": "json_object"}}),
    "tool_choice": same("none"),
    "tools": same([TOOL]),
    "top_logprobs": same(2),
    "top_p": same(0.5),
    "truncation": Field("auto", ABSENT, "auto"),
    "user": same("u"),
    "seed": Field(7, 7),
    "chat_template_kwargs": Field({"enable_thinking": False}, {"enable_thinking": False}),
}
"""The members that a request without state can have; those about state have tests of their own."""

STATE = {"input", "conversation", "conversation_id", "previous_response_id", "context_management"}


@pytest.mark.parametrize("name", ROWS)
async def test_a_member_goes_where_the_document_says(name):
    row = ROWS[name]
    async with open_world() as world:
        answer = await world.create(**{name: row.value})
        received = world.upstream.last.json
    assert received.get(name, ABSENT) == row.upstream
    if name in ECHO_DEFAULTS.keys() | ECHOED_IF_GIVEN:
        assert answer[name] == row.echo


@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"model"}))
async def test_null_is_an_absent_member(name):
    async with open_world() as world:
        await world.create(**{name: None})
        expected = {"store": False, "stream": False}.get(name, ABSENT)
        assert world.upstream.last.json.get(name, ABSENT) == expected


@pytest.mark.parametrize("name", sorted(HOSTED_FIELDS))
async def test_what_only_openai_hosts_is_refused(name):
    async with open_world() as world:
        status, error = await world.refused(**{name: {}})
        assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", name)
        assert world.upstream.requests == []


def test_every_known_member_has_a_row():
    known = FIELDS.keys() | OTHER_FIELDS | ECHO_DEFAULTS.keys()
    assert known <= ROWS.keys() | STATE


def test_the_document_has_a_row_for_every_member():
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert documented == ROWS.keys() - {"seed", "chat_template_kwargs"} | STATE | HOSTED_FIELDS


@pytest.mark.parametrize("stream", [False, True])
async def test_the_secrets_of_a_tool_reach_the_model_server_and_nobody_else(tmp_path, stream):
    tool = {
        "type": "connector",
        "server_url": "https://me:SECRET@host.example/SECRET?k=SECRET",
        "headers": {"Authorization": "Bearer SECRET"},
        "authorization": "SECRET",
    }
    item = {"type": "additional_tools", "role": "developer", "tools": [tool]}
    question = {"role": "user", "content": "hi"}
    body = {"model": "tiny", "tools": [tool], "input": [item, question], "stream": stream}
    async with open_world(db_url=f"sqlite://{tmp_path}/state.db") as world:
        answer = await world.post("/v1/responses", body)
        assert (answer.status_code, b"SECRET" in answer.content) == (200, False)
        assert world.upstream.last.json["tools"] == [tool]
        id = re.search(r"resp_[0-9a-f]+", answer.text)[0]
        for path in (f"/v1/responses/{id}", f"/v1/responses/{id}/input_items"):
            shown = await world.client.get(path)
            assert (shown.status_code, b"SECRET" in shown.content) == (200, False)
        assert world.upstream.last.json["tools"] == [tool]
        for file in filter(Path.is_file, tmp_path.iterdir()):
            assert b"SECRET" not in file.read_bytes(), file
