"""A disk that is full, a database that is read-only, locked, torn or not ours: nothing is lost or damaged."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from agentic_trio.gateway import unrecorded
from agentic_trio.gateway.maintenance import run_alone
from agentic_trio.store.contract import Ending, Item
from agentic_trio.store.schema import PAGE_SIZE
from agentic_trio.store.sqlite import open_sqlite_store
from tests.fake_upstream import Script, Text, open_fake_upstream
from tests.http_client import open_at_event
from tests.oracles import check_error, check_event_stream, check_response
from tests.web.harness import MODEL, open_world, said

from .ledger import LONG, ledger
from .processes import Died
from .world import (
    PATIENCE,
    PLAIN,
    assert_intact,
    ended,
    get,
    open_file_world,
    recorded_as,
    status_on_disk,
    streamed,
    until_ready,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.web.harness import World

    from .processes import Process, Spawner

Json = dict[str, Any]

HALF = Script(output=(Text(("Hel", "lo", "!")),), stall_after=5)

LONG_TEXT = "x" * 20_000

# Faults of a running gateway. Each is a context in which nothing can be written.


def writer(world: World) -> sqlite3.Connection:
    """The connection that writes."""
    connection: sqlite3.Connection = world.gateway._services.store.writer._connection  # type: ignore[attr-defined]
    return connection


@asynccontextmanager
async def full(world: World, database: Path, spawner: Spawner) -> AsyncIterator[None]:
    """No page can be added to the file: SQLITE_FULL, as on a full disk."""
    connection = writer(world)
    [(most,)] = connection.execute("PRAGMA max_page_count").fetchall()
    connection.execute("PRAGMA max_page_count = 1")
    # What is free inside of the file is taken first.
    while (await world.post("/v1/conversations", {"items": [message(LONG_TEXT)]})).status_code == 200:
        pass
    yield
    with suppress(sqlite3.ProgrammingError):  # closed
        connection.execute(f"PRAGMA max_page_count = {most}")


@asynccontextmanager
async def read_only(world: World, database: Path, spawner: Spawner) -> AsyncIterator[None]:
    """SQLITE_READONLY, as on a file system that was mounted again, read-only."""
    connection = writer(world)
    connection.execute("PRAGMA query_only = 1")
    yield
    with suppress(sqlite3.ProgrammingError):  # closed
        connection.execute("PRAGMA query_only = 0")


@asynccontextmanager
async def locked(world: World, database: Path, spawner: Spawner) -> AsyncIterator[None]:
    """Another process holds the file."""
    writer(world).execute("PRAGMA busy_timeout = 50")
    async with spawner.holding(database):
        yield


FAULTS: dict[str, Callable[[World, Path, Spawner], AbstractAsyncContextManager[None]]] = {
    "full": full,
    "read-only": read_only,
    "locked": locked,
}

faults = pytest.mark.parametrize("name", FAULTS)


def message(text: str) -> Json:
    return {"type": "message", "role": "user", "content": text}


@faults
async def test_what_changes_state_is_a_503_while_the_store_can_not_write(
    database: Path, spawner: Spawner, name: str
) -> None:
    async with open_file_world(database) as world:
        conversation, kept = await world.converse(), await world.create(LONG_TEXT)
        async with FAULTS[name](world, database, spawner):
            ledger.fault()
            for method, path, body in (
                ("POST", "/v1/conversations", {"items": [message(LONG_TEXT)]}),
                ("POST", f"/v1/conversations/{conversation}", {"metadata": {"a": LONG_TEXT[:512]}}),
                ("POST", f"/v1/conversations/{conversation}/items", {"items": [message(LONG_TEXT)]}),
                ("POST", "/v1/responses", {"model": MODEL, "input": LONG_TEXT}),
                ("POST", "/v1/responses", streamed(LONG_TEXT)),
                ("POST", "/v1/responses", {"model": MODEL, "input": LONG_TEXT, "background": True}),
            ):
                if name == "full" and "metadata" in body:
                    continue  # it fits where the old one was
                answer = await world.client.request(method, path, json=body)
                assert answer.status_code == 503, (path, body, answer.text)
                check_error(503, answer.content, code="service_unavailable")
                assert str(database) not in answer.text
            if name != "full":
                await until_ready(world.client, 503)
            # What is there can be read all the while, and what isn't stored is served.
            ledger.check(json.loads(await get(world.client, kept["id"])) == kept, kept)
            assert (await world.post("/v1/responses", streamed(store=False))).status_code == 200
        await until_ready(world.client, 200)
        assert await world.items(f"/v1/conversations/{conversation}/items") == []
        await world.create(LONG_TEXT, conversation=conversation, previous_response_id=None)


def move_away(database: Path) -> None:
    database.rename(database.with_name("away.db"))


def replace_with_a_copy(database: Path) -> None:
    database.with_name("copy.db").write_bytes(database.read_bytes())
    move_away(database)
    database.with_name("copy.db").rename(database)


def remove_its_log(database: Path) -> None:
    log = database.with_name(f"{database.name}-wal")
    log.rename(database.with_name("away.db"))


def put_back(database: Path, harm: Callable[[Path], None]) -> None:
    name = f"{database.name}-wal" if harm is remove_its_log else database.name
    database.with_name("away.db").rename(database.with_name(name))


@pytest.mark.parametrize("harm", [move_away, replace_with_a_copy, remove_its_log])
async def test_nothing_is_answered_200_while_the_files_are_gone(
    database: Path, harm: Callable[[Path], None]
) -> None:
    async with open_file_world(database) as world:
        kept = await world.create()
        await until_ready(world.client, 200)
        harm(database)
        ledger.fault()
        for _ in range(2):
            answer = await world.post("/v1/responses", {"model": MODEL, "input": "lost"})
            check_error(answer.status_code, answer.content, code="service_unavailable")
            assert answer.status_code == 503
        await until_ready(world.client, 503)
        put_back(database, harm)
        await until_ready(world.client, 200)
        ledger.check(json.loads(await get(world.client, kept["id"])) == kept, kept)
        await world.create(previous_response_id=kept["id"])


SECRET = "a-secret-that-is-deleted"


def on_disk(database: Path, text: str) -> list[str]:
    """The database's files that hold this text."""
    beside = [file for file in database.parent.iterdir() if file.name.startswith(database.name)]
    return [file.name for file in beside if file.is_file() and text.encode() in file.read_bytes()]


async def test_what_was_deleted_leaves_the_disk(database: Path) -> None:
    async with open_file_world(database, erase_after=0.1) as world:
        first = await world.create(SECRET)
        second = await world.create("go on", previous_response_id=first["id"])
        conversation = await world.converse(items=[message(SECRET)])
        items = await world.items(f"/v1/responses/{second['id']}/input_items")
        assert SECRET in json.dumps(items)
        for path in (
            f"responses/{first['id']}",
            f"conversations/{conversation}",
            f"responses/{second['id']}",
        ):
            assert on_disk(database, SECRET)
            assert (await world.client.delete(f"/v1/{path}")).status_code == 200
        reference = {"type": "item_reference", "id": items[-1]["id"]}
        answer = await world.post("/v1/conversations", {"items": [reference]})
        assert answer.status_code == 404, answer.text
        with trio.fail_after(PATIENCE):
            while on_disk(database, SECRET):  # noqa: ASYNC110
                await trio.sleep(0.02)


async def test_a_turn_that_continues_what_is_deleted_keeps_its_history(database: Path) -> None:
    async with open_file_world(database, erase_after=0.02) as world:
        first = await world.create(SECRET)
        world.upstream.script(Script(hang=True))
        answers: list[Json] = []

        async def go_on() -> None:
            answers.append(await world.create("go on", previous_response_id=first["id"]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            await world.upstream.wait_requests(2)
            assert (await world.client.delete(f"/v1/responses/{first['id']}")).status_code == 200
            await trio.sleep(0.3)
            ledger.fault()
            world.upstream.release()
        items = await world.items(f"/v1/responses/{answers[0]['id']}/input_items")
        ledger.check(SECRET in json.dumps(items), items)


@faults
@pytest.mark.parametrize("background", [False, True])
async def test_a_turn_under_way_is_told_that_it_was_not_recorded_and_is_recorded_later(
    database: Path, spawner: Spawner, name: str, background: bool
) -> None:
    body = streamed(LONG_TEXT, background=background)
    async with open_file_world(database, HALF) as world, open_at_event(world.port, body, 4) as client:
        await world.upstream.wait_stalled(1)
        async with FAULTS[name](world, database, spawner):
            ledger.fault()
            world.upstream.release()
            await client.read()
            *_, error, failed = check_event_stream(client.body, body)
            assert (error["type"], error["code"]) == ("error", "service_unavailable")
            assert failed["type"] == "response.failed"
            told = failed["response"]
            ledger.check(json.loads(await get(world.client, client.id)) == told, told)
            again = await world.client.get(f"/v1/responses/{client.id}?stream=true")
            ledger.check(again.content == client.body, again.content)
            assert status_on_disk(database, client.id) == ("queued" if background else "in_progress")
        await recorded_as(database, client.id, "failed")
        ledger.check(json.loads(await get(world.client, client.id)) == told, told)
        world.upstream.script(PLAIN)
        await world.create("go on", previous_response_id=client.id)
        assert said(world.upstream.last)[0] == ("user", LONG_TEXT)


@faults
async def test_stopping_while_the_store_can_not_write_loses_no_announced_turn(
    database: Path, spawner: Spawner, name: str
) -> None:
    """Its ending goes with the process, its id does not: the next start finds it under way."""
    async with AsyncExitStack() as longer:
        async with (
            open_world(HALF, db_url=f"sqlite://{database}") as world,
            open_at_event(world.port, streamed(LONG_TEXT), 4) as client,
        ):
            await world.upstream.wait_stalled(1)
            await longer.enter_async_context(FAULTS[name](world, database, spawner))
            ledger.fault()
        assert status_on_disk(database, client.id) == "in_progress"
    async with open_file_world(database) as world:
        ledger.check(await ended(world.client, client.id, "failed"), client.id)


async def test_of_endings_that_are_too_many_to_keep_only_that_they_failed_is_recorded(
    database: Path, spawner: Spawner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unrecorded, "MAX_UNRECORDED_BYTES", 2 * len(LONG_TEXT))
    body = streamed(LONG_TEXT)
    async with (
        AsyncExitStack() as longer,
        open_world(HALF, db_url=f"sqlite://{database}") as world,
        open_at_event(world.port, body, 4) as first,
        open_at_event(world.port, body, 4) as second,
    ):
        await world.upstream.wait_stalled(2)
        await longer.enter_async_context(read_only(world, database, spawner))
        ledger.fault()
        world.upstream.release()
        for client in (first, second):
            assert check_event_stream(await client.read(), body)[-1]["type"] == "response.failed"
        ids = {first.id, second.id}
        known = [await world.client.get(f"/v1/responses/{id}") for id in ids]
        assert sorted(answer.status_code for answer in known) == [200, 503]
        assert "gave up recording turn" in caplog.text
        await longer.aclose()
        for id in ids:
            ledger.check(await ended(world.client, id, "failed"), id)
            await recorded_as(database, id, "failed")


# A real process, whose files may not grow: every write behind the limit fails.


async def test_a_disk_that_is_full_and_then_not(database: Path, spawner: Spawner) -> None:
    async with (
        open_fake_upstream(HALF) as upstream,
        spawner.running(database, upstream.url) as process,
    ):
        upstream.script(PLAIN)
        http = process.client
        kept = await http.post("/v1/responses", json={"model": MODEL, "input": LONG_TEXT})
        upstream.script(HALF)
        async with open_at_event(process.port, streamed(LONG_TEXT), 4) as client:
            await upstream.wait_stalled(1)
            process.limit_files(database.with_name(database.name + "-wal").stat().st_size)
            ledger.fault()
            answer = await http.post("/v1/conversations", json={"items": [message(LONG_TEXT)]})
            check_error(answer.status_code, answer.content, code="service_unavailable")
            upstream.release()
            *_, error, failed = check_event_stream(await client.read(), streamed(LONG_TEXT))
            assert error["code"] == "service_unavailable"
            ledger.check(json.loads(await get(http, client.id)) == failed["response"], failed)
            ledger.check(await get(http, kept.json()["id"]) == kept.content, kept)
            process.unlimit_files()
            await recorded_as(database, client.id, "failed")
            answer = await http.post("/v1/conversations", json={"items": [message(LONG_TEXT)]})
            assert answer.status_code == 200
            ledger.check(json.loads(await get(http, client.id)) == failed["response"], failed)
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
    assert_intact(database)


# At the start


async def refused(spawner: Spawner, database: Path) -> str:
    """Why the gateway doesn't start: one line, exit code 2."""
    with pytest.raises(Died) as death:
        await spawner.start(database, "http://127.0.0.1:1")
    ledger.fault()
    assert death.value.code == 2, death.value.said
    assert death.value.said.startswith("agentic-trio: ")
    return death.value.said


async def used(database: Path, spawner: Spawner, turns: int = 3) -> list[Json]:
    """A database with some turns in it; the gateway was killed."""
    async with open_fake_upstream() as upstream, spawner.running(database, upstream.url) as process:
        kept = [await create(process, LONG_TEXT) for _ in range(turns)]
        await process.kill()
        ledger.fault()
    return kept


async def create(process: Process, input: str) -> Json:
    answer = await process.client.post("/v1/responses", json={"model": MODEL, "input": input})
    return check_response(answer.content, status="completed")


def make_foreign(database: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("CREATE TABLE theirs (a)")


def make_text(database: Path) -> None:
    database.write_text("Dear diary, " * 100)


def content(file: Path) -> bytes:
    return file.read_bytes()


@pytest.mark.parametrize(
    ("make", "why"),
    [(make_foreign, "is another program's database"), (make_text, "is not a SQLite database")],
)
async def test_a_file_that_is_not_ours_is_refused_untouched(
    database: Path, spawner: Spawner, make: Callable[[Path], None], why: str
) -> None:
    make(database)
    before = content(database)
    assert why in await refused(spawner, database)
    assert content(database) == before


def truncate(database: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(database, database.stat().st_size // 2)


async def test_a_truncated_file_is_refused(database: Path, spawner: Spawner) -> None:
    await used(database, spawner)
    truncate(database)
    assert "damaged" in await refused(spawner, database)


@pytest.mark.skipif(not LONG, reason="it is given some seconds to let go; FAULTS=long waits for them")
async def test_a_database_that_another_process_goes_on_writing_to_is_refused(
    database: Path, spawner: Spawner
) -> None:
    await used(database, spawner)
    async with spawner.holding(database):
        assert "locked by another process" in await refused(spawner, database)


async def test_a_database_that_another_process_lets_go_of_is_opened(database: Path, spawner: Spawner) -> None:
    kept = await used(database, spawner)
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        await stack.enter_async_context(spawner.holding(database))
        ledger.fault()
        nursery.start_soon(check_kept, spawner, database, kept)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await stack.aclose()


async def check_kept(spawner: Spawner, database: Path, kept: list[Json]) -> None:
    """Start a gateway; all that was told is there, and it works."""
    async with open_fake_upstream() as upstream, spawner.running(database, upstream.url) as process:
        for response in kept:
            ledger.check(json.loads(await get(process.client, response["id"])) == response, response)
        await create(process, "hi")
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0
    assert_intact(database)


async def test_a_turn_that_can_not_be_ended_as_it_was_does_not_hold_up_the_start(
    database: Path, spawner: Spawner
) -> None:
    body = streamed("hi")
    async with open_fake_upstream(HALF) as upstream, AsyncExitStack() as clients:
        async with spawner.running(database, upstream.url) as process:
            cut = [await clients.enter_async_context(open_at_event(process.port, body, 4)) for _ in range(2)]
            await process.kill()
        with closing(sqlite3.connect(database)) as db, db:
            db.execute("UPDATE response SET pending = '[' WHERE id = ?", (cut[0].id,))
            ledger.fault()
        async with spawner.running(database, upstream.url) as process:
            for client in cut:
                ledger.check(await ended(process.client, client.id, "failed"), client.id)
            upstream.script(PLAIN)
            for client in cut:
                request = {"model": MODEL, "input": "go on", "previous_response_id": client.id}
                await process.client.post("/v1/responses", json=request)
            assert [len(said(each)) for each in upstream.requests[-2:]] == [1, 2]
    assert_intact(database)


async def test_a_turn_of_which_nothing_can_be_read_is_failed_and_can_not_be_cancelled(
    database: Path, spawner: Spawner
) -> None:
    async with open_fake_upstream(HALF) as upstream:
        async with (
            spawner.running(database, upstream.url) as process,
            open_at_event(process.port, streamed("hi"), 4) as cut,
        ):
            await process.kill()
        with closing(sqlite3.connect(database)) as db, db:
            db.execute("UPDATE response SET pending = '[', body = '{'")
            ledger.fault()
        async with spawner.running(database, upstream.url) as process:
            told = json.loads(await get(process.client, cut.id))
            assert (told["id"], told["status"], told["output"]) == (cut.id, "failed", [])
            cancelled = await process.client.post(f"/v1/responses/{cut.id}/cancel")
            assert cancelled.status_code == 400, cancelled.text


async def test_a_second_gateway_is_refused_and_the_first_goes_on(database: Path, spawner: Spawner) -> None:
    async with open_fake_upstream() as upstream, spawner.running(database, upstream.url) as process:
        assert f"in use by process {process.pid}" in await refused(spawner, database)
        await create(process, "hi")


@pytest.mark.parametrize("torn", ["half a frame", "a frame of nonsense", "zeros"])
async def test_a_log_whose_last_write_was_torn_holds_all_that_was_told(
    database: Path, spawner: Spawner, torn: str
) -> None:
    """What a power cut leaves behind the last commit that had been confirmed."""
    kept = await used(database, spawner)
    tear(database.with_name(database.name + "-wal"), torn)
    ledger.fault()
    await check_kept(spawner, database, kept)


def tear(log: Path, how: str) -> None:
    """Add what is no whole frame to a write-ahead log."""
    frame = 24 + PAGE_SIZE
    rest = {"half a frame": log.read_bytes()[32 : 32 + frame // 2], "zeros": bytes(frame)}
    with log.open("ab") as file:
        file.write(rest.get(how, os.urandom(frame)))


# While it is being erased

ERASED_TEXT = b"walrus"


async def filled(database: Path, responses: int) -> None:
    """A database with responses about the marker."""
    async with open_sqlite_store(str(database)) as store, trio.open_nursery() as nursery:
        for n in range(responses):
            item = Item(f"msg_{n}", b'{"text":"%b %d"}' % (ERASED_TEXT, n))
            body = b'{"id":"r%d","metadata":{"user":"alice"}}' % n
            ending = Ending("", f"r{n}", 1, "completed", None, None, [item], [], frozenset(), body)
            nursery.start_soon(store.end, ending)


async def begin_erasure(database: Path) -> trio.SocketStream:
    """Have the gateway erase it; returns when some of it is gone."""
    stream = await trio.open_unix_socket(f"{database}.control")
    request = {"command": "erase", "arguments": {"metadata": ["user", "alice"]}}
    await stream.send_all(json.dumps(request).encode() + b"\n")
    with trio.fail_after(PATIENCE):
        assert b"progress" in await stream.receive_some()
    return stream


def files_with_marker(database: Path) -> list[str]:
    return [path.name for path in database.parent.glob(f"{database.name}*") if holds_marker(path)]


def holds_marker(path: Path) -> bool:
    return path.is_file() and ERASED_TEXT in path.read_bytes()


async def test_an_erasure_whose_gateway_is_killed_is_finished_by_the_next(
    database: Path, spawner: Spawner
) -> None:
    await filled(database, 3000)
    async with open_fake_upstream() as upstream:
        async with spawner.running(database, upstream.url) as process, await begin_erasure(database):
            await process.kill()
        ledger.fault()
        assert files_with_marker(database)
        arguments = {"metadata": ["user", "alice"]}
        report = await run_alone(str(database), "erase", arguments, lambda done, whole: None)
        assert report["responses"] < 3000
        assert files_with_marker(database) == []
        async with spawner.running(database, upstream.url) as process:
            await create(process, "hi")
    assert_intact(database)


async def test_an_erasure_whose_client_leaves_stops_and_others_are_served_meanwhile(
    database: Path, spawner: Spawner
) -> None:
    await filled(database, 3000)
    async with open_fake_upstream() as upstream, spawner.running(database, upstream.url) as process:
        async with await begin_erasure(database):
            await create(process, "hi")
        stream = await begin_erasure(database)
        async with stream:
            answer = b""
            while b"result" not in answer:
                with trio.fail_after(PATIENCE):
                    answer += await stream.receive_some()
        assert files_with_marker(database) == []
        await create(process, "still here")
