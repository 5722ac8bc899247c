"""What an MCP server can do wrong, each with its one outcome. The next call works again."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import Call, Script, Text
from tests.tools.hostile import TOOL, Answer, Hostile, event, open_hostile, result
from tests.tools.test_calls import play, types
from tests.web.harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""``mcp`` leaves the generators of answers that break off to the garbage collector."""

Json = dict[str, Any]

NEVER: Json = {"type": "mcp", "server_label": "bad", "require_approval": "never"}
RUN = Call("bad__run", ("{}",))
OVER_THE_LIST = 64 * 1024
MEGABYTE = 1024 * 1024


@pytest.fixture
async def server() -> AsyncIterator[Hostile]:
    async with open_hostile() as server:
        yield server


@pytest.fixture
async def world(server: Hostile) -> AsyncIterator[World]:
    limits = {"mcp_list_timeout": 1.0, "mcp_call_timeout": 1.0, "mcp_list_age": 0.0}
    async with open_world(mcp_servers=(f"bad={server.url}",), **limits) as world:
        yield world


async def call(world: World) -> Json:
    """The one call of a response that completes whatever becomes of it."""
    play(world, Script(output=(RUN,)), Script(output=(Text("ok"),)))
    response = await world.create("go", tools=[NEVER])
    assert types(response["output"]) == ["mcp_list_tools", "mcp_call", "message"]
    return response["output"][1]


async def list_refused(world: World, **members: Any) -> str:
    status, error = await world.refused("hi", tools=[{**NEVER, **members}])
    assert (status, error["type"], error["code"]) == (424, "external_connector_error", "http_error")
    assert error["message"].startswith("Error retrieving tool list from MCP server: 'bad'. ")
    assert world.upstream.requests == []
    return str(error["message"])


def tool(name: str, **members: Any) -> Json:
    return {**TOOL, "name": name, **members}


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_a_server_that_refuses_is_a_424_with_its_status(
    world: World, server: Hostile, status: int
) -> None:
    for method in ("server/discover", "initialize"):
        server.answers[method] = Answer([b"secret words"], status, "text/plain")
    message = await list_refused(world)
    assert f"Http status code: {status}" in message
    assert "secret" not in message


async def test_a_list_of_a_megabyte_is_refused(world: World, server: Hostile) -> None:
    server.tools = [tool("run", description="x" * MEGABYTE)]
    assert "too large" in await list_refused(world)


async def test_a_list_of_many_tools_is_refused_unless_few_are_chosen(world: World, server: Hostile) -> None:
    server.tools = [tool(f"run{number}") for number in range(129)]
    assert "'allowed_tools'" in await list_refused(world)
    response = await world.create("hi", tools=[{**NEVER, "allowed_tools": ["run7"]}])
    assert [each["name"] for each in response["output"][0]["tools"]] == ["run7"]


async def test_a_list_without_an_end_is_refused(world: World, server: Hostile) -> None:
    server.answers["tools/list"] = {"tools": [], "nextCursor": "again"}
    assert "pages" in await list_refused(world)


async def test_a_list_that_never_comes_is_refused(world: World, server: Hostile) -> None:
    server.answers["tools/list"] = Answer([trio.sleep_forever])
    assert "in time" in await list_refused(world)


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b'{"jsonrpc": "2.0", "id": 1}', b"\xff\xfe", b'{"a":' * 3000],
)
async def test_an_answer_that_is_none_is_refused(world: World, server: Hostile, body: bytes) -> None:
    server.answers["tools/list"] = Answer([body])
    await list_refused(world)


@pytest.mark.parametrize("schema", [{"type": "string"}, {"properties": 5}, {"type": "banana"}, {}])
async def test_a_schema_that_the_protocol_does_not_know_refuses_the_list(
    world: World, server: Hostile, schema: Json
) -> None:
    server.tools = [tool("run", inputSchema=schema)]
    assert "not one of the Model Context Protocol" in await list_refused(world)


@pytest.mark.parametrize("tools", ["x", [{"name": 5}], [{"name": "run"}], [{"inputSchema": {}}], [None]])
async def test_a_list_that_is_none_is_refused(world: World, server: Hostile, tools: Any) -> None:
    server.tools = tools
    await list_refused(world)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": ["x"]}}},
        {"type": "object", "properties": {"a": {"type": "banana"}}},
        {"type": "object", "properties": {"a": {"minimum": "x"}}},
        {"type": "object", "$ref": 5},
    ],
)
async def test_a_schema_that_is_none_allows_any_object(world: World, server: Hostile, schema: Json) -> None:
    server.tools = [tool("run", inputSchema=schema), tool("other")]
    await call(world)
    sent = world.upstream.last.json["tools"]
    assert [each["parameters"] for each in sent] == [{"type": "object"}] * 2


async def test_a_result_of_fifty_megabytes_fails_the_call(world: World, server: Hostile) -> None:
    server.answers["tools/call"] = Answer([b"x" * MEGABYTE] * 50)
    assert (await call(world))["error"] == {
        "type": "http_error",
        "code": 502,
        "message": "The answer is too large.",
    }
    del server.answers["tools/call"]
    assert (await call(world))["output"] == "done"


async def test_a_result_of_a_megabyte_is_cut_off(world: World, server: Hostile) -> None:
    server.answers["tools/call"] = {"content": [{"type": "text", "text": "x" * MEGABYTE}]}
    output = (await call(world))["output"]
    assert len(output) < 256 * 1024 + 100
    assert output.endswith("[cut off: the result is too large]")


@pytest.mark.parametrize("failed", [False, True])
async def test_the_results_of_a_response_share_a_bound(server: Hostile, failed: bool) -> None:
    server.answers["tools/call"] = {"content": [{"type": "text", "text": "x" * 1000}], "isError": failed}
    async with open_world(mcp_servers=(f"bad={server.url}",), max_turn_results_bytes=2500) as world:
        play(world, Script(output=(RUN,) * 4), Script(output=(Text("ok"),)))
        calls = (await world.create("go", tools=[NEVER]))["output"][1:5]
    texts = [each["error"]["content"][0]["text"] if failed else each["output"] for each in calls]
    assert sorted(text.count("x") for text in texts) == [0, 500, 1000, 1000]


async def test_a_call_that_breaks_off_leaves_those_beside_it(world: World, server: Hostile) -> None:
    server.answers["tools/call"] = lambda request: (
        Answer([b"x" * MEGABYTE] * 5)
        if request["params"]["arguments"]
        else {"content": [{"type": "text", "text": "done"}]}
    )
    large = Call("bad__run", ('{"large": true}',))
    play(world, Script(output=(RUN, large, RUN)), Script(output=(Text("ok"),)))
    calls = (await world.create("go", tools=[NEVER]))["output"][1:4]
    assert [each["output"] for each in calls] == ["done", None, "done"]


async def test_a_compressed_answer_is_refused(world: World, server: Hostile) -> None:
    bomb = gzip.compress(b"x" * 50 * MEGABYTE)
    server.answers["tools/call"] = Answer([bomb], headers=((b"content-encoding", b"gzip"),))
    assert (await call(world))["error"]["message"] == "The answer is compressed."


async def test_pictures_are_named_and_not_shown(world: World, server: Hostile) -> None:
    content = [
        {"type": "text", "text": "see"},
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
        {"type": "resource_link", "uri": "file:///x", "name": "x"},
    ]
    server.answers["tools/call"] = {"content": content}
    assert (await call(world))["output"] == "see\n[image]\n[resource_link]"


async def test_a_flood_of_progress_is_no_answer(world: World, server: Hostile) -> None:
    note = {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": 1, "progress": 1},
    }

    def flood(request: Json) -> Answer:
        answer = json.loads(result(request, {"content": [{"type": "text", "text": "done"}]}))
        return Answer([event(note)] * 2000 + [event(answer)], content_type="text/event-stream")

    server.answers["tools/call"] = flood
    assert (await call(world))["output"] == "done"


async def test_a_flood_without_an_end_fails_the_call(world: World, server: Hostile) -> None:
    note = {
        "jsonrpc": "2.0",
        "method": "notifications/message",
        "params": {"level": "info", "data": "x" * 10_000},
    }
    server.answers["tools/call"] = Answer([event(note)] * 1000, content_type="text/event-stream")
    assert (await call(world))["error"]["message"] == "The answer is too large."


async def test_a_server_that_asks_back_gets_nothing(world: World, server: Hostile) -> None:
    ask = {
        "jsonrpc": "2.0",
        "id": 99,
        "method": "sampling/createMessage",
        "params": {"messages": [], "maxTokens": 1},
    }

    def sample(request: Json) -> Answer:
        answer = json.loads(result(request, {"content": [{"type": "text", "text": "done"}]}))
        return Answer([event(ask), event(answer)], content_type="text/event-stream")

    server.answers["tools/call"] = sample
    assert (await call(world))["output"] == "done"
    assert len(world.upstream.requests) == 2


async def test_a_server_that_dies_in_a_call_fails_it(world: World, server: Hostile) -> None:
    async def die() -> bytes:
        raise OSError

    server.answers["tools/call"] = Answer([b'{"jsonrpc"', die])
    failed = await call(world)
    assert failed["status"] == "failed"
    assert failed["error"]["type"] in ("http_error", "mcp_protocol_error")
    assert server.called() == 1


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
async def test_a_call_that_is_refused_has_failed(world: World, server: Hostile, status: int) -> None:
    server.answers["tools/call"] = Answer([b"no"], status, "text/plain")
    failed = await call(world)
    assert (failed["error"]["type"], failed["error"]["code"]) == ("http_error", status)
    assert server.called() == 1


async def test_an_error_of_the_protocol_is_told_in_the_server_s_words(world: World, server: Hostile) -> None:
    def refuse(request: Json) -> Answer:
        error = {"code": -32001, "message": "Busy." + "x" * 5000}
        return Answer([json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode()])

    server.answers["tools/call"] = refuse
    error = (await call(world))["error"]
    assert (error["type"], error["code"], len(error["message"])) == ("mcp_protocol_error", -32001, 1000)
    assert error["message"].startswith("Busy.")


async def test_an_answer_to_another_question_is_none(world: World, server: Hostile) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 12345, "result": {"content": []}}).encode()
    server.answers["tools/call"] = Answer([body])
    failed = await call(world)
    assert failed["status"] == "failed"
    assert server.called() == 1


async def test_a_redirect_to_elsewhere_is_not_followed(world: World, server: Hostile) -> None:
    async with open_hostile() as elsewhere:
        location = ((b"location", elsewhere.url.encode()),)
        server.answers["tools/call"] = Answer([b""], 307, headers=location)
        assert (await call(world))["status"] == "failed"
        assert elsewhere.seen == []


async def test_a_cookie_is_not_sent_back(world: World, server: Hostile) -> None:
    cookie = ((b"set-cookie", b"who=user"),)
    server.answers["tools/list"] = lambda request: Answer(
        [result(request, {"tools": [TOOL]})], headers=cookie
    )
    await call(world)
    assert all("cookie" not in headers for _, headers, _ in server.seen)


async def test_a_name_with_odd_characters_is_a_function_all_the_same(world: World, server: Hostile) -> None:
    server.tools = [tool("a.b/c d"), tool("x" * 200), tool("é")]
    await world.create("hi", tools=[NEVER])
    names = [each["name"] for each in world.upstream.last.json["tools"]]
    assert len(set(names)) == 3
    assert all(len(name) <= 64 and name.isascii() for name in names)
