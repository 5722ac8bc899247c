"""Items that clients send take the form in which OpenAI stores them, and calls keep their outputs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.ids import ITEM_PREFIXES
from agentic_trio.wire.items import (
    InputItem,
    opened_calls,
    pair_calls,
    parse_input,
    parse_items,
    refuse_dangling,
    without_oldest,
)
from tests.oracles import check_item
from tests.playbook import counted_ids

Json = dict[str, Any]


def taken(*items: Any) -> list[InputItem]:
    return parse_input(list(items), counted_ids())


def stored(item: Any) -> Json:
    """The form in which one item is kept."""
    [one] = taken(item)
    kept: Json = json.loads(one.data)
    assert (kept["id"], kept["type"]) == (one.id, one.type)
    return check_item(kept)


ID = "0" * 48


def user(text: str) -> Json:
    return {
        "id": f"msg_{ID}",
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": text}],
        "status": "completed",
    }


def test_a_text_is_a_message_of_the_user() -> None:
    [item] = parse_input("hi", counted_ids())
    assert json.loads(item.data) == user("hi")


def test_an_empty_text_is_no_item() -> None:
    assert parse_input("", counted_ids()) == []


def test_an_easy_message_is_stored_as_a_whole_one() -> None:
    assert stored({"role": "user", "content": "hi"}) == user("hi")


def test_the_text_of_an_assistant_is_output() -> None:
    part = {"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}
    assert stored({"role": "assistant", "content": "hi"})["content"] == [part]


def test_an_output_message_that_is_replayed_keeps_its_members() -> None:
    part = {"type": "output_text", "text": "hi", "annotations": [{"type": "x"}], "logprobs": []}
    sent = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "incomplete",
        "content": [part],
        "phase": "final",
    }
    assert stored(sent) == sent


def test_null_members_are_left_out() -> None:
    assert stored({"type": "message", "id": None, "role": "user", "content": "hi", "phase": None}) == user(
        "hi"
    )


@pytest.mark.parametrize("role", ["assistant", "system", "developer", "user"])
def test_every_role_is_taken(role: str) -> None:
    assert stored({"role": role, "content": "hi"})["role"] == role


def test_a_reasoning_item_that_is_replayed_has_a_summary() -> None:
    assert stored({"type": "reasoning", "id": "rs_1", "encrypted_content": "e"}) == {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "encrypted_content": "e",
    }


def test_a_call_without_an_id_gets_one_and_a_status() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    assert stored(call) == {**call, "id": f"fc_{ID}", "status": "completed"}


@pytest.mark.parametrize("output", ["text", "", [{"type": "input_text", "text": "t"}], []])
def test_the_output_of_a_call_is_a_text_or_parts(output: Any) -> None:
    sent = {"type": "function_call_output", "call_id": "c", "output": output}
    assert stored(sent) == {**sent, "id": f"fco_{ID}", "status": "completed"}


def test_an_item_of_an_unknown_type_is_kept_as_it_came() -> None:
    sent = {"type": "dream", "of": {"sheep": [2**70, 1.5, "é"]}, "id": "any id", "count": 0}
    assert stored(sent) == sent


def test_an_item_without_a_type_and_role_is_a_reference() -> None:
    [item] = taken({"id": "msg_1"})
    assert (item.type, item.id, item.named) == ("item_reference", "msg_1", True)


@pytest.mark.parametrize("type", sorted(ITEM_PREFIXES))
def test_an_id_that_we_make_says_what_the_item_is(type: str) -> None:
    members = {
        "role": "user",
        "content": "x",
        "call_id": "c",
        "name": "n",
        "arguments": "",
        "input": "",
        "output": "",
    }
    [item] = taken({"type": type, **members})
    assert item.id == f"{ITEM_PREFIXES[type]}_{ID}"
    assert not item.named


@pytest.mark.parametrize(
    ("type", "id"),
    [
        ("message", "fc_1"),
        ("function_call", "ctc_1"),
        ("function_call", "resp_1"),
        ("reasoning", "msg_1"),
        ("custom_tool_call", "fc_1"),
        ("message", ""),
    ],
)
def test_an_id_with_the_wrong_prefix_is_refused(type: str, id: str) -> None:
    with pytest.raises(InvalidRequest, match="Expected an ID that begins with") as caught:
        taken({"type": type, "id": id})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "input[0].id")


@pytest.mark.parametrize(
    "id", ["call_1", "chatcmpl-tool-1", "6c8a0b1e-0d6c-4f0e-9a57-2f1f4f6d2a10", "7", "_", "message_1"]
)
@pytest.mark.parametrize("type", ["message", "function_call", "reasoning", "custom_tool_call"])
def test_an_id_that_a_model_server_made_is_only_a_name(type: str, id: str) -> None:
    members = {"role": "user", "content": "x", "call_id": "c", "name": "n", "arguments": "", "input": ""}
    [item] = taken({"type": type, "id": id, **members})
    assert (item.id, item.named) == (id, True)


def test_an_id_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        taken({"type": "message", "id": "msg_" + "x" * 125, "role": "user", "content": "hi"})
    assert (caught.value.code, caught.value.param) == ("string_above_max_length", "input[0].id")


def test_the_path_of_what_is_wrong_begins_with_the_list() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_items([{"role": "user", "content": "hi"}, 7], "items", counted_ids())
    assert caught.value.param == "items[1]"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=5))
def test_an_unknown_item_loses_nothing(members: Json) -> None:
    sent = {**members, "type": "dream", "id": "item_1"}
    assert stored(sent) == sent


@pytest.mark.parametrize("type", ["mcp_call", "file_search_call", "tool_search_call", "web_search_call"])
def test_null_members_of_other_types_stay(type: str) -> None:
    [item] = taken({"type": type, "id": None, "call_id": None, "error": None, "results": None})
    kept = json.loads(item.data)
    assert kept == {"id": item.id, "type": type, "call_id": None, "error": None, "results": None}


# --------------------------------------------------------------------------- pairing


def call(id: str, type: str = "function_call") -> Json:
    return {"type": type, "call_id": id, "name": "f", "arguments": "{}", "input": ""}


def output(id: str, type: str = "function_call_output") -> Json:
    return {"type": type, "call_id": id, "output": "x"}


def paired(
    *items: Json, open: frozenset[str] = frozenset(), history: tuple[Json, ...] = ()
) -> frozenset[str]:
    return pair_calls(open, taken(*items), [item.data for item in taken(*history)])


def test_a_call_waits_for_its_output() -> None:
    assert paired(call("a"), call("b"), output("a")) == {"b"}


def test_an_output_answers_a_call_of_the_history() -> None:
    assert paired(output("a"), open=frozenset({"a", "b"}), history=(call("a"), call("b"))) == {"b"}


def test_an_output_may_be_sent_again() -> None:
    assert paired(output("a"), history=(call("a"), output("a"))) == frozenset()


def test_an_output_may_be_sent_twice_at_once() -> None:
    assert paired(output("a"), output("a"), open=frozenset({"a"}), history=(call("a"),)) == frozenset()


def test_a_whole_exchange_may_be_sent_again() -> None:
    assert paired(call("a"), output("a"), history=(call("a"), output("a"))) == frozenset()


def test_what_the_ai_sdk_sends_at_each_step_of_a_conversation_is_taken() -> None:
    question = {"role": "user", "content": "What time is it, here and there?"}
    history = (question, call("a"), output("a"), question, call("b"))
    assert paired(question, output("a"), output("b"), open=frozenset({"b"}), history=history) == frozenset()


@pytest.mark.parametrize(
    ("type", "words"),
    [("function_call_output", "function call"), ("custom_tool_call_output", "custom tool call")],
)
def test_an_output_without_a_call_is_refused(type: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        paired(output("a", type), open=frozenset({"b"}), history=(call("b"),))
    assert caught.value.message == f"No tool call found for {words} output with call_id a."
    assert (caught.value.code, caught.value.param) == (None, "input")


def test_a_function_may_answer_a_call_of_another_type() -> None:
    search = {"type": "tool_search_call", "call_id": "a", "execution": "client", "arguments": {}}
    assert paired(search, output("a")) == frozenset()
    assert paired(output("a"), history=(search,)) == frozenset()


def test_an_output_of_another_type_is_no_call() -> None:
    with pytest.raises(InvalidRequest, match="No tool call found"):
        paired({"type": "shell_call_output", "call_id": "a", "output": []}, output("a"))


def test_a_stored_item_of_an_unknown_type_may_have_any_call_id() -> None:
    assert paired(output("a"), history=({"type": "dream", "call_id": [7]}, call("a"))) == frozenset()


def test_an_output_before_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="No tool call found"):
        paired(output("a"), call("a"))


def test_a_call_that_is_only_quoted_in_the_history_is_none() -> None:
    quoting = {"role": "user", "content": json.dumps(call("a"))}
    with pytest.raises(InvalidRequest, match="No tool call found"):
        paired(output("a"), history=(quoting,))


@pytest.mark.parametrize(
    ("type", "words"), [("function_call", "function call"), ("custom_tool_call", "custom tool call")]
)
def test_a_call_that_still_waits_is_refused(type: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refuse_dangling(frozenset({"a"}), taken(call("a", type)))
    assert caught.value.message == f"No tool output found for {words} a."
    assert (caught.value.code, caught.value.param) == (None, "input")


def test_a_call_of_the_history_that_still_waits_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="No tool output found for function call a"):
        refuse_dangling(frozenset({"b", "a"}), [])


def test_nothing_waits_when_all_is_answered() -> None:
    refuse_dangling(frozenset(), taken(call("a")))


def test_the_calls_of_an_output_are_opened() -> None:
    items = [
        call("a"),
        {"type": "message"},
        call("b", "custom_tool_call"),
        {"type": "mcp_call", "call_id": "c"},
    ]
    assert opened_calls(items) == {"a", "b"}


# --------------------------------------------------------------------------- truncation


def data_of(*items: Json) -> list[bytes]:
    return [item.data for item in taken(*items)]


ITEMS = st.lists(
    st.sampled_from(
        [
            call("a"),
            output("a"),
            call("b"),
            output("b"),
            {"role": "user", "content": "x" * 300},
            {"type": "dream"},
        ]
    ),
    min_size=1,
    max_size=12,
)


@given(ITEMS)
def test_a_shortened_context_is_fewer_of_the_newest_items(items: list[Json]) -> None:
    context = data_of(*items)
    shorter = without_oldest(context)
    assert len(shorter) < len(context)
    left = iter(context)
    assert all(item in left for item in shorter)


@given(ITEMS)
def test_a_shortened_context_has_no_output_without_its_call(items: list[Json]) -> None:
    pair_calls(frozenset(), [typed(data) for data in without_oldest(data_of(*items))], ())


def typed(data: bytes) -> InputItem:
    item = json.loads(data)
    return InputItem(item["id"], item["type"], data, named=False, call_id=item.get("call_id"))


def test_shortening_again_and_again_ends() -> None:
    context = data_of(*[{"role": "user", "content": "x"}] * 50)
    while context:
        context = without_oldest(context)
