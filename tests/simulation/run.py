"""One run: a world drawn from a seed, in Trio's virtual time, by a schedule drawn from the same seed.

The world holds the whole gateway (connections, routes, turns, the real store, the upstream's transport),
two to five clients and a model server, on streams in memory. Clients leave, the model server fails, the
disk fails, the gateway is stopped or killed and started again. Then everything heals, and what each
client was promised is checked: see ``judge.py``.

What makes it the same each time: the scheduler's random numbers, ids and time come from the seed, and
nothing runs in a thread.
"""

from __future__ import annotations

import gc
import logging
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from agentic_trio.config import Config
from tests.simulation.client import Client, Known, seen_id
from tests.simulation.intruder import Intruder
from tests.simulation.judge import Judge, Violation
from tests.simulation.machine import Machine, StoreFaults, network_in_memory
from tests.simulation.model_server import ModelServer
from tests.simulation.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.record import Request

FOREVER = 20_000.0
"""Virtual seconds after which a run is stuck."""

RECOVERY = 200.0
"""Virtual seconds in which all that was under way ends, once nothing fails any more."""


@dataclass
class Plan:
    """What a seed decides before anything runs."""

    clients: int
    requests: int
    config: Config
    leaves: float = 0.0
    pauses: float = 0.0
    model_faults: float = 0.0
    write_faults: float = 0.0
    read_faults: float = 0.0
    deadly: float = 0.0
    ends: list[tuple[int, str]] = field(default_factory=list)
    """At which tick the machine is killed or stopped."""
    disk: tuple[int, str] | None = None
    """At which tick the disk is almost full from then on, or the database is removed."""


def draw(random: Random) -> Plan:
    """A world. Each kind of fault is absent from many, so that little can hide behind another."""
    config = Config(
        llm_api_base="http://model:80",
        turn_timeout=60.0,
        commit_timeout=10.0,
        graceful_timeout=random.choice((0.0, 5.0)),
        connect_timeout=5.0,
        idle_timeout=20.0,
        write_timeout=15.0,
        keep_alive_interval=7.0,
        on_disconnect=random.choice(("cancel", "cancel", "finish")),
        upstream_retries=random.choice((0, 0, 2)),
        max_background=random.choice((1, 2, 100)),
        max_concurrent_requests=random.choice((3, 1000, 1000)),
        conversation_wait=random.choice((0.0, 0.0, 3.0)),
        port=1,
        allowed_hosts=("gateway",),
    )
    plan = Plan(clients=random.randint(2, 5), requests=random.randint(2, 5), config=config)
    if random.random() < 0.6:
        plan.leaves = 0.35
    if random.random() < 0.25:
        plan.pauses = 0.2
    if random.random() < 0.5:
        plan.model_faults = 0.3
    if random.random() < 0.25:
        plan.write_faults, plan.read_faults = 0.15, 0.04
        plan.deadly = random.choice((0.0, 0.5))
    if random.random() < 0.4:
        plan.ends = [
            (random.randint(3, 4 * plan.clients * plan.requests), random.choice(("crash", "stop")))
            for _ in range(random.randint(1, 2))
        ]
    return plan


def draw_disk(random: Random, plan: Plan) -> tuple[int, str] | None:
    """What befalls the disk. It is drawn apart, so that it changes nothing else of a world."""
    if random.random() >= 0.1:
        return None
    return random.randint(3, 4 * plan.clients * plan.requests), random.choice(("fill", "remove"))


@dataclass
class Outcome:
    """How a run went."""

    seed: int
    record: Record
    violations: list[Violation]
    turns: int = 0

    @property
    def digest(self) -> str:
        return self.record.digest()

    def report(self) -> str:
        """The transcript, and what is wrong."""
        wrong = "\n".join(f"VIOLATION {each}" for each in self.violations)
        return f"{self.record.shown()}\n\nseed {self.seed}: {len(self.violations)} violations\n{wrong}"


class World:
    """What one run is made of."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.record = Record(trio.current_time)
        self.plan = draw(self.random("plan"))
        self.plan.disk = draw_disk(self.random("disk"), self.plan)
        self.model_server = ModelServer(self.record, self.random("model"), self.plan.model_faults)
        self.store_faults = StoreFaults(
            self.record, self.random("store"), self.plan.write_faults, self.plan.read_faults
        )
        self.store_faults.deadly = self.plan.deadly
        self.machines: list[Machine] = []
        self.known = Known()
        self.healed = False
        # Not in every world: what another client asks changes what a seed shows of everything else.
        self.intruded = seed % 4 == 0
        self.intruder = Intruder(
            -1, Record(trio.current_time), self.random("intruder"), self.connect, self.known
        )

    def random(self, name: str) -> Random:
        return Random(f"{self.seed}/{name}")

    @property
    def machine(self) -> Machine:
        return self.machines[-1]

    def connect(self, near_capacity: int) -> Any:
        return self.machine.connect(near_capacity)

    def client(self, number: int) -> Client:
        client = Client(number, self.record, self.random(f"client {number}"), self.connect, self.known)
        client.policy = self.plan.config.on_disconnect
        client.pauses, client.leaves = self.plan.pauses, self.plan.leaves
        return client

    def start(self, nursery: trio.Nursery, database: bytes | None) -> Machine:
        number = len(self.machines)
        machine = Machine(
            number,
            self.plan.config,
            self.record,
            self.random(f"machine {number}"),
            self.store_faults,
            self.model_server,
            database,
            owners=self.intruded,
        )
        self.machines.append(machine)
        nursery.start_soon(machine.run)
        return machine

    async def keep_running(self, nursery: trio.Nursery) -> None:
        """Start the machine again whenever it has ended."""
        database = None
        while True:
            machine = self.start(nursery, database)
            await machine.gone.wait()
            database = machine.database
            await trio.sleep(self.random(f"pause {machine.number}").choice((0.0, 1.0)))

    async def run(self) -> None:
        with trio.fail_after(FOREVER):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.keep_running, nursery)
                self.store_faults.kill = partial(nursery.start_soon, self._kill)
                for tick, how in self.plan.ends:
                    self.record.at_tick[tick] = lambda how=how: self._end(how)
                if self.plan.disk is not None:
                    tick, what = self.plan.disk
                    self.record.at_tick.setdefault(tick, partial(self._harm, what))
                await self._up()
                async with trio.open_nursery() as clients:
                    for number in range(self.plan.clients):
                        clients.start_soon(self.client(number).run, self.plan.requests)
                    if self.intruded:
                        clients.start_soon(self.intruder.try_all, 3 * self.plan.requests)
                await self._heal()
                await self._look()
                nursery.cancel_scope.cancel()

    async def _kill(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self._end("crash")

    async def _up(self) -> None:
        # A machine that was told to stop is followed by another.
        while not self.machines or self.machine.stop.is_set() or not self.machine.up.is_set():  # noqa: ASYNC110
            await trio.sleep(0.5)

    def _end(self, how: str) -> None:
        if self.healed or not self.machines or not self.machine.up.is_set():
            return
        if how == "crash":
            self.machine.crash()
        else:
            self.machine.shut_down()

    def _harm(self, what: str) -> None:
        machine = self.machine if self.machines else None
        if machine is not None and not self.healed and machine.serves:
            getattr(machine, f"{what}_disk")()

    async def _heal(self) -> None:
        self.healed = True
        self.store_faults.heal()
        self.machine.heal_disk()
        self.model_server.faulty = 0.0
        await self._up()
        await trio.sleep(RECOVERY)
        await self._up()
        self.record.healed = self.record.note("everything has healed")

    async def _look(self) -> None:
        """Read all that the clients have heard of, and what else there is; then stop."""
        self.looked_from = len(self.record.requests)
        reader = self.client(99)
        reader.pauses = reader.leaves = 0.0
        ids = dict.fromkeys(filter(None, (self._id(each) for each in self.record.requests)))
        for id in ids:
            await reader.send("GET", f"/v1/responses/{id}")
            await reader.send("GET", f"/v1/responses/{id}?stream=true")
            await reader.send("GET", f"/v1/responses/{id}/input_items?order=asc&limit=100")
        for id in self.known.conversations:
            await reader.send("GET", f"/v1/conversations/{id}/items?order=asc&limit=100")
        await trio.sleep(50)
        self.left_over = self.machine.left_over()
        self.tables = self.machine.tables()
        self.machine.shut_down()
        await self.machine.over.wait()

    @staticmethod
    def _id(request: Request) -> str | None:
        if request.method != "POST" or request.path != "/v1/responses":
            return None
        return seen_id(request)


class _Logged(logging.Handler):
    """Keeps what a gateway logs, unformatted."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self.messages.append(f"{record.msg} {cause!r}")


@contextmanager
def _logging() -> Iterator[_Logged]:
    logger, handler = logging.getLogger("agentic_trio"), _Logged()
    before = logger.propagate
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def _scheduler(seed: int) -> Iterator[None]:
    """Trio's choices come from the seed. These names are private: trio has no public ones for it."""
    trio_run: Any = trio._core._run
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r = True, Random(f"{seed}/schedule")
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r = before


def simulate(seed: int) -> Outcome:
    """Run a seed's world and judge it."""
    worlds = []

    async def main() -> None:
        world = World(seed)
        worlds.append(world)
        await world.run()

    failure: BaseException | None = None
    # The collector runs destructors at moments that depend on what ran before.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with network_in_memory(disconnects=seed % 3 != 0), _scheduler(seed), _logging() as logged:
            try:
                trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
            except Exception as error:
                failure = error
    finally:
        if collecting:
            gc.enable()
    world = worlds[0]
    judge = Judge(world.record, getattr(world, "looked_from", None), world.plan.config.turn_timeout)
    if failure is not None:
        judge.found("the run ends", "".join(traceback.format_exception(failure)))
    else:
        for each in world.intruder.found:
            judge.found("another's is not there", each)
        judge.judge(world.left_over, world.tables, logged.messages)
        judge.machines([(m.number, m.dead, m.ended, m.stopped_at, m.over_at) for m in world.machines])
    return Outcome(seed, world.record, judge.violations, judge.turns)
