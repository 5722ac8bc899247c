"""A gateway on a file, and what the tests ask it again and again."""

from __future__ import annotations

import json
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import trio

from tests.fake_upstream import Script
from tests.oracles import ANY, check_response, parse_sse
from tests.web.harness import MODEL, World, open_world

from .ledger import ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

    from tests.fake_upstream import Recorded

Json = dict[str, Any]

PATIENCE = 30.0
"""Seconds: the machine may be busy, but no test may hang."""

PLAIN = Script()
"""The model server answers as it should."""

UNDER_WAY = ("queued", "in_progress")


@asynccontextmanager
async def open_file_world(
    database: Path, script: Script | None = None, **config: Any
) -> AsyncIterator[World]:
    """``open_world`` with its state in a file, which is whole afterwards."""
    with trio.fail_after(4 * PATIENCE):
        async with open_world(script, db_url=f"sqlite://{database}", **config) as world:
            yield world
    assert_intact(database)


def assert_intact(database: Path) -> None:
    """SQLite finds nothing wrong, and no turn is under way."""
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM response WHERE pending IS NOT NULL").fetchone() == (0,)


def status_on_disk(database: Path, id: str) -> str | None:
    """What the file says of a response, whatever the gateway says."""
    with closing(sqlite3.connect(database)) as db:
        row = db.execute("SELECT status FROM response WHERE id = ?", (id,)).fetchone()
    return None if row is None else str(row[0])


async def recorded_as(database: Path, id: str, status: str) -> None:
    """Wait until the file says so; the gateway tries at intervals of its own."""
    with trio.fail_after(PATIENCE):
        while status_on_disk(database, id) != status:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def until_ready(client: httpx.AsyncClient, status: int) -> None:
    """Ask until the gateway answers so: what it has found stands for a moment."""
    with trio.fail_after(PATIENCE):
        while (await client.get("/ready")).status_code != status:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def get(client: httpx.AsyncClient, id: str) -> bytes:
    answer = await client.get(f"/v1/responses/{id}")
    assert answer.status_code == 200, answer.text
    return answer.content


async def ended(client: httpx.AsyncClient, id: str, status: Any = ANY) -> Json:
    """The response once its turn has ended: it is asked for until then."""
    with trio.fail_after(PATIENCE):
        while True:
            body = await get(client, id)
            if json.loads(body)["status"] not in UNDER_WAY:
                return check_response(body, status=status)


async def continued(world: World, id: str, usable: list[Json]) -> Recorded:
    """Go on from a response: the model server is given its usable output, after what came before it."""
    world.upstream.script(PLAIN)
    calls = [item["call_id"] for item in usable if "call_id" in item]
    answers = [{"type": "function_call_output", "call_id": id, "output": "12:00"} for id in calls]
    await world.create([*answers, {"role": "user", "content": "go on"}], previous_response_id=id)
    given = world.upstream.last
    end = len(given.items) - len(answers) - 1
    ledger.check(given.items[end - len(usable) : end] == usable, (id, usable, given.items))
    return given


def usable(output: list[Json], told: list[Json]) -> list[Json]:
    """The items that a model can be asked to go on from: no call that was cut, no item without text."""
    done = {event["item"]["id"] for event in told if event["type"] == "response.output_item.done"}
    return [
        item
        for item in output
        if item["id"] in done
        or ("arguments" not in item and any(part["text"] for part in item.get("content", ())))
    ]


def seen(events: list[Json]) -> list[Json]:
    """The output that a stream's events so far amount to: type, id and text of each item."""
    items: list[Json] = []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            item = event["item"]
            items.append({"type": item["type"], "id": item["id"], "text": ""})
        elif kind.endswith(".delta"):
            items[event["output_index"]]["text"] += event["delta"]
        elif kind == "response.completed":
            assert [item["id"] for item in event["response"]["output"]] == [item["id"] for item in items]
    return items


def recorded(response: Json) -> list[Json]:
    """The output of a response in the same form."""
    return [{"type": item["type"], "id": item["id"], "text": text(item)} for item in response["output"]]


def text(item: Json) -> str:
    parts = [*item.get("summary", ()), *item.get("content", ())]
    return "".join(part["text"] for part in parts) + str(item.get("arguments", ""))


async def check_ended_early(world: World, id: str, told: list[Json], *, status: str) -> Json:
    """A turn whose stream ended after ``told`` is recorded so, exactly, and can be continued."""
    response = await ended(world.client, id)
    ledger.check(
        (response["status"], recorded(response)) == (status, seen(told)), (id, status, response, told)
    )
    await continued(world, id, usable(response["output"], told))
    return response


async def check_told_why(client: httpx.AsyncClient, stream: bytes, code: str) -> Json:
    """A turn that was cancelled by the gateway tells why in its stream, and in its record."""
    events, done = parse_sse(stream)
    assert done
    *_, error, failed = events
    assert (error["type"], error["code"], failed["type"]) == ("error", code, "response.failed")
    response: Json = json.loads(await get(client, failed["response"]["id"]))
    ledger.check(response == failed["response"], (failed, response))
    assert (response["status"], response["error"]["message"]) == ("cancelled", error["message"])
    return response


def streamed(input: str = "hi", **members: Any) -> Json:
    return {"model": MODEL, "input": input, "stream": True, **members}
