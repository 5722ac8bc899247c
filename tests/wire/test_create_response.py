"""A request is refused in OpenAI's words and order, or goes upstream as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.bodies import parse_object
from agentic_trio.wire.create_response import (
    KNOWN_FIELDS,
    CreateResponse,
    parse_create_response,
    route,
)
from tests.oracles import check_error, check_response
from tests.playbook import counted_ids, new_response

Json = dict[str, Any]


def parsed(body: bytes, *, strict: bool = False) -> CreateResponse:
    return parse_create_response(body, counted_ids(), strict=strict)


def request(**members: Any) -> bytes:
    return json.dumps({"model": "tiny", "input": "hi", **members}).encode()


def without(name: str, **members: Any) -> bytes:
    kept = {"model": "tiny", "input": "hi", **members}
    del kept[name]
    return json.dumps(kept).encode()


def refused(body: bytes, *, strict: bool = False) -> Json:
    with pytest.raises(InvalidRequest) as caught:
        parsed(body, strict=strict)
    return check_error(caught.value.status, caught.value.body())


def sent_upstream(body: bytes, *items: bytes) -> Json:
    call = parsed(body)
    own = [item.data for item in call.input]
    upstream: Json = json.loads(call.upstream_body([*items, *own], stream=call.stream))
    return upstream


NO_CONTEXT = "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided."
INCLUDABLE = (
    "'file_search_call.results', 'web_search_call.results', 'web_search_call.action.sources', "
    "'message.input_image.image_url', 'computer_call_output.output.image_url', "
    "'code_interpreter_call.outputs', 'reasoning.encrypted_content', and 'message.output_text.logprobs'"
)
EFFORTS = "'none', 'minimal', 'low', 'medium', 'high', 'xhigh', and 'max'"


def invalid_type(param: str, expected: str, got: str) -> tuple[str, str, str]:
    return "invalid_type", param, f"Invalid type for '{param}': expected {expected}, but got {got} instead."


def missing(param: str) -> tuple[str, str, str]:
    return "missing_required_parameter", param, f"Missing required parameter: '{param}'."


def invalid_value(param: str, value: str, supported: str) -> tuple[str, str, str]:
    return "invalid_value", param, f"Invalid value: '{value}'. Supported values are: {supported}."


def below(param: str, minimum: int, got: int) -> tuple[str, str, str]:
    words = (
        f"Invalid '{param}': integer below minimum value. "
        f"Expected a value >= {minimum}, but got {got} instead."
    )
    return "integer_below_min_value", param, words


ROLES = "'assistant', 'system', 'developer', and 'user'"
INPUT_PARTS = "'input_text', 'input_image', 'input_file', and 'input_audio'"
ITEMS = "one of a string or array of input items"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (without("model"), missing("model")),
        (request(model=7), invalid_type("model", "a string", "an integer")),
        (request(model=None), invalid_type("model", "a string", "an object")),
        (request(model=["m"]), invalid_type("model", "a string", "an array")),
        (request(model=True), invalid_type("model", "a string", "a boolean")),
        (request(model=1.5), invalid_type("model", "a string", "a decimal")),
        (request(model=""), missing("model")),
        (without("input"), missing("input")),
        (request(input=None), missing("input")),
        (request(input=""), ("missing_required_parameter", None, NO_CONTEXT)),
        (request(input=[]), ("missing_required_parameter", None, NO_CONTEXT)),
        (request(input={}), invalid_type("input", ITEMS, "an object")),
        (request(input=7), invalid_type("input", ITEMS, "an integer")),
        (request(input=[7]), invalid_type("input[0]", "an input item", "an integer")),
        (
            request(input=[{"role": "user", "content": "hi"}, None]),
            invalid_type("input[1]", "an input item", "an object"),
        ),
        (request(input=[{"role": "bogus", "content": "hi"}]), invalid_value("input[0]", "bogus", ROLES)),
        (request(input=[{"role": "user"}]), missing("input[0].content")),
        (request(input=[{"role": "user", "content": None}]), missing("input[0].content")),
        (request(input=[{"content": "hi"}]), missing("input[0].role")),
        (
            request(input=[{"role": "user", "content": [{"type": "output_text", "text": "hi"}]}]),
            invalid_value("input[0].content[0]", "output_text", INPUT_PARTS),
        ),
        (
            request(input=[{"role": "user", "content": [{"type": "bogus"}]}]),
            invalid_value("input[0].content[0].type", "bogus", INPUT_PARTS),
        ),
        (
            request(input=[{"role": "assistant", "content": [{"type": "input_text", "text": "hi"}]}]),
            invalid_value("input[0].content[0]", "input_text", "'output_text' and 'refusal'"),
        ),
        (request(input=[{"role": "user", "content": [{"text": "hi"}]}]), missing("input[0].content[0].type")),
        (
            request(input=[{"role": "user", "content": [{"type": "input_text"}]}]),
            missing("input[0].content[0].text"),
        ),
        (
            request(input=[{"type": "function_call", "name": "f", "arguments": ""}]),
            missing("input[0].call_id"),
        ),
        (request(input=[{"type": "function_call_output", "call_id": "c"}]), missing("input[0].output")),
        (
            request(input=[{"type": "message", "id": "item_x", "role": "user", "content": "hi"}]),
            (
                "invalid_value",
                "input[0].id",
                "Invalid 'input[0].id': 'item_x'. Expected an ID that begins with 'msg'.",
            ),
        ),
        (
            without("input", messages=[]),
            (
                "unsupported_parameter",
                None,
                "Unsupported parameter: 'messages'. "
                "In the Responses API, this parameter has moved to 'input'.",
            ),
        ),
        (request(store="yes"), invalid_type("store", "a boolean", "a string")),
        (request(stream=1), invalid_type("stream", "a boolean", "an integer")),
        (request(background=[]), invalid_type("background", "a boolean", "an array")),
        (request(max_output_tokens=15), below("max_output_tokens", 16, 15)),
        (request(max_output_tokens=16.5), invalid_type("max_output_tokens", "an integer", "a decimal")),
        (request(max_output_tokens=True), invalid_type("max_output_tokens", "an integer", "a boolean")),
        (request(max_tool_calls=0), below("max_tool_calls", 1, 0)),
        (request(truncation="bogus"), invalid_value("truncation", "bogus", "'auto' and 'disabled'")),
        (request(include=["x"]), invalid_value("include[0]", "x", INCLUDABLE)),
        (
            request(metadata={str(key): "" for key in range(17)}),
            (
                "object_above_max_properties",
                "metadata",
                "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
                "but got an object with 17 properties instead.",
            ),
        ),
        (
            request(metadata={"k": "x" * 513}),
            (
                "string_above_max_length",
                "metadata.k",
                "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, "
                "but got a string with length 513 instead.",
            ),
        ),
        (request(metadata={"k": 7}), invalid_type("metadata.k", "a string", "an integer")),
        (
            request(tool_choice="bogus"),
            invalid_value("tool_choice", "bogus", "'none', 'auto', and 'required'"),
        ),
        (request(tools=[{}]), missing("tools[0].type")),
        (request(tools=[{"type": "function"}]), missing("tools[0].name")),
        (request(tools=[7]), invalid_type("tools[0]", "an object", "an integer")),
        (request(text={"format": {"type": "json_schema", "schema": {}}}), missing("text.format.name")),
        (request(text={"format": {}}), missing("text.format.type")),
        (request(reasoning={"effort": "bogus"}), invalid_value("reasoning.effort", "bogus", EFFORTS)),
        (
            request(conversation="conv_x", previous_response_id="resp_x"),
            (
                "mutually_exclusive_parameters",
                None,
                "Mutually exclusive parameters: ''. Ensure you are only providing one of: "
                "'previous_response_id' or 'conversation'.",
            ),
        ),
        (request(conversation={}), missing("conversation.id")),
        (
            request(conversation=7),
            invalid_type("conversation", "one of a conversation ID or object", "an integer"),
        ),
        (
            request(conversation="conv_x", conversation_id="conv_y"),
            (
                "invalid_value",
                "conversation_id",
                "'conversation' and 'conversation_id' name different conversations.",
            ),
        ),
        (request(previous_response_id=7), invalid_type("previous_response_id", "a string", "an integer")),
    ],
    ids=lambda value: value[:70].decode() if isinstance(value, bytes) else "",
)
def test_a_refusal_has_the_words_code_and_param_of_openai(
    body: bytes, expected: tuple[str, str | None, str]
) -> None:
    error = refused(body)
    assert (error["code"], error["param"], error["message"]) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (request(zzz=1), "Unknown parameter: 'zzz'."),
        (request(stor=True), "Unknown parameter: 'stor'. Did you mean 'store'?"),
        (
            request(input=[{"role": "user", "content": "hi", "bogus": 1}]),
            "Unknown parameter: 'input[0].bogus'.",
        ),
    ],
    ids=["unlike any", "like one", "in an item"],
)
def test_an_unknown_member_is_refused_where_parameters_are_strict(body: bytes, message: str) -> None:
    error = refused(body, strict=True)
    assert (error["code"], error["message"]) == ("unknown_parameter", message)
    assert error["param"] in message


def test_members_that_openai_knows_are_taken_where_parameters_are_strict() -> None:
    nulls = dict.fromkeys(KNOWN_FIELDS - {"model", "input"})
    call = parsed(request(**nulls), strict=True)
    assert (call.members.keys(), len(call.input)) == ({"model"}, 1)


WRONG = {
    "model": 7,
    "zzz": 1,
    "input": {},
    "include": 7,
    "tools": 7,
    "metadata": 7,
    "text": 7,
    "temperature": "hot",
    "top_p": "most",
    "parallel_tool_calls": 7,
    "stream": 7,
    "background": 7,
    "max_output_tokens": "many",
    "max_tool_calls": "many",
    "reasoning": 7,
    "user": 7,
    "safety_identifier": 7,
    "truncation": 7,
    "instructions": 7,
    "store": 7,
    "service_tier": 7,
    "top_logprobs": "many",
    "conversation": 7,
}
"""Members that are all wrong, in the order in which OpenAI looks at them."""


@pytest.mark.parametrize("first", WRONG)
def test_members_are_checked_in_openais_order(first: str) -> None:
    wrong = list(WRONG)[list(WRONG).index(first) :]
    error = refused(request(**{name: WRONG[name] for name in reversed(wrong)}), strict=True)
    assert error["param"] == first


def test_the_state_phase_comes_before_the_empty_input() -> None:
    error = refused(request(input="", conversation="conv_x", previous_response_id="resp_x"))
    assert error["code"] == "mutually_exclusive_parameters"


BAD_JSON = [
    b"",
    b" ",
    b"{",
    b"nul",
    b"null",
    b"[]",
    b"7",
    b'"model"',
    b'{"model":"tiny","input":"hi"} trailing',
    b'{"model":"tiny","input":"\xff"}',
    b'{"model":"tiny","input":"hi","extra":"\xff"}',
    b"\xff\xfe{\x00}\x00",
    b'{"model":"tiny","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"model":"tiny","input":"hi","extra":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"model":"tiny","input":[{"type":"x","n":1e999}]}',
    b'{"model":"tiny","input":[{"type":"x","n":' + b"1" * 5000 + b"}]}",
    b'{"model":"tiny","input":"\\ud800"}',
    b'{"model":"tiny","input":NaN}',
]


@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: repr(body[:50]))
def test_what_is_no_json_object_in_utf8_is_refused(body: bytes) -> None:
    assert refused(body)["code"] == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [body for body in BAD_JSON if b"input" not in body or b"trailing" in body or b"[[" in body],
    ids=lambda body: repr(body[:50]),
)
def test_what_is_no_json_object_is_not_routed_either(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        route(body)
    assert caught.value.code == "invalid_json"


def test_routing_says_what_is_wrong_with_store() -> None:
    with pytest.raises(InvalidRequest) as caught:
        route(request(store="yes"))
    assert (caught.value.code, caught.value.param) == ("invalid_type", "store")


@pytest.mark.parametrize(
    ("members", "relayed"),
    [
        ({}, False),
        ({"store": None}, False),
        ({"store": True}, False),
        ({"store": False}, True),
        ({"store": False, "stream": True}, True),
        ({"store": False, "previous_response_id": None, "conversation": None, "conversation_id": None}, True),
        ({"store": False, "previous_response_id": "resp_x"}, False),
        ({"store": False, "conversation": "conv_x"}, False),
        ({"store": False, "conversation": {"id": "conv_x"}}, False),
        ({"store": False, "conversation_id": "conv_x"}, False),
        ({"store": False, "background": True}, False),
        ({"store": False, "background": False}, True),
        ({"store": False, "input": [{"role": "user", "content": "hi", "id": "msg_1"}]}, True),
        ({"store": False, "input": [{"type": "reasoning", "id": "rs_1"}]}, True),
        ({"store": False, "input": [{"type": "item_reference", "id": "msg_1"}]}, False),
        ({"store": False, "input": [{"id": "msg_1"}]}, False),
        ({"store": False, "input": "item_reference"}, True),
        ({"store": False, "input": [{"role": "user", "content": '"item_reference"'}]}, True),
        ({"store": False, "input": [7, {"id": "msg_1"}]}, True),
    ],
    ids=str,
)
def test_only_what_is_not_stored_and_names_no_state_is_relayed(members: Json, relayed: bool) -> None:
    assert route(request(**members)).relayed is relayed


@pytest.mark.parametrize("type", ["grammar", "gr\\u0061mmar", "\\u0067rammar"])
def test_a_grammar_in_any_spelling_is_not_relayed(type: str) -> None:
    tool = f'{{"type":"custom","name":"f","format":{{"type":"{type}","syntax":"lark","definition":"x"}}}}'
    assert not route(f'{{"model":"tiny","store":false,"input":"hi","tools":[{tool}]}}'.encode()).relayed


@pytest.mark.parametrize("type", [r"item_\u0072eference", r"\u0069tem_reference", r"item\u005freference"])
@pytest.mark.parametrize("name", ["type", r"typ\u0065"])
def test_a_reference_in_any_spelling_is_not_relayed(type: str, name: str) -> None:
    input = f'[{{"{name}":"{type}","id":"msg_1"}}]'
    assert not route(f'{{"model":"tiny","store":false,"input":{input}}}'.encode()).relayed


def test_a_byte_order_mark_before_the_json_is_taken() -> None:
    body = b"\xef\xbb\xbf" + request(store=False)
    assert route(body).relayed
    assert parsed(body) == parsed(request(store=False))
    assert parse_object(b"\xef\xbb\xbf" + b'{"a":1}') == {"a": 1}


# --------------------------------------------------------------------------- anything at all

TEXTS = st.text(max_size=8) | st.sampled_from(
    ["user", "message", "function_call", "auto", "function", "msg_1"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            TEXTS | st.sampled_from(["type", "role", "content", "id", "call_id", "name", "output", "format"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
BODIES = st.builds(
    lambda members, model: {"model": model, **members},
    st.dictionaries(st.sampled_from(sorted(KNOWN_FIELDS)) | TEXTS, JSON, max_size=6),
    st.just("tiny") | JSON,
)


@given(BODIES, st.booleans())
def test_nothing_but_an_invalid_request_is_raised_for_any_object(body: Json, strict: bool) -> None:
    raw = json.dumps(body).encode()
    try:
        call = parsed(raw, strict=strict)
    except InvalidRequest as error:
        check_error(error.status, error.body())
        return
    json.loads(b"{" + call.echo() + b"}")
    json.loads(call.upstream_body([item.data for item in call.input], stream=call.stream))


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_nothing_but_an_invalid_request_is_raised_for_any_bytes(body: bytes) -> None:
    for read in (route, parsed, parse_object):
        try:
            read(body)
        except InvalidRequest as error:
            check_error(error.status, error.body())


@given(BODIES)
def test_routing_and_parsing_agree_on_what_is_stored(body: Json) -> None:
    raw = json.dumps(body).encode()
    try:
        call = parsed(raw)
    except InvalidRequest:
        return
    names_state = call.conversation is not None or call.previous_response_id is not None
    assert route(raw).relayed is not (call.store or names_state or call.background)


@given(st.dictionaries(st.text(max_size=8).filter(lambda name: name not in KNOWN_FIELDS), JSON, max_size=5))
def test_members_that_we_do_not_know_go_upstream_unchanged(members: Json) -> None:
    upstream = sent_upstream(request(**members))
    assert {name: upstream[name] for name, value in members.items() if value is not None} == {
        name: value for name, value in members.items() if value is not None
    }


# --------------------------------------------------------------------------- what goes upstream


@pytest.mark.parametrize(
    "text",
    [
        b"123456789012345678901234567890",
        b"1.00",
        b"1E2",
        b"1e999",
        b'"\\u00e9\\ud83c\\udf0d/\\/"',
        b'"\xc3\xa9"',
        b'{"b":1,"a":2,"b":3}',
        b"[ 1 , 2 ]",
        b"false",
    ],
)
def test_the_text_of_an_unknown_member_goes_upstream_byte_for_byte(text: bytes) -> None:
    call = parsed(b'{"model":"tiny","input":"hi","seed":%b}' % text)
    assert b'"seed":%b,' % text in call.upstream_body([], stream=False)


def test_of_a_member_that_is_given_twice_the_last_counts() -> None:
    assert sent_upstream(b'{"model":"a","input":"hi","seed":1,"model":"b","seed":2}')["seed"] == 2


def test_a_member_with_an_odd_name_goes_upstream_under_that_name() -> None:
    assert sent_upstream(request(**{'od"d\n\\é': 1}))['od"d\n\\é'] == 1


def test_null_is_absent() -> None:
    nulls = dict.fromkeys(KNOWN_FIELDS - {"model", "input"})
    assert parsed(request(**nulls)) == parsed(request())


def test_the_state_never_goes_upstream() -> None:
    body = request(
        store=True,
        stream=True,
        background=False,
        conversation_id="conv_x",
        previous_response_id="resp_x",
        truncation="auto",
        stream_options={"include_obfuscation": False},
        metadata={"a": "b"},
        temperature=0.5,
    )
    upstream = sent_upstream(body)
    assert upstream == {
        "model": "tiny",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "store": False,
        "stream": True,
        "input": upstream["input"],
    }


@pytest.mark.parametrize("name", ["conversation", "conversation_id"])
def test_the_conversation_never_goes_upstream(name: str) -> None:
    upstream = sent_upstream(request(**{name: "conv_x"}))
    assert set(upstream) == {"model", "input", "store", "stream"}


def test_the_context_goes_upstream_as_its_own_bytes_in_order() -> None:
    call = parsed(request())
    old = b'{"type":"x","n":1.00}'
    body = call.upstream_body([old, *(item.data for item in call.input)], stream=False)
    assert b'"input":[%b,%b]' % (old, call.input[0].data) in body


@pytest.mark.parametrize(
    "shape",
    [
        b'{"model":"m","input":"x","tools":[{"type":"x","a":%b}]}',
        b'{"model":"m","input":"x","tools":[{"type":"namespace","tools":[%b]}]}',
        b'{"model":"m","input":"x","text":{"format":{"type":"json_schema","name":"n","schema":{"a":%b}}}}',
        b'{"model":"m","input":"x","reasoning":{"x":%b}}',
        b'{"model":"m","input":[{"type":"x","a":%b}]}',
        b'{"model":"m","input":[{"type":"additional_tools","tools":%b}]}',
        b'{"model":"m","input":[{"type":"function_call_output","call_id":"c","output":%b}]}',
    ],
)
def test_however_deep_a_request_is_nested_it_is_served_or_refused(shape: bytes) -> None:
    for depth in range(1, 1200, 13):
        try:
            call = parsed(shape % (b"[" * depth + b"]" * depth))
        except InvalidRequest as error:
            check_error(error.status, error.body(), code="invalid_json")
        else:
            json.loads(b"{%b}" % call.echo())
            call.upstream_body([item.data for item in call.input], stream=False)


# --------------------------------------------------------------------------- what is echoed


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"instructions": "Be brief.", "temperature": 0, "top_p": 1, "user": "me", "store": False},
        {
            "tools": [{"type": "function", "name": "f", "parameters": {"maximum": 2**70}}],
            "tool_choice": "required",
        },
        {"tools": [{"type": "function", "name": "f", "strict": True}, {"type": "web_search"}]},
        {"tool_choice": {"type": "function", "name": "f"}, "tools": [{"type": "function", "name": "f"}]},
        {"text": {"verbosity": "low"}, "reasoning": {"effort": "low"}},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
        {"metadata": {"é": "ü", "": ""}},
        {"max_output_tokens": 16, "max_tool_calls": 1, "top_logprobs": 20, "parallel_tool_calls": False},
        {"conversation": "conv_x"},
        {"conversation": {"id": "conv_x"}},
        {"conversation_id": "conv_x"},
        {"conversation": "conv_x", "conversation_id": "conv_x"},
        {"conversation_id": "conv_x", "previous_response_id": "resp_x"},
        {"previous_response_id": "resp_x"},
        {"safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex", "truncation": "auto"},
        dict.fromkeys(["instructions", "tools", "text", "reasoning", "metadata", "temperature", "store"]),
    ],
    ids=str,
)
def test_the_response_repeats_the_request(members: Json) -> None:
    asked = {"model": "tiny", "input": "hi", **members}
    response = new_response(asked)
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    response.receive_json(json.dumps({"status": "completed", "output": [], "usage": usage}).encode())
    check_response(response.response(), asked, status="completed")


def test_a_format_of_null_is_text() -> None:
    echo = json.loads(b"{" + parsed(request(text={"format": None, "verbosity": "low"})).echo() + b"}")
    assert echo["text"] == {"format": {"type": "text"}, "verbosity": "low"}


def test_the_conversation_is_absent_when_none_was_named() -> None:
    echo = json.loads(b"{" + parsed(request()).echo() + b"}")
    assert ("conversation" in echo, echo["conversation_id"]) == (False, None)


def test_both_spellings_of_the_conversation_are_answered() -> None:
    echo = json.loads(b"{" + parsed(request(conversation_id="conv_x")).echo() + b"}")
    assert (echo["conversation"], echo["conversation_id"]) == ({"id": "conv_x"}, "conv_x")
