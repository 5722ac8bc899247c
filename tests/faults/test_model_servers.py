"""Several model servers, of which some fail: who is asked, and what the client sees of it."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.upstream import balancer
from tests.fake_upstream import FakeUpstream, Script, Text, open_fake_upstream
from tests.oracles import check_error, check_event_stream
from tests.web.harness import MODEL, NOWHERE, open_world

from .ledger import ledger
from .world import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.fake_upstream import Recorded
    from tests.web.harness import World

Json = dict[str, Any]

BODY = {"model": MODEL, "input": "hi"}
RELAYED = [
    ("/v1/responses", {**BODY, "store": False}),
    ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}),
]


@asynccontextmanager
async def open_servers(count: int = 2, *, dead: int = 0, **config: Any) -> AsyncIterator[World]:
    """A gateway before several model servers, ``world.servers``, and ``dead`` addresses of none."""
    with trio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(open_fake_upstream()) for _ in range(count)]
            bases = [server.url for server in servers] + [f"{NOWHERE}/{each}" for each in range(dead)]
            world = await stack.enter_async_context(open_world(llm_api_base=",".join(bases), **config))
            world.servers = servers  # type: ignore[attr-defined]
            yield world


def servers_of(world: World) -> list[FakeUpstream]:
    servers: list[FakeUpstream] = world.servers  # type: ignore[attr-defined]
    return servers


def asked(server: FakeUpstream) -> list[Recorded]:
    """The requests to a model, looks left out."""
    return [request for request in server.requests if request.method == "POST"]


async def until(reached: Any) -> None:
    while not reached():  # noqa: ASYNC110
        await trio.sleep(0.01)


async def test_a_thread_stays_at_its_server_and_threads_spread() -> None:
    async with open_servers(3) as world:
        homes = []
        for _ in range(12):
            response = await world.create("begin")
            for _ in range(2):
                response = await world.create("go on", previous_response_id=response["id"])
            before = [len(asked(server)) for server in servers_of(world)]
            homes.append(before)
        # Each thread has added its three requests to one server alone.
        steps = [
            [after - earlier for earlier, after in zip(one, other, strict=True)]
            for one, other in zip([[0, 0, 0], *homes], homes, strict=False)
        ]
        assert all(sorted(step) == [0, 0, 3] for step in steps)
        assert sum(count > 0 for count in homes[-1]) >= 2


async def test_a_conversation_and_the_forks_of_a_thread_stay_at_its_server() -> None:
    async with open_servers(3) as world:
        first = await world.create("begin")
        for input in ("left", "right", "middle"):
            await world.create(input, previous_response_id=first["id"])
        assert sorted(len(asked(server)) for server in servers_of(world)) == [0, 0, 4]
        conversation = await world.converse()
        before = [len(asked(server)) for server in servers_of(world)]
        for input in ("a", "b", "c"):
            await world.create(input, conversation=conversation)
        after = [len(asked(server)) for server in servers_of(world)]
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 0, 3]


@pytest.mark.parametrize(("path", "body"), RELAYED)
async def test_a_relayed_conversation_that_grows_stays_at_its_server(path: str, body: Json) -> None:
    async with open_servers(3) as world:
        name = "messages" if "messages" in body else "input"
        said = [{"role": "user", "content": "hi"}]
        for _ in range(5):
            answer = await world.post(path, {**body, name: said})
            assert answer.status_code == 200
            said += [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "more"}]
        assert sorted(len(asked(server)) for server in servers_of(world)) == [0, 0, 5]


async def test_a_model_is_asked_of_a_server_that_has_it() -> None:
    async with open_servers(2) as world:
        one, two = servers_of(world)
        one.models, two.models = ["tiny"], ["large", "tiny"]
        for number in range(6):
            await world.create(f"hi {number}", model="large")
        assert (len(asked(one)), len(asked(two))) == (0, 6)


async def test_a_model_that_was_loaded_meanwhile_is_found() -> None:
    async with open_servers(2) as world:
        one, two = servers_of(world)
        await world.create("hi")
        two.models = ["tiny", "adapter"]
        for number in range(6):
            await world.create(f"hi {number}", model="adapter")
        assert not [request for request in asked(one) if request.json["model"] == "adapter"]


async def test_the_models_of_all_servers_are_listed_each_once() -> None:
    async with open_servers(2, dead=1) as world:
        one, two = servers_of(world)
        one.models, two.models = ["tiny", "a"], ["b", "tiny"]
        answer = await world.client.get("/v1/models")
        ledger.fault()
        assert answer.status_code == 200
        assert [model["id"] for model in answer.json()["data"]] == ["tiny", "a", "b"]


async def test_no_model_server_at_all_is_one_error() -> None:
    async with open_servers(0, dead=2) as world:
        for path in ("/v1/models", "/v1/models/tiny"):
            answer = await world.client.get(path)
            ledger.fault()
            assert answer.status_code == 502
            assert check_error(answer.status_code, answer.content)["code"] == "upstream_unreachable"
        status, error = await world.refused("hi")
        assert (status, error["code"]) == (502, "upstream_unreachable")
        ready = await world.client.get("/ready")
        assert ready.status_code == 503
        assert [server["status"] for server in ready.json()["model_servers"]] == ["unavailable"] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_is_gone_is_noticed_by_no_client(stream: bool) -> None:
    async with open_servers(1, dead=2) as world:
        for number in range(8):
            body = {**BODY, "input": f"hi {number}", "stream": stream}
            answer = await world.post("/v1/responses", body)
            ledger.fault()
            assert answer.status_code == 200
            for path, relayed in RELAYED:
                assert (await world.post(path, {**relayed, "user": str(number)})).status_code == 200
        ready = (await world.client.get("/ready")).json()
        assert ready["status"] == "ready"
        states = [server["status"] for server in ready["model_servers"]]
        assert states == ["ready", "unavailable", "unavailable"]
        assert "127.0.0.1" not in json.dumps(ready)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_server_that_refuses_with_5xx_is_replaced_once(status: int) -> None:
    async with open_servers(3) as world:
        for server in servers_of(world):
            server.script(Script(status=status))
        refused, error = await world.refused("hi")
        ledger.fault()
        assert (refused, error["code"]) == (status, "upstream_error")
        assert sorted(len(asked(server)) for server in servers_of(world)) == [0, 1, 1]


@pytest.mark.parametrize(("path", "body"), RELAYED)
async def test_a_relayed_request_goes_elsewhere_after_a_5xx(path: str, body: Json) -> None:
    async with open_servers(3) as world:
        for server in servers_of(world):
            server.script(Script(status=500))
        assert (await world.post(path, body)).status_code == 500
        ledger.fault()
        assert sorted(len(asked(server)) for server in servers_of(world)) == [0, 1, 1]


async def test_a_poisonous_request_keeps_nobody_else_out() -> None:
    async with open_servers(2) as world:
        for server in servers_of(world):
            server.script(lambda request: Script(status=500) if b"poison" in request.body else None)
        for number in range(6):
            assert (await world.refused(f"poison {number}"))[0] == 500
            await world.create(f"hi {number}")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 429, 501])
async def test_a_refusal_is_never_sent_elsewhere(status: int) -> None:
    async with open_servers(2) as world:
        for server in servers_of(world):
            server.script(Script(status=status, headers={"retry-after": "7"}))
        refused, _ = await world.refused("hi")
        ledger.fault()
        assert refused == status
        for path, body in RELAYED:
            assert (await world.post(path, body)).status_code == status
        assert sum(len(asked(server)) for server in servers_of(world)) == 1 + len(RELAYED)


async def test_silence_is_not_asked_for_twice() -> None:
    async with open_servers(2, idle_timeout=0.3) as world:
        for server in servers_of(world):
            server.script(Script(hang=True))
        status, error = await world.refused("hi")
        ledger.fault()
        assert (status, error["code"]) == (504, "upstream_timeout")
        assert sum(len(asked(server)) for server in servers_of(world)) == 1


async def test_an_answer_that_has_begun_is_not_begun_again_elsewhere() -> None:
    async with open_servers(2) as world:
        for server in servers_of(world):
            server.script(Script(output=(Text(("Hel", "lo")),), cut_after=6))
        answer = await world.post("/v1/responses", {**BODY, "stream": True})
        ledger.fault()
        events = check_event_stream(answer.content, {**BODY, "stream": True})
        assert events[-1]["type"] == "response.failed"
        assert sum(len(asked(server)) for server in servers_of(world)) == 1


async def test_a_server_that_dies_in_the_middle_costs_its_own_streams_only() -> None:
    async with open_servers(2) as world:
        one, two = servers_of(world)
        slow = Script(output=(Text(("Hel", "lo")),), stall_after=6)
        one.script(slow)
        two.script(slow)
        answers: list[Json] = []

        async def stream(number: int) -> None:
            body = {**BODY, "input": f"hi {number}", "stream": True}
            answer = await world.post("/v1/responses", body)
            answers.append(check_event_stream(answer.content, body)[-1])

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(stream, number)
            await until(lambda: one.stalled + two.stalled == 20)
            lost, kept = one.stalled, two.stalled
            assert lost
            assert kept
            one.kill()
            two.script(None)
            two.release()
        ledger.fault()
        endings = sorted(event["type"] for event in answers)
        assert endings == ["response.completed"] * kept + ["response.failed"] * lost
        # Each of them goes on at the other server.
        for event in answers:
            await world.create("go on", previous_response_id=event["response"]["id"])


async def test_a_server_that_says_that_it_is_ill_gets_nothing_until_it_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(balancer, "LOOK_INTERVAL", 0.02)
    async with open_servers(2) as world:
        one, two = servers_of(world)
        states = world.gateway.upstream.states
        one.healthy = False
        await until(lambda: not states[0].healthy)
        ledger.fault()
        for number in range(8):
            await world.create(f"hi {number}")
        assert (len(asked(one)), len(asked(two))) == (0, 8)
        one.healthy = True
        await until(lambda: states[0].healthy)
        for number in range(30):
            await world.create(f"again {number}")
        assert asked(one)


async def test_what_servers_had_cached_is_counted() -> None:
    async with open_servers(2) as world:
        usage = {"input_tokens": 10, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 8}}
        for server in servers_of(world):
            server.script(Script(response={"usage": usage}))
        for number in range(4):
            await world.create(f"hi {number}")
        states = world.gateway.upstream.states
        assert sum(state.input_tokens for state in states) == 40
        assert sum(state.cached_tokens for state in states) == 32
        assert [state.in_flight for state in states] == [0, 0]
        assert sum(state.requests for state in states) == 4
