"""One process of the gateway, from its start to its end, as far as the world outside can tell."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import AsyncExitStack, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast
from unittest.mock import patch

import trio

from agentic_trio.gateway import retries
from agentic_trio.gateway.admission import Admission
from agentic_trio.gateway.fair_queue import FairQueue
from agentic_trio.gateway.gateway import open_gateway_over
from agentic_trio.gateway.locks import Locks
from agentic_trio.gateway.services import Services
from agentic_trio.gateway.unrecorded import Unrecorded
from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.net.pump import Pump
from agentic_trio.server import asgi_server
from agentic_trio.server import serve as server_serve
from agentic_trio.server.serve import serve
from agentic_trio.store import schema
from agentic_trio.store.contract import StoreError
from agentic_trio.store.sqlite import open_sqlite_store
from agentic_trio.upstream.client import Upstream
from agentic_trio.upstream.transport import StreamTransport
from agentic_trio.web import relay, scope
from agentic_trio.web.app import attach, create_app
from agentic_trio.wire.responses import crashed
from tests.simulation.intruder import ByHeader
from tests.simulation.streams import Listener, Ready, connection, no_disconnects, open_disconnects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypercorn.config import Config as HypercornConfig

    from agentic_trio.config import Config
    from agentic_trio.gateway.gateway import Gateway
    from agentic_trio.tools.mcp_servers import ToolServers
    from agentic_trio.web.dispatch import GatewayApp
    from tests.simulation.model_server import ModelServer
    from tests.simulation.record import Record
    from tests.simulation.streams import End

T = TypeVar("T")

EPOCH = 1_800_000_000
MANY_PAGES = 1_000_000

_numbers = itertools.count()
_listeners: dict[str, Listener] = {}


class StoreFaults:
    """What the disk does: fails, or hangs before or after it has done what it was asked."""

    def __init__(self, record: Record, random: Random, writes: float, reads: float) -> None:
        self._record = record
        self._random = random
        self._chance = {True: writes, False: reads}
        self.deadly = 0.0
        """How likely a machine is killed while its disk hangs."""
        self.kill: Callable[[float], None]
        """Kills it so many seconds later."""

    def heal(self) -> None:
        self._chance = {True: 0.0, False: 0.0}

    def next(self, *, write: bool) -> tuple[str, float]:
        """The next fault, and for how long it hangs."""
        if self._random.random() >= self._chance[write]:
            return "", 0.0
        kind = self._random.choice(("fails", "hangs before", "hangs after"))
        self._record.fault(f"store {'write' if write else 'read'} {kind}")
        self._record.store_faults.append((self._record.tick, self._record.now()))
        seconds = self._random.choice((0.5, 5.0, 40.0))
        if kind != "fails" and self._random.random() < self.deadly:
            # Before it has done its work, or after its callers have given up on it.
            self.kill(self._random.choice((0.0, 0.1, 12.0, 20.0)))
        return kind, seconds


class Machine:
    """A gateway over a database of its own, on a network in memory.

    Attributes:
        up: it serves.
        gone: it has ended or was killed, and ``database`` is what it left.
        over: nothing of it runs any more.
        dead: it was killed: nothing that it still does can be seen.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        record: Record,
        random: Random,
        faults: StoreFaults,
        model_server: ModelServer,
        database: bytes | None,
        *,
        owners: bool = False,
    ) -> None:
        self.number = number
        self.owners = owners
        self.config = config
        self.record = record
        self.faults = faults
        self.database = database
        self.gateway: Gateway
        self.services: Services
        self.up = trio.Event()
        self.gone = trio.Event()
        self.over = trio.Event()
        self.stop = trio.Event()
        self.dead = False
        self.tools: ToolServers | None = None
        self.ended = 0
        self.stopped_at = 0.0
        self.over_at = 0.0
        self._random = random
        self._model_server = model_server
        self._scope = trio.CancelScope()
        self._listener = Listener()
        self._ends: list[End] = []
        self._calls: trio.Nursery
        self._tasks = 0
        self._pump: Pump
        self._opener: trio.CapacityLimiter | None = None
        self._writer: trio.CapacityLimiter | None = None
        self._removed: bytes | None = None
        self._files: Any
        self._connection: sqlite3.Connection
        self._uri = f"file:/simulation-{next(_numbers)}?vfs=memdb"
        self._keeper = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
        if database is not None:
            with sqlite3.connect(":memory:") as image:
                image.deserialize(database)
                image.backup(self._keeper)
            image.close()

    async def run(self) -> None:
        """From start to end; then ``database`` is what is left."""
        with self._scope:
            try:
                async with trio.open_nursery() as self._calls:
                    await self._serve()
                    self.ended = self.record.tick
                    self._calls.cancel_scope.cancel()
            finally:
                self._note("machine is over")
                if not self.dead:
                    self.database = self._left_on_disk()
                self._keeper.close()
                self.over_at = trio.current_time()
                self.over.set()
                self.gone.set()

    async def _serve(self) -> None:
        async with AsyncExitStack() as stack:
            with patch.object(schema, "memory_uri", lambda: self._uri):
                store = await stack.enter_async_context(open_sqlite_store(":memory:", run_sync=self.run_sync))
            await store.recover(crashed)
            deadlines = await stack.enter_async_context(open_deadlines())
            pumping = await stack.enter_async_context(open_inner_nursery())
            self._pump = Pump(Ready(), deadlines)
            pumping.start_soon(self._pump.run)
            stack.callback(pumping.cancel_scope.cancel)
            transport = await stack.enter_async_context(StreamTransport(connect=self.connect_to_model))
            idle = self.config.idle_timeout
            timeouts = {"connect": self.config.connect_timeout, "read": idle, "write": idle, "pool": None}
            upstream = Upstream(self.config.upstream_origins[0], transport, timeouts)
            self.services = Services(
                config=self.config,
                store=store,
                upstream=upstream,
                locks=Locks(self.config.conversation_wait),
                unrecorded=Unrecorded(store),
                admission=Admission(
                    max_requests=self.config.max_concurrent_requests, max_bytes=self.config.max_held_bytes
                ),
                background=FairQueue(self.config.max_background),
                mint=self.mint,
                now=now,
                clock=trio.current_time,
                authenticator=cast("Any", ByHeader() if self.owners else None),
                tools=self.tools,
            )
            self.gateway = await stack.enter_async_context(open_gateway_over(self.services))
            _listeners[f"{self.config.host}:{self.config.port}"] = self._listener
            self._writer = store.writer._limiter
            self._connection = store.writer._connection
            self._files = store.writer._check.__self__
            self._tasks = len(self.gateway.turns._service.child_tasks)
            self._note(f"machine {self.number} is up")
            self.up.set()
            try:
                await serve(self.gateway, shutdown_trigger=self.stop.wait)
            finally:
                release_app(self.gateway)

    def mint(self, prefix: str) -> str:
        return f"{prefix}_{self._random.getrandbits(192):048x}"

    async def run_sync(self, work: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        """Where the store leaves the loop: here it doesn't, but others run before and after."""
        async with limiter:
            write = limiter is self._writer
            kind, seconds = "", 0.0
            self._opener = self._opener or limiter
            if self._writer is not None and not self.dead and limiter is not self._opener:
                kind, seconds = self.faults.next(write=write)
            with trio.CancelScope(shield=True):
                await self._pause(seconds if kind == "hangs before" else 0.0)
                if kind == "fails":
                    raise (
                        sqlite3.OperationalError("disk I/O error") if write else StoreError("disk I/O error")
                    )
                try:
                    result = work()
                except (sqlite3.Error, StoreError):
                    if write:
                        self.record.store_faults.append((self.record.tick, self.record.now()))
                    raise
                if write:
                    self._note("store wrote")
                await self._pause(seconds if kind == "hangs after" else 0.0)
                return result

    async def _pause(self, seconds: float) -> None:
        for _ in range(self._random.randint(1, 4)):
            await trio.lowlevel.checkpoint()
        if seconds:
            await trio.sleep(seconds)

    def _note(self, text: str) -> None:
        if not self.dead:
            self.record.note(text)

    def connect(self, near_capacity: int) -> End:
        """A client's connection. Raises OSError."""
        if self.dead or not self.up.is_set() or self.stop.is_set():
            raise OSError("connection refused")
        client, server = connection(self._random, back=near_capacity)
        self._listener.connect(server)
        self._ends.append(server)
        return client

    async def connect_to_model(self, host: str, port: int) -> End:
        await trio.lowlevel.checkpoint()
        if self.dead:
            raise OSError("dead")
        if self._random.random() < self._model_server.faulty / 6:
            self.record.fault("model unreachable")
            if self._random.random() < 0.5:
                await trio.sleep(1000)
            raise OSError("connection refused")
        gateway, server = connection(self._random, back=self._random.choice((400, 65536)))
        self._ends.append(gateway)
        gateway.pump = self._pump
        self._calls.start_soon(self._model_server.serve, server, self.number)
        return gateway

    def left_over(self) -> dict[str, int]:
        """What is still held when nothing should run."""
        services, gateway = self.services, self.gateway
        return {
            "turns": len(gateway.turns._running),
            "background turns": gateway.turns._in_background,
            "background slots": services.background.borrowed,
            "locks": len(services.locks._locks),
            "keys": len(gateway.keys._locks),
            "admitted": self.config.max_concurrent_requests - gateway.admission.slots,
            "held bytes": self.config.max_held_bytes - services.admission.bytes_left,
            "unrecorded": len(services.unrecorded._endings),
            "tasks": len(gateway.turns._service.child_tasks) - self._tasks,
        }

    def tables(self) -> dict[str, list[bytes]]:
        """What is on disk: the items' texts, and the responses that have not ended."""
        entries = self._keeper.execute("SELECT CAST(data AS BLOB) FROM entry").fetchall()
        pending = self._keeper.execute("SELECT CAST(id AS BLOB) FROM response WHERE pending IS NOT NULL")
        rows = self._keeper.execute("SELECT CAST(id AS BLOB) FROM response").fetchall()
        return {
            "entries": [row[0] for row in entries],
            "pending": [row[0] for row in pending.fetchall()],
            "responses": [row[0] for row in rows],
        }

    def crash(self) -> None:
        """End the process now, as ``kill -9`` does: what is on disk stays, connections break."""
        if self.dead or self.over.is_set():
            return
        self.record.crashes.append(self.record.tick)
        self.record.fault("crash")
        self.dead = True
        self.database = self._left_on_disk()
        self.gone.set()
        for end in self._ends:
            end.reset()
        self._scope.cancel()

    @property
    def serves(self) -> bool:
        """Whether it has a database now."""
        return self.up.is_set() and not self.dead and not self.stop.is_set()

    def fill_disk(self) -> None:
        """Leave room on the disk for a few pages."""
        self._fault("disk almost full")
        pages = self._keeper.execute("PRAGMA page_count").fetchone()[0]
        self._connection.execute(f"PRAGMA max_page_count = {pages + self._random.randint(0, 3)}")

    def remove_disk(self) -> None:
        """Remove the database. What is found in its place afterwards is a copy from just before."""
        self._fault("database removed")
        self._removed = self._keeper.serialize()
        self._files._files["/removed"] = (0, 0)

    def _fault(self, kind: str) -> None:
        self.record.store_faults.append((self.record.tick, self.record.now()))
        self.record.fault(kind)

    def heal_disk(self) -> None:
        """Give the disk room again; a gateway without a database has to start again."""
        if not self.serves:
            return
        self._connection.execute(f"PRAGMA max_page_count = {MANY_PAGES}")
        if self._removed is not None:
            self.shut_down()

    def _left_on_disk(self) -> bytes:
        return self._keeper.serialize() if self._removed is None else self._removed

    def shut_down(self) -> None:
        """Tell it to stop, as SIGTERM does."""
        if not self.dead and not self.stop.is_set():
            self.record.fault("shutdown")
            self.record.stops.append(self.record.tick)
            self.stopped_at = trio.current_time()
            self.stop.set()


def now() -> float:
    return EPOCH + trio.current_time()


# An app takes longer to make than a run takes, and knows nothing but its gateway.
_free_apps: list[GatewayApp] = []
_apps: dict[Gateway, GatewayApp] = {}


def take_app(gateway: Gateway, *, listens: bool = True) -> GatewayApp:
    app = _free_apps.pop() if _free_apps else create_app()
    attach(app, gateway, listens=listens)
    _apps[gateway] = app
    return app


def release_app(gateway: Gateway) -> None:
    _free_apps.append(_apps.pop(gateway))


def _open_listeners(
    config: HypercornConfig, deadlines: object, sockets: object
) -> tuple[list[Listener], list[str]]:
    return [_listeners[config.bind[0]]], ["http://simulated"]


@contextmanager
def network_in_memory(*, disconnects: bool) -> Iterator[None]:
    """Let servers listen in memory. ``disconnects``: the system says when a client closes, without a read."""
    with (
        patch.object(asgi_server, "open_disconnects", open_disconnects if disconnects else no_disconnects),
        patch.object(asgi_server, "open_listeners", _open_listeners),
        patch.object(server_serve, "create_app", take_app),
        patch.object(retries, "random", Random(0).random),
        # `Server-Timing` would be longer or shorter from run to run.
        patch.object(scope, "perf_counter", trio.current_time),
        patch.object(relay, "perf_counter", trio.current_time),
    ):
        yield
