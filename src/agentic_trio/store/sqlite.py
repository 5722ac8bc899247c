"""The store in one SQLite file, for one gateway process."""

from __future__ import annotations

import math
import sqlite3
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import trio

from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.store import (
    conversations,
    erasure,
    files,
    lists,
    ownership,
    purge,
    recovery,
    responses,
    schema,
)
from agentic_trio.store.backup import back_up_before_migration
from agentic_trio.store.contract import SWEEP_LIMIT, StoreError
from agentic_trio.store.failures import store_error, translated
from agentic_trio.store.outage import Outage
from agentic_trio.store.writer import RunSync, Writer, run_in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from agentic_trio.store.contract import (
        Announcement,
        Conversation,
        Criteria,
        Ending,
        History,
        Item,
        Page,
        PageQuery,
        Selection,
        Store,
        StoredResponse,
    )
    from agentic_trio.telemetry.figures import StoredFigures

P = ParamSpec("P")
T = TypeVar("T")

READERS = 4
"""Connections that read. A read holds the GIL most of the time, so more of them wouldn't be faster."""

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process (a backup, the ``sqlite3`` shell) that has locked the database."""


PROBE_BYTES = 64 * 1024
"""How much a probe writes to see whether a turn would find room."""

PROVEN = 10.0
"""Seconds after such a probe in which the next ones write a few bytes, unless writes fail."""


REWRITTEN_BYTES = 32 * 1024 * 1024
"""How large a file may be that is written anew when rows have been erased: writes wait for that, and it is
held in memory."""


class Readers:
    """A few read-only connections. Each read is one hop, and sees one snapshot of the database."""

    def __init__(
        self,
        connections: Sequence[sqlite3.Connection],
        run_sync: RunSync,
        check: Callable[[], None],
    ) -> None:
        self._free = list(connections)
        self._check = check
        self._run_sync = run_sync
        self._limiter = trio.CapacityLimiter(len(connections))
        self._outage = Outage("be read")
        self._closed = False

    async def read(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``work`` with a connection.

        Raises:
            StoreError: the database failed, or the store is closed.

        Cancellation: a read that has begun is waited for.
        """
        if self._closed:
            raise StoreError("the store is closed")
        try:
            result = await self._run_sync(
                lambda: self._read(lambda db: work(db, *args, **kwargs)), limiter=self._limiter
            )
        except StoreError as error:
            if not self._closed:
                self._outage.failed(error)
            raise
        self._outage.worked()
        return result

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # It may have been closed while this read waited for its turn.
        if self._closed:
            raise StoreError("the store is closed")
        self._check()
        # The limiter admits as many reads as there are connections, so one is free.
        connection = self._free.pop()
        try:
            with translated(), _snapshot(connection):
                return work(connection)
        finally:
            self._free.append(connection)

    async def aclose(self) -> None:
        """Fail later reads, and wait for those that have begun.

        Cancellation: stops waiting for them.
        """
        self._closed = True
        tokens = [object() for _ in range(int(self._limiter.total_tokens))]
        for token in tokens:
            await self._limiter.acquire_on_behalf_of(token)
        for token in tokens:
            self._limiter.release_on_behalf_of(token)


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        # A failing disk may have ended the transaction.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class SqliteStore:
    """:class:`~agentic_trio.store.contract.Store` in a SQLite file; made by :func:`open_sqlite_store`."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self.writer = writer
        self._read = readers.read
        self._swept = False
        self._proven = -math.inf

    async def history(
        self, owner: str, *, response: str | None = None, conversation: str | None = None
    ) -> History:
        return await self._read(responses.history, owner, response, conversation)

    async def announce(self, announcement: Announcement) -> None:
        await self.writer.write(lambda db: responses.announce(db, announcement), durable=False)

    async def end(self, ending: Ending) -> None:
        await self.writer.write(lambda db: responses.end(db, ending))

    async def withdraw(self, owner: str, response: str) -> None:
        await self.writer.write(lambda db: responses.withdraw(db, owner, response), durable=False)

    async def spend(self, owner: str, approvals: Sequence[str]) -> None:
        await self.writer.write(lambda db: responses.spend(db, owner, approvals))

    async def response(self, owner: str, id: str) -> StoredResponse:
        return await self._read(responses.response, owner, id)

    async def keyed(self, owner: str, key: bytes) -> StoredResponse | None:
        return await self._read(responses.keyed, owner, key)

    async def figures(self, owner: str, id: str) -> StoredFigures:
        return await self._read(responses.figures, owner, id)

    async def events(self, owner: str, id: str) -> Sequence[bytes]:
        return await self._read(responses.events, owner, id)

    async def prune_events(self, before: int) -> int:
        return await self.writer.write(lambda db: responses.prune_events(db, before))

    async def delete_response(self, owner: str, id: str) -> None:
        await self.writer.write(lambda db: responses.delete_response(db, owner, id))

    async def response_input(self, owner: str, id: str, query: PageQuery) -> Page:
        return await self._read(responses.response_input, owner, id, query)

    async def create_conversation(
        self, owner: str, conversation: Conversation, items: Sequence[Item], open_calls: frozenset[str]
    ) -> None:
        await self.writer.write(lambda db: conversations.create(db, owner, conversation, items, open_calls))

    async def conversation(self, owner: str, id: str) -> Conversation:
        return await self._read(conversations.read, owner, id)

    async def update_conversation(self, owner: str, id: str, metadata: bytes) -> Conversation:
        return await self.writer.write(lambda db: conversations.update(db, owner, id, metadata))

    async def delete_conversation(self, owner: str, id: str) -> None:
        await self.writer.write(lambda db: conversations.delete(db, owner, id))

    async def conversation_items(self, owner: str, id: str, query: PageQuery) -> Page:
        return await self._read(conversations.items, owner, id, query)

    async def conversation_item(self, owner: str, id: str, item: str) -> Item:
        return await self._read(conversations.item, owner, id, item)

    async def add_items(
        self, owner: str, id: str, items: Sequence[Item], opened: frozenset[str], closed: frozenset[str]
    ) -> None:
        await self.writer.write(lambda db: conversations.add_items(db, owner, id, items, opened, closed))

    async def delete_item(
        self, owner: str, id: str, item: str, effect: Callable[[bytes], tuple[frozenset[str], frozenset[str]]]
    ) -> Conversation:
        return await self.writer.write(lambda db: conversations.delete_item(db, owner, id, item, effect))

    async def find_items(self, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
        return await self._read(erasure.find_items, owner, ids)

    async def in_conversation(self, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
        return await self._read(conversations.among, owner, id, ids)

    async def list_responses(
        self,
        owner: str,
        query: PageQuery,
        *,
        model: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Sequence[StoredResponse], bool]:
        return await self._read(lists.responses, owner, query, model, metadata)

    async def list_conversations(
        self, owner: str, query: PageQuery, *, metadata: dict[str, str] | None = None
    ) -> tuple[Sequence[Conversation], bool]:
        return await self._read(lists.conversations, owner, query, metadata)

    async def recover(self, end: Callable[[bytes], bytes]) -> int:
        return await self.writer.write(lambda db: recovery.recover(db, end))

    async def fail(self, owner: str, id: str, end: Callable[[bytes], bytes]) -> None:
        await self.writer.write(lambda db: recovery.fail(db, owner, id, end))

    async def deletions(self) -> int:
        return await self._read(erasure.deletions)

    async def sweep(self, mark: int, limit: int = SWEEP_LIMIT) -> int:
        if not mark and not self._swept:
            return 0
        erased = await self.writer.write(lambda db: erasure.sweep(db, mark, limit))
        self._swept = self._swept or erased > 0
        if self._swept and erased < limit:
            self._swept = not await self.writer.between(_remove_traces)
        return erased

    async def delete_responses_of(self, owner: str, conversation: str, limit: int = purge.STEP) -> int:
        return await self.writer.write(lambda db: purge.delete_responses_of(db, owner, conversation, limit))

    async def expire(self, before: int, limit: int = purge.STEP) -> int:
        return await self.writer.write(lambda db: purge.expire(db, before, limit))

    async def select(self, criteria: Criteria, before: Selection | None = None) -> Selection:
        return await self._read(purge.select, criteria, before)

    async def purge(self, selection: Selection, progress: Callable[[int], None] = lambda rows: None) -> None:
        await self._delete(purge.delete_conversations, selection.conversations, progress)
        await self._delete(purge.delete_responses, selection.responses, progress)
        # A thread's children have larger numbers than it; when they are gone, nothing forks from it.
        cuts = sorted(selection.cuts.items(), reverse=True)
        done = 0
        while done < len(cuts):
            step = partial(purge.erase_threads, cuts=cuts[done : done + purge.STEP], limit=SWEEP_LIMIT)
            erased, finished = await self.writer.write(step)
            done += finished
            progress(erased)
        self._swept = True

    async def _delete(
        self,
        delete: Callable[[sqlite3.Connection, Sequence[int]], int],
        keys: Sequence[int],
        progress: Callable[[int], None],
    ) -> None:
        for begin in range(0, len(keys), purge.STEP):
            progress(await self._delete_step(delete, keys[begin : begin + purge.STEP]))

    async def _delete_step(
        self, delete: Callable[[sqlite3.Connection, Sequence[int]], int], keys: Sequence[int]
    ) -> int:
        return await self.writer.write(lambda db: delete(db, keys))

    async def compact(self) -> bool:
        return await self.writer.between(partial(_remove_traces, largest=math.inf))

    async def assign_owner(
        self, former: str, owner: str, progress: Callable[[int, int], None]
    ) -> tuple[int, int]:
        threads = await self._read(ownership.threads_of, former)
        responses = conversations = 0
        for begin in range(0, len(threads), purge.STEP):
            step = partial(ownership.assign, threads=threads[begin : begin + purge.STEP])
            moved = await self.writer.write(partial(step, former=former, owner=owner))
            responses, conversations = responses + moved[0], conversations + moved[1]
            progress(begin, len(threads))
        responses += await self.writer.write(partial(ownership.assign_rest, former=former, owner=owner))
        return responses, conversations

    async def size(self) -> int:
        return await self._read(_size)

    async def secret(self, name: str, value: bytes) -> bytes:
        return await self.writer.write(lambda db: _secret(db, name, value))

    async def probe(self) -> None:
        whole = self.writer.outage.failing or trio.current_time() >= self._proven + PROVEN
        await self.writer.write(_write_as_a_turn_does if whole else _touch)
        if whole:
            self._proven = trio.current_time()
            self.writer.outage.over()


def _secret(db: sqlite3.Connection, name: str, value: bytes) -> bytes:
    statement = "INSERT INTO secret (name, value) VALUES (:name, :value) ON CONFLICT DO NOTHING"
    db.execute(statement, {"name": name, "value": value})
    kept: bytes = db.execute("SELECT value FROM secret WHERE name = :name", {"name": name}).fetchone()[0]
    return kept


def _touch(db: sqlite3.Connection) -> None:
    db.execute(schema.MARK)


def _write_as_a_turn_does(db: sqlite3.Connection) -> None:
    """Write ``PROBE_BYTES`` to new pages, before those of the last probe are given back."""
    row = db.execute("INSERT INTO probe (data) VALUES (zeroblob(:size))", {"size": PROBE_BYTES}).lastrowid
    db.execute("DELETE FROM probe WHERE id < :row", {"row": row})


def _size(db: sqlite3.Connection) -> int:
    pages: int = db.execute("PRAGMA page_count").fetchone()[0]
    return pages * schema.PAGE_SIZE


def _remove_traces(db: sqlite3.Connection, largest: float = REWRITTEN_BYTES) -> bool:
    """Leave nothing of erased rows in the files; False if a reader still needs the log.

    The log holds the pages as they were. And where rows have been moved from one page to another, SQLite may
    leave a copy in the free bytes of the first, of about one row in a thousand; so a file that isn't large is
    written anew.
    """
    if db.execute("PRAGMA journal_mode").fetchone()[0] != b"wal":
        return True
    size = _size(db)
    if size <= REWRITTEN_BYTES:
        db.execute("VACUUM")
    elif size <= largest:
        # Not in memory: the copy is as large as the file.
        with _temporary_files(db):
            db.execute("VACUUM")
    busy: int = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return not busy


@contextmanager
def _temporary_files(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("PRAGMA temp_store = FILE")
    try:
        yield
    finally:
        db.execute("PRAGMA temp_store = MEMORY")


class _Database:
    """An open file: its lock, the connection that writes and those that read."""

    def __init__(self, path: str, timeout: float, migration_backup: bool) -> None:
        path = schema.resolve(path)
        with ExitStack() as stack:
            target = path
            if path == schema.MEMORY:
                target = schema.memory_uri()
            else:
                schema.check_file(path)
                files.take(path, stack)
                if migration_backup:
                    back_up_before_migration(path)
            try:
                connect = partial(schema.connect, target, uri=path == schema.MEMORY, timeout=timeout)
                # Opened first, so that it is closed last: only the last to close can remove the log.
                self.writer = connect()
                stack.callback(self.writer.close)
                schema.prepare(self.writer, path)
                self.readers = [connect(read_only=True) for _ in range(READERS)]
                for reader in self.readers:
                    stack.callback(reader.close)
                # The log is made by the first read.
                self.writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                self.identity = files.Identity(None if path == schema.MEMORY else path)
            except sqlite3.Error as error:
                raise files.refuse(path, str(store_error(error))) from error
            self._stack = stack.pop_all()

    def close(self) -> None:
        # What can't be moved into the file now stays in the log, and is as safe there.
        with self._stack, suppress(sqlite3.Error):
            self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@asynccontextmanager
async def open_sqlite_store(
    path: str,
    *,
    run_sync: RunSync = run_in_thread,
    busy_timeout: float = BUSY_TIMEOUT,
    observe: Callable[[int, float], None] = lambda units, seconds: None,
    migration_backup: bool = True,
) -> AsyncIterator[SqliteStore]:
    """Open the store in a file, which is created or migrated as needed.

    On exit, accepted writes are completed (within ``writer.CLOSE_GRACE`` seconds), the log is moved into
    the file, and the file is unlocked.

    Args:
        path: the file. Beside it are ``<path>-wal``, ``<path>-shm`` and ``<path>.lock``. ``:memory:`` is
            a new store that is gone on exit.
        run_sync: how blocking work leaves the loop; inline in a deterministic simulation.
        busy_timeout: seconds to wait for another process that has locked the database.
        observe: see ``Writer``.
        migration_backup: copy an older database to ``<path>.schema-<version>`` before it is migrated.

    Raises:
        ConfigError: the file can't be used, isn't ours, or is in use by another gateway. It is untouched.

    Cancellation: while it opens, nothing is left open. Afterwards the exit is completed first.
    """
    limiter = trio.CapacityLimiter(1)
    database = await run_sync(partial(_Database, path, busy_timeout, migration_backup), limiter=limiter)
    try:
        readers = Readers(database.readers, run_sync, database.identity.refuse_if_gone)
        writer = Writer(database.writer, run_sync=run_sync, check=database.identity.check, observe=observe)
        try:
            async with open_inner_nursery() as nursery:
                nursery.start_soon(writer.run)
                try:
                    yield SqliteStore(writer, readers)
                finally:
                    writer.close()
        finally:
            with trio.CancelScope(shield=True):
                await readers.aclose()
    finally:
        with trio.CancelScope(shield=True):
            await run_sync(database.close, limiter=limiter)


if TYPE_CHECKING:

    def _is_a_store(store: SqliteStore) -> Store:
        return store
