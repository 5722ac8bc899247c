"""Whatever a conversation holds, the model server is sent items that it takes, spelled alike each time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.rendering import RENDERED, rendered
from agentic_trio.wire.tools import function_name

Json = dict[str, Any]

CASES: list[Json] = json.loads((Path(__file__).parents[1] / "data" / "rendering.json").read_text())

STORED = [item.encode() for case in CASES for item in case["stored"] if '"dream"' not in item]

TAKEN = {
    "message",
    "reasoning",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
}
"""The types of items that vLLM takes."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_an_item_is_sent_as_it_always_was(case: Json) -> None:
    assert [data.decode() for data in rendered(item.encode() for item in case["stored"])] == case["sent"]


@given(st.lists(st.sampled_from(STORED)))
def test_any_context_is_sent_as_items_that_are_taken(context: list[bytes]) -> None:
    for data in rendered(context):
        item = json.loads(data)
        assert item["type"] in TAKEN
        assert b'"refusal"' not in data
        assert not item.get("encrypted_content")
        if item["type"] == "function_call":
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", item["name"])
            assert isinstance(json.loads(item["arguments"]), dict)
        if item["type"] == "function_call_output":
            assert isinstance(item["output"], str)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", '{"a":1}', "call_1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "refusal", "message", "content"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
MEMBERS = sorted({name for data in STORED for name in json.loads(data)} - {"id", "type"})
LEFT_ALONE = (
    "message",
    "function_call_output",
    "custom_tool_call_output",
    "function_call",
    "custom_tool_call",
)
"""Types whose members are checked before they are stored."""


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(RENDERED.keys() - {"compaction", *LEFT_ALONE})),
            st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=6),
        ),
        max_size=4,
    )
)
def test_an_item_with_any_members_is_sent_as_items_that_are_taken(items: list[tuple[str, Json]]) -> None:
    context = [
        msgspec.json.encode({"id": f"x_{place}", "type": type, **members})
        for place, (type, members) in enumerate(items)
    ]
    for data in rendered(context):
        item = json.loads(data)
        assert item["type"] in TAKEN
        assert item["type"] != "function_call" or isinstance(json.loads(item["arguments"]), dict)


@given(st.lists(st.sampled_from(STORED), min_size=1))
def test_what_came_later_does_not_change_how_an_item_is_sent(context: list[bytes]) -> None:
    before = list(rendered(context[:-1]))
    assert list(rendered(context))[: len(before)] == before


def test_an_item_that_needs_no_other_words_is_not_touched() -> None:
    context = [b'{"id":"msg_1","type":"message","role":"user","content":[],"n":1.00}']
    assert next(rendered(context)) is context[0]


@pytest.mark.parametrize("words", ['"type":"refusal"', '"encrypted_content":"x"', '","type":"mcp_call"'])
def test_a_text_that_quotes_an_item_is_none(words: str) -> None:
    part = {"type": "output_text", "text": words, "annotations": [], "logprobs": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": [part]}
    data = json.dumps(item, separators=(",", ":")).encode()
    assert next(rendered([data])) is data


def test_an_id_that_looks_like_an_item_is_none() -> None:
    data = json.dumps({"id": '","type":"mcp_call"', "type": "dream"}, separators=(",", ":")).encode()
    assert next(rendered([data])) is data


def test_a_compaction_of_others_is_refused_and_not_forgotten() -> None:
    with pytest.raises(InvalidRequest) as caught:
        list(rendered([b'{"id":"cmp_1","type":"compaction","encrypted_content":"gAAA"}']))
    assert (caught.value.status, caught.value.code) == (400, "invalid_encrypted_content")


NAMES = st.text(st.sampled_from("ab_.-é"), max_size=6)


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_two_tools_have_two_names(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (function_name(*one) == function_name(*other)) == (one == other)
