"""The gateway in front of a real vLLM: ``VLLM_URL=http://127.0.0.1:8000 pytest tests/real``.

The model may be random: what is asserted is shape, order, state and counts, never words. It needs
``--enable-auto-tool-choice``, and ``/metrics`` with no other traffic.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from agentic_trio import Config, Gateway, UpstreamError, open_gateway, serve
from tests.oracles import check_event_stream, check_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VLLM_URL = os.environ.get("VLLM_URL", "")

pytestmark = pytest.mark.skipif(not VLLM_URL, reason="VLLM_URL names no running vLLM")

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    "strict": True,
}


@pytest.fixture
async def gateway(tmp_path) -> AsyncIterator[Gateway]:
    config = Config(llm_api_base=VLLM_URL, db_url=f"sqlite://{tmp_path}/real.db", port=0)
    async with open_gateway(config) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway, nursery) -> AsyncIterator[httpx.AsyncClient]:
    [url] = await nursery.start(serve, gateway)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture
async def model(client) -> str:
    return (await client.get("/v1/models")).json()["data"][0]["id"]


async def running() -> float:
    """How many requests vLLM is generating for, by its own metrics."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{VLLM_URL}/metrics")).text
    return sum(map(float, re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", text, re.MULTILINE)))


async def until_running(wanted: float) -> None:
    with trio.fail_after(20):
        while await running() != wanted:  # noqa: ASYNC110 - vLLM can only be polled
            await trio.sleep(0.02)


async def test_a_whole_answer_is_stored_as_it_was_given(client, model):
    request = {"model": model, "input": "hello", "max_output_tokens": 24}
    answer = await client.post("/v1/responses", json=request)
    check_response(answer.json(), request)
    assert (await client.get(f"/v1/responses/{answer.json()['id']}")).content == answer.content


async def test_a_stream_is_legal_and_its_length_stop_is_incomplete(client, model):
    request = {"model": model, "input": "hello", "max_output_tokens": 24, "stream": True}
    answer = await client.post("/v1/responses", json={**request, "ignore_eos": True})
    last = check_event_stream(answer.content)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_second_turn_costs_the_tokens_of_the_first(client, model):
    request = {"model": model, "max_output_tokens": 24, "ignore_eos": True}
    first = (await client.post("/v1/responses", json={**request, "input": "hello"})).json()
    alone = (await client.post("/v1/responses", json={**request, "input": "again"})).json()
    second = (
        await client.post(
            "/v1/responses", json={**request, "input": "again", "previous_response_id": first["id"]}
        )
    ).json()
    assert second["usage"]["input_tokens"] >= alone["usage"]["input_tokens"] + 24


async def test_a_tool_call_is_answered_in_the_next_turn(client, model):
    request = {"model": model, "tools": [WEATHER], "max_output_tokens": 200}
    for seed in range(10):
        first = (
            await client.post(
                "/v1/responses",
                json={**request, "input": "weather?", "tool_choice": "required", "seed": seed},
            )
        ).json()
        calls = [item for item in first["output"] if item["type"] == "function_call"]
        if calls:
            break
    else:
        pytest.fail("this model made no call in ten tries")
    follow_up = {**request, "previous_response_id": first["id"]}
    refused = await client.post("/v1/responses", json={**follow_up, "input": "and now?"})
    assert refused.status_code == 400
    outputs = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"} for call in calls
    ]
    answer = await client.post("/v1/responses", json={**follow_up, "input": outputs})
    check_response(answer.json())


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_stops_the_generation(gateway, client, model, stream):
    request = {"model": model, "input": "go on", "max_output_tokens": 3900, "ignore_eos": True}
    async with trio.open_nursery() as leaving:
        leaving.start_soon(
            lambda: client.post("/v1/responses", json={**request, "stream": stream}),
        )
        await until_running(1)
        leaving.cancel_scope.cancel()
    await until_running(0)


async def test_a_cancelled_stream_keeps_what_had_arrived(gateway, model):
    request = {"model": model, "input": "go on", "max_output_tokens": 3900, "ignore_eos": True}
    deltas = ""
    async with gateway.stream_response(request) as events:
        async for event in events:
            if event["type"] == "response.created":
                id = event["response"]["id"]
            deltas += event.get("delta", "")
            if len(deltas) > 100:
                break
    stored = await gateway.get_response(id)
    assert stored["status"] == "cancelled"
    assert stored["output"][0]["content"][0]["text"].startswith(deltas)


async def test_an_unknown_model_keeps_vllms_status_and_words(gateway):
    with pytest.raises(UpstreamError) as refused:
        await gateway.create_response({"model": "nope", "input": "hello"})
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")


async def test_a_context_that_is_too_long_is_named_so_or_truncated(gateway, model):
    request = {"model": model, "max_output_tokens": 16, "input": "x y z " * 400}
    id, refused = None, None
    while refused is None:
        try:
            id = (await gateway.create_response({**request, "previous_response_id": id}))["id"]
        except UpstreamError as error:
            refused = error
    assert refused.code == "context_length_exceeded"
    answer = await gateway.create_response({**request, "previous_response_id": id, "truncation": "auto"})
    assert answer["status"] in ("completed", "incomplete")


async def test_items_of_every_type_are_sent_in_a_form_that_it_takes(client, model):
    cases = json.loads((Path(__file__).parents[1] / "data" / "rendering.json").read_text())
    stored = [json.loads(item) for case in cases for item in case["stored"] if '"dream"' not in item]
    question = {"role": "user", "content": "Go on."}
    body = {"model": model, "input": [question, *stored, question], "max_output_tokens": 16}
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    again = await client.post(
        "/v1/responses",
        json={
            "model": model,
            "input": "And now?",
            "previous_response_id": answer.json()["id"],
            "max_output_tokens": 16,
        },
    )
    assert again.status_code == 200, again.text
