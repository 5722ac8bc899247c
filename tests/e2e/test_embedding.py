"""The gateway inside a program: no HTTP between the program and it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import trio

from agentic_trio import (
    CallContext,
    Config,
    Gateway,
    GatewayError,
    InvalidRequest,
    NotFound,
    UpstreamError,
    open_gateway,
    serve,
)
from tests.fake_upstream import FakeUpstream, Script, open_fake_upstream
from tests.http_client import open_under_way
from tests.oracles import check_conversation, check_events, check_response
from tests.web.harness import said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ASK = {"model": "tiny", "input": "hi"}


def config(upstream: FakeUpstream, path: Path, **settings: Any) -> Config:
    return Config(llm_api_base=upstream.url, db_url=f"sqlite://{path / 'x.db'}", port=0, **settings)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with open_fake_upstream() as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with open_gateway(config(upstream, tmp_path, openai_api_key="sk-own")) as gateway:
        yield gateway


async def test_response_is_created_and_read(gateway: Gateway) -> None:
    response = check_response(await gateway.create_response(ASK), ASK, status="completed")
    assert await gateway.get_response(response["id"]) == response


async def test_chain_remembers(gateway: Gateway, upstream: FakeUpstream) -> None:
    first = await gateway.create_response(ASK)
    await gateway.create_response({**ASK, "previous_response_id": first["id"]})
    assert [role for role, _ in said(upstream.last)] == ["user", "assistant", "user"]


async def test_conversation_is_created_read_and_continued(gateway: Gateway, upstream: FakeUpstream) -> None:
    items = [{"role": "user", "content": "I am Ada."}]
    conversation = await gateway.create_conversation(items=items, metadata={"a": "b"})
    check_conversation(conversation, metadata={"a": "b"})
    assert await gateway.get_conversation(conversation["id"]) == conversation
    await gateway.create_response({**ASK, "conversation": conversation["id"]})
    assert said(upstream.last) == [("user", "I am Ada."), ("user", "hi")]


async def test_configured_key_goes_upstream(gateway: Gateway, upstream: FakeUpstream) -> None:
    await gateway.create_response(ASK)
    assert upstream.last.headers["authorization"] == "Bearer sk-own"


async def test_stream_is_followed_event_by_event(gateway: Gateway) -> None:
    async with gateway.stream_response(ASK) as stream:
        events = [event async for event in stream]
    check_events(events, ASK, ending="response.completed")
    assert await gateway.get_response(events[0]["response"]["id"]) == events[-1]["response"]


async def test_leaving_a_stream_early_records_cancelled(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(Script(stall_after=6))
    async with gateway.stream_response(ASK) as stream:
        async for event in stream:
            if event["type"] == "response.created":
                id = event["response"]["id"]
            if event["type"] == "response.output_text.delta":
                break
    response = await gateway.get_response(id)
    assert response["status"] == "cancelled"
    assert response["error"] is None
    assert response["output"][0]["content"][0]["text"] == "echo: 1"
    await upstream.wait_aborted(1)


async def test_leaving_a_stream_by_an_error_raises_that_error_bare(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(Script(stall_after=6))

    async def use() -> None:
        async with gateway.stream_response(ASK) as stream:
            await anext(stream)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await use()
    await upstream.wait_aborted(1)


async def test_a_program_is_bound_by_the_same_slots_as_clients(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    upstream.script(Script(hang=True))
    config = Config(
        llm_api_base=upstream.url, db_url=f"sqlite://{tmp_path / 'x.db'}", max_concurrent_requests=1
    )
    async with open_gateway(config) as gateway, trio.open_nursery() as nursery:
        nursery.start_soon(gateway.create_response, ASK)
        await upstream.wait_stalled(1)
        with pytest.raises(GatewayError) as refused:
            await gateway.create_response(ASK)
        assert refused.value.status == 429
        with pytest.raises(GatewayError) as refused:
            async with gateway.stream_response(ASK):
                pass
        assert refused.value.status == 429
        nursery.cancel_scope.cancel()


async def test_cancelled_program_leaves_a_recorded_turn(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(Script(stall_after=6))
    id = ""
    with trio.CancelScope() as scope:
        async with gateway.stream_response(ASK) as stream:
            async for event in stream:
                id = id or event["response"]["id"]
                if event["type"] == "response.output_text.delta":
                    scope.cancel()
    assert scope.cancelled_caught
    assert (await gateway.get_response(id))["status"] == "cancelled"


async def test_cancelled_call_stops_the_model(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(Script(hang=True))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gateway.create_response, ASK)
            await upstream.wait_stalled(1)
            scope.cancel()
    await upstream.wait_aborted(1)


BAD = {
    "no model": ({"input": "hi"}, GatewayError, 400),
    "unknown conversation": ({**ASK, "conversation": "conv_nope"}, NotFound, 404),
    "unknown response": ({**ASK, "previous_response_id": "resp_nope"}, GatewayError, 400),
    "refused upstream": ({**ASK, "model": "nope"}, UpstreamError, 404),
}


@pytest.mark.parametrize(("request_", "kind", "status"), BAD.values(), ids=BAD.keys())
async def test_refusal_is_raised_bare_with_its_status(
    gateway: Gateway, request_: dict[str, Any], kind: type[GatewayError], status: int
) -> None:
    with pytest.raises(kind) as raised:
        await gateway.create_response(request_)
    assert raised.value.status == status
    with pytest.raises(kind):
        async with gateway.stream_response(request_):
            pytest.fail("there is no stream")


async def test_unknown_response_is_raised_bare(gateway: Gateway) -> None:
    with pytest.raises(NotFound):
        await gateway.get_response("resp_nope")


async def test_a_group_of_the_program_s_own_leaves_open_gateway_as_it_is(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    mine = ExceptionGroup("mine", [KeyError("a"), ExceptionGroup("inner", [ValueError("b")])])
    with pytest.raises(ExceptionGroup) as raised:
        async with open_gateway(config(upstream, tmp_path)):
            raise mine
    assert raised.value is mine


async def test_a_gateway_whose_block_is_over_says_so(upstream: FakeUpstream, tmp_path: Path) -> None:
    async with open_gateway(config(upstream, tmp_path)) as gateway:
        pass
    for call in (
        lambda: gateway.create_response(ASK),
        lambda: gateway.create_conversation(),
        lambda: gateway.get_response("resp_1"),
        lambda: gateway.get_conversation("conv_1"),
        lambda: gateway.stream_response(ASK).__aenter__(),
        lambda: gateway.open_response(ASK).__aenter__(),
        lambda: anext(gateway.follow_response("resp_1")),
        lambda: gateway.cancel_response("resp_1"),
        lambda: gateway.delete_response("resp_1"),
        lambda: gateway.list_input_items("resp_1"),
        lambda: gateway.list_responses(),
        lambda: gateway.update_conversation("conv_1", metadata={}),
        lambda: gateway.delete_conversation("conv_1"),
        lambda: gateway.list_conversations(),
        lambda: gateway.create_items("conv_1", []),
        lambda: gateway.list_items("conv_1"),
        lambda: gateway.get_item("conv_1", "msg_1"),
        lambda: gateway.delete_item("conv_1", "msg_1"),
        lambda: gateway.list_models(),
        lambda: gateway.get_model("tiny"),
    ):
        with pytest.raises(RuntimeError, match="the gateway is closed"):
            await call()
    assert not upstream.requests


async def test_each_route_has_a_method(gateway: Gateway, upstream: FakeUpstream) -> None:
    response = await gateway.create_response({**ASK, "metadata": {"k": "v"}})
    id = response["id"]
    (item,) = (await gateway.list_input_items(id))["data"]
    assert item["content"][0]["text"] == "hi"
    await gateway.create_response({**ASK, "model": "tiny", "metadata": {"k": "w"}})
    assert [each["id"] for each in (await gateway.list_responses(metadata={"k": "v"}))["data"]] == [id]
    assert len((await gateway.list_responses(limit=1))["data"]) == 1
    assert await gateway.delete_response(id) == {"id": id, "object": "response", "deleted": True}
    with pytest.raises(NotFound):
        await gateway.get_response(id)
    assert "tiny" in [model["id"] for model in (await gateway.list_models())["data"]]


async def test_each_route_of_conversations_has_a_method(gateway: Gateway) -> None:
    id = (await gateway.create_conversation())["id"]
    assert (await gateway.update_conversation(id, metadata={"k": "v"}))["metadata"] == {"k": "v"}
    texts = ["one", "two"]
    made = await gateway.create_items(id, [{"role": "user", "content": text} for text in texts])
    first, second = made["data"]
    assert await gateway.get_item(id, first["id"]) == first
    assert (await gateway.list_items(id, order="asc", limit=1))["data"] == [first]
    assert (await gateway.list_items(id, order="asc", after=first["id"]))["data"] == [second]
    assert (await gateway.delete_item(id, first["id"]))["id"] == id
    assert (await gateway.list_items(id))["data"] == [second]
    assert [each["id"] for each in (await gateway.list_conversations())["data"]] == [id]
    assert (await gateway.list_conversations(metadata={"k": "other"}))["data"] == []
    assert (await gateway.delete_conversation(id))["deleted"]
    with pytest.raises(NotFound):
        await gateway.get_conversation(id)


async def test_what_to_include_is_one_of_openai_s(gateway: Gateway) -> None:
    response = await gateway.create_response(ASK)
    included = await gateway.get_response(response["id"], include=["reasoning.encrypted_content"])
    assert included["id"] == response["id"]
    with pytest.raises(InvalidRequest) as refused:
        await gateway.get_response(response["id"], include=["another"])
    assert refused.value.param == "include[0]"


async def test_a_conversation_s_responses_are_deleted_with_it_where_that_is_asked_for(
    gateway: Gateway,
) -> None:
    for responses in (False, True):
        id = (await gateway.create_conversation())["id"]
        response = await gateway.create_response({**ASK, "conversation": id})
        await gateway.delete_conversation(id, responses=responses)
        found = {each["id"] for each in (await gateway.list_responses())["data"]}
        assert (response["id"] in found) is not responses


@pytest.mark.parametrize("page", [{"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "x" * 300}])
async def test_a_page_is_bounded_as_over_http(gateway: Gateway, page: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await gateway.list_responses(**page)
    assert refused.value.param == next(iter(page))


async def test_an_unknown_model_is_the_model_server_s_refusal(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    with pytest.raises(UpstreamError) as refused:
        await gateway.get_model("org/no pe?x")
    assert refused.value.status == 404
    assert upstream.last.path == "/v1/models/org/no%20pe%3Fx"
    for name in ("../health", "a/../../b", ""):
        with pytest.raises(NotFound):
            await gateway.get_model(name)
    assert len(upstream.requests) == 1


async def test_an_open_response_has_its_id_before_the_model_server_answers(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(Script(hang=True))
    async with gateway.open_response(ASK) as response:
        await upstream.wait_stalled(1)
        id = response.id
    assert (await gateway.get_response(id))["status"] == "cancelled"
    await upstream.wait_aborted(1)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_open_response_returns_how_it_ended(gateway: Gateway, stream: bool) -> None:
    async with gateway.open_response({**ASK, "stream": stream}) as response:
        await response.accepted()
        result = await response.result()
    assert result["id"] == response.id
    assert await gateway.get_response(response.id) == result
    # The turn is over; what it returned can be asked for again.
    assert await response.result() == result


async def test_an_open_response_that_is_cancelled_returns_what_had_arrived(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(Script(stall_after=6))
    async with gateway.open_response({**ASK, "stream": True}) as response:
        async for event in response.events():
            if event["type"] == "response.output_text.delta":
                response.cancel()
        result = await response.result()
    assert result["status"] == "cancelled"
    assert result["output"][0]["content"][0]["text"] == "echo: 1"


async def test_a_refusal_is_raised_by_each_method_of_an_open_response(gateway: Gateway) -> None:
    async with gateway.open_response({**ASK, "model": "nope", "stream": True}) as response:
        for wait in (response.accepted, response.result, lambda: anext(response.events())):
            with pytest.raises(UpstreamError):
                await wait()
    async with gateway.open_response({**ASK, "model": "nope"}) as response:
        for wait in (response.accepted, response.result):
            with pytest.raises(UpstreamError):
                await wait()


async def test_a_request_that_is_not_streamed_has_no_events(gateway: Gateway) -> None:
    async with gateway.open_response(ASK) as response:
        with pytest.raises(InvalidRequest):
            await anext(response.events())


async def test_a_stream_is_followed_again_after_any_event(gateway: Gateway) -> None:
    async with gateway.stream_response(ASK) as stream:
        events = [event async for event in stream]
    id = events[0]["response"]["id"]
    assert [event async for event in gateway.follow_response(id)] == events
    for event in events:
        after = event["sequence_number"]
        assert [each async for each in gateway.follow_response(id, after=after)] == events[after + 1 :]


async def test_a_live_stream_is_followed_by_many(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(Script(stall_after=6))
    seen: list[list[Any]] = [[], []]

    async def follow(index: int) -> None:
        async for event in gateway.follow_response(response.id):
            seen[index].append(event)
            if event["type"] == "response.output_text.delta" and index:
                response.cancel()

    async with gateway.open_response({**ASK, "stream": True}) as response:
        await response.accepted()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, 0)
            nursery.start_soon(follow, 1)
    assert seen[0] == seen[1]
    assert seen[0][-1]["type"] == "response.output_text.delta"


async def test_an_unknown_stream_is_not_found_at_the_first_step(gateway: Gateway) -> None:
    with pytest.raises(NotFound):
        await anext(gateway.follow_response("resp_nope"))


async def test_a_background_response_goes_on_after_its_block_and_can_be_cancelled(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(Script(hang=True))
    queued = await gateway.create_response({**ASK, "background": True})
    assert queued["status"] == "queued"
    await upstream.wait_stalled(1)
    assert (await gateway.cancel_response(queued["id"]))["status"] == "cancelled"
    upstream.script(None)
    ended = await gateway.create_response(ASK)
    with pytest.raises(InvalidRequest):
        await gateway.cancel_response(ended["id"])


async def test_a_turn_that_is_to_finish_goes_on_without_its_block(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(Script(stall_after=6))
    finish = CallContext(on_disconnect="finish")
    async with gateway.open_response({**ASK, "stream": True}, context=finish) as response:
        await response.accepted()
    assert (await gateway.get_response(response.id))["status"] == "in_progress"
    upstream.release()
    async for _ in gateway.follow_response(response.id):
        pass
    assert (await gateway.get_response(response.id))["status"] == "completed"


async def test_an_owner_sees_their_own_alone(gateway: Gateway) -> None:
    ada, bob = CallContext(owner="ada"), CallContext(owner="bob")
    response = await gateway.create_response(ASK, context=ada)
    conversation = await gateway.create_conversation(context=ada)
    assert await gateway.get_response(response["id"], context=ada) == response
    assert (await gateway.list_responses(context=bob))["data"] == []
    assert (await gateway.list_conversations(context=bob))["data"] == []
    for other in (bob, CallContext()):
        for call in (
            lambda other=other: gateway.get_response(response["id"], context=other),
            lambda other=other: gateway.list_input_items(response["id"], context=other),
            lambda other=other: gateway.delete_response(response["id"], context=other),
            lambda other=other: gateway.cancel_response(response["id"], context=other),
            lambda other=other: anext(gateway.follow_response(response["id"], context=other)),
            lambda other=other: gateway.get_conversation(conversation["id"], context=other),
            lambda other=other: gateway.update_conversation(conversation["id"], metadata={}, context=other),
            lambda other=other: gateway.delete_conversation(conversation["id"], context=other),
            lambda other=other: gateway.list_items(conversation["id"], context=other),
            lambda other=other: gateway.create_items(
                conversation["id"], [{"role": "user", "content": "x"}], context=other
            ),
            lambda other=other: gateway.create_response(
                {**ASK, "previous_response_id": response["id"]}, context=other
            ),
        ):
            with pytest.raises(InvalidRequest):
                await call()


async def test_a_call_s_own_key_goes_upstream_and_no_further(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    context = CallContext(key="sk-ada")
    await gateway.create_response(ASK, context=context)
    assert upstream.last.headers["authorization"] == "Bearer sk-ada"
    await gateway.list_models(context=context)
    assert upstream.last.headers["authorization"] == "Bearer sk-ada"
    await gateway.create_response(ASK)
    assert upstream.last.headers["authorization"] == "Bearer sk-own"
    assert "sk-ada" not in repr(context)


@pytest.mark.parametrize("bad", [{"on_disconnect": "leave"}, {"key": "a\nb"}, {"key": "\u00e9"}])
def test_a_context_that_can_not_be_is_refused_at_once(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        CallContext(**bad)


async def test_a_repeat_gets_the_first_one_s_response(gateway: Gateway, upstream: FakeUpstream) -> None:
    context = CallContext(idempotency_key="k")
    first = await gateway.create_response(ASK, context=context)
    assert await gateway.create_response(ASK, context=context) == first
    async with gateway.open_response({**ASK, "stream": False}, context=context) as repeat:
        assert repeat.id == first["id"]
        await repeat.accepted()
        assert await repeat.result() == first
        assert (await anext(repeat.events()))["type"] == "response.created"
    assert len(upstream.requests) == 1
    with pytest.raises(InvalidRequest) as refused:
        await gateway.create_response({**ASK, "input": "other"}, context=context)
    assert refused.value.code == "idempotency_key_reused"
    other = CallContext(idempotency_key="k", key="sk-other")
    assert (await gateway.create_response(ASK, context=other))["id"] != first["id"]
    with pytest.raises(InvalidRequest):
        await gateway.create_response(ASK, context=CallContext(idempotency_key="k" * 257))


async def test_a_repeat_joins_the_turn_that_runs(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(Script(stall_after=6))
    context = CallContext(idempotency_key="k")
    async with gateway.open_response(ASK, context=context) as first:
        await upstream.wait_stalled(1)
    # Its block is left, but a repeat is to find it.
    async with gateway.open_response(ASK, context=context) as repeat:
        assert repeat.id == first.id
        upstream.release()
        assert (await repeat.result())["status"] == "completed"
    assert len(upstream.requests) == 1


async def test_what_is_not_stored_runs_again_after_the_first(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    context = CallContext(idempotency_key="k")
    ids = set()

    async def ask() -> None:
        ids.add((await gateway.create_response({**ASK, "store": False}, context=context))["id"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert len(ids) == 2
    with pytest.raises(NotFound):
        await gateway.get_response(ids.pop())


async def test_a_cancelled_call_can_be_found_again(gateway: Gateway, upstream: FakeUpstream) -> None:
    upstream.script(Script(stall_after=6))
    with trio.CancelScope() as scope:
        async with gateway.open_response({**ASK, "stream": True}) as response:
            async for event in response.events():
                if event["type"] == "response.output_text.delta":
                    scope.cancel()
    found = await gateway.get_response(response.id)
    assert found["status"] == "cancelled"
    again = await gateway.create_response({**ASK, "previous_response_id": response.id})
    assert again["status"] == "completed"


ASYNCIO_BESIDE_TRIO = """
import anyio, sys, trio
from agentic_trio import Config, open_gateway

async def main():
    async with open_gateway(Config(db_url=sys.argv[1])) as gateway:
        async def use():
            try:
                await gateway.create_response({"input": "x"})
            except RuntimeError as error:
                print(error)
            try:
                gateway.follow_response("resp_1")
            except RuntimeError as error:
                print(error)

        await trio.to_thread.run_sync(lambda: anyio.run(use, backend="asyncio"))

trio.run(main)
"""


async def test_asyncio_in_the_same_program_is_refused_by_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASYNCIO_BESIDE_TRIO, f"sqlite://{tmp_path / 'x.db'}"]
    with trio.fail_after(60):
        ran = await trio.run_process(command, capture_stdout=True)
    assert ran.stdout.count(b"needs Trio") == 2


ASYNCIO_ALONE = """
import anyio, sys
from agentic_trio import Config, open_gateway

async def use():
    async with open_gateway(Config(db_url=sys.argv[1])):
        print("it opened")

try:
    anyio.run(use, backend="asyncio")
except RuntimeError as error:
    print(error)
"""


async def test_another_event_loop_is_refused_by_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASYNCIO_ALONE, f"sqlite://{tmp_path / 'x.db'}"]
    with trio.fail_after(60):
        ran = await trio.run_process(command, capture_stdout=True)
    assert b"needs Trio" in ran.stdout
    assert b"it opened" not in ran.stdout
    assert not (tmp_path / "x.db").exists()


async def test_error_of_the_program_leaves_open_gateway_bare(upstream: FakeUpstream, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_gateway(config(upstream, tmp_path)):
            raise KeyError("mine")


async def test_hundred_turns_at_once_each_get_their_own_answer(gateway: Gateway) -> None:
    answers: dict[int, str] = {}

    async def ask(number: int) -> None:
        response = await gateway.create_response({**ASK, "input": f"number {number}"})
        answers[number] = response["output"][0]["content"][0]["text"]

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number)
    assert answers == {number: f"echo: 1 items; last: number {number}" for number in range(100)}


def test_works_in_an_anyio_program_on_trio(tmp_path: Path) -> None:
    async def main() -> str:
        async with (
            open_fake_upstream() as upstream,
            open_gateway(config(upstream, tmp_path)) as gateway,
            anyio.create_task_group() as group,
        ):
            (url,) = await group.start(serve, gateway)
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                answer = await client.post("/v1/responses", json=ASK)
            response = await gateway.get_response(answer.json()["id"])
            group.cancel_scope.cancel()
        return str(response["status"])

    assert anyio.run(main, backend="trio") == "completed"


async def test_serve_reports_the_urls_it_listens_on(gateway: Gateway, nursery: trio.Nursery) -> None:
    (url,) = await nursery.start(serve, gateway)
    assert httpx.URL(url).port != 0
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{url}/health")).status_code == 200
    nursery.cancel_scope.cancel()


async def test_cancelling_the_server_leaves_nothing_unrecorded(
    gateway: Gateway, upstream: FakeUpstream
) -> None:
    upstream.script(Script(stall_after=6))
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(serve, gateway)
        port = int(url.rpartition(":")[2])
        async with (
            open_under_way(port, {"input": "one"}, b"output_text.delta") as one,
            open_under_way(port, {"input": "two"}, b"output_text.delta") as two,
        ):
            nursery.cancel_scope.cancel()
    for client in (one, two):
        assert (await gateway.get_response(client.id))["status"] == "cancelled"


async def test_closing_the_gateway_leaves_nothing_unrecorded(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.script(Script(hang=True))
    async with open_gateway(config(upstream, tmp_path)) as gateway:
        response = await gateway.create_response({**ASK, "background": True})
        await upstream.wait_stalled(1)
    async with open_gateway(config(upstream, tmp_path)) as gateway:
        assert (await gateway.get_response(response["id"]))["status"] == "cancelled"
