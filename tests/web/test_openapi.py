"""The OpenAPI document says what is served, and what is served does as it says."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import jsonschema_rs
import pytest
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList
from openai.types.responses import Response, ResponseStreamEvent

import agentic_trio
from agentic_trio.errors import InvalidRequest
from agentic_trio.web.app import create_app
from agentic_trio.wire.accumulator import TERMINAL
from agentic_trio.wire.bodies import MAX_MEMBERS
from agentic_trio.wire.checks import INCLUDABLE, MAX_METADATA_PAIRS
from agentic_trio.wire.conversations import MAX_ITEMS
from agentic_trio.wire.create_response import (
    ECHO_DEFAULTS,
    ECHOED_IF_GIVEN,
    FIELDS,
    MAX_INPUT_LENGTH,
    MAX_NAME_LENGTH,
    OTHER_FIELDS,
)
from agentic_trio.wire.items import MAX_ID_LENGTH, MAX_INPUT_ITEMS, MAX_PARTS
from agentic_trio.wire.output import DELTAS, DONES, PART_EVENTS
from agentic_trio.wire.responses import KEPT
from agentic_trio.wire.sse import DONE
from tests.fake_upstream import Call, CustomCall, Reasoning, Refusal, Script, Text, Unknown
from tests.oracles import parse_sse
from tests.playbook import new_response

from .documented import DOCUMENT, SCHEMAS, check, operations, refused_by, resolved
from .harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

METHODS = {"GET", "POST", "DELETE", "PUT", "PATCH"}
DATA = Path(__file__).parents[1] / "data"


def nodes(value: Any) -> Iterator[Json]:
    """Every object in a JSON value, itself included."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(each)


# --------------------------------------------------------------------------- the document itself


def test_every_route_is_documented_and_nothing_else():
    routed = {
        (method, re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule))
        for rule in create_app().url_map.iter_rules()
        if not rule.websocket
        for method in (rule.methods or set()) & METHODS
    }
    documented = {(method, path) for method, path, _ in operations()}
    assert documented == routed


def test_every_component_is_referred_to_and_every_reference_leads_to_one():
    referred = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    components = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "parameters", "headers", "responses", "links")
        for name in DOCUMENT["components"][kind]
    }
    assert referred == components


def test_every_schema_is_one():
    for name in SCHEMAS:
        jsonschema_rs.meta.validate(
            {**SCHEMAS[name], "$schema": "https://json-schema.org/draft/2020-12/schema"}
        )


def test_every_operation_has_its_own_id_a_known_tag_and_its_path_s_parameters():
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    ids = Counter(operation["operationId"] for _, _, operation in operations())
    assert set(ids.values()) == {1}
    for _, path, operation in operations():
        assert set(operation["tags"]) <= tags
        assert operation["summary"]
        parameters = [resolved(each) for each in operation["parameters"]]
        named = {each["name"] for each in parameters if each["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))


def test_every_example_is_what_it_is_an_example_of():
    contents = [node for node in nodes(DOCUMENT) if "examples" in node and "schema" in node]
    assert len(contents) > 10
    for content in contents:
        for example in content["examples"].values():
            assert refused_by(content["schema"], example["value"]) == []


def test_the_document_says_what_anyone_may_call():
    routes = create_app()
    public = {path for path in DOCUMENT["paths"] if path in routes.public}
    assert public == {"/health", "/ready", "/openapi.json", "/docs", "/"}
    for _, path, operation in operations():
        assert (operation.get("security") == [{}]) == (path in public)
        assert ("401" in operation["responses"]) == (path not in public)


async def test_the_document_is_served(world: World):
    assert (await world.client.get("/openapi.json")).json() == DOCUMENT


# --------------------------------------------------------------------------- against the code


def test_the_members_of_a_request_are_those_that_are_known():
    assert SCHEMAS["CreateResponse"]["properties"].keys() == FIELDS.keys() | OTHER_FIELDS


def test_the_limits_are_those_of_the_code():
    create = SCHEMAS["CreateResponse"]["properties"]
    text, items = create["input"]["anyOf"][0]["anyOf"]
    assert (text["maxLength"], items["maxItems"]) == (MAX_INPUT_LENGTH, MAX_INPUT_ITEMS)
    assert SCHEMAS["Metadata"]["maxProperties"] == MAX_METADATA_PAIRS
    assert SCHEMAS["CreateItems"]["properties"]["items"]["maxItems"] == MAX_ITEMS
    assert SCHEMAS["CreateConversation"]["properties"]["items"]["anyOf"][0]["maxItems"] == MAX_ITEMS
    assert SCHEMAS["ItemReference"]["properties"]["id"]["maxLength"] == MAX_ID_LENGTH
    assert SCHEMAS["InputMessage"]["properties"]["id"]["maxLength"] == MAX_ID_LENGTH
    assert SCHEMAS["InputMessage"]["properties"]["content"]["anyOf"][1]["maxItems"] == MAX_PARTS
    assert SCHEMAS["CreateResponse"]["maxProperties"] == MAX_MEMBERS
    conversation = SCHEMAS["ConversationReference"]["properties"]["id"]
    for name in (conversation, create["conversation"]["anyOf"][0]["anyOf"][0], create["conversation_id"]):
        assert name["maxLength"] == MAX_NAME_LENGTH
    for include in (create["include"]["anyOf"][0], DOCUMENT["components"]["parameters"]["Include"]["schema"]):
        assert include["items"]["enum"] == list(INCLUDABLE)


def bounds() -> Iterator[tuple[str, Any, bool]]:
    """Values at and just beyond each bound of a request's members, and whether they may be."""
    metadata = SCHEMAS["Metadata"]
    longest = {"name": metadata["propertyNames"], "value": metadata["additionalProperties"]}
    name, value = longest["name"]["maxLength"], longest["value"]["maxLength"]
    yield from (("metadata", {"n" * (name + more): "v" * value}, not more) for more in (0, 1))
    yield from (("metadata", {"n": "v" * (value + more)}, not more) for more in (0, 1))
    elements = {"tools": {"type": "web_search"}, "include": INCLUDABLE[0]}
    for name, element in elements.items():
        most = SCHEMAS["CreateResponse"]["properties"][name]["anyOf"][0]["maxItems"]
        yield from ((name, [element] * (most + more), not more) for more in (0, 1))
    for name, schema in SCHEMAS["CreateResponse"]["properties"].items():
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                yield name, schema[bound], True
                yield name, schema[bound] + step, False
        if name in FIELDS and "maxLength" in schema:
            yield name, "x" * schema["maxLength"], True
            yield name, "x" * (schema["maxLength"] + 1), False
        if name in FIELDS and "enum" in schema:
            yield from ((name, each, True) for each in schema["enum"] if each is not None)
            yield name, "another", False


def choices() -> Iterator[tuple[str, Any, bool]]:
    """The same of the members of members."""
    text, reasoning = SCHEMAS["TextConfig"]["properties"], SCHEMAS["ReasoningConfig"]["properties"]
    format = SCHEMAS["TextFormat"]["properties"]["type"]
    for effort in (*reasoning["effort"]["enum"], "another"):
        yield "reasoning", {"effort": effort}, effort != "another"
    for summary in (*reasoning["summary"]["enum"], "another"):
        yield "reasoning", {"summary": summary}, summary != "another"
    for verbosity in (*text["verbosity"]["enum"], "another"):
        yield "text", {"verbosity": verbosity}, verbosity != "another"
    for type in (*format["enum"], "another"):
        yield "text", {"format": {"type": type, "name": "n", "schema": {}}}, type != "another"
    for choice in (*SCHEMAS["ToolChoice"]["anyOf"][0]["enum"], "another"):
        yield "tool_choice", choice, choice != "another"


@pytest.mark.parametrize(("name", "value", "good"), [*bounds(), *choices()])
def test_a_bound_is_where_the_document_says(name: str, value: Any, good: bool):
    assert (refused_by(SCHEMAS["CreateResponse"]["properties"][name], value) == []) == good
    if good:
        FIELDS[name](value, name)
    else:
        with pytest.raises(InvalidRequest):
            FIELDS[name](value, name)


async def test_a_list_s_bounds_are_where_the_document_says(world: World):
    conversation = await world.converse()
    for parameter in ("Limit", "Order", "After", "Before"):
        spec = DOCUMENT["components"]["parameters"][parameter]
        good, bad = edges(spec["schema"])
        for value, statuses in ((good, (200, 404)), (bad, (400,))):
            path = f"/v1/conversations/{conversation}/items"
            answer = await world.client.get(path, params={spec["name"]: value})
            assert answer.status_code in statuses, (spec["name"], answer.text)


async def test_a_header_s_bound_is_where_the_document_says(world: World):
    for parameter in ("IdempotencyKey", "OnDisconnect"):
        spec = DOCUMENT["components"]["parameters"][parameter]
        good, bad = edges(spec["schema"])
        for value, status in ((good, 200), (bad, 400)):
            headers = {spec["name"]: value}
            answer = await world.post("/v1/responses", {"model": "tiny", "input": "hi"}, headers=headers)
            assert answer.status_code == status, answer.text


def edges(schema: Json) -> tuple[Any, Any]:
    """A value that just fits a schema, and one that just doesn't."""
    if "maximum" in schema:
        return schema["maximum"], schema["maximum"] + 1
    if "enum" in schema:
        return schema["enum"][-1], "another"
    return "x" * schema["maxLength"], "x" * (schema["maxLength"] + 1)


CODE = Path(agentic_trio.__file__).parent
NO_ROUTE = {426, 508}
"""Statuses of what comes to no route: a WebSocket handshake, a request that the gateway itself has sent."""


def statuses_of_the_code() -> set[int]:
    """The statuses of errors that the code names, wherever it does."""
    found = set()
    packages = ("http1", "auth", "gateway", "wire", "web", "server", "upstream", "tools")
    for package in ("errors.py", *packages):
        for file in (CODE / package).rglob("*.py") if "." not in package else [CODE / package]:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "status":
                    found.add(node.value)
                elif isinstance(node, ast.Call):
                    found |= {each.value for each in node.keywords if each.arg == "status"}
                    found |= set(node.args[:1]) if ast.unparse(node.func) == "RequestRefused" else set()
    return {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, int)}


def test_every_status_that_the_code_answers_with_is_documented_and_no_other():
    documented = {int(s) for _, _, each in operations() for s in each["responses"] if s.isdigit()}
    assert documented - {200} == statuses_of_the_code() - NO_ROUTE


def event_schemas() -> dict[str, Json]:
    """Each event's schema by its type; the one for types that are only passed on is left out."""
    named = [resolved(each) for each in SCHEMAS["ResponseStreamEvent"]["oneOf"]]
    types = [(schema["properties"]["type"], schema) for schema in named]
    return {type["const"]: schema for type, schema in types if "const" in type}


EVENTS = event_schemas()


def test_the_events_are_those_that_the_code_knows():
    own = {"response.created", "response.queued", "response.in_progress", "error", *TERMINAL.values()}
    items = {"response.output_item.added", "response.output_item.done"}
    parts = {name for names in PART_EVENTS.values() for name in names}
    assert EVENTS.keys() == {*own, *items, *parts, *DELTAS, *DONES}


# --------------------------------------------------------------------------- against the SDK's models

OURS = {"store", "conversation_id", "presence_penalty", "frequency_penalty", "content_filters"}
"""Members of a Response object that the SDK's model has not."""


def required(model: Any) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()}


def test_a_response_has_the_members_of_the_sdk_s():
    schema = SCHEMAS["ResponseObject"]
    assert schema["properties"].keys() - OURS <= Response.model_fields.keys()
    assert required(Response) <= set(schema["required"])
    optional = {"conversation", *ECHOED_IF_GIVEN, *KEPT}
    assert schema["properties"].keys() - set(schema["required"]) == optional
    assert ECHO_DEFAULTS.keys() <= schema["properties"].keys()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Conversation", Conversation),
        ("DeletedConversation", ConversationDeletedResource),
        ("ItemList", ConversationItemList),
    ],
)
def test_an_object_has_the_members_of_the_sdk_s(name: str, model: Any):
    schema = SCHEMAS[name]
    assert schema["properties"].keys() == model.model_fields.keys() == set(schema["required"])


SDK_EVENTS = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
}


@pytest.mark.parametrize("type", sorted(EVENTS))
def test_an_event_has_the_members_of_the_sdk_s(type: str):
    properties = EVENTS[type]["properties"].keys()
    assert properties <= SDK_EVENTS[type].model_fields.keys()
    # The one event without a number is the error of a reader that fell behind: it isn't the turn's.
    unnumbered = {"sequence_number"} if type == "error" else set()
    assert required(SDK_EVENTS[type]) - unnumbered <= set(EVENTS[type]["required"])


def test_an_event_of_the_sdk_s_that_is_only_passed_on_is_described():
    for type in SDK_EVENTS.keys() - EVENTS.keys():
        check("ResponseStreamEvent", {"type": type, "sequence_number": 0})


# --------------------------------------------------------------------------- against what is answered


def check_events(raw: bytes) -> list[Json]:
    events, _ = parse_sse(raw)
    for event in events:
        check("ResponseStreamEvent", event)
    return events


@pytest.mark.parametrize("recording", sorted(path.name for path in DATA.glob("*responses*.sse")))
def test_what_is_made_of_a_recorded_stream_is_as_the_document_says(recording: str):
    check_recording(recording)


@pytest.mark.parametrize(
    "recording", ["vllm.tool_strict.sse", *sorted(path.name for path in DATA.glob("vllm_*.sse"))]
)
def test_what_is_made_of_a_stream_of_vllm_s_is_as_the_document_says(recording: str):
    check_recording(recording)


def check_recording(recording: str) -> None:
    response = new_response()
    told = response.begin() + response.receive((DATA / recording).read_bytes())
    told += response.end_of_stream() + response.terminal_events()
    events = check_events(b"".join(told) + DONE)
    check("ResponseObject", events[-1]["response"])


OUTPUT = (
    Reasoning("hm", summary=("thinking",)),
    Text("hi"),
    Refusal("no"),
    Call("f", '{"a":1}'),
    CustomCall("g", "x"),
    Unknown({"type": "future_call"}),
)

TOOLS = [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]
EVERYTHING = {
    "tools": TOOLS,
    "metadata": {"k": "v"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "tool_choice": {"type": "function", "name": "f"},
    "prompt_cache_key": "p",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
}
TOKENS = {"image_tokens": 0, "text_tokens": 0}
IMAGES = {"input_tokens": 0, "input_tokens_details": TOKENS, "output_tokens": 0, "total_tokens": 0}
REPORTED = {
    "tool_usage": {"image_gen": IMAGES, "web_search": {"num_requests": 1}},
    "content_filters": [{"blocked": False}],
}
"""Members that the model server adds to its final response."""


async def test_whole_answers_and_lists_are_as_the_document_says():
    async with open_world(Script(output=OUTPUT, response=REPORTED), list_endpoints=True) as world:
        conversation = await world.converse(metadata={"k": "v"})
        seen = await world.create("hi", conversation=conversation, **EVERYTHING)
        assert check("ResponseObject", seen).keys() == SCHEMAS["ResponseObject"]["properties"].keys()
        for path, name in (
            (f"/v1/responses/{seen['id']}", "StoredResponse"),
            (f"/v1/responses/{seen['id']}/input_items", "ItemList"),
            ("/v1/responses", "ResponseList"),
            ("/v1/conversations", "ConversationList"),
            (f"/v1/conversations/{conversation}", "Conversation"),
            (f"/v1/conversations/{conversation}/items", "ItemList"),
            (f"/v1/conversations/{conversation}/items/{seen['output'][0]['id']}", "Item"),
            ("/health", "Health"),
            ("/ready", "Ready"),
            ("/", "Root"),
        ):
            check(name, (await world.client.get(path)).json())
        check("DeletedResponse", (await world.client.delete(f"/v1/responses/{seen['id']}")).json())
        check("DeletedConversation", (await world.client.delete(f"/v1/conversations/{conversation}")).json())


async def test_streams_and_the_other_endings_are_as_the_document_says():
    async with open_world(Script(output=OUTPUT, stop="length")) as world:
        body = {"model": "tiny", "input": "hi", "stream": True, **EVERYTHING}
        check_events((await world.post("/v1/responses", body)).content)
        check("ResponseObject", await world.create("hi", instructions="x", user="ada"))
        check("ResponseObject", await world.create("hi", background=True))
        cut = {"model": "tiny", "input": '!{"cut_after": 5} hi', "stream": True}
        events = check_events((await world.post("/v1/responses", cut)).content)
        assert {"error", "response.failed"} <= {event["type"] for event in events}


async def test_refusals_are_as_the_document_says(world: World):
    answers = [
        await world.post("/v1/responses", {"model": "tiny"}),
        await world.client.get("/v1/responses/resp_none"),
        await world.client.get("/v1/conversations"),
        await world.post("/v1/responses", {"model": "tiny", "input": '!{"status": 429} hi'}),
    ]
    assert [answer.status_code for answer in answers] == [400, 404, 405, 429]
    for answer in answers:
        check("Error", json.loads(answer.content))
        assert answer.headers["x-request-id"]
