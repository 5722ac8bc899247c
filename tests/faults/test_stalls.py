"""Bodies of ten megabytes, in all shapes: none keeps other requests waiting."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.fake_upstream import Script, Text
from tests.web.harness import MODEL, open_world

from .ledger import ledger
from .stalls import no_stall

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 10 * 1024 * 1024
HELLO = Script(output=(Text(("Hello",)),))


def filled(unit: str, before: str, after: str, size: int = LIMIT - 4096) -> str:
    """As many comma-separated units between the two ends as fit."""
    count = (size - len(before) - len(after)) // (len(unit) + 1)
    return f"{before}{','.join([unit] * count)}{after}"


def request(**members: str) -> str:
    """A request's body, its members given as JSON text."""
    return "{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}"


MESSAGE = json.dumps({"role": "user", "content": "x" * 900})
PARTS = json.dumps({"role": "user", "content": [{"type": "input_text", "text": "x" * 20}] * 20})
OUTPUT = json.dumps({"type": "function_call_output", "call_id": "c", "output": "x"})
TOOL = json.dumps({"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}})
M = json.dumps(MODEL)

SHAPES: dict[str, Callable[[], str]] = {
    "messages": lambda: request(model=M, input=filled(MESSAGE, "[", "]")),
    "10,000 messages": lambda: request(model=M, input="[" + ",".join([MESSAGE] * 10_000) + "]"),
    "messages of many parts": lambda: request(model=M, input=filled(PARTS, "[", "]")),
    "outputs without calls": lambda: request(model=M, input=filled(OUTPUT, "[", "]")),
    "empty items": lambda: request(model=M, input=filled("{}", "[", "]")),
    "one string": lambda: request(model=M, input=json.dumps("x" * (LIMIT - 4096))),
    "one escaped string": lambda: request(model=M, input='"' + "\\n" * (LIMIT // 2 - 4096) + '"'),
    "tools": lambda: request(model=M, input='"hi"', tools=filled(TOOL, "[", "]")),
    "tools of nothing": lambda: request(model=M, input='"hi"', tools=filled('{"type":""}', "[", "]")),
    "1,000 large tools": lambda: request(
        model=M,
        input='"hi"',
        tools="["
        + ",".join([json.dumps({"type": "function", "name": "f", "description": "x" * 9000})] * 1000)
        + "]",
    ),
    "a schema of objects": lambda: request(
        model=M,
        input='"hi"',
        text=filled("{}", '{"format":{"type":"json_schema","name":"n","schema":{"x":[', "]}}}"),
    ),
    "a schema of numbers": lambda: request(
        model=M,
        input='"hi"',
        text=filled("1", '{"format":{"type":"json_schema","name":"n","schema":{"x":[', "]}}}"),
    ),
    "unknown members": lambda: request(model=M, input='"hi"', **{f"m{n}": "1" for n in range(700_000)}),
    "a long member": lambda: request(model=M, input='"hi"', **{"m" * (LIMIT - 4096): "1"}),
    "metadata": lambda: request(
        model=M, input='"hi"', metadata=request(**{f"m{n}": '"x"' for n in range(600_000)})
    ),
    "include": lambda: request(model=M, input='"hi"', include=filled('"x"', "[", "]")),
    "a long call id": lambda: request(
        model=M, input=f'[{{"type":"function_call_output","call_id":"{"c" * (LIMIT - 9000)}","output":"x"}}]'
    ),
    "a deep value": lambda: request(model=M, input='"hi"', x="[" * 5_000_000 + "]" * 5_000_000),
    "no JSON": lambda: "{" * (LIMIT - 4096),
}


@pytest.mark.parametrize("strict", [False, True], ids=["lenient", "strict"])
@pytest.mark.parametrize("store", [True, False], ids=["stored", "relayed"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_no_body_of_ten_megabytes_stalls_the_others(shape: str, store: bool, strict: bool) -> None:
    text = SHAPES[shape]()
    body = (text if store else text.replace("{", '{"store":false,', 1)).encode()
    assert len(body) < LIMIT + 4096
    async with open_world(HELLO, strict_parameters=strict) as world:
        with no_stall():
            answer = await world.client.post("/v1/responses", content=body, timeout=60)
        ledger.fault()
        assert answer.status_code in (200, 400, 413, 502), answer.text[:500]
        assert len(answer.content) < 2000 or answer.status_code == 200


@pytest.mark.parametrize("shape", ["messages", "empty items", "unknown members", "a deep value", "no JSON"])
async def test_nor_does_one_for_a_conversation(shape: str) -> None:
    body = SHAPES[shape]().replace('"input":', '"items":', 1).encode()
    async with open_world(HELLO) as world:
        with no_stall():
            answer = await world.client.post("/v1/conversations", content=body, timeout=60)
        ledger.fault()
        assert answer.status_code in (400, 413), answer.text[:500]
