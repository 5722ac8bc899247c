"""What is relayed comes out as it went in, both ways."""

from __future__ import annotations

import gzip
import json
from typing import Any

import h11
import httpx
import pytest

from tests.fake_upstream import Script
from tests.http_client import open_exchange

from .harness import NOWHERE, World, open_world

UNSTORED = {"model": "tiny", "input": "hi", "store": False}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}

ENDPOINTS = {
    "/v1/responses": UNSTORED,
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": "hi"},
    "/v1/embeddings": {"model": "tiny", "input": "hi"},
    "/v1/messages": CHAT | {"max_tokens": 5},
    "/v1/messages/count_tokens": CHAT,
}
every_endpoint = pytest.mark.parametrize(("path", "body"), ENDPOINTS.items(), ids=ENDPOINTS.keys())

STREAMED = {path: body for path, body in ENDPOINTS.items() if "embed" not in path and "count" not in path}

# White space, key order, escapes, duplicates, big numbers: what a parser would not give back.
ODD_SPELLING = (
    b'{ "store":false,"input"\t: "\\u0068i \xc3\xa9",\n"model":"tiny",'
    + b'"x": 1.000, "x":123456789012345678901234567890 }'
)


@every_endpoint
async def test_request_body_goes_upstream_byte_for_byte(
    world: World, path: str, body: dict[str, Any]
) -> None:
    content = json.dumps(body, indent=3).encode()
    answer = await world.client.post(path, content=content)
    assert answer.status_code == 200, answer.text
    assert (world.upstream.last.method, world.upstream.last.target) == ("POST", path)
    assert world.upstream.last.body == content


async def test_odd_spelling_of_an_unstored_response_is_kept(world: World) -> None:
    await world.client.post("/v1/responses", content=ODD_SPELLING)
    assert world.upstream.last.body == ODD_SPELLING


async def test_body_that_is_no_json_is_relayed_where_nothing_of_it_is_ours(world: World) -> None:
    world.upstream.script(Script(status=418, body="no"))
    answer = await world.client.post("/v1/chat/completions", content=b"\xff\x00 not json")
    assert world.upstream.last.body == b"\xff\x00 not json"
    assert answer.status_code in (400, 418)


@every_endpoint
async def test_answer_comes_back_byte_for_byte(world: World, path: str, body: dict[str, Any]) -> None:
    content = b'{ "odd" :  "\\u00e9 \xc3\xa9", "nan": NaN }\n\n'
    world.upstream.script(Script(raw=content, content_type="application/vnd.odd+json; v=1"))
    answer = await world.post(path, body)
    assert answer.content == content
    assert answer.headers["content-type"] == "application/vnd.odd+json; v=1"
    assert answer.headers["content-length"] == str(len(content))


@pytest.mark.parametrize(("path", "body"), STREAMED.items(), ids=STREAMED.keys())
@pytest.mark.parametrize("writes", ["burst", "event", (7,)], ids=["one write", "one an event", "7 bytes"])
async def test_event_stream_comes_back_byte_for_byte(
    world: World, path: str, body: dict[str, Any], writes: Any
) -> None:
    content = b": hello\r\n\r\nevent: odd\ndata: {}\n\ndata: \xff\xfe not utf-8\n\ndata: [DONE]"
    world.upstream.script(Script(raw=content, writes=writes, content_type="text/event-stream; charset=x"))
    answer = await world.post(path, body | {"stream": True})
    assert answer.content == content
    assert answer.headers["content-type"] == "text/event-stream; charset=x"


async def test_stream_of_the_relay_flows_while_the_upstream_works(world: World) -> None:
    world.upstream.script(Script(stall_after=3))
    async with open_exchange(world.port) as client:
        await client.request("POST", "/v1/responses", UNSTORED | {"stream": True})
        await client.read_until(b"response.output_item.added")
        await world.upstream.wait_stalled(1)
        world.upstream.release()
        assert (await client.read()).count(b"event: ") > 3


async def test_gzip_comes_back_as_it_came(world: World) -> None:
    content = gzip.compress(b'{"ok":true}')
    world.upstream.script(Script(raw=content, headers={"content-encoding": "gzip"}))
    async with open_exchange(world.port) as client:
        await client.request("POST", "/v1/embeddings", {"model": "tiny"}, accept_encoding="gzip")
        assert await client.read() == content
        assert client.headers["content-encoding"] == "gzip"
    assert world.upstream.last.headers["accept-encoding"] == "gzip"


async def test_upstream_may_not_encode_for_a_client_that_takes_nothing_encoded(world: World) -> None:
    async with open_exchange(world.port) as client:
        await client.request("POST", "/v1/embeddings", {"model": "tiny"})
        await client.read()
    assert world.upstream.last.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [201, 302, 307, 400, 401, 404, 409, 422, 429, 500, 503, 529])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_upstream_error_comes_back_as_it_is(world: World, path: str, status: int) -> None:
    headers = {"retry-after": "7", "location": "/elsewhere", "www-authenticate": "Bearer"}
    world.upstream.script(Script(status=status, raw=b'{"error":"mine"}', headers=headers))
    answer = await world.post(path, ENDPOINTS[path])
    assert answer.status_code == status
    assert answer.content == b'{"error":"mine"}'
    assert {name: answer.headers[name] for name in headers} == headers


async def test_answers_odd_headers_come_back(world: World) -> None:
    odd = {"X-Odd": "ä\xff", "x-empty": "", "set-cookie": "a=b", "openai-version": "1"}
    world.upstream.script(Script(headers={name: value for name, value in odd.items() if value.isascii()}))
    answer = await world.post("/v1/chat/completions", CHAT)
    assert answer.headers["x-empty"] == ""
    assert answer.headers["set-cookie"] == "a=b"
    assert answer.headers["openai-version"] == "1"


async def test_headers_of_the_upstreams_connection_stay_there(world: World) -> None:
    hop = {"keep-alive": "timeout=5", "proxy-authenticate": "x", "upgrade": "h2c", "x-request-id": "theirs"}
    world.upstream.script(Script(headers=hop))
    answer = await world.post("/v1/chat/completions", CHAT)
    assert not {"keep-alive", "proxy-authenticate", "upgrade"} & answer.headers.keys()
    assert answer.headers.get_list("x-request-id") != ["theirs"]


async def test_odd_request_headers_go_upstream(world: World) -> None:
    sent = {"x-odd": "1", "anthropic-version": "2023-06-01", "user-agent": "me/1", "openai-beta": "x"}
    await world.post("/v1/chat/completions", CHAT, headers=sent)
    received = world.upstream.last.headers
    assert {name: received[name] for name in sent} == sent


async def test_headers_of_the_clients_connection_stay_here(world: World) -> None:
    hop = {"te": "trailers", "proxy-authorization": "Basic x", "cookie": "a=b", "keep-alive": "5"}
    await world.post("/v1/chat/completions", CHAT, headers=hop)
    received = world.upstream.last.headers
    assert not set(hop) & received.keys()
    assert received["host"] == world.upstream.url.removeprefix("http://")


async def test_headers_that_connection_names_stay_here(world: World) -> None:
    headers = {"connection": "keep-alive, x-secret-hop", "x-secret-hop": "1"}
    await world.post("/v1/chat/completions", CHAT, headers=headers)
    assert "x-secret-hop" not in world.upstream.last.headers


@pytest.mark.parametrize(
    "query", ["a=1&b=2", "x=%2F%20+%25", "%zz", "a=b=c&&", "q=%22[]{}|", "plain", "a=%c3%a9"]
)
async def test_query_goes_upstream_as_it_is(world: World, query: str) -> None:
    async with open_exchange(world.port) as client:
        await client.request("POST", f"/v1/chat/completions?{query}", CHAT)
        await client.read()
    assert world.upstream.last.target == f"/v1/chat/completions?{query}"


async def test_no_character_of_a_target_is_a_failure_of_the_gateway(world: World) -> None:
    for number in range(0x21, 0x7F):
        posted = f"/v1/chat/completions?a={chr(number)}b"
        for method, target in (("POST", posted), ("GET", f"/v1/models/a{chr(number)}b")):
            async with open_exchange(world.port) as client:
                await client.request(method, target, CHAT)
                await client.read()
            assert client.status in (200, 400, 404), target


@pytest.mark.parametrize("model", ["tiny", "org/name", "org%2Fname", "a%20b", "%C3%A9", "a:b@c"])
async def test_model_id_goes_upstream_as_it_is(world: World, model: str) -> None:
    async with open_exchange(world.port) as client:
        await client.request("GET", f"/v1/models/{model}")
        await client.read()
    assert world.upstream.last.target == f"/v1/models/{model}"


@pytest.mark.parametrize(
    "model", ["../../metrics", "..", "a/../b", "./a", "..%2f..%2fmetrics", "%2e%2e/%2E%2e/metrics", "..%5Ca"]
)
async def test_path_does_not_leave_the_models(world: World, model: str) -> None:
    async with open_exchange(world.port) as client:
        await client.request("GET", f"/v1/models/{model}")
        answer = json.loads(await client.read())
    assert (client.status, answer["error"]["code"]) == (404, "unknown_url")
    assert not world.upstream.requests


async def test_models_are_those_of_the_upstream(world: World) -> None:
    answer = await world.client.get("/v1/models")
    assert [model["id"] for model in answer.json()["data"]] == ["tiny"]
    assert (world.upstream.last.method, world.upstream.last.target) == ("GET", "/v1/models")


async def test_head_has_the_head_of_get_and_no_body(world: World) -> None:
    async with open_exchange(world.port) as client:
        await client.request("HEAD", "/v1/models")
        assert await client.read() == b""
        assert client.status == 200
        length = client.headers["content-length"]
    assert length == str(len((await world.client.get("/v1/models")).content))


async def test_relayed_response_is_not_stored(world: World) -> None:
    answer = await world.post("/v1/responses", UNSTORED)
    assert (await world.client.get(f"/v1/responses/{answer.json()['id']}")).status_code == 404


@pytest.mark.parametrize(
    "members",
    [
        {"store": True},
        {"store": None},
        {"previous_response_id": "resp_x"},
        {"conversation": "conv_x"},
        {"conversation": {"id": "conv_x"}},
        {"conversation_id": "conv_x"},
    ],
)
async def test_request_that_names_state_is_never_relayed(world: World, members: dict[str, Any]) -> None:
    await world.post("/v1/responses", UNSTORED | members)
    assert all(not request.state for request in world.upstream.requests)
    assert all(request.body != json.dumps(UNSTORED | members).encode() for request in world.upstream.requests)


async def test_nulls_name_no_state(world: World) -> None:
    nulls = {"previous_response_id": None, "conversation": None, "conversation_id": None}
    answer = await world.post("/v1/responses", UNSTORED | nulls)
    assert answer.status_code == 200
    assert world.upstream.last.json == UNSTORED | nulls


# --------------------------------------------------------------------------- failures


@every_endpoint
async def test_upstream_that_is_down_is_502_in_our_envelope(path: str, body: dict[str, Any]) -> None:
    async with open_world(llm_api_base=NOWHERE) as world:
        answer = await world.post(path, body)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_unreachable"


async def test_answer_that_is_cut_is_not_taken_for_whole(world: World) -> None:
    world.upstream.script(Script(cut_after=5))
    async with open_exchange(world.port) as client:
        await client.request("POST", "/v1/responses", UNSTORED | {"stream": True})
        with pytest.raises(h11.RemoteProtocolError):
            await client.read()
    assert client.status == 200


async def test_client_that_leaves_ends_the_upstream_call(world: World) -> None:
    world.upstream.script(Script(stall_after=3))
    async with open_exchange(world.port) as client:
        await client.request("POST", "/v1/chat/completions", CHAT | {"stream": True})
        await client.read_until(b"chat.completion.chunk")
        await client.fin()
        await world.upstream.wait_aborted(1)


async def test_connection_to_the_upstream_is_used_again(world: World) -> None:
    for _ in range(5):
        await world.post("/v1/chat/completions", CHAT)
        await world.post("/v1/chat/completions", CHAT | {"stream": True})
        await world.stream("hi")
        await world.create("hi")
    assert world.upstream.connections == 1


@pytest.mark.parametrize("kind", ["text/event-stream", "Text/Event-Stream; charset=utf-8"])
async def test_no_proxy_holds_back_a_relayed_stream(world: World, kind: str) -> None:
    world.upstream.script(Script(raw=b"data: 1\n\n", content_type=kind, headers={"x-accel-buffering": "yes"}))
    answer = await world.client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert answer.headers.get_list("x-accel-buffering") == ["no"]


@every_endpoint
async def test_an_upstream_that_dies_between_head_and_first_byte_is_a_502(
    world: World, path: str, body: dict[str, Any]
) -> None:
    world.upstream.script(Script(cut_after=0))
    answer = await world.client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_relay_ends_after_the_time_of_a_turn(stream: bool) -> None:
    script = Script(deltas=1000, interval=0.05) if stream else Script(hang=True)
    async with open_world(script, turn_timeout=0.3, max_concurrent_requests=1) as world:
        request = world.client.build_request("POST", "/v1/responses", json=UNSTORED | {"stream": stream})
        answer = await world.client.send(request, stream=True)
        if stream:
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
        else:
            await answer.aread()
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "turn_timeout")
        await world.upstream.wait_aborted(1)
        assert world.gateway.admission.slots == 1


TRACE = {
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "rojo=00f067aa0ba902b7",
    "x-session-id": "s-1",
}


@pytest.mark.parametrize("members", [{}, {"store": False}], ids=["stored", "relayed"])
@pytest.mark.parametrize("client_auth", ["forward", "replace"])
async def test_trace_context_goes_upstream_with_turns_and_relays(
    members: dict[str, Any], client_auth: str
) -> None:
    async with open_world(client_auth=client_auth, openai_api_key="sk") as world:
        headers = TRACE | {"x-tenant": "t", "api-key": "k", "x-goog-api-key": "k", "cookie": "c"}
        body = {"model": "tiny", "input": "hi", **members}
        answer = await world.client.post("/v1/responses", json=body, headers=headers)
        assert answer.status_code == 200
        seen = world.upstream.last.headers
        assert TRACE.items() <= dict(seen).items()
        assert "cookie" not in seen
        assert ("x-tenant" in seen, "api-key" in seen, "x-goog-api-key" in seen) == (
            (True, True, True) if client_auth == "forward" else (False, False, False)
        )
        assert seen["content-type"] == "application/json"
