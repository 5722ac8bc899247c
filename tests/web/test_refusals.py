"""An upstream that refuses, fails or talks nonsense, on the stored path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fake_upstream import Script
from tests.oracles import check_error, check_event_stream, check_response

from .harness import NOWHERE, World, open_world, terminal

both = pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])


async def ask(world: World, stream: bool, **members: Any) -> Any:
    return await world.post("/v1/responses", {"model": "tiny", "input": "hi", "stream": stream, **members})


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503])
async def test_refusal_keeps_its_status_and_words(world: World, stream: bool, status: int) -> None:
    world.upstream.script(Script(status=status, error="Because."))
    answer = await ask(world, stream)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert check_error(answer.status_code, answer.content)["message"] == "Because."


@both
async def test_refusal_keeps_its_retry_after(world: World, stream: bool) -> None:
    world.upstream.script(Script(status=429, headers={"retry-after": "7"}))
    answer = await ask(world, stream)
    assert answer.headers["retry-after"] == "7"
    check_error(answer.status_code, answer.content, code="rate_limit_exceeded")


@both
@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b'"only a string"',
        b"[]",
        b"null",
        b'{"error": null}',
        b'{"error": {"message": {"nested": [1]}}}',
        b'{"detail": [{"loc": ["body"], "msg": "bad"}]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
async def test_refusal_in_any_words_keeps_the_envelope(world: World, stream: bool, words: bytes) -> None:
    world.upstream.script(Script(status=503, raw=words))
    answer = await ask(world, stream)
    assert answer.status_code == 503
    check_error(answer.status_code, answer.content)


@both
async def test_huge_refusal_is_cut_short(world: World, stream: bool) -> None:
    world.upstream.script(Script(status=503, raw=b"x" * 5_000_000, writes=(65536,)))
    answer = await ask(world, stream)
    assert answer.status_code == 503
    assert len(answer.content) < 100_000


@both
async def test_redirect_is_not_followed(world: World, stream: bool) -> None:
    world.upstream.script(Script(status=307, headers={"location": "/v1/models"}))
    answer = await ask(world, stream)
    assert answer.status_code == 502
    assert [request.path for request in world.upstream.requests] == ["/v1/responses"]


@both
async def test_refused_turn_leaves_nothing(world: World, stream: bool) -> None:
    conversation = await world.converse()
    world.upstream.script(Script(status=503))
    await ask(world, stream, conversation=conversation)
    assert await world.items(f"/v1/conversations/{conversation}/items") == []


@both
async def test_conversation_goes_on_after_a_refusal(world: World, stream: bool) -> None:
    conversation = await world.converse()
    world.upstream.script(Script(status=503))
    await ask(world, stream, conversation=conversation)
    world.upstream.script(None)
    response = await world.create("again", conversation=conversation)
    assert response["output"][0]["content"][0]["text"] == "echo: 1 items; last: again"


@both
async def test_upstream_that_is_down_is_502(stream: bool) -> None:
    async with open_world(llm_api_base=NOWHERE) as world:
        answer = await ask(world, stream)
        assert answer.status_code == 502
        check_error(answer.status_code, answer.content, code="upstream_unreachable")


@both
async def test_prompt_that_is_too_long_has_openais_code(world: World, stream: bool) -> None:
    message = "This model's maximum context length is 4096 tokens. However, your request has 9000."
    world.upstream.script(Script(status=400, error=message))
    answer = await ask(world, stream)
    assert answer.status_code == 400
    error = check_error(answer.status_code, answer.content, code="context_length_exceeded", param="input")
    assert error["message"] == message


@both
async def test_unknown_model_has_openais_code(world: World, stream: bool) -> None:
    answer = await ask(world, stream, model="nope")
    assert answer.status_code == 404
    check_error(answer.status_code, answer.content, code="model_not_found", param="model")


# --------------------------------------------------------------------------- mid-stream

FAULTS = {
    "cut": Script(cut_after=6),
    "cut inside an event": Script(cut_after=6, cut_bytes=9),
    "reset": Script(reset_after=6),
    "no terminal event": Script(terminal=False),
    "an error event": Script(fail_after=6, failure=("error",)),
    "response.failed": Script(fail_after=6),
    "both": Script(fail_after=6, failure=("error", "response.failed")),
    "garbage": Script(insert_after=6, insert="data: {nope\n\n"),
}


@pytest.mark.parametrize("script", FAULTS.values(), ids=FAULTS.keys())
async def test_upstream_that_fails_mid_stream_ends_it_with_error_and_failed(
    world: World, script: Script
) -> None:
    world.upstream.script(script)
    raw = (await ask(world, stream=True)).content
    events = check_event_stream(raw, ending="response.failed")
    assert [event["type"] for event in events][-2:] == ["error", "response.failed"]
    assert terminal(events)["status"] == "failed"


@pytest.mark.parametrize("script", FAULTS.values(), ids=FAULTS.keys())
async def test_failed_response_is_recorded_with_what_had_arrived(world: World, script: Script) -> None:
    world.upstream.script(script)
    response = terminal(check_event_stream((await ask(world, stream=True)).content))
    read = await world.client.get(f"/v1/responses/{response['id']}")
    assert check_response(read.content, status="failed") == response
    assert response["error"]["message"]
    assert response["output"][0]["content"][0]["text"].startswith("echo:")


@pytest.mark.parametrize("script", FAULTS.values(), ids=FAULTS.keys())
async def test_failed_turn_adds_nothing_to_its_conversation(world: World, script: Script) -> None:
    conversation = await world.converse()
    world.upstream.script(script)
    await ask(world, stream=True, conversation=conversation)
    assert await world.items(f"/v1/conversations/{conversation}/items") == []


async def test_failed_response_can_be_continued(world: World) -> None:
    world.upstream.script(Script(cut_after=6))
    failed = terminal(check_event_stream((await ask(world, stream=True)).content))
    world.upstream.script(None)
    await world.create("go on", previous_response_id=failed["id"])
    assert [item["role"] for item in world.upstream.last.items] == ["user", "assistant", "user"]


NONSENSE = {
    "no JSON": b"<html>",
    "no object": b"[]",
    "no response": b'{"ok": true}',
    "nothing": b"",
    "not UTF-8": b'{"output": "\xff"}',
    "too deep": b'{"output": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "output is no list": b'{"output": {}}',
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
async def test_nonsense_for_an_answer_is_502(world: World, nonsense: bytes) -> None:
    world.upstream.script(Script(raw=nonsense))
    answer = await ask(world, stream=False)
    assert answer.status_code == 502
    check_error(answer.status_code, answer.content)


async def test_answer_that_is_cut_is_502(world: World) -> None:
    world.upstream.script(Script(cut_after=0))
    answer = await ask(world, stream=False)
    assert answer.status_code == 502


async def test_answer_that_is_no_event_stream_where_one_was_asked_for_is_502(world: World) -> None:
    world.upstream.script(Script(raw=b"{}", content_type="application/json"))
    answer = await ask(world, stream=True)
    assert answer.status_code == 502
    check_error(answer.status_code, answer.content)


ODD_OUTPUT = [
    [7, None, "x", []],
    [{}],
    [{"type": 7}],
    [{"type": "message"}],
    [{"type": "message", "content": "text"}],
    [{"type": "message", "content": [7, {"type": "output_text"}, {"type": "bogus"}]}],
    [{"type": "function_call"}],
    [{"type": "reasoning", "content": None, "summary": None}],
    [{"type": "from_the_future", "id": 7, "x": {"y": None}}],
]


@pytest.mark.parametrize("output", ODD_OUTPUT, ids=json.dumps)
async def test_odd_output_is_no_reason_to_fail(world: World, output: Any) -> None:
    world.upstream.script(Script(response={"output": output}))
    answer = await ask(world, stream=False)
    assert answer.status_code in (200, 502), answer.text
    assert answer.status_code == 502 or (
        (await world.client.get(f"/v1/responses/{answer.json()['id']}")).content == answer.content
    )


@pytest.mark.parametrize("output", ODD_OUTPUT, ids=json.dumps)
async def test_odd_items_of_a_stream_are_no_reason_to_fail(world: World, output: Any) -> None:
    added = [
        "data: " + json.dumps({"type": "response.output_item.added", "output_index": index, "item": item})
        for index, item in enumerate(output, 1)
    ]
    world.upstream.script(Script(insert_after=6, insert="\n\n".join([*added, ""])))
    answer = await ask(world, stream=True)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert (
        answer.content.count(b"event: response.completed") + answer.content.count(b"event: response.failed")
        == 1
    )


@pytest.mark.parametrize(
    ("members", "headers"),
    [
        ({}, {"x-on-disconnect": "nonsense"}),
        ({}, {"idempotency-key": "k" * 300}),
        ({"temperature": 9}, {}),
        ({"previous_response_id": "resp_unknown"}, {"idempotency-key": "k"}),
        ({"store": False, "background": True}, {}),
    ],
    ids=["header", "key", "member", "history", "background"],
)
async def test_a_refused_request_gives_its_slot_back(
    members: dict[str, Any], headers: dict[str, str]
) -> None:
    async with open_world(max_concurrent_requests=1) as world:
        for _ in range(3):
            body = {"model": "tiny", "input": "hi", **members}
            answer = await world.client.post("/v1/responses", json=body, headers=headers)
            assert answer.status_code == 400, answer.text
            assert world.gateway.admission.slots == 1
        await world.create()
