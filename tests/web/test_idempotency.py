"""A request that is sent again under the same ``Idempotency-Key``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.gateway.idempotency import key_in_use
from agentic_trio.gateway.locks import Locks
from tests.fake_upstream import Script
from tests.oracles import check_error, check_event_stream, parse_sse

from .harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY = {"model": "tiny", "input": "hi"}
KEY = {"idempotency-key": "k"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as world:
        world.gateway.keys = Locks(0, key_in_use)
        yield world


async def test_repeat_of_a_request_under_way_gets_its_response(world: World) -> None:
    world.upstream.script(Script(hang=True))
    answers = []

    async def post() -> None:
        answers.append(await world.post("/v1/responses", BODY, headers=KEY))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(post)
        await world.upstream.wait_requests(1)
        nursery.start_soon(post)
        # It holds no key by the time that its twin has found the turn: nothing else tells it is there.
        await trio.sleep(0.2)
        world.upstream.release()
    first, second = answers
    assert (first.status_code, second.status_code) == (200, 200), second.text
    assert first.content == second.content
    assert len(world.upstream.requests) == 1


async def test_repeat_of_what_is_not_kept_is_told_to_come_later(world: World) -> None:
    world.upstream.script(Script(hang=True))
    conversation = await world.converse()
    body = {**BODY, "conversation": conversation, "store": False}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.post, "/v1/responses", body, headers=KEY))
        await world.upstream.wait_requests(1)
        answer = await world.post("/v1/responses", body, headers=KEY)
        world.upstream.release()
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "idempotency_key_in_use")


async def test_repeat_of_a_stream_that_is_not_kept_is_told_from_the_response() -> None:
    body = {**BODY, "stream": True}
    async with open_world(replay_retention=0) as world:
        first = await world.post("/v1/responses", body, headers=KEY)
        again = await world.post("/v1/responses", body, headers=KEY)
        id = parse_sse(first.content)[0][0]["response"]["id"]
        read = await world.client.get(f"/v1/responses/{id}?stream=true")
    *_, final = check_event_stream(first.content, body)
    assert check_event_stream(again.content, body)[-1]["response"] == final["response"]
    assert len(world.upstream.requests) == 1
    check_error(read.status_code, read.content, param="stream")


async def test_empty_key_is_none(world: World) -> None:
    first = await world.post("/v1/responses", BODY, headers={"idempotency-key": ""})
    second = await world.post("/v1/responses", BODY, headers={"idempotency-key": ""})
    assert first.json()["id"] != second.json()["id"]


CREDENTIALS: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer a"},
    {"authorization": "Bearer b"},
    {"x-api-key": "a"},
    {"authorization": "Bearer a", "x-api-key": "a"},
]


async def test_a_key_belongs_to_the_credentials_that_it_came_with(world: World) -> None:
    answers = [
        await world.post("/v1/responses", BODY, headers=KEY | credentials) for credentials in CREDENTIALS * 2
    ]
    ids = [answer.json()["id"] for answer in answers]
    assert ids[: len(CREDENTIALS)] == ids[len(CREDENTIALS) :]
    assert len(set(ids)) == len(CREDENTIALS)
    assert len(world.upstream.requests) == len(CREDENTIALS)


async def test_running_turns_of_two_credentials_don_t_meet(world: World) -> None:
    world.upstream.script(Script(hang=True))
    async with trio.open_nursery() as nursery:
        for credentials in CREDENTIALS:
            nursery.start_soon(partial(world.post, "/v1/responses", BODY, headers=KEY | credentials))
        await world.upstream.wait_requests(len(CREDENTIALS))
        world.upstream.release()


async def test_an_id_can_t_be_computed_from_its_key() -> None:
    ids = []
    for _ in range(2):
        async with open_world() as world:
            ids.append((await world.post("/v1/responses", BODY, headers=KEY)).json()["id"])
    assert ids[0] != ids[1]


@pytest.mark.parametrize("length", [256, 257])
async def test_a_key_is_of_at_most_256_characters(world: World, length: int) -> None:
    answer = await world.post("/v1/responses", BODY, headers={"idempotency-key": "k" * length})
    if length <= 256:
        assert answer.status_code == 200
    else:
        check_error(answer.status_code, answer.content, param="idempotency-key")
        assert not world.upstream.requests
