"""The fake upstream says what real ones say, and misbehaves as told."""

import json
import re
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx
import pytest
import trio

from tests.fake_upstream import (
    DATA,
    Call,
    CustomCall,
    FakeUpstream,
    Reasoning,
    Refusal,
    Script,
    Text,
    Unknown,
    cut_writes,
    open_fake_upstream,
    split_events,
)
from tests.http_client import open_exchange
from tests.oracles import accumulate

WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}


@pytest.fixture
async def upstream():
    async with open_fake_upstream() as server:
        yield server


@pytest.fixture
async def client(upstream):
    async with httpx.AsyncClient(base_url=upstream.url, timeout=20) as http:
        yield http


def ask(given, **members):
    return {"model": "tiny", "input": given, **members}


def parse(body: bytes) -> list[dict]:
    """The JSON of each event, in the strictest reading: one ``event:`` and one ``data:`` line."""
    events = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def stream(client, given, **members) -> list[dict]:
    answer = await client.post("/v1/responses", json=ask(given, stream=True, **members))
    assert answer.status_code == 200, answer.text
    return parse(answer.content)


@asynccontextmanager
async def raw(upstream, given, **members):
    """A plain connection that has sent a streaming request."""
    async with open_exchange(int(upstream.url.rpartition(":")[2])) as client:
        await client.request("POST", "/v1/responses", ask(given, stream=True, **members))
        yield client.stream


# ------------------------------------------------------------- as the recordings


def piece_lists(events: list[dict]) -> dict[str, list[str]]:
    """The deltas of each item, by item id."""
    found: dict[str, list[str]] = {}
    for event in events:
        if "delta" in event:
            found.setdefault(event["item_id"], []).append(event["delta"])
    return found


def script_of(events: list[dict], dialect: str) -> Script:
    """The script that should say what a recording says."""
    final, deltas = events[-1]["response"], piece_lists(events)
    output = []
    for item in final["output"]:
        cut = tuple(deltas[item["id"]])
        match item["type"]:
            case "message":
                output.append(Text(cut))
            case "function_call":
                output.append(Call(item["name"], cut))
            case "reasoning":
                output.append(Reasoning(cut))
    stop = "length" if final["status"] == "incomplete" else "stop"
    return Script(dialect=dialect, output=tuple(output), stop=stop, response={"usage": final["usage"]})


def anonymous(body: bytes) -> bytes:
    """A body without what differs from answer to answer."""
    body = re.sub(rb'"created_at":[0-9.]+', b'"created_at":0', body)
    body = re.sub(rb',"timings":\{[^}]*\}', b"", body)
    return re.sub(rb"(resp|msg|fc|rs|chatcmpl-tool)[_-][0-9a-zA-Z-]{16,36}", rb"\1", body)


@pytest.mark.parametrize(
    "name",
    [
        "vllm.responses",
        "vllm.responses_tools",
        "vllm.tool_strict",
        "vllm_reasoning.0",
        "vllm_reasoning.1",
        "vllm_sigterm",
        "transformers.responses",
        "llama_cpp.responses",
    ],
)
async def test_dialects_are_the_recorded_ones_byte_for_byte(upstream, client, name):
    recorded = (DATA / f"{name}.sse").read_bytes()
    events = [json.loads(re.search(rb"data: (.*)", block)[1]) for block in split_events(recorded)]
    upstream.script(script_of(events, re.match("vllm|transformers|llama_cpp", name)[0]))
    final = events[-1]["response"]
    echoed = {key: final[key] for key in ("tools", "tool_choice", "temperature") if key in final}
    echoed |= {key: final[key] for key in ("max_output_tokens", "parallel_tool_calls") if key in final}
    model = final["model"].removesuffix("@main")
    answer = await client.post("/v1/responses", json=ask("hi", stream=True, **echoed) | {"model": model})
    assert anonymous(answer.content).decode() == anonymous(recorded).decode()


async def test_json_answer_is_the_recorded_one(upstream, client):
    recorded = json.loads((DATA / "vllm.responses.json").read_bytes())
    text = recorded["output"][0]["content"][0]["text"]
    script = Script(output=(Text((text,)),), stop="length", response={"usage": recorded["usage"]})
    upstream.script(script)
    answer = await client.post("/v1/responses", json=ask("hi", max_output_tokens=48))
    assert anonymous(answer.content) == anonymous((DATA / "vllm.responses.json").read_bytes())


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        ("vllm.responses.sse", None),
        ("vllm.responses.sse", "event"),
        ("vllm.responses.sse", (1, 7, 100)),
        ("vllm.responses_tools.sse", "byte"),
        ("transformers.responses.sse", None),
    ],
)
async def test_replay_is_verbatim_however_it_is_cut(upstream, client, name, writes):
    upstream.script(Script(replay=name, writes=writes))
    answer = await client.post("/v1/responses", json=ask("hi", stream=True))
    assert answer.content == (DATA / name).read_bytes()


async def test_killed_recording_can_end_by_a_cut(upstream, client):
    count = len(split_events((DATA / "vllm_engine_killed.sse").read_bytes()))
    upstream.script(Script(replay="vllm_engine_killed.sse", cut_after=count))
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/v1/responses", json=ask("hi", stream=True))


# ------------------------------------------------------------- the answer


async def test_default_answer_tells_what_arrived(client):
    items = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    answer = await client.post("/v1/responses", json=ask(items))
    assert answer.json()["output"][0]["content"][0]["text"] == "echo: 3 items; last: three"


async def test_tool_output_is_the_last_text(client):
    items = [
        {"role": "user", "content": "one"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    answer = await client.post("/v1/responses", json=ask(items, tools=[WEATHER]))
    assert answer.json()["output"][0]["content"][0]["text"] == "echo: 3 items; last: 42"


async def test_text_can_ask_for_calls(client):
    custom = {"type": "custom", "name": "shell"}
    text = 'please call get_weather {"city": "Paris"} and call shell and call nothing'
    events = await stream(client, text, tools=[WEATHER, custom])
    first, second = events[-1]["response"]["output"]
    assert (first["type"], first["arguments"]) == ("function_call", '{"city": "Paris"}')
    assert (second["type"], second["name"]) == ("custom_tool_call", "shell")
    assert first["call_id"] != second["call_id"]


@pytest.mark.parametrize("deltas", [0, 1, 5, 208])
async def test_number_of_deltas_is_exact(client, deltas):
    events = await stream(client, f'!{{"deltas": {deltas}}} hello there')
    found = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(found) == deltas
    assert "".join(found) == events[-1]["response"]["output"][0]["content"][0]["text"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_directive_and_server_defaults_are_merged():
    async with open_fake_upstream(deltas=3) as upstream, httpx.AsyncClient() as client:
        answer = await client.post(f"{upstream.url}/v1/responses", json=ask('!{"stop": "length"} x'))
        final = answer.json()
        assert (final["status"], final["usage"]["output_tokens"]) == ("incomplete", 3)


async def test_every_item_type(upstream, client):
    output = (
        Reasoning("think hard", summary=("first", "second")),
        Refusal("I will not"),
        CustomCall("shell", "ls -la"),
        Unknown({"type": "hologram", "status": "completed", "beam": [1]}),
        Text("done"),
    )
    upstream.script(Script(output=output))
    events = await stream(client, "hi")
    items = events[-1]["response"]["output"]
    assert [item["type"] for item in items] == [
        "reasoning",
        "message",
        "custom_tool_call",
        "hologram",
        "message",
    ]
    assert [part["text"] for part in items[0]["summary"]] == ["first", "second"]
    assert items[1]["content"] == [{"refusal": "I will not", "type": "refusal"}]
    assert items[2]["input"] == "ls -la"
    assert items == [event["item"] for event in events if event["type"] == "response.output_item.done"]


async def test_ids_are_fresh_unless_told(upstream, client):
    async def ids():
        final = (await client.post("/v1/responses", json=ask("hi"))).json()
        return final["id"], final["output"][0]["id"]

    assert await ids() != await ids()
    upstream.script(Script(ids="repeated"))
    assert await ids() == await ids()


async def test_repeated_item_ids_differ_within_an_answer(upstream, client):
    upstream.script(Script(ids="repeated", output=(Text("a"), Text("b"))))
    first, second = (await client.post("/v1/responses", json=ask("hi"))).json()["output"]
    assert first["id"] != second["id"]


@pytest.mark.parametrize("name", ["vllm.responses", "vllm.tool_strict", "vllm_reasoning.0", "vllm_sigterm"])
def test_recordings_satisfy_the_sdks_helper(name):
    accumulate(parse((DATA / f"{name}.sse").read_bytes()))


async def test_scripted_items_satisfy_the_sdks_helper(upstream, client):
    output = (
        Reasoning("think", summary=("sum",)),
        Refusal("no"),
        Call("f", '{"a": 1}'),
        CustomCall("g", "x"),
    )
    upstream.script(Script(output=(*output, Unknown({"type": "hologram"}), Text("done"))))
    accumulate(await stream(client, "hi"))


# ------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "tiny"}, 400, "body.input"),
        (ask([]), 400, None),
        (ask(7), 400, "body.input"),
        (ask("hi") | {"model": "nope"}, 404, "model"),
        (ask("hi", previous_response_id="resp_x"), 404, "response_id"),
        (ask([{"type": "item_reference", "id": "msg_1"}]), 400, "input"),
        (ask([{"type": "compaction", "encrypted_content": "x"}]), 400, "input"),
        ([], 400, "body"),
    ],
)
async def test_refuses_what_vllm_refuses(client, body, status, param):
    answer = await client.post("/v1/responses", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, status, param)
    assert sorted(error) == ["code", "message", "param", "type"]


@pytest.mark.parametrize("extra", [{"conversation": "conv_x"}, {"store": True}, {"zzz": 1}])
async def test_takes_what_vllm_takes(client, extra):
    assert (await client.post("/v1/responses", json=ask("", **extra))).status_code == 200


async def test_request_for_state_is_noticed(upstream, client):
    await client.post("/v1/responses", json=ask("hi", store=False))
    upstream.assert_stateless()
    await client.post("/v1/responses", json=ask("hi", conversation="conv_x"))
    assert upstream.last.state == ["conversation", "store"]
    with pytest.raises(AssertionError, match="request 1 asks for state"):
        upstream.assert_stateless()


async def test_scripted_refusal_has_status_headers_and_error(upstream, client):
    upstream.script(Script(status=429, headers={"retry-after": "7"}, error="Too busy."))
    answer = await client.post("/v1/responses", json=ask("hi", stream=True))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"] == {"message": "Too busy.", "type": "Error", "param": None, "code": 429}


async def test_script_function_sees_the_request(upstream, client):
    upstream.script(lambda request: Script(status=503) if "bad" in request.items[0]["content"] else None)
    assert (await client.post("/v1/responses", json=ask("bad"))).status_code == 503
    assert (await client.post("/v1/responses", json=ask("good"))).status_code == 200


# ------------------------------------------------------------- faults


async def test_hang_says_nothing_until_released(upstream):
    async with raw(upstream, '!{"hang": true}') as connection:
        await upstream.wait_stalled(1)
        assert upstream.live == 1
        with trio.move_on_after(0.05) as nothing:
            await connection.receive_some()
        assert nothing.cancelled_caught
        upstream.release()
        assert (await connection.receive_some()).startswith(b"HTTP/1.1 200")
        await upstream.wait_live(0)


async def test_stall_sends_so_many_events_then_waits(upstream, client):
    body = ask('!{"stall_after": 5, "cut_bytes": 10} hi', stream=True)
    async with client.stream("POST", "/v1/responses", json=body) as answer:
        chunks = answer.aiter_raw()
        early = b""
        while early.count(b"\n\n") < 5 or not early.endswith(b"event: res"):
            early += await anext(chunks)
        await upstream.wait_stalled(1)
        upstream.release()
        rest = b"".join([chunk async for chunk in chunks])
    assert parse(early + rest)[-1]["type"] == "response.completed"
    assert upstream.aborted == 0


@pytest.mark.parametrize("fault", ["stall_after", "hang"])
async def test_client_that_leaves_is_noticed(upstream, fault):
    async with raw(upstream, f'!{{"{fault}": 4}}' if fault != "hang" else '!{"hang": true}'):
        await upstream.wait_stalled(1)
    await upstream.wait_aborted(1)
    assert (upstream.live, upstream.aborted) == (0, 1)


async def test_client_that_leaves_between_deltas_is_noticed(upstream):
    async with raw(upstream, '!{"deltas": 1000, "interval": 0.01}') as connection:
        await connection.receive_some()
        assert upstream.live == 1
    await upstream.wait_aborted(1)


async def test_client_that_stays_is_not_counted(upstream, client):
    for _ in range(3):
        await stream(client, '!{"writes": "event"} hi')
    assert (upstream.live, upstream.aborted, upstream.connections) == (0, 0, 1)


@pytest.mark.parametrize("fault", ["cut_after", "reset_after"])
@pytest.mark.parametrize("stream_", [True, False])
async def test_cut_body_is_an_error_for_the_client(client, fault, stream_):
    with pytest.raises(httpx.TransportError):
        await client.post("/v1/responses", json=ask(f'!{{"{fault}": 0, "cut_bytes": 9}} hi', stream=stream_))


async def test_cut_leaves_the_events_before_it(upstream):
    async with raw(upstream, '!{"cut_after": 3}') as connection:
        body = b"".join([chunk async for chunk in connection])
    assert body.count(b"event: ") == 3


async def test_endless_line_ends_with_the_client(upstream):
    async with raw(upstream, '!{"endless_after": 2}') as connection:
        received = 0
        while received < 1_000_000:
            received += len(await connection.receive_some())
    await upstream.wait_aborted(1)


async def test_other_endpoints_misbehave_too(client):
    body = {"model": "tiny", "messages": [{"role": "user", "content": '!{"cut_after": 2}'}], "stream": True}
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(
    ("script", "last"),
    [
        (Script(fail_after=4), ["response.failed"]),
        (Script(fail_after=4, failure=("error", "response.failed")), ["error", "response.failed"]),
        (Script(fail_after=4, failure=("error",)), ["error"]),
        (Script(terminal=False), ["response.output_item.done"]),
        (Script(stop="length"), ["response.completed"]),
    ],
)
async def test_endings(upstream, client, script, last):
    upstream.script(script)
    events = await stream(client, "hi")
    assert [event["type"] for event in events[-len(last) :]] == last
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


async def test_wire_forms(upstream, client):
    async def body(**members):
        upstream.script(Script(output=(Text("é"),), ids="repeated", **members))
        return (await client.post("/v1/responses", json=ask("hi", stream=True))).content

    created = re.compile(rb'"created_at":\d+')
    whole = created.sub(b"", await body())
    assert b"\r\n\r\nevent: " in await body(newline="\r\n")
    assert created.sub(b"", (await body(multiline=True)).replace(b"{\ndata: ", b"{")) == whole
    assert created.sub(b"", (await body(comments=True)).replace(b": keep-alive\n\n", b"")) == whole
    assert created.sub(b"", await body(unfinished=True)) == whole[:-2]
    assert created.sub(b"", await body(tail="data: more\n\n")) == whole + b"data: more\n\n"
    assert created.sub(b"", await body(done=True)) == whole + b"data: [DONE]\n\n"
    assert b"\n\n\xff\xfe\n\nevent: " in await body(insert_after=3, insert="\udcff\udcfe\n\n")


async def test_utf8_writes_cut_inside_a_character():
    cut = cut_writes(Script(writes="utf8"), ["aé€b".encode()])
    assert cut == [b"a\xc3", b"\xa9\xe2", b"\x82\xacb"]


@pytest.mark.parametrize("stream_", [True, False])
async def test_body_and_content_type_can_be_anything(upstream, client, stream_):
    upstream.script(Script(body="<html>", content_type="text/html"))
    answer = await client.post("/v1/responses", json=ask("hi", stream=stream_))
    assert (answer.text, answer.headers["content-type"]) == ("<html>", "text/html")


# ------------------------------------------------------------- the server


async def test_requests_are_recorded(upstream, client):
    await client.post("/v1/responses?a=1", json=ask("hi"), headers={"X-Trace": "t"})
    recorded = upstream.last
    assert (recorded.method, recorded.target, recorded.path) == ("POST", "/v1/responses?a=1", "/v1/responses")
    assert (recorded.headers["x-trace"], recorded.json) == ("t", ask("hi"))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/v1/chat/completions", "choices"),
        ("/v1/completions", "choices"),
        ("/v1/messages", "content"),
        ("/v1/embeddings", "data"),
        ("/v1/messages/count_tokens", "input_tokens"),
    ],
)
async def test_other_endpoints_answer(client, path, key):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "prompt": "p", "input": "i"}
    assert key in (await client.post(path, json=body)).json()


async def test_models_health_metrics_and_nothing_else(client):
    assert (await client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
    assert (await client.get("/health")).content == b""
    assert 'num_requests_running{model_name="tiny"} 0.0' in (await client.get("/metrics")).text
    unknown = await client.get("/v1/unknown")
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
    assert (await client.get("/v1/responses")).status_code == 405


async def test_idle_connection_is_closed():
    async with open_fake_upstream(keep_alive=0.05) as upstream:
        port = int(upstream.url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as connection:
            assert await connection.receive_some() == b""


async def test_close_ends_the_connection(upstream, client):
    for _ in range(2):
        await client.post("/v1/responses", json=ask('!{"close": true}'))
    assert upstream.connections == 2


async def test_killed_server_cuts_and_refuses(upstream, client):
    async with raw(upstream, '!{"stall_after": 3}') as connection:
        await upstream.wait_stalled(1)
        upstream.kill()
        body = b"".join([chunk async for chunk in connection])
    assert body.count(b"event: ") == 3
    assert not body.endswith(b"0\r\n\r\n")
    with pytest.raises(httpx.ConnectError):
        await client.get("/health")
    assert upstream.aborted == 0


async def test_head_has_no_body(client):
    assert (await client.head("/v1/responses")).status_code == 405
    assert (await client.get("/health")).status_code == 200


async def test_exception_of_the_block_leaves_as_it_is():
    with pytest.raises(ZeroDivisionError):
        async with open_fake_upstream():
            _ = 1 / 0


async def test_memory_stream_serves_without_sockets():
    ours, theirs = trio.testing.memory_stream_pair()
    upstream = FakeUpstream(Script())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upstream.serve, theirs)
        await ours.send_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await ours.receive_some()).startswith(b"HTTP/1.1 200 OK")
        await ours.aclose()


async def test_runs_as_a_process():
    command = [sys.executable, "-m", "tests.fake_upstream", "--deltas", "3", "--interval", "0.001"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=DATA.parents[1])
    try:
        url = (await process.stdout.receive_some()).decode().strip()
        async with httpx.AsyncClient(base_url=url) as client:
            events = await stream(client, "hi")
            assert sum("delta" in event for event in events) == 3
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()
