"""The gateway inside a program: no HTTP between the program and it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import trio

from agentic_trio import Config, Gateway, GatewayError, NotFound, UpstreamError, open_gateway, serve
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
    ):
        with pytest.raises(RuntimeError, match="the gateway is closed"):
            await call()
    assert not upstream.requests


def test_another_event_loop_is_refused_by_name(tmp_path: Path) -> None:
    async def use() -> None:
        async with open_gateway(Config(db_url=f"sqlite://{tmp_path / 'x.db'}")):
            pytest.fail("it opened")

    with pytest.raises(RuntimeError, match="needs Trio"):
        anyio.run(use, backend="asyncio")
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
