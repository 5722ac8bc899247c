"""Whatever is sent: never a failure of ours, always the envelope, and no state asked of the upstream."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentic_trio.wire.create_response import FIELDS
from tests.fake_upstream import Answer, Recorded, Script, Text, render_response, rendered
from tests.http_client import open_exchange
from tests.oracles import check_error

from .harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
"""Each example is several requests to a gateway of its own."""

OK = Script(output=(Text("ok"),))


def answer(request: Recorded) -> Answer:
    """A model that takes whatever it is given."""
    stream = b'"stream":true' in request.body or b'"stream": true' in request.body
    return rendered(render_response, OK, {"model": "tiny", "input": "x", "stream": stream})


def in_a_world(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_world() as world:
            world.upstream.answer = answer  # type: ignore[method-assign]
            await test(world)
            world.upstream.assert_stateless()

    trio.run(main)


def check(status: int, body: bytes) -> None:
    assert status < 500, body
    if status >= 400:
        check_error(status, body)


texts = st.text(max_size=20) | st.sampled_from(
    ["user", "message", "conv_x", "resp_x", "msg_x", "\0", "a" * 300]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
ITEM_KEYS = ["type", "role", "content", "id", "call_id", "name", "arguments", "output", "status", "summary"]
ITEM_TYPES = ["message", "function_call", "function_call_output", "reasoning", "item_reference", "future"]
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image"])},
    optional={"text": st.text(max_size=9) | values, "refusal": values, "annotations": values},
)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(ITEM_TYPES) | values,
        "role": st.sampled_from(["user", "assistant", "system"]) | values,
        "content": st.text(max_size=9) | st.lists(parts, max_size=3) | values,
        "id": st.sampled_from(["msg_1", "fc_1", "rs_1"]) | values,
        **dict.fromkeys(ITEM_KEYS[4:], values | st.sampled_from(["call_1", "{}"])),
    },
)
inputs = st.text(max_size=9) | st.lists(items | values, max_size=4) | values
bodies = st.builds(
    lambda base, odd: base | odd,
    st.fixed_dictionaries({"model": st.just("tiny"), "input": inputs}),
    st.dictionaries(st.sampled_from([*FIELDS, "conversation", "unknown"]), values, max_size=3),
)


@few
@given(st.lists(bodies, min_size=1, max_size=10))
def test_no_request_for_a_response_makes_the_gateway_fail(requests: list[Any]) -> None:
    async def test(world: World) -> None:
        for body in requests:
            answer = await world.client.post("/v1/responses", content=json.dumps(body))
            check(answer.status_code, answer.content)
            if answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream"):
                assert b"event: response.completed" in answer.content

    in_a_world(test)


@few
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"items": st.lists(items, max_size=3) | values, "metadata": values}
        ),
        min_size=1,
        max_size=10,
    )
)
def test_no_conversation_makes_the_gateway_fail(conversations: list[Any]) -> None:
    async def test(world: World) -> None:
        for body in conversations:
            answer = await world.client.post("/v1/conversations", content=json.dumps(body))
            check(answer.status_code, answer.content)
            if answer.status_code == 200:
                path = f"/v1/conversations/{answer.json()['id']}"
                for again in (path, f"{path}/items"):
                    assert (await world.client.get(again)).status_code == 200
                added = await world.client.post(f"{path}/items", content=json.dumps(body))
                check(added.status_code, added.content)

    in_a_world(test)


@few
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=20))
def test_no_bytes_make_the_gateway_fail(raw: list[bytes]) -> None:
    async def test(world: World) -> None:
        for content in raw:
            for path in ("/v1/responses", "/v1/conversations"):
                answer = await world.client.post(path, content=content)
                check(answer.status_code, answer.content)

    in_a_world(test)


VISIBLE = "".join(sorted(set(string.printable) - set(string.whitespace) - {"#"}))
PREFIXES = ["/v1/conversations/", "/v1/responses/", "/v1/", "/", "/v1/conversations/conv_x/items/"]
QUERIES = ["limit", "order", "after", "before", "include[]", "stream", "starting_after", "metadata[k]"]
targets = st.builds(
    lambda prefix, path, names, value: (
        prefix + path + ("?" + "&".join(f"{name}={value}" for name in names) if names else "")
    ),
    st.sampled_from(PREFIXES),
    st.text(VISIBLE, max_size=20),
    st.lists(st.sampled_from(QUERIES), max_size=3),
    st.text(VISIBLE, max_size=10),
)


@few
@given(st.lists(st.tuples(st.sampled_from(["GET", "POST", "DELETE", "HEAD", "PUT"]), targets), max_size=20))
def test_no_path_or_query_makes_the_gateway_fail(requests: list[tuple[str, str]]) -> None:
    async def test(world: World) -> None:
        for method, target in requests:
            async with open_exchange(world.port) as client:
                await client.request(method, target, connection="close")
                body = await client.read()
            assert client.status < 500, (target, body)
            if method != "HEAD" and client.status >= 400 and not target.startswith("/v1/models"):
                check_error(client.status, body)

    in_a_world(test)


@few
@given(
    st.lists(
        st.sampled_from(
            [
                b"GET / HTTP/1.1\r\n",
                b"Host: localhost\r\n",
                b"Host: localhost\r\n\r\n",
                b"POST /v1/responses HTTP/1.1\r\n",
                b"Content-Length: 5\r\n",
                b"Transfer-Encoding: chunked\r\n\r\n",
                b"5\r\nhello\r\n",
                b"0\r\n\r\n",
                b"\r\n",
                b"\0",
                b"{}",
            ]
        )
        | st.binary(max_size=20),
        max_size=8,
    )
)
def test_no_bytes_on_the_wire_stop_the_server(pieces: list[bytes]) -> None:
    async def test(world: World) -> None:
        async with open_exchange(world.port) as client:
            await client.stream.send_all(b"".join(pieces) or b"x")
            await client.half_close()
            answer = b""
            with trio.fail_after(10):
                while part := await client.stream.receive_some():
                    answer += part
        assert b"HTTP/1.1 5" not in answer
        assert (await world.client.get("/health")).status_code == 200

    in_a_world(test)
