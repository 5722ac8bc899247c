"""kill -9: whatever a client was told is there afterwards, and what was announced says how it ended."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import h11
import httpx
import pytest
import trio

from tests.fake_upstream import FakeUpstream, open_fake_upstream
from tests.http_client import open_exchange, open_under_way
from tests.oracles import check_list, check_response

from .harness import Server, open_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STALLED = '!{"stall_after": 6} hi there'
DELTA = b"response.output_text.delta"


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with open_fake_upstream() as upstream:
        yield upstream


async def kill(server: Server) -> None:
    server.signal(signal.SIGKILL)
    await server.wait()


async def test_announced_response_is_failed_after_a_crash(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with (
        open_server(tmp_path, upstream.url) as server,
        open_under_way(server.port, {"input": STALLED}, DELTA) as client,
    ):
        await kill(server)
    given = upstream.last.items
    async with open_server(tmp_path, upstream.url) as server:
        response = await server.read(client.id)
        listed = check_list((await server.client.get(f"/v1/responses/{client.id}/input_items")).content)
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert listed == given


async def test_crash_in_a_conversation_leaves_it_as_it_was_and_free(
    tmp_path: Path, upstream: FakeUpstream
) -> None:
    async with open_server(tmp_path, upstream.url) as server:
        created = (await server.client.post("/v1/conversations", json={"metadata": {"a": "b"}})).json()
        body = {"model": "tiny", "input": "one", "conversation": created["id"]}
        assert (await server.client.post("/v1/responses", json=body)).status_code == 200
        path = f"/v1/conversations/{created['id']}/items"
        before = (await server.client.get(path)).content
        async with open_under_way(server.port, {**body, "input": STALLED}, DELTA):
            await kill(server)
    async with open_server(tmp_path, upstream.url) as server:
        assert (await server.client.get(f"/v1/conversations/{created['id']}")).json() == created
        assert (await server.client.get(path)).content == before
        answer = await server.client.post("/v1/responses", json=body | {"input": "two"})
        assert answer.status_code == 200
    assert len(upstream.last.items) == 3


class Client:
    """Asks again and again, and notes what it was told."""

    def __init__(self, server: Server, number: int) -> None:
        self.server = server
        self.number = number
        self.told: list[dict[str, Any]] = []
        self.announced: set[str] = set()
        self.conversation = ""

    async def run(self) -> None:
        """Until the server is gone."""
        try:
            body = await self.server.client.post("/v1/conversations", json={})
            self.conversation = body.json()["id"]
            while True:
                await self.ask(stream=len(self.told) % 2 == 0)
        except (httpx.TransportError, h11.RemoteProtocolError, OSError, trio.BrokenResourceError):
            return

    async def ask(self, *, stream: bool) -> None:
        body = {"model": "tiny", "input": f"client {self.number}, turn {len(self.told)}"}
        body |= {"conversation": self.conversation, "stream": stream}
        async with open_exchange(self.server.port) as raw:
            await raw.request("POST", "/v1/responses", body, connection="close")
            if stream:
                await raw.read_until(b"response.in_progress")
                self.announced.add(raw.id)
                await raw.read_until(b"event: response.completed")
                await raw.read_until(b"[DONE]")
                self.told.append(raw.events[-1]["response"])
            else:
                answer = await raw.read()
                assert raw.status == 200, answer
                self.told.append(json.loads(answer))


async def test_all_that_was_told_under_load_survives_a_crash(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_server(tmp_path, upstream.url) as server:
        clients = [Client(server, number) for number in range(20)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.run)
            with trio.fail_after(60):
                await upstream.wait_requests(150)
            server.signal(signal.SIGKILL)
    told = [response for client in clients for response in client.told]
    assert len(told) > 100
    async with open_server(tmp_path, upstream.url) as server:
        for response in told:
            assert await server.read(response["id"]) == response
        for client in clients:
            for id in client.announced - {response["id"] for response in client.told}:
                assert (await server.read(id))["status"] in ("failed", "completed")
            path = f"/v1/conversations/{client.conversation}/items?order=asc&limit=100"
            items = check_list((await server.client.get(path)).content)
            outputs = [item for response in client.told for item in response["output"]]
            # A turn that was committed, but not told, may follow.
            assert [item for item in items if item["role"] == "assistant"][: len(outputs)] == outputs
            assert len(items) % 2 == 0
            assert 0 <= len(items) // 2 - len(client.told) <= 1


async def test_restart_forgets_nothing(tmp_path: Path, upstream: FakeUpstream) -> None:
    async with open_server(tmp_path, upstream.url) as server:
        answer = await server.client.post("/v1/responses", json={"model": "tiny", "input": "I am Ada."})
        server.signal()
        await server.wait()
    async with open_server(tmp_path, upstream.url) as server:
        first = check_response(answer.content)
        assert (await server.client.get(f"/v1/responses/{first['id']}")).content == answer.content
        body = {"model": "tiny", "input": "Who am I?", "previous_response_id": first["id"]}
        assert (await server.client.post("/v1/responses", json=body)).status_code == 200
    assert [item["role"] for item in upstream.last.items] == ["user", "assistant", "user"]
