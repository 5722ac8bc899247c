"""The store in PostgreSQL, for one gateway at a time."""

from __future__ import annotations

import logging
import secrets
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import psycopg
import trio

from agentic_trio.errors import ConfigError
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.store.contract import SWEEP_LIMIT, DatabaseDown, StoreError
from agentic_trio.store.group_commit import CLOSE_GRACE, GroupCommit, run_in_thread
from agentic_trio.store.postgres import aging, conversations, lease, owned, removal, rows, tables, views
from agentic_trio.store.postgres.commit import Committer
from agentic_trio.store.postgres.connecting import Unusable, connect, raw, store_error
from agentic_trio.store.postgres.reading import Readers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from agentic_trio.store.contract import (
        Announcement,
        Conversation,
        Ending,
        History,
        Item,
        Page,
        PageQuery,
        Store,
        StoredResponse,
    )
    from agentic_trio.store.postgres.connecting import Database
    from agentic_trio.telemetry.figures import StoredFigures

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class PostgresStore:
    """:class:`~agentic_trio.store.contract.Store` in PostgreSQL; made by :func:`open_postgres_store`."""

    def __init__(self, writer: GroupCommit, committer: Committer, readers: Readers) -> None:
        self.writer = writer
        self._committer = committer
        self._read = readers.read
        self._read_at_once = readers.read_at_once
        self._swept = False

    async def _write(
        self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        result: T = await self._submit(lambda db: work(db, *args, **kwargs))
        return result

    async def _submit(self, work: Any, *, durable: bool = True) -> Any:
        if self._committer.stuck:
            raise DatabaseDown("the database doesn't answer")
        return await self.writer.submit(work, durable=durable)

    async def history(
        self, owner: str, *, response: str | None = None, conversation: str | None = None
    ) -> History:
        return await self._read(views.history, owner, response, conversation)

    async def announce(self, announcement: Announcement) -> None:
        await self._submit(announcement, durable=False)

    async def end(self, ending: Ending) -> None:
        await self._submit(ending)

    async def withdraw(self, owner: str, response: str) -> None:
        await self._submit(lambda db: rows.withdraw(db, owner, response), durable=False)

    async def spend(self, owner: str, approvals: Sequence[str]) -> None:
        await self._write(rows.spend, owner, approvals)

    async def figures(self, owner: str, id: str) -> StoredFigures:
        return await self._read(rows.figures, owner, id)

    async def response(self, owner: str, id: str) -> StoredResponse:
        return await self._read(rows.response, owner, id)

    async def keyed(self, owner: str, key: bytes) -> StoredResponse | None:
        return await self._read_at_once(rows.keyed, owner, key)

    async def events(self, owner: str, id: str) -> Sequence[bytes]:
        return await self._read(rows.events, owner, id)

    async def prune_events(self, before: int) -> int:
        return await self._write(rows.prune_events, before)

    async def delete_response(self, owner: str, id: str) -> None:
        await self._write(rows.delete_response, owner, id)

    async def response_input(self, owner: str, id: str, query: PageQuery) -> Page:
        return await self._read_at_once(rows.response_input, owner, id, query)

    async def create_conversation(
        self, owner: str, conversation: Conversation, items: Sequence[Item], open_calls: frozenset[str]
    ) -> None:
        await self._write(conversations.create, owner, conversation, items, open_calls)

    async def conversation(self, owner: str, id: str) -> Conversation:
        return await self._read(conversations.read, owner, id)

    async def update_conversation(self, owner: str, id: str, metadata: bytes) -> Conversation:
        return await self._write(conversations.update, owner, id, metadata)

    async def delete_conversation(self, owner: str, id: str) -> None:
        await self._write(conversations.delete, owner, id)

    async def conversation_items(self, owner: str, id: str, query: PageQuery) -> Page:
        return await self._read_at_once(conversations.items, owner, id, query)

    async def conversation_item(self, owner: str, id: str, item: str) -> Item:
        return await self._read_at_once(conversations.item, owner, id, item)

    async def add_items(
        self, owner: str, id: str, items: Sequence[Item], opened: frozenset[str], closed: frozenset[str]
    ) -> None:
        await self._write(conversations.add_items, owner, id, items, opened, closed)

    async def delete_item(
        self, owner: str, id: str, item: str, effect: Callable[[bytes], tuple[frozenset[str], frozenset[str]]]
    ) -> Conversation:
        return await self._write(conversations.delete_item, owner, id, item, effect)

    async def find_items(self, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
        return await self._read(removal.find_items, owner, ids)

    async def in_conversation(self, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
        return await self._read_at_once(conversations.among, owner, id, ids)

    async def list_responses(
        self,
        owner: str,
        query: PageQuery,
        *,
        model: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Sequence[StoredResponse], bool]:
        return await self._read_at_once(owned.responses, owner, query, model, metadata)

    async def list_conversations(
        self, owner: str, query: PageQuery, *, metadata: dict[str, str] | None = None
    ) -> tuple[Sequence[Conversation], bool]:
        return await self._read_at_once(owned.conversations, owner, query, metadata)

    async def delete_responses_of(self, owner: str, conversation: str, limit: int = SWEEP_LIMIT) -> int:
        return await self._write(aging.delete_responses_of, owner, conversation, limit)

    async def expire(self, before: int, limit: int = SWEEP_LIMIT) -> int:
        return await self._write(aging.expire, before, limit)

    async def recover(self, end: Callable[[bytes], bytes]) -> int:
        return await self._write(rows.recover, end)

    async def fail(self, owner: str, id: str, end: Callable[[bytes], bytes]) -> None:
        await self._write(rows.fail, owner, id, end)

    async def deletions(self) -> int:
        return await self._read(removal.deletions)

    async def sweep(self, mark: int, limit: int = SWEEP_LIMIT) -> int:
        return await self._write(removal.sweep, mark, limit) if mark else 0

    async def secret(self, name: str, value: bytes) -> bytes:
        return await self._write(_secret, name, value)

    async def probe(self) -> None:
        await self._write(_touch)
        self.writer.outage.over()


def _secret(db: Database, name: str, value: bytes) -> bytes:
    values = {"name": raw(name), "value": value}
    db.execute("INSERT INTO secret (name, value) VALUES (%(name)s, %(value)s) ON CONFLICT DO NOTHING", values)
    row = db.execute("SELECT value FROM secret WHERE name = %(name)s", values).fetchone()
    assert row is not None
    kept: bytes = row[0]
    return kept


def _touch(db: Database) -> None:
    db.execute("UPDATE probe SET beats = beats + 1 WHERE id = 1")


def _prepare(url: str, holder: bytes) -> None:
    """Bring the tables up to date, and take the database. Raises ConfigError."""
    try:
        with connect(url) as db:
            tables.prepare(db)
            lease.take(db, holder)
    except Unusable as error:
        raise ConfigError(f"the database of db_url can't be used: {error}") from error
    except psycopg.Error as error:
        raise ConfigError(f"the database of db_url can't be used: {_told(error)}") from error


def _told(error: psycopg.Error) -> str:
    """What the server or the client library says of a failure, in one line; neither repeats a password."""
    said = error.diag.message_primary or str(error)
    return " ".join(said.split()) or str(store_error(error))


@asynccontextmanager
async def open_postgres_store(
    url: str, *, observe: Callable[[int, float], None] = lambda units, seconds: None
) -> AsyncIterator[PostgresStore]:
    """Open the store in a database, whose tables are created or migrated as needed.

    On exit, accepted writes are completed (within ``CLOSE_GRACE`` seconds) and the database is given back.

    Args:
        url: a connection string of libpq, such as ``postgresql://user@host/database``.
        observe: see ``GroupCommit``.

    Raises:
        ConfigError: the database can't be reached or used, or is in use by another gateway.

    Cancellation: while it opens, it waits for the server's answer. Afterwards the exit is completed first.
    """
    limiter = trio.CapacityLimiter(1)
    holder = secrets.token_bytes(16)
    await run_in_thread(partial(_prepare, url, holder), limiter=limiter)
    committer, readers = Committer(url, holder), Readers(url)
    writer = GroupCommit(committer.commit, observe=observe)
    try:
        async with open_inner_nursery() as nursery:
            nursery.start_soon(readers.watch)
            nursery.start_soon(lease.hold, url, holder)
            written = trio.Event()
            nursery.start_soon(_write_all, writer, written)
            try:
                yield PostgresStore(writer, committer, readers)
            finally:
                writer.close()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_GRACE):
                    await written.wait()
                # What it still waits for (a standby, a frozen server) may never come.
                committer.cut()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await readers.aclose()
            committer.disconnect()
            with suppress(StoreError):
                await run_in_thread(partial(lease.give_back, url, holder), limiter=limiter)


async def _write_all(writer: GroupCommit, written: trio.Event) -> None:
    await writer.run()
    written.set()


if TYPE_CHECKING:

    def _is_a_store(store: PostgresStore) -> Store:
        return store
