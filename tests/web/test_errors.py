"""Bad input: a clear error in OpenAI's envelope, nothing upstream, nothing stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.oracles import check_error

from .harness import World, nested, open_world

GOOD = {"model": "tiny", "input": "hi"}
ABSENT = object()


def wrong(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | members).items() if value is not ABSENT}


TABLE = [
    (wrong(model=ABSENT), "missing_required_parameter", "model"),
    (wrong(model=7), "invalid_type", "model"),
    (wrong(model=None), "invalid_type", "model"),
    (wrong(model=[]), "invalid_type", "model"),
    (wrong(model=""), "missing_required_parameter", "model"),
    (wrong(input=ABSENT), "missing_required_parameter", "input"),
    (wrong(input=None), "missing_required_parameter", "input"),
    (wrong(input=""), "missing_required_parameter", None),
    (wrong(input=[]), "missing_required_parameter", None),
    (wrong(input={}), "invalid_type", "input"),
    (wrong(input=7), "invalid_type", "input"),
    (wrong(input=True), "invalid_type", "input"),
    (wrong(input=[7]), "invalid_type", "input[0]"),
    (wrong(input=[None]), "invalid_type", "input[0]"),
    (wrong(input=["text"]), "invalid_type", "input[0]"),
    (wrong(input=[{"role": "user"}]), "missing_required_parameter", "input[0].content"),
    (wrong(input=[{"content": "x"}]), "missing_required_parameter", "input[0].role"),
    (wrong(input=[{"role": "bogus", "content": "x"}]), "invalid_value", "input[0]"),
    (wrong(input=[{"role": 7, "content": "x"}]), "invalid_type", "input[0].role"),
    (wrong(input=[{"type": 7}]), "invalid_type", "input[0].type"),
    (wrong(input=[{"role": "user", "content": 7}]), "invalid_type", "input[0].content"),
    (wrong(input=[{"role": "user", "content": [7]}]), "invalid_type", "input[0].content[0]"),
    (
        wrong(input=[{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]),
        "invalid_value",
        "input[0].content[0]",
    ),
    (
        wrong(input=[{"role": "user", "content": [{"type": "bogus"}]}]),
        "invalid_value",
        "input[0].content[0].type",
    ),
    (
        wrong(input=[{"role": "user", "content": "x", "id": "item_x"}]),
        "invalid_value",
        "input[0].id",
    ),
    (wrong(input=[{"role": "user", "content": "x", "id": 7}]), "invalid_type", "input[0].id"),
    (
        wrong(input=[{"role": "user", "content": "x", "id": "msg_" + 200 * "x"}]),
        "string_above_max_length",
        "input[0].id",
    ),
    (wrong(input=[{"type": "function_call", "name": "f"}]), "missing_required_parameter", "input[0].call_id"),
    (wrong(input=ABSENT, messages=[]), "unsupported_parameter", None),
    (wrong(store="yes"), "invalid_type", "store"),
    (wrong(store=1), "invalid_type", "store"),
    (wrong(stream="yes"), "invalid_type", "stream"),
    (wrong(stream=1), "invalid_type", "stream"),
    (wrong(background="yes"), "invalid_type", "background"),
    (wrong(include="x"), "invalid_type", "include"),
    (wrong(include=["x"]), "invalid_value", "include[0]"),
    (wrong(include=[7]), "invalid_type", "include[0]"),
    (wrong(instructions=7), "invalid_type", "instructions"),
    (wrong(max_output_tokens=15), "integer_below_min_value", "max_output_tokens"),
    (wrong(max_output_tokens="x"), "invalid_type", "max_output_tokens"),
    (wrong(max_output_tokens=16.5), "invalid_type", "max_output_tokens"),
    (wrong(max_tool_calls=0), "integer_below_min_value", "max_tool_calls"),
    (wrong(metadata=[]), "invalid_type", "metadata"),
    (wrong(metadata={"k": 7}), "invalid_type", "metadata.k"),
    (wrong(metadata={"k": "v" * 513}), "string_above_max_length", "metadata.k"),
    (wrong(metadata={str(n): "v" for n in range(17)}), "object_above_max_properties", "metadata"),
    (wrong(temperature=2.5), "decimal_above_max_value", "temperature"),
    (wrong(temperature=-1), "decimal_below_min_value", "temperature"),
    (wrong(temperature="hot"), "invalid_type", "temperature"),
    (wrong(temperature=True), "invalid_type", "temperature"),
    (wrong(top_p=1.5), "decimal_above_max_value", "top_p"),
    (wrong(top_logprobs=21), "integer_above_max_value", "top_logprobs"),
    (wrong(parallel_tool_calls="x"), "invalid_type", "parallel_tool_calls"),
    (wrong(truncation="bogus"), "invalid_value", "truncation"),
    (wrong(tool_choice="bogus"), "invalid_value", "tool_choice"),
    (wrong(tool_choice={}), "missing_required_parameter", "tool_choice.type"),
    (wrong(tools={}), "invalid_type", "tools"),
    (wrong(tools=[7]), "invalid_type", "tools[0]"),
    (wrong(tools=[{}]), "missing_required_parameter", "tools[0].type"),
    (wrong(tools=[{"type": "function"}]), "missing_required_parameter", "tools[0].name"),
    (wrong(text=7), "invalid_type", "text"),
    (wrong(text={"format": {"type": "json_schema"}}), "missing_required_parameter", "text.format.name"),
    (wrong(reasoning={"effort": "bogus"}), "invalid_value", "reasoning.effort"),
    (wrong(previous_response_id=7), "invalid_type", "previous_response_id"),
    (wrong(conversation=7), "invalid_type", "conversation"),
    (wrong(conversation=[]), "invalid_type", "conversation"),
    (wrong(conversation={}), "missing_required_parameter", "conversation.id"),
    (wrong(conversation={"id": 7}), "invalid_type", "conversation"),
    (wrong(conversation_id=7), "invalid_type", "conversation_id"),
    (wrong(conversation="conv_a", conversation_id="conv_b"), "invalid_value", "conversation_id"),
    (wrong(conversation="conv_a", previous_response_id="resp_b"), "mutually_exclusive_parameters", None),
]


def named(row: dict[str, Any]) -> str:
    absent = [f"no {name}" for name in GOOD if name not in row]
    changed = [f"{name}={json.dumps(value)[:40]}" for name, value in row.items() if GOOD.get(name) != value]
    return "+".join(absent + changed)


@pytest.mark.parametrize(("body", "code", "param"), TABLE, ids=[named(body) for body, _, _ in TABLE])
async def test_bad_request_is_refused_with_code_and_param(
    world: World, body: dict[str, Any], code: str, param: str | None
) -> None:
    for stream in (False, True):
        answer = await world.post("/v1/responses", {"stream": stream, **body})
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/json"
        check_error(answer.status_code, answer.content, code=code, param=param)
    assert world.upstream.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (wrong(model=ABSENT), "Missing required parameter: 'model'."),
        (wrong(model=7), "Invalid type for 'model': expected a string, but got an integer instead."),
        (wrong(model=None), "Invalid type for 'model': expected a string, but got an object instead."),
        (wrong(input=ABSENT), "Missing required parameter: 'input'."),
        (
            wrong(input=""),
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.",
        ),
        (
            wrong(input={}),
            "Invalid type for 'input': expected one of a string or array of input items, "
            "but got an object instead.",
        ),
        (wrong(store="yes"), "Invalid type for 'store': expected a boolean, but got a string instead."),
        (wrong(stream="yes"), "Invalid type for 'stream': expected a boolean, but got a string instead."),
        (
            wrong(max_output_tokens=15),
            "Invalid 'max_output_tokens': integer below minimum value. "
            "Expected a value >= 16, but got 15 instead.",
        ),
        (
            wrong(conversation="conv_a", previous_response_id="resp_b"),
            "Mutually exclusive parameters: ''. Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'.",
        ),
    ],
)
async def test_refusal_is_in_openais_words(world: World, body: dict[str, Any], message: str) -> None:
    answer = await world.post("/v1/responses", body)
    assert answer.json()["error"]["message"] == message


# --------------------------------------------------------------------------- bodies that are no JSON

BODIES = {
    "nothing": b"",
    "white space": b" \n",
    "no JSON": b"{nope",
    "cut": b'{"model": "tiny", "input": "hi"',
    "two objects": b"{}{}",
    "an array": b"[]",
    "a string": b'"hi"',
    "null": b"null",
    "NaN": b'{"model": "tiny", "input": "hi", "temperature": NaN}',
    "infinity": b'{"model": "tiny", "input": "hi", "temperature": 1e999}',
    "latin-1": '{"model": "tiny", "input": "é"}'.encode("latin-1"),
    "utf-16": '{"model": "tiny", "input": "hi"}'.encode("utf-16"),
    "half a surrogate": b'{"model": "tiny", "input": "\\ud800"}',
    "half a surrogate in a key": b'{"model": "tiny", "input": "hi", "\\udc00": 1}',
    "a control character": b'{"model": "tiny", "input": "\x01"}',
    "deep arrays": b'{"model": "tiny", "input": %b}' % nested(100_000).encode(),
    "deep objects": b'{"model": "tiny", "input": "hi", "x": %b1%b}' % (b'{"a":' * 100_000, b"}" * 100_000),
    "a deep item": b'{"model": "tiny", "input": [%b]}' % nested(20_000).encode(),
}


@pytest.mark.parametrize("store", [True, False])
async def test_a_byte_order_mark_is_taken(world: World, store: bool) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"model": "tiny", "input": "hi", "store": store}).encode()
    answer = await world.client.post("/v1/responses", content=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_body_that_is_no_json_object_is_refused(world: World, path: str, body: bytes) -> None:
    if path == "/v1/conversations" and not body.strip():
        return  # where a body is optional
    answer = await world.client.post(path, content=body)
    assert answer.status_code == 400, answer.text
    error = check_error(answer.status_code, answer.content)
    assert error["code"] in ("invalid_json", "invalid_type")
    assert world.upstream.requests == []


@pytest.mark.parametrize("digits", [20, 400, 5_000, 100_000])
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("member", ["max_output_tokens", "temperature", "store", "unknown", "input"])
async def test_huge_numbers_are_no_reason_to_fail(world: World, member: str, sign: str, digits: int) -> None:
    body = b'{"model": "tiny", "input": "hi", "%b": %b%b}' % (
        member.encode(),
        sign.encode(),
        b"9" * digits,
    )
    answer = await world.client.post("/v1/responses", content=body)
    assert answer.status_code < 500, answer.text


# --------------------------------------------------------------------------- sizes

LIMIT = 1000


def body_of(size: int) -> bytes:
    empty = b'{"model":"tiny","input":""}'
    return empty[:-2] + b"x" * (size - len(empty)) + b'"}'


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations", "/v1/chat/completions"])
async def test_body_over_the_limit_is_413(path: str, chunked: bool) -> None:
    async with open_world(max_request_body_size=LIMIT) as world:

        async def pieces() -> Any:
            yield body_of(LIMIT + 1)

        content = pieces() if chunked else body_of(LIMIT + 1)
        answer = await world.client.post(path, content=content)
        assert answer.status_code == 413
        check_error(answer.status_code, answer.content, code="request_too_large")
        assert world.upstream.requests == []


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_body_of_the_limit_is_taken(chunked: bool) -> None:
    async with open_world(max_request_body_size=LIMIT) as world:

        async def pieces() -> Any:
            yield body_of(LIMIT)

        content = pieces() if chunked else body_of(LIMIT)
        answer = await world.client.post("/v1/responses", content=content)
        assert answer.status_code == 200, answer.text


async def test_client_that_is_still_sending_reads_its_413(world: World) -> None:
    answer = await world.client.post("/v1/responses", content=b"x" * (11 * 1024 * 1024))
    assert answer.status_code == 413


async def test_connection_serves_on_after_a_413() -> None:
    async with open_world(max_request_body_size=LIMIT) as world:
        for _ in range(3):
            answer = await world.client.post("/v1/responses", content=body_of(LIMIT + 1))
            assert answer.status_code == 413
            assert (await world.client.get("/health")).status_code == 200


# --------------------------------------------------------------------------- routes and methods


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/nope"),
        ("POST", "/v1/nope"),
        ("GET", "/nope"),
        ("GET", "/v1/responses/"),
        ("POST", "/v1/responses/"),
        ("GET", "/v1/responses/resp_x/nope"),
        ("POST", "/responses"),
        ("GET", "/v1/conversations/"),
        ("GET", "/static/app.css"),
        ("GET", "/v1/responses/%2e%2e/%2e%2e/etc/passwd"),
    ],
)
async def test_unknown_route_is_404_in_the_envelope(world: World, method: str, path: str) -> None:
    answer = await world.client.request(method, path)
    assert answer.status_code == 404
    error = check_error(answer.status_code, answer.content, code="unknown_url", param=None)
    assert error["message"].startswith(f"Invalid URL ({method} /")


@pytest.mark.parametrize("path", ["/v1//responses", "/v1/responses//x", "/v1//models", "/health//"])
async def test_doubled_slashes_are_an_unknown_route(world: World, path: str) -> None:
    answer = await world.client.get(path)
    assert answer.status_code == 404
    check_error(answer.status_code, answer.content, code="unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/responses", {"POST"}),
        ("PATCH", "/v1/responses/resp_x", {"GET", "DELETE"}),
        ("DELETE", "/v1/conversations", {"POST"}),
        ("POST", "/v1/models", {"GET"}),
        ("GET", "/v1/chat/completions", {"POST"}),
        ("POST", "/health", {"GET"}),
        ("TRACE", "/health", {"GET"}),
    ],
)
async def test_unknown_method_is_405_in_the_envelope(
    world: World, method: str, path: str, allowed: set[str]
) -> None:
    answer = await world.client.request(method, path)
    assert answer.status_code == 405
    check_error(answer.status_code, answer.content)
    assert allowed <= {name.strip() for name in answer.headers["allow"].split(",")}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations"])
async def test_lists_that_openai_has_not_are_405(world: World, path: str) -> None:
    answer = await world.client.get(path)
    assert answer.status_code == 405
    check_error(answer.status_code, answer.content)


ODD_IDS = ["nope", "%00", "%ff", "%F0%9F%A6%80", "'%20OR%201=1--", "x" * 5000, "%0d%0aX-Y:z"]


@pytest.mark.parametrize("path", ["/v1/responses/{}", "/v1/conversations/{}", "/v1/responses/{}/input_items"])
@pytest.mark.parametrize("id", ODD_IDS)
async def test_odd_id_is_only_unknown(world: World, path: str, id: str) -> None:
    answer = await world.client.get(path.format(id))
    assert answer.status_code == 404
    error = check_error(answer.status_code, answer.content, code=None, param=None)
    assert "not found" in error["message"]
    assert len(error["message"]) < 200
