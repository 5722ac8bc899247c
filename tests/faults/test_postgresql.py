"""A gateway whose PostgreSQL server dies and comes back, or whose last process died."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio

from tests.fake_upstream import Script, Text
from tests.oracles import ANY, check_error, check_event_stream
from tests.postgres import Server, running_server
from tests.web.harness import MODEL, open_world

from .ledger import ledger
from .world import PATIENCE, until_ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.web.harness import World

Json = dict[str, Any]

SLOW = Script(output=(Text(("Hel", "lo", ", you")),), stall_after=6)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@asynccontextmanager
async def open_postgres_world(
    server: Server, url: str, script: Script | None = None, **config: Any
) -> AsyncIterator[World]:
    """``open_world`` with its state in PostgreSQL, which has no turn under way afterwards."""
    with trio.fail_after(4 * PATIENCE):
        async with open_world(script, db_url=url, list_endpoints=True, **config) as world:
            yield world
    with psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM announced").fetchone() == (0,)


async def test_a_database_server_that_is_gone_is_a_503_until_it_is_back(server: Server) -> None:
    async with open_postgres_world(server, server.new_database()) as world:
        first = await world.create("hi")
        server.stop("immediate")
        try:
            for body in ({"stream": True}, {"stream": False}, {"background": True}):
                answer = await world.post("/v1/responses", {"model": MODEL, "input": "hi", **body})
                ledger.fault()
                assert answer.status_code == 503
                assert answer.headers["retry-after"] == "1"
                check_error(503, answer.content, code="service_unavailable", type=ANY, param=None)
            answer = await world.client.get(f"/v1/responses/{first['id']}")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            relayed = await world.post("/v1/responses", {"model": MODEL, "input": "hi", "store": False})
            assert relayed.status_code == 200
            assert (await world.client.get("/ready")).status_code == 503
        finally:
            server.start()
        await until_ready(world.client, 200)
        second = await world.create("again", previous_response_id=first["id"])
        assert (await world.client.get(f"/v1/responses/{second['id']}")).json() == second
        listed = (await world.client.get("/v1/responses", params={"order": "asc"})).json()["data"]
        assert [response["id"] for response in listed] == [first["id"], second["id"]]


async def test_a_turn_under_way_when_the_database_server_dies_is_told_as_failed_and_recorded(
    server: Server,
) -> None:
    async with open_postgres_world(server, server.new_database(), SLOW) as world:
        events: list[Json] = []
        body = {"model": MODEL, "input": "hi", "stream": True}

        async def stream() -> None:
            answer = await world.post("/v1/responses", body)
            events.extend(check_event_stream(answer.content, body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream)
            await world.upstream.wait_stalled(1)
            while not (await world.client.get("/v1/responses")).json()["data"]:  # noqa: ASYNC110
                await trio.sleep(0.01)
            server.stop("immediate")
            ledger.fault()
            world.upstream.script(Script())
            world.upstream.release()
        assert events[-1]["type"] == "response.failed"
        server.start()
        id = events[0]["response"]["id"]
        await until_ready(world.client, 200)
        stored = (await world.client.get(f"/v1/responses/{id}")).json()
        assert stored["status"] == "failed"
        await world.create("go on", previous_response_id=id)


async def test_turns_that_a_dead_gateway_left_are_failed_by_the_next_one(server: Server) -> None:
    url = server.new_database()
    async with open_postgres_world(server, url) as world:
        first = await world.create("hi")
        ledger.fault()
    # A process that was killed leaves its announcement and its hold of the database.
    with psycopg.connect(url) as db:
        db.execute(
            "INSERT INTO announced (owner, id, status, created_at, pending, body, metadata)"
            " VALUES ('', 'resp_dead', 'in_progress', 1, '[]', %s, '{}')",
            [b'{"id":"resp_dead","object":"response","created_at":1,"status":"in_progress"}'],
        )
        db.execute("INSERT INTO gateway (holder, beats) VALUES ('dead', 7)")
    async with open_postgres_world(server, url) as world:
        dead = (await world.client.get("/v1/responses/resp_dead")).json()
        assert (dead["status"], dead["output"]) == ("failed", [])
        await world.create("go on", previous_response_id="resp_dead")
        await world.create("go on", previous_response_id=first["id"])
