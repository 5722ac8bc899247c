"""PostgreSQL that fails, starts late, is in use, or isn't ours: what is written once, and what is said."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio

from agentic_trio.errors import ConfigError
from agentic_trio.store.contract import DatabaseDown, Item, Missing, StoreError
from agentic_trio.store.postgres import batch, commit, lease, reading, tables
from agentic_trio.store.postgres.store import open_postgres_store
from tests.postgres import running_server
from tests.store.conftest import SERVERS
from tests.store.records import (
    NOTHING,
    OWNER,
    announcement,
    data,
    ending,
    items,
    new_conversation,
    query,
    take_turn,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentic_trio.store.postgres.store import PostgresStore
    from tests.postgres import Server

PATIENCE = 30.0


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What a statement finds, whatever the store says."""
    with psycopg.connect(url) as db:
        return db.execute(statement).fetchall()  # type: ignore[call-overload]


def check_whole(url: str) -> None:
    """The rows agree with one another."""
    gaps = """
        SELECT thread.id FROM thread LEFT JOIN entry ON entry.thread = thread.id
        GROUP BY thread.id HAVING count(entry.position) <> thread.head - thread.fork
            OR min(entry.position) <> thread.fork + 1 OR max(entry.position) <> thread.head
    """
    assert rows(url, gaps) == []
    assert (
        rows(url, "SELECT id FROM response WHERE NOT EXISTS (SELECT 1 FROM thread WHERE id = thread)") == []
    )


# What is asked of the server.


class Counting:
    """A proxy that counts round trips: how often the client speaks after the server has."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.trips = 0
        self._answered = True

    async def serve(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, client, server, True)
            await self._pass(server, client, False)
            nursery.cancel_scope.cancel()

    async def _pass(self, source: trio.SocketStream, target: trio.SocketStream, asks: bool) -> None:
        try:
            async for data in source:
                if asks and self._answered:
                    self.trips += 1
                self._answered = not asks
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def open_counted(server: Server, url: str) -> AsyncIterator[tuple[PostgresStore, Counting]]:
    """A store behind a counting proxy."""
    counting = Counting(server.port)
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, counting.serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with open_postgres_store(url.replace(f":{server.port}/", f":{port}/")) as store:
            yield store, counting
        nursery.cancel_scope.cancel()


async def test_a_batch_is_two_round_trips_and_a_history_one(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 1000.0)
    async with open_counted(postgres, database) as (store, counting):
        last = None
        for number in range(10):
            # Failed turns fork.
            await take_turn(store, f"r{number}", after=last, status="failed")
            last = f"r{number}"
        before = counting.trips
        assert len(await texts(store, response=last)) == 20
        assert counting.trips - before == 1
        before, batches = counting.trips, store.writer.batches
        async with trio.open_nursery() as nursery:
            for number in range(64):
                turn = ending(f"e{number}", None, items(f"a{number}"), items(f"b{number}"))
                nursery.start_soon(store.end, turn)
        assert store.writer.batches == batches + 1
        # Two and the pipeline's end; a large statement may be answered while it is still being sent.
        assert counting.trips - before <= 6


async def test_ended_turns_leave_no_dead_rows_of_responses(postgres: Server, database: str) -> None:
    async with open_postgres_store(database) as store, trio.open_nursery() as nursery:

        async def turn(number: int) -> None:
            await store.announce(announcement(f"r{number}", None, items(f"i{number}")))
            await store.end(ending(f"r{number}", None, items(f"i{number}"), items(f"o{number}")))

        for number in range(200):
            nursery.start_soon(turn, number)
    [(changed,)] = rows(
        database,
        "SELECT n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relname = 'response'",
    )
    assert changed == 0
    assert rows(database, "SELECT count(*) FROM announced") == [(0,)]


# Text that PostgreSQL's own types can't hold.


NAMES = ["a\x00b", "\ud800", "\U0001f600", "x" * 100_000, "'; DROP TABLE response; --", "%s"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_any_text_is_an_id_and_can_be_metadata(postgres: Server, database: str, name: str) -> None:
    async with open_postgres_store(database) as store:
        with pytest.raises(Missing):
            await store.response(OWNER, name)
        given = [Item(name, b"{}", issued=False)]
        body = json.dumps({"model": "a\x00b", "metadata": {"k": "\x00"}}).encode()
        await store.end(ending("r", None, given, items("out"), body=body))
        await new_conversation(store, "conv_1")
        await store.add_items(OWNER, "conv_1", given, NOTHING, NOTHING)
        assert await store.conversation_item(OWNER, "conv_1", name) == given[0]
        assert await store.in_conversation(OWNER, "conv_1", [name, "x"]) == {name}
        page = await store.response_input(OWNER, "r", query())
        assert page.items == given
        listed, _ = await store.list_responses(OWNER, query(), metadata={"k": "\x00"})
        assert [response.id for response in listed] == ["r"]
        assert (await store.list_responses(OWNER, query(), model="a\x00b"))[0] == listed
        assert (await store.list_responses(OWNER, query(), metadata={"k": "x"}))[0] == []


# Commits whose outcome is unknown.


class Cut:
    """Breaks the connection of the next commits: before it is sent, or after the server has done it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, *, after: bool) -> None:
        self.left = times
        self._send = commit.Committer._send_commit
        self._after = after
        monkeypatch.setattr(commit.Committer, "_send_commit", self.send_commit_of())

    def send_commit_of(self) -> Callable[[commit.Committer, Any], None]:
        def send(committer: commit.Committer, db: Any) -> None:
            if self.left == 0:
                self._send(committer, db)
                return
            self.left -= 1
            committer._doubtful = True
            if self._after:
                db.commit()
            db.close()
            raise psycopg.OperationalError("cut by the test")

        return send


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("announced", [False, True], ids=["unannounced", "announced"])
async def test_an_ending_in_doubt_is_written_once(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch, after: bool, announced: bool
) -> None:
    async with open_postgres_store(database) as store:
        history = await new_conversation(store, "conv_1", "first")
        if announced:
            await store.announce(announcement("r", history.base, items("in"), conversation="conv_1"))
        cut = Cut(monkeypatch, 3 if not after else 1, after=after)
        with trio.fail_after(PATIENCE):
            await store.end(ending("r", history.base, items("in"), items("out"), conversation="conv_1"))
            # A conversation's creation can't be repeated by its id.
            cut.left = 1
            await new_conversation(store, "conv_2", "second")
        assert cut.left == 0
        assert await texts(store, conversation="conv_1") == data("first", "in", "out")
        assert (await store.response(OWNER, "r")).status == "completed"
        await take_turn(store, "next", conversation="conv_1")
        await take_turn(store, "later", conversation="conv_2")
    check_whole(database)
    assert rows(database, "SELECT count(*) FROM response") == [(3,)]
    assert rows(database, "SELECT count(*) FROM announced") == [(0,)]
    assert rows(database, "SELECT count(*) FROM batch") <= [(2,)]


async def test_a_commit_that_the_server_does_late_is_waited_for(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is gone, its transaction is not: it commits after the ending is tried again."""
    late: list[Any] = []
    send = commit.Committer._send_commit

    def keep_open(committer: commit.Committer, db: Any) -> None:
        if late:
            send(committer, db)
            return
        # All statements have been done, and the transaction stays open on the server.
        db.execute("SELECT 1").fetchall()
        late.append(db)
        db.rollback = lambda: None
        committer._connection = None
        committer._doubtful = True
        raise psycopg.OperationalError("cut by the test")

    async with open_postgres_store(database) as store:
        await take_turn(store, "first")
        history = await store.history(OWNER, response="first")
        monkeypatch.setattr(commit.Committer, "_send_commit", keep_open)

        async def commit_late() -> None:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not rows(database, waiting):  # noqa: ASYNC110
                await trio.sleep(0.02)
            late[0].commit()
            late[0].close()

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.end, ending("r", history.base, items("in"), items("out")))
                while not late:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                nursery.start_soon(commit_late)
        assert len(await texts(store, response="r")) == 4
    check_whole(database)
    assert rows(database, "SELECT count(*) FROM response") == [(2,)]


@pytest.mark.parametrize("kind", ["40001", "40P01"])
async def test_a_batch_that_met_another_transaction_is_run_again(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = psycopg.errors.lookup(kind)
    left = [2]
    write = batch.write

    def sometimes(*arguments: Any) -> None:
        write(*arguments)
        if left[0]:
            left[0] -= 1
            raise error("met by the test")

    async with open_postgres_store(database) as store:
        monkeypatch.setattr(batch, "write", sometimes)
        await take_turn(store, "a")
        await take_turn(store, "b", after="a")
        assert left == [0]
        assert len(await texts(store, response="b")) == 4
    check_whole(database)


async def test_a_statement_that_fails_fails_its_own_unit_only(postgres: Server, database: str) -> None:
    async with open_postgres_store(database) as store:
        failed = []

        async def spoil() -> None:
            try:
                await store._write(lambda db: db.execute("SELECT 1 / 0").fetchall())
            except StoreError as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(take_turn, store, f"r{number}")
                nursery.start_soon(spoil)
        assert len(failed) == 10
        assert len((await store.list_responses(OWNER, query()))[0]) == 10
    check_whole(database)


# A server that goes away and comes back.


async def test_a_server_that_restarts_is_used_again(tmp_path: Any) -> None:
    with running_server(SERVERS[0]) as server:
        url = server.new_database()
        async with open_postgres_store(url) as store:
            await take_turn(store, "a")
            assert len(await texts(store, response="a")) == 2
            server.stop("immediate")
            for _ in range(2):
                with pytest.raises(DatabaseDown):
                    await store.end(ending("b", None, items("in"), items("out")))
                with pytest.raises(DatabaseDown):
                    await store.response(OWNER, "a")
            server.start()
            with trio.fail_after(PATIENCE):
                await take_turn(store, "b", after="a")
            assert len(await texts(store, response="b")) == 4


async def test_a_frozen_server_holds_up_no_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READ_TIMEOUT", 0.5)
    monkeypatch.setattr(commit, "STUCK", 0.5)
    with running_server(SERVERS[0]) as server:
        url = server.new_database()
        async with open_postgres_store(url) as store:
            await take_turn(store, "a")
            connected = "SELECT pid FROM pg_stat_activity WHERE client_port IS NOT NULL"
            pids = [pid for (pid,) in rows(url, connected)]
            for pid in pids:
                signal_backend(pid, signal.SIGSTOP)
            try:
                with trio.fail_after(PATIENCE):
                    with pytest.raises(DatabaseDown):
                        await store.response(OWNER, "a")
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(store.end, ending("b", None, items("in"), items("out")))
                        await trio.sleep(1)
                        with pytest.raises(DatabaseDown):
                            await store.end(ending("c"))
                        for pid in pids:
                            signal_backend(pid, signal.SIGCONT)
            finally:
                for pid in pids:
                    signal_backend(pid, signal.SIGCONT)
            assert (await store.response(OWNER, "b")).status == "completed"


def signal_backend(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


# Who has the database.


async def test_a_database_in_use_is_refused(postgres: Server, database: str) -> None:
    async with open_postgres_store(database) as store:
        with pytest.raises(ConfigError, match="in use by another gateway"):
            async with open_postgres_store(database):
                pass
        await take_turn(store, "a")
    # It was given back, so nobody waits.
    with trio.fail_after(PATIENCE):
        async with open_postgres_store(database) as store:
            assert (await store.response(OWNER, "a")).status == "completed"


async def test_a_gateway_that_was_paused_too_long_writes_nothing_more(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "DEAD_AFTER", 0.5)
    monkeypatch.setattr(lease, "BEAT", 1000.0)
    async with open_postgres_store(database) as paused:
        await paused.announce(announcement("a", None, items("in")))
        async with open_postgres_store(database) as heir:
            assert await heir.recover(lambda body: b'{"failed":true}') == 1
            with pytest.raises(DatabaseDown):
                await paused.end(ending("a", None, items("in"), items("out")))
            with pytest.raises(DatabaseDown):
                await new_conversation(paused)
            await take_turn(heir, "b", after="a")
            assert (await heir.response(OWNER, "a")).status == "failed"
    check_whole(database)


async def test_of_many_starters_one_migrates(postgres: Server, database: str) -> None:
    def prepare() -> None:
        with psycopg.connect(database) as db:
            tables.prepare(db)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(trio.to_thread.run_sync, prepare)
    assert rows(database, "SELECT version FROM agentic_trio") == [(tables.VERSION,)]


# Databases that can't be used.


async def refusal(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        async with open_postgres_store(url):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert "sk-secret" not in message
    return message


async def test_a_server_that_is_not_there_is_named_in_one_line() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert "refused" in await refusal(f"postgresql://me:sk-secret@127.0.0.1:{port}/name")


@pytest.mark.parametrize("url", ["postgresql://me:sk-secret@[::1/x", "postgresql://h/x?nonsense=1"])
async def test_a_url_that_makes_no_sense_is_refused_in_one_line(url: str) -> None:
    await refusal(url)


async def test_a_database_that_does_not_exist_is_refused(postgres: Server) -> None:
    assert "does not exist" in await refusal(postgres.url("nothing_here"))


async def test_a_newer_schema_is_refused(postgres: Server, database: str) -> None:
    async with open_postgres_store(database):
        pass
    with psycopg.connect(database) as db:
        db.execute("UPDATE agentic_trio SET version = 99")
    assert "newer version" in await refusal(database)


async def test_another_program_s_tables_are_left_alone(postgres: Server, database: str) -> None:
    with psycopg.connect(database) as db:
        db.execute("CREATE TABLE thread (id integer)")
    assert "another program" in await refusal(database)
    assert rows(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]


async def test_a_read_only_database_is_refused(postgres: Server, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as db:
        name = database.rpartition("/")[2]
        db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")  # type: ignore[call-overload]
    assert "read-only" in await refusal(database)


async def test_a_user_who_may_not_create_tables_is_refused(postgres: Server, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("DROP SCHEMA public")
    assert await refusal(database)


async def test_an_old_server_is_refused(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "OLDEST_SERVER", 990000)
    assert "99 or newer" in await refusal(database)
