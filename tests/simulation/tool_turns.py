"""A smaller world, for turns whose tools run here: calls, approvals and retries, with a crash in any gap.

The gateway, its turns and its store are real. The model server and the tools are made up: every choice of
theirs is drawn from the seed, and each call that the model makes has a tag of its own, by which the judge
knows it again. Programs stand for clients: what they retry, they retry as it was.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, cast

import trio
import trio.testing

from agentic_trio.config import Config
from agentic_trio.context import RequestContext
from agentic_trio.errors import GatewayError, UpstreamError
from agentic_trio.gateway.admission import Ticket
from agentic_trio.gateway.idempotency import IdempotencyKey
from agentic_trio.upstream.answer import Answer
from agentic_trio.wire.dialect import decode_object
from tests.fake_upstream import Call, Script, Text, render_response
from tests.simulation.machine import Machine, StoreFaults, network_in_memory
from tests.simulation.model_server import ModelServer
from tests.simulation.record import Record
from tests.simulation.run import _scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentic_trio.gateway.turn import Turn

Json = dict[str, Any]

ENDED = ("completed", "incomplete", "failed", "cancelled")
MAY_HAVE_RUN = "may have run"
TOOLS: list[Json] = [
    {"name": "run", "input_schema": {"type": "object"}, "annotations": {"read_only": False}},
    {"name": "ask", "input_schema": {"type": "object"}, "annotations": {"read_only": False}},
]
SERVER: Json = {
    "type": "mcp",
    "server_label": "s",
    "require_approval": {"never": {"tool_names": ["run"]}},
}


@dataclass
class Ran:
    """A call that a tool has carried out."""

    tag: str
    attempt: str
    """The request, retries counted apart, whose turn it was."""


@dataclass
class World:
    """One run.

    Attributes:
        ran: what the tools have carried out, in order.
        emitted: tag -> the attempt in which the model made the call.
        keys: attempt -> its key, if it has one.
        stored: attempts whose turns are stored.
        violations: what is wrong.
    """

    seed: int
    ran: list[Ran] = field(default_factory=list)
    emitted: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    healed: bool = False

    def __post_init__(self) -> None:
        self.random = Random(f"{self.seed}/tools")
        self.record = Record(trio.current_time)
        self.config = Config(
            llm_api_base="http://model:80",
            turn_timeout=60.0,
            commit_timeout=10.0,
            port=1,
            allowed_hosts=("gateway",),
            max_tool_rounds=4,
            max_parallel_calls=self.random.choice((1, 2, 8)),
        )
        for _ in range(3):
            how = self.random.choice(("crash", "crash", "stop"))
            self.record.at_tick[self.random.randint(3, 120)] = partial(self.end, how)

    @property
    def machine(self) -> Machine:
        return self.machines[-1]

    def end(self, how: str) -> None:
        """End the machine, as a crash or an operator does."""
        if self.healed or not self.machines or not self.machine.up.is_set():
            return
        if how == "crash":
            self.machine.crash()
        else:
            self.machine.shut_down()

    async def gap(self, what: str) -> None:
        """A moment in which something else may happen."""
        for _ in range(self.random.randint(0, 3)):
            await trio.lowlevel.checkpoint()
        if self.random.random() < 0.3:
            await trio.sleep(self.random.choice((0.1, 1.0, 5.0)))
        self.record.note(what)

    async def keep_running(self, nursery: trio.Nursery) -> None:
        database = None
        while True:
            number = len(self.machines)
            random = Random(f"{self.seed}/machine {number}")
            faults = StoreFaults(self.record, random, 0.0, 0.0)
            model = ModelServer(self.record, random, 0.0)
            machine = Machine(number, self.config, self.record, random, faults, model, database)
            machine.tools = cast("Any", Tools(self, machine))
            self.machines.append(machine)
            nursery.start_soon(machine.run)
            nursery.start_soon(self._give_model, machine)
            await machine.gone.wait()
            database = machine.database

    async def _give_model(self, machine: Machine) -> None:
        await machine.up.wait()
        object.__setattr__(machine.services, "upstream", Model(self))

    async def up(self) -> Machine:
        """The machine, once it serves."""
        while True:
            if self.machines:
                machine = self.machine
                await trio.lowlevel.checkpoint()
                if machine.up.is_set() and not machine.stop.is_set() and not machine.dead:
                    return machine
            await trio.sleep(0.5)

    async def run(self) -> None:
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.keep_running, nursery)
                async with trio.open_nursery() as clients:
                    for number in range(self.random.randint(1, 3)):
                        clients.start_soon(Client(self, number).run)
                self.healed = True
                await self.up()
                await trio.sleep(200)
                await self.judge(await self.up())
                self.machine.shut_down()
                await self.machine.over.wait()
                nursery.cancel_scope.cancel()

    # ------------------------------------------------------------------ what was promised

    async def judge(self, machine: Machine) -> None:
        calls: dict[str, list[Json]] = {}
        for id in machine.tables()["responses"]:
            response = decode_object(await machine.gateway.responses.read("", id.decode()))
            self.require(response["status"] in ENDED, f"{response['id']} is {response['status']} for ever")
            for item in response["output"]:
                # One that was cut off while the model wrote it has no whole arguments.
                if item["type"] == "mcp_call" and item["arguments"].endswith("}"):
                    calls.setdefault(json.loads(item["arguments"])["tag"], []).append(item)
        tags = [each.tag for each in self.ran]
        for tag in set(tags):
            self.require(tags.count(tag) == 1, f"{tag} ran {tags.count(tag)} times")
        self._keys()
        for each in self.ran:
            if each.attempt in self.stored:
                self.require(each.tag in calls, f"{each.tag} ran, and no record says so")
        for tag, items in calls.items():
            for item in items:
                self._item(tag, item, ran=tag in tags)

    def _keys(self) -> None:
        """A request with a key is served once, however often it is repeated."""
        attempts: dict[str, set[str]] = {}
        for each in self.ran:
            if each.attempt in self.keys:
                attempts.setdefault(self.keys[each.attempt], set()).add(each.attempt)
        for key, found in attempts.items():
            self.require(len(found) == 1, f"the tools of the request with key {key} ran in {found}")

    def _item(self, tag: str, item: Json, *, ran: bool) -> None:
        if item["status"] == "completed":
            self.require(ran and item["output"] == f"done {tag}", f"{tag} is said to have run: {item}")
        elif item["status"] == "incomplete":
            self.require(
                not ran or MAY_HAVE_RUN in item["error"]["message"], f"{tag} ran, and is said not to: {item}"
            )

    def require(self, held: object, what: str) -> None:
        if not held:
            self.violations.append(what)


class Tools:
    """The tools of one machine: each call takes effect somewhere between its start and its answer."""

    types = frozenset({"mcp"})

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine

    def resolve(self, tool: Any) -> Any:
        return tool

    @asynccontextmanager
    async def open(self, servers: Any) -> AsyncIterator[Tools]:
        await trio.lowlevel.checkpoint()
        yield self

    async def list(self, label: str) -> list[Json]:
        await self.world.gap("tools are listed")
        return TOOLS

    def fits(self, tools: Any) -> bool:
        return True

    async def call(self, label: str, tool: str, arguments: str) -> Any:
        from agentic_trio.tools.results import Outcome, http_failure

        world, tag = self.world, json.loads(arguments)["tag"]
        await world.gap(f"call {tag} is on its way")
        if not self.machine.dead:
            world.ran.append(Ran(tag, world.emitted[tag]))
            world.record.note(f"call {tag} RAN")
        await world.gap(f"call {tag} is answered")
        if world.random.random() < 0.15:
            return http_failure(502, "The server broke off its answer.")
        if world.random.random() < 0.05:
            await trio.sleep_forever()
        return Outcome(output=f"done {tag}")


class Model:
    """The model server."""

    def __init__(self, world: World) -> None:
        self.world = world

    @asynccontextmanager
    async def stream(
        self, body: bytes, context: RequestContext, meanwhile: Any, *_: Any
    ) -> AsyncIterator[Answer]:
        world, asked = self.world, json.loads(body)
        await meanwhile()
        await world.gap("the model is asked")
        if world.random.random() < 0.1:
            raise UpstreamError("No.", status=503)
        script = Script(output=self._output(asked, context.request_id), response={"usage": None})
        events = render_response(script, asked, stream=asked["stream"])
        content_type = b"text/event-stream" if asked["stream"] else b"application/json"
        cut = world.random.randint(0, len(events)) if world.random.random() < 0.1 else len(events)
        yield Answer(200, [(b"content-type", content_type)], Chunks(world, events[:cut]))

    def _output(self, asked: Json, attempt: str) -> tuple[Any, ...]:
        world = self.world
        if asked.get("tool_choice") == "none" or world.random.random() < 0.4:
            return (Text("enough"),)
        made = []
        for _ in range(world.random.randint(1, 3)):
            tag = f"t{len(world.emitted)}"
            world.emitted[tag] = attempt
            name = world.random.choice(("s__run", "s__run", "s__ask"))
            made.append(Call(name, (json.dumps({"tag": tag}),)))
        return tuple(made)


class Chunks:
    """An answer's body."""

    def __init__(self, world: World, events: list[bytes]) -> None:
        self._world = world
        self._events = iter(events)
        self.waits = True
        self.ended = False

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._world.random.random() < 0.2:
            await self._world.gap("the model speaks")
        for event in self._events:
            return event
        raise StopAsyncIteration


class Client:
    """A program that asks, leaves, and asks again."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.random = Random(f"{world.seed}/client {number}")
        self.attempts = 0

    async def run(self) -> None:
        for number in range(self.random.randint(1, 4)):
            body: Json = {"model": "tiny", "input": "go", "tools": [SERVER]}
            body["stream"] = self.random.random() < 0.5
            body["store"] = self.random.random() < 0.9
            body["background"] = body["store"] and self.random.random() < 0.3
            key = f"key {self.number} {number}" if body["store"] and self.random.random() < 0.4 else None
            response = await self.ask(body, key)
            while response is not None and response["status"] == "completed":
                asked = [item for item in response["output"] if item["type"] == "mcp_approval_request"]
                if not asked:
                    break
                response = await self.answer(body, response, asked)

    async def answer(self, body: Json, response: Json, asked: list[Json]) -> Json | None:
        """Approve calls: sometimes twice at once, as a client whose connection broke does."""
        answers = [
            {"type": "mcp_approval_response", "approval_request_id": item["id"], "approve": True}
            for item in asked
        ]
        if body["store"]:
            again = {**body, "input": answers, "previous_response_id": response["id"]}
        else:
            go = {"role": "user", "content": "go"}
            again = {**body, "input": [go, *response["output"], *answers]}
        results: list[Json | None] = []

        async def approve() -> None:
            results.append(await self.ask(again, None))

        async with trio.open_nursery() as nursery:
            for _ in range(self.random.choice((1, 1, 2))):
                nursery.start_soon(approve)
        return next((result for result in results if result is not None), None)

    async def ask(self, body: Json, key: str | None) -> Json | None:
        """Send a request, and again a few times if it brings no response; that is then None."""
        for _ in range(3):
            try:
                return await self._once(body, key)
            except (GatewayError, trio.ClosedResourceError):
                await trio.sleep(self.random.choice((0.0, 1.0)))
        return None

    async def _once(self, body: Json, key: str | None) -> Json:
        world, machine = self.world, await self.world.up()
        self.attempts += 1
        attempt = f"request {self.number}.{self.attempts}"
        if body["store"]:
            world.stored.add(attempt)
        gateway, data = machine.gateway, json.dumps(body).encode()
        digest = None if key is None else IdempotencyKey.of(key, [], data)
        turn: Turn | None = None
        if digest is not None:
            world.keys[attempt] = str(key)
            turn = gateway.turns.find_repeated("", digest)
            id = None if turn is not None else await gateway.responses.repeated("", digest)
            if id is not None:
                return decode_object(await gateway.responses.read("", id))
        if turn is None:
            with Ticket(gateway.admission) as ticket:
                ticket.take_slot()
                context = RequestContext(request_id=attempt)
                turn = await gateway.turns.new(data, context, ticket, key=digest)
            if machine.dead or machine.stop.is_set():
                raise trio.ClosedResourceError
            gateway.turns.start(turn)
        if self.random.random() < 0.15:
            await world.gap("a client leaves")
            turn.cancel()
        await turn.wait_ended()
        if machine.dead:
            raise trio.ClosedResourceError
        return decode_object(turn.result())


def simulate_tools(seed: int) -> World:
    """Run a seed's world and judge it."""
    worlds = []

    async def main() -> None:
        world = World(seed)
        worlds.append(world)
        await world.run()

    with network_in_memory(disconnects=True), _scheduler(seed):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return worlds[0]
