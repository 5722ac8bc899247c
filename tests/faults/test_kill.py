"""``kill -9`` under load, again and again: what a client was told is there afterwards, byte for byte."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from tests.fake_upstream import Script, open_fake_upstream
from tests.http_client import open_at_event
from tests.oracles import check_error, check_event_stream, check_response
from tests.web.harness import MODEL, said

from .ledger import LONG, ledger
from .world import UNDER_WAY, assert_intact, ended, get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fake_upstream import FakeUpstream

    from .processes import Process, Spawner

Json = dict[str, Any]

KILLS = 200 if LONG else 8

PACED = Script(deltas=6, interval=0.002)

GONE = (httpx.TransportError, trio.BrokenResourceError)
"""What a client sees of a killed server."""


@dataclass
class Moment:
    """When to kill: after so many things were told to clients."""

    left: int
    come: trio.Event = field(default_factory=trio.Event)

    def told(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.come.set()


@dataclass
class Told:
    """What clients were told, over all kills.

    Attributes:
        complete: the response that was seen whole, by id: as bytes.
        streams: the whole stream, by id.
        announced: ids of which at least one event was seen.
        context: what the model was given for a response, and its output: the next turn's history.
        conversations: the texts of each conversation's items, as far as turns were seen whole.
        keys: the body that was sent with each idempotency key.
        deleted: ids whose deletion was confirmed.
    """

    complete: dict[str, bytes] = field(default_factory=dict)
    streams: dict[str, bytes] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    context: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    conversations: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    keys: dict[str, Json] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)


class Client:
    """One client's life until the server dies: turns one after the other, each kind with its own promise."""

    def __init__(self, name: str, process: Process, told: Told, moment: Moment) -> None:
        self.name = name
        self.http = process.client
        self.told = told
        self.moment = moment
        self.count = 0

    def body(self, **members: Any) -> Json:
        self.count += 1
        return {"model": MODEL, "input": f"{self.name} says {self.count}", **members}

    async def live(self, step: Callable[[Client], Any]) -> None:
        try:
            while True:
                await step(self)
                self.moment.told()
        except GONE:
            pass

    async def create(self, body: Json, **headers: str) -> Json:
        answer = await self.http.post("/v1/responses", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return self.keep(answer.content, body)

    async def stream(self, body: Json, **headers: str) -> Json | None:
        """Its last event's response; None if the server died before it."""
        whole = b""
        sending = self.http.stream("POST", "/v1/responses", json=body | {"stream": True}, headers=headers)
        async with sending as answer:
            assert answer.status_code == 200, await answer.aread()
            async for chunk in answer.aiter_raw():
                whole += chunk
                self.note(whole)
        id = self.note(whole)
        assert id is not None
        assert whole.endswith(b"data: [DONE]\n\n")
        self.told.streams[id] = whole
        last = whole.split(b"\n\n")[-3].split(b"\ndata: ", 1)[1]
        raw = last[last.index(b'"response":') + 11 : -1]
        return self.keep(raw, body)

    def note(self, whole: bytes) -> str | None:
        """Remember the id that a stream announces, as soon as it does."""
        if b"\n\n" not in whole:
            return None
        first = json.loads(whole[: whole.index(b"\n\n")].split(b"\ndata: ", 1)[1])
        id = str(first["response"]["id"])
        if id not in self.told.announced:
            self.told.announced.add(id)
            self.moment.told()
        return id

    def keep(self, raw: bytes, body: Json) -> Json:
        """Remember a response that was seen whole."""
        response = check_response(raw, body)
        self.told.announced.add(response["id"])
        self.told.complete[response["id"]] = raw
        # The next turn's history tells of all turns before it: the last of a chain is compared.
        before = self.told.context.pop(body.get("previous_response_id", ""), [])
        if "conversation" in body:
            before = self.told.conversations[body["conversation"]]
        self.told.context[response["id"]] = [*before, ("user", body["input"]), *said(response["output"])]
        return response


async def chain(client: Client) -> None:
    """Streams and whole answers in turns, each continuing the last."""
    last: str | None = None
    for turn in range(4):
        body = client.body() | ({"previous_response_id": last} if last else {})
        response = await (client.stream(body) if turn % 2 else client.create(body))
        assert response is not None
        last = response["id"]


async def conversation(client: Client) -> None:
    answer = await client.http.post("/v1/conversations", json={"metadata": {"of": client.name}})
    assert answer.status_code == 200, answer.text
    id = answer.json()["id"]
    told = client.told.conversations[id] = []
    for turn in range(3):
        body = client.body(conversation=id)
        response = await (client.stream(body) if turn % 2 else client.create(body))
        assert response is not None
        told += [("user", body["input"]), *said(response["output"])]
    added = {"items": [{"role": "user", "content": f"{client.name} adds"}]}
    answer = await client.http.post(f"/v1/conversations/{id}/items", json=added)
    assert answer.status_code == 200, answer.text
    told.append(("user", f"{client.name} adds"))


async def background(client: Client) -> None:
    """Created, then polled until it has ended."""
    body = client.body(background=True)
    answer = await client.http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    id = answer.json()["id"]
    client.told.announced.add(id)
    client.moment.told()
    while True:
        raw = await get(client.http, id)
        if json.loads(raw)["status"] not in UNDER_WAY:
            break
        await trio.sleep(0.01)
    client.keep(raw, body)


async def keyed(client: Client) -> None:
    """With an idempotency key; the answer may be lost."""
    key = f"{client.name}-{client.count}"
    body = client.body()
    client.told.keys[key] = body
    response = await client.create(body, **{"idempotency-key": key})
    client.told.by_key[key] = response["id"]


async def deleted(client: Client) -> None:
    response = await client.create(client.body())
    # From here on until it is confirmed, it may be there or not.
    del client.told.complete[response["id"]]
    del client.told.context[response["id"]]
    client.told.announced.discard(response["id"])
    answer = await client.http.delete(f"/v1/responses/{response['id']}")
    assert answer.status_code == 200, answer.text
    client.told.deleted.add(response["id"])


STEPS = (chain, chain, chain, conversation, conversation, background, background, keyed, deleted)


# What httpx leaves behind when the server dies while a request is being sent.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object ByteStream")
async def test_what_a_client_was_told_survives_kill_9_under_load(database: Path, spawner: Spawner) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    told = Told()
    draw = random.Random(seed)
    async with open_fake_upstream(PACED) as upstream:
        for kill in range(KILLS):
            async with spawner.running(database, upstream.url) as process:
                await check_all(process, upstream, told)
                moment = Moment(draw.randrange(1, 80))
                async with trio.open_nursery() as nursery:
                    for number, step in enumerate(STEPS):
                        client = Client(f"{kill}.{number}", process, told, moment)
                        nursery.start_soon(client.live, step)
                    await moment.come.wait()
                    await process.kill()
                    ledger.fault()
            if kill % 4 == 0:
                await kill_while_recovering(spawner, database, upstream, draw)
            upstream.script(None)
        async with spawner.running(database, upstream.url) as process:
            await check_all(process, upstream, told)
        upstream.assert_stateless()
    assert_intact(database)


async def kill_while_recovering(
    spawner: Spawner, database: Path, upstream: FakeUpstream, draw: random.Random
) -> None:
    """Kill a gateway that is just starting: at its first moments, whatever they are."""
    with trio.move_on_after(draw.uniform(0, 0.1)):
        async with spawner.running(database, upstream.url) as process:
            await process.kill()
    ledger.fault()


async def check_all(process: Process, upstream: FakeUpstream, told: Told) -> None:
    """Compare all that was told with what is there now; what was checked once is checked no more."""
    http = process.client
    for id in sorted(told.announced):
        raw = await get(http, id)
        status = json.loads(raw)["status"]
        if id in told.complete:
            ledger.check(raw == told.complete[id], (id, told.complete[id], raw))
        else:
            # It was seen to begin. Its end was not seen, but may have been recorded.
            ledger.check(status in ("failed", "completed"), (id, status))
            if status == "failed":
                assert "stopped before the response was complete" in json.loads(raw)["error"]["message"]
    for id, whole in told.streams.items():
        answer = await http.get(f"/v1/responses/{id}?stream=true")
        ledger.check(answer.content == whole, (id, whole, answer.content))
    for id in told.deleted:
        assert (await http.get(f"/v1/responses/{id}")).status_code == 404
    upstream.script(Script())
    await check_histories(http, upstream, told)
    await check_conversations(http, told)
    await check_keys(http, upstream, told)
    told.__init__()  # type: ignore[misc]


async def check_histories(http: httpx.AsyncClient, upstream: FakeUpstream, told: Told) -> None:
    """Continue each response: the model server is given what the client has seen."""
    for id, context in told.context.items():
        body = {"model": MODEL, "input": "and now?", "previous_response_id": id, "store": False}
        answer = await http.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        given = said(upstream.last)
        ledger.check(given == [*context, ("user", "and now?")], (id, context, given))


async def check_conversations(http: httpx.AsyncClient, told: Told) -> None:
    """Each holds what was seen, then perhaps one turn whose end was not seen, whole or not at all."""
    for id, texts in told.conversations.items():
        answer = await http.get(f"/v1/conversations/{id}/items?order=asc&limit=100")
        assert answer.status_code == 200, answer.text
        held = said(answer.json()["data"])
        rest = held[len(texts) :]
        ledger.check(held[: len(texts)] == texts, (id, texts, held))
        kinds = [kind for kind, _ in rest]
        ledger.check(kinds in ([], ["user"], ["user", "assistant"]), (id, texts, held))
        assert kinds != ["user"] or rest[0][1].endswith("adds")


async def check_keys(http: httpx.AsyncClient, upstream: FakeUpstream, told: Told) -> None:
    """A repeat gets the first one's response: the same bytes if they were seen, and no second run."""
    for key, body in told.keys.items():
        calls = len(upstream.requests)
        answer = await http.post("/v1/responses", json=body, headers={"idempotency-key": key})
        assert answer.status_code == 200, answer.text
        response = check_response(answer.content, body)
        if key in told.by_key:
            ledger.check(answer.content == told.complete[told.by_key[key]], (key, answer.content))
            assert len(upstream.requests) == calls
        again = await http.post("/v1/responses", json=body, headers={"idempotency-key": key})
        ledger.check(again.content == answer.content, (key, answer.content, again.content))
        assert again.json()["id"] == response["id"]


async def test_a_repeat_after_a_crash_is_told_how_the_first_one_ended_and_runs_nothing(
    database: Path, spawner: Spawner
) -> None:
    body = {"model": MODEL, "input": "hi", "background": True}
    key = {"idempotency-key": "k"}
    async with open_fake_upstream(Script(stall_after=4)) as upstream:
        async with spawner.running(database, upstream.url) as process:
            first = await process.client.post("/v1/responses", json=body, headers=key)
            await upstream.wait_stalled(1)
            await process.kill()
            ledger.fault()
        async with spawner.running(database, upstream.url) as process:
            again = await process.client.post("/v1/responses", json=body, headers=key)
            response = check_response(again.content, status="failed")
            ledger.check(response["id"] == first.json()["id"], (first.text, again.text))
            assert len(upstream.requests) == 1
    assert_intact(database)


async def test_a_stream_that_a_crash_cut_is_failed_and_only_a_repeat_is_told_so_as_a_stream(
    database: Path, spawner: Spawner
) -> None:
    """Its events were in the memory of the process that died."""
    body = {"model": MODEL, "input": "hi", "stream": True}
    key = {"idempotency-key": "k"}
    async with open_fake_upstream(Script(stall_after=4)) as upstream:
        async with (
            spawner.running(database, upstream.url) as process,
            open_at_event(process.port, body, 4, idempotency_key="k") as client,
        ):
            await process.kill()
            ledger.fault()
        async with spawner.running(database, upstream.url) as process:
            response = await ended(process.client, client.id, "failed")
            ledger.check(response["output"] == [], response)
            resumed = await process.client.get(f"/v1/responses/{client.id}?stream=true&starting_after=3")
            check_error(resumed.status_code, resumed.content, param="stream")
            repeated = await process.client.post("/v1/responses", content=json.dumps(body), headers=key)
            created, failed = check_event_stream(repeated.content, body, ending="response.failed")
            ledger.check(failed["response"] == response, failed)
            assert created["response"]["status"] == "in_progress"
            assert len(upstream.requests) == 1
    assert_intact(database)
