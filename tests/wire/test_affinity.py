"""What a relayed body says about the model server that it wants."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentic_trio.wire.affinity import MAX_KEY_BYTES, NO_AFFINITY, affinity_of

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}
MORE = {"role": "user", "content": "more"}


def key(**members: Any) -> bytes:
    return affinity_of(json.dumps({"model": "tiny", **members}).encode()).key


@pytest.mark.parametrize("name", ["input", "messages"])
def test_a_conversation_that_is_sent_again_with_more_keeps_its_key(name: str) -> None:
    assert key(**{name: [SYSTEM, HI]}) == key(**{name: [SYSTEM, HI, HELLO, MORE]})
    assert key(**{name: [SYSTEM, HI]}) != key(**{name: [SYSTEM, MORE]})


def test_instructions_are_part_of_the_key() -> None:
    assert key(instructions="a", input=[HI]) != key(instructions="b", input=[HI])
    assert key(system="a", messages=[HI]) != key(system="b", messages=[HI])


def test_a_cache_key_of_the_client_is_all_of_the_key() -> None:
    assert key(prompt_cache_key="k", input=[HI]) == key(prompt_cache_key="k", input=[MORE], instructions="x")
    assert key(prompt_cache_key=None, input=[HI]) == key(input=[HI])


def test_a_long_first_item_is_looked_at_as_far_as_may_be() -> None:
    long = {"role": "user", "content": "x" * MAX_KEY_BYTES}
    assert key(input=[long]) == key(input=[long, HELLO, MORE])
    assert len(key(input=[long])) <= MAX_KEY_BYTES


def test_a_long_second_item_doesn_t_count() -> None:
    long = {"role": "user", "content": "x" * MAX_KEY_BYTES}
    assert key(input=[SYSTEM, long]) == key(input=[SYSTEM, long, HELLO])


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[]", b"5", b'"x"', b"[" * 100_000, b'{"model":', b"\xff", b'{"model":"\xff"}']
)
def test_a_body_that_says_nothing_has_none(body: bytes) -> None:
    assert affinity_of(body) == NO_AFFINITY


@pytest.mark.parametrize("value", ["5", "null", "[]", '""', '"\\ud800"', "[" * 5000 + "]" * 5000])
def test_members_of_other_types_are_passed_over(value: str) -> None:
    body = f'{{"model":{value},"prompt_cache_key":{value},"input":{value},"instructions":{value}}}'
    assert affinity_of(body.encode()).model is None


@pytest.mark.parametrize("input", ["hi", [], [5], [[]], [{"role": "user"}], {"a": 1}, None])
def test_any_context_has_a_key(input: Any) -> None:
    assert affinity_of(json.dumps({"model": "tiny", "input": input}).encode()).model == "tiny"
