"""What gateways are made to do: each work takes a running gateway and answers what it cost."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from scripts.seed_turns import SeedFailed, open_url, seed

from bench.checks import DELTAS, EVENTS, Asker, Wrong, response_id, scripted
from bench.client import Client, Failure, load

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.client import Reply
    from bench.processes import Server

RESPONSES = "/v1/responses"
WARMUP = 8
"""Requests before the clock starts, for each client: connections, caches, first imports."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a work took.

    Attributes:
        cpu: microseconds of the gateway's CPU for each unit (a request or an event).
        latencies: seconds, of each request.
        firsts: seconds until the first bytes of its answer's body.
        seconds: from the first request to the last answer.
    """

    cpu: float
    latencies: list[float]
    firsts: list[float]
    seconds: float


@dataclass(slots=True)
class Thread:
    """A chain or a conversation that is being continued.

    Attributes:
        turns: how many turns it holds.
        reference: the members of a request that continue it.
    """

    turns: int
    reference: dict[str, str]


@dataclass(slots=True)
class Subject:
    """A gateway under test, with the threads that were seeded into it."""

    server: Server
    asker: Asker
    threads: dict[str, Thread] = field(default_factory=dict)


Work = "Callable[[Subject], Awaitable[Cost]]"


async def measured(
    subject: Subject,
    clients: int,
    requests: int,
    exchange: Callable[[Client], Awaitable[Reply]],
    *,
    units: int = 1,
    warmup: int = WARMUP,
) -> Cost:
    """Run a load and read the gateway's clock around it."""
    url = subject.server.url
    if warmup:
        await load(url, clients, clients * warmup, exchange)
    before = subject.server.cpu()
    replies, seconds = await load(url, clients, requests, exchange)
    cpu = (subject.server.cpu() - before) * 1e6 / (requests * units)
    return Cost(cpu, [reply.total for reply in replies], [reply.first for reply in replies], seconds)


async def whole(
    subject: Subject,
    *,
    clients: int,
    requests: int,
    store: bool,
    stream: bool = False,
    warmup: int = WARMUP,
) -> Cost:
    """Requests with short answers; the CPU is that of one request."""
    body = subject.asker.body(store=store, stream=stream)

    async def exchange(client: Client) -> Reply:
        reply = await client.post(RESPONSES, body)
        subject.asker.check(reply)
        return reply

    return await measured(subject, clients, requests, exchange, warmup=warmup)


async def streamed(
    subject: Subject, *, clients: int, requests: int, store: bool, interval: float = 0.0
) -> Cost:
    """Streams of ``EVENTS`` events, at once or at a pace; the CPU is that of one event."""
    text = scripted(deltas=DELTAS, interval=interval)
    body = subject.asker.body(text, store=store, stream=True)

    async def exchange(client: Client) -> Reply:
        reply = await client.post(RESPONSES, body)
        subject.asker.check(reply, deltas=DELTAS)
        return reply

    return await measured(subject, clients, requests, exchange, units=EVENTS, warmup=0 if interval else 1)


async def seed_threads(subject: Subject, turns: int, *, item_bytes: int = 64) -> None:
    """Seed a chain and a conversation of so many turns, both at once. Those that fail are left out."""

    async def grow(kind: str) -> None:
        async with open_url(subject.server.url) as target:
            with suppress(SeedFailed):
                [seeded] = await seed(
                    target,
                    turns,
                    model=subject.asker.model,
                    conversation=kind == "conversation",
                    item_bytes=item_bytes,
                )
                subject.threads[f"{kind} {turns}"] = Thread(turns, seeded.reference())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(grow, "chain")
        nursery.start_soon(grow, "conversation")


async def continued(subject: Subject, *, kind: str, turns: int, requests: int) -> Cost:
    """Continue a seeded thread, one turn after the other, each stored; every turn sees one more."""
    thread = subject.threads.get(f"{kind} {turns}")
    if thread is None:
        raise Wrong("its turns could not be seeded")

    async def exchange(client: Client) -> Reply:
        body = subject.asker.body(store=True, **thread.reference)
        reply = await client.post(RESPONSES, body)
        subject.asker.check(reply, items=2 * thread.turns + 1)
        thread.turns += 1
        if "previous_response_id" in thread.reference:
            thread.reference["previous_response_id"] = response_id(reply)
        return reply

    return await measured(subject, 1, requests, exchange, warmup=0)


async def first_events(
    upstream: str, subjects: list[Subject], *, requests: int, store: bool
) -> dict[str, list[float]]:
    """Seconds until the first event, by name and for the bare upstream (""), taken in turns."""
    asker = subjects[0].asker
    times: dict[str, list[float]] = {"": []} | {subject.server.name: [] for subject in subjects}
    body = asker.body(store=store, stream=True)
    direct = asker.body(store=False, stream=True)
    async with Client(upstream) as bare:
        clients = [await Client(subject.server.url).__aenter__() for subject in subjects]
        try:
            for number in range(requests + WARMUP):
                for name, client, sent in (
                    ("", bare, direct),
                    *((s.server.name, c, body) for s, c in zip(subjects, clients, strict=True)),
                ):
                    reply = await client.post(RESPONSES, sent)
                    asker.check(reply)
                    if number >= WARMUP:
                        times[name].append(reply.first)
        finally:
            for client in clients:
                await client.__aexit__()
    return times


async def live_streams(subject: Subject, *, streams: int, seconds: float) -> int:
    """The gateway's memory with so many streams open at once, each with a delta every half second.

    Raises:
        Wrong: not all of them began.
    """
    body = subject.asker.body(scripted(deltas=600, interval=0.5), store=True, stream=True)
    begun = peak = 0
    all_begun = trio.Event()

    async def hold() -> None:
        async with Client(subject.server.url) as client:
            begin = True

            def arrived() -> None:
                nonlocal begun, begin
                begun += begin
                begin = False
                if begun == streams:
                    all_begun.set()

            await client.exchange(client.request("POST", RESPONSES, body), arrived)

    async def hold_on() -> None:
        try:
            await hold()
        except (Failure, OSError, trio.BrokenResourceError):
            return

    with trio.move_on_after(seconds + 120):
        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(hold_on)
                await trio.sleep(0.005)
            with trio.move_on_after(90):
                await all_begun.wait()
            for _ in range(max(int(seconds / 0.2), 1)):
                await trio.sleep(0.2)
                peak = max(peak, subject.server.rss())
            nursery.cancel_scope.cancel()
    if begun < streams:
        raise Wrong(f"only {begun} of {streams} streams began")
    return peak


async def grown_database(subject: Subject, *, turns: int, item_bytes: int) -> int:
    """Fill a database with a chain of turns of two items each; answers the bytes of those items.

    An item counts as its JSON: the user's as it was sent, the answer's as it came.
    """
    text = "x" * item_bytes
    reference: dict[str, str] = {}
    size = 0
    async with Client(subject.server.url) as client:
        for turn in range(turns):
            reply = await client.post(RESPONSES, subject.asker.body(text, store=True, **reference))
            subject.asker.check(reply, items=2 * turn + 1)
            answer = json.loads(reply.body)
            reference = {"previous_response_id": answer["id"]}
            sent = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
            size += sum(len(json.dumps(item, separators=(",", ":"))) for item in (sent, *answer["output"]))
    return size
