#!/usr/bin/env python3
"""Measure the gateway: latency by published groups, then under load, at depth, and its size.

    python bench/run.py --short

The gateway runs as a process of its own, in front of ``LLM_BASE_URL`` (unset: a fake vLLM of ours, which
says how many items it was given, so that every answer is checked). ``BENCH_MODEL`` is the model (unset: the
first that the server lists), ``BENCH_TURNS`` how far the groups with turns go. ``turns N`` is the Nth turn:
N - 1 were seeded before the clock starts. Writes a table to stdout, and JSON and an HTML page to a directory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.seed_turns import open_url, seed

from bench import works
from bench.checks import Asker
from bench.client import Client
from bench.processes import Server, fake_upstream, our_gateway
from bench.progress import Progress
from bench.report import html, terminal
from bench.results import Group, LoadPoint, Results
from bench.works import Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = Path(__file__).parent / "results"
SEEDS_AT_ONCE = 8
KINDS = ("conversation", "response")
MODES = ("non_streaming", "streaming")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    samples: int
    turns: int
    clients: tuple[int, ...]
    requests: int
    """At each number of clients; never less than two for each client."""
    depths: tuple[int, ...]
    continuing: int
    """Requests at each depth."""
    live: int
    database_turns: int


LONG = Size(100, 5, (1, 4, 16, 64, 256, 500), 2000, (1, 10, 100, 1000), 20, 500, 1000)
SHORT = Size(30, 3, (1, 16, 64, 500), 300, (1, 10, 100, 1000), 5, 500, 300)
TINY = Size(3, 2, (1, 4), 8, (1, 3), 2, 8, 4)
REAL = Size(20, 3, (1, 4, 16, 64), 64, (1, 10), 5, 0, 0)
"""For a real model, whose own time is what takes long."""


class Benchmark:
    """One run, in one directory of temporary files."""

    def __init__(self, size: Size, base: str | None, model: str | None, directory: Path) -> None:
        self.size = size
        self.base = base
        self.model = model
        self.directory = directory
        steps = 4 + len(size.clients) * 6 + len(size.depths) * 2 + 2 * 2 * size.turns
        self.progress = Progress(steps)

    async def run(self) -> Results:
        """Do all of it."""
        with ExitStack() as stack:
            upstream = self.base
            if upstream is None:
                fake = stack.enter_context(fake_upstream(self.directory))
                await fake.wait_ready()
                upstream = fake.url
            self.upstream = upstream.rstrip("/").removesuffix("/v1")
            self.asker = Asker(self.model or await self.first_model(), echoes=self.base is None)
            self.results = Results(self.about())
            subject = await self.started(stack)
            await self.proxy(subject)
            for kind in KINDS:
                for mode in MODES:
                    for turns in range(1, self.size.turns + 1):
                        await self.rehydration(subject, kind, mode, turns)
            await self.concurrency(subject)
            await self.depth(subject)
            if self.size.live:
                await self.memory()
                await self.database()
        self.progress.end()
        return self.results

    async def first_model(self) -> str:
        """The first model that the upstream lists."""
        async with Client(self.upstream) as client:
            return str(json.loads((await client.get("/v1/models")).body)["data"][0]["id"])

    def about(self) -> dict[str, str]:
        """What runs where."""
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "gateway": f"agentic-trio {version('agentic-trio')}",
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "upstream": self.upstream if self.base else "fake vLLM",
            "model": self.asker.model,
            "samples": str(self.size.samples),
        }

    async def started(self, stack: ExitStack) -> Subject:
        """A gateway with a new database."""
        server = stack.enter_context(our_gateway(self.upstream, self.directory))
        await server.wait_ready()
        return Subject(server, self.asker)

    async def proxy(self, subject: Subject) -> None:
        """What passes through unstored, and the same asked of the upstream itself, in turns."""
        self.progress.step("proxy, and direct")
        for mode, stream in (("non_stream", False), ("stream", True)):
            body = self.asker.body(store=False, stream=stream)
            times: dict[str, list[float]] = {"direct": [], "proxy": []}
            async with Client(self.upstream) as direct, Client(subject.server.url) as through:
                for number in range(self.size.samples + works.WARMUP):
                    for name, client in (("direct", direct), ("proxy", through)):
                        reply = await client.post(works.RESPONSES, body)
                        self.asker.check(reply)
                        if number >= works.WARMUP:
                            times[name].append(reply.total)
            self.results.groups += [Group.of(f"{name}/{mode}", found) for name, found in times.items()]

    async def rehydration(self, subject: Subject, kind: str, mode: str, turns: int) -> None:
        """The Nth turn of conversations, each a new one; of a chain, always behind the same response."""
        name = f"{kind}_rehydration/{mode}/turns {turns}"
        self.progress.step(name)
        chains = self.size.samples if kind == "conversation" else 1
        references = await self.seeded(subject, kind, turns - 1, chains)
        times = []
        async with Client(subject.server.url) as client:
            for number in range(self.size.samples):
                reference = references[number % len(references)]
                body = self.asker.body(store=True, stream=mode == "streaming", **reference)
                reply = await client.post(works.RESPONSES, body)
                self.asker.check(reply, items=2 * turns - 1)
                times.append(reply.total)
        self.results.groups.append(Group.of(name, times))

    async def seeded(self, subject: Subject, kind: str, turns: int, chains: int) -> list[dict[str, str]]:
        """What continues ``chains`` new threads of so many turns."""
        conversation = kind == "conversation"
        async with open_url(subject.server.url) as target:
            if turns == 0 and conversation:
                return [{"conversation": (await target.create_conversation())["id"]} for _ in range(chains)]
            if turns == 0:
                return [{}]
            found: list[dict[str, str]] = []
            while len(found) < chains:
                some = min(SEEDS_AT_ONCE, chains - len(found))
                model = self.asker.model
                grown = await seed(target, turns, model=model, conversation=conversation, chains=some)
                found += [chain.reference() for chain in grown]
            return found

    async def concurrency(self, subject: Subject) -> None:
        """From one client to many: the upstream itself, what passes through, and what is stored."""
        direct = Subject(Server("direct", self.upstream), self.asker)
        for stream in (False, True):
            for name, asked, store in (
                ("direct", direct, False),
                ("store=false", subject, False),
                ("store=true", subject, True),
            ):
                await self.load(f"{name}, stream" if stream else name, asked, store=store, stream=stream)

    async def load(self, name: str, subject: Subject, *, store: bool, stream: bool) -> None:
        """One kind of request, at each number of clients."""
        for clients in self.size.clients:
            self.progress.step(f"{name}, {clients} clients")
            requests = max(self.size.requests, 2 * clients)
            cost = await works.whole(
                subject, clients=clients, requests=requests, store=store, stream=stream, warmup=2
            )
            self.results.concurrency.append(LoadPoint.of(name, clients, cost, subject.server.rss()))

    async def depth(self, subject: Subject) -> None:
        """Continuing chains and conversations, from short ones to long ones."""
        for turns in self.size.depths:
            self.progress.step(f"seeding {turns} turns")
            await works.seed_threads(subject, turns)
            for kind in ("chain", "conversation"):
                cost = await works.continued(subject, kind=kind, turns=turns, requests=self.size.continuing)
                self.results.depth.append(LoadPoint.of(kind, turns, cost, subject.server.rss()))
        self.results.depth.sort(key=lambda point: point.name)

    async def memory(self) -> None:
        """A new process, then with live streams."""
        self.progress.step(f"memory with {self.size.live} live streams")
        with ExitStack() as stack:
            subject = await self.started(stack)
            await works.whole(subject, clients=1, requests=1, store=True, warmup=0)
            self.results.sizes["memory, idle, MB"] = subject.server.rss() / 1e6
            peak = await works.live_streams(subject, streams=self.size.live, seconds=2.0)
            self.results.sizes[f"memory, {self.size.live} live streams, MB"] = peak / 1e6

    async def database(self) -> None:
        """The database against the items in it."""
        turns = self.size.database_turns
        self.progress.step(f"database of {turns} turns")
        with ExitStack() as stack:
            subject = await self.started(stack)
            items = await works.grown_database(subject, turns=turns, item_bytes=1024)
            stack.close()  # at the end the log goes into the file
            size = subject.server.database_bytes()
            self.results.sizes[f"database, {turns} turns, KB"] = size / 1e3
            self.results.sizes["database, for each byte of items"] = size / items


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(description="Measure the gateway.")
    top.add_argument("--short", action="store_true", help="about two minutes")
    top.add_argument("--tiny", action="store_true", help="hardly anything: to see that it works")
    top.add_argument("--sample-size", type=int, metavar="N", help="samples of each group")
    top.add_argument("--out", type=Path, default=RESULTS, help="directory of the JSON and the HTML page")
    top.epilog = "Environment: LLM_BASE_URL, BENCH_MODEL, BENCH_TURNS."
    return top


def chosen_size(options: argparse.Namespace, environ: Callable[[str], str | None]) -> Size:
    """The size that the command line and the environment ask for."""
    size = TINY if options.tiny else SHORT if options.short else LONG
    if environ("LLM_BASE_URL"):
        size = REAL
    samples = options.sample_size or size.samples
    turns = int(environ("BENCH_TURNS") or size.turns)
    if samples < 1 or turns < 1:
        raise SystemExit("--sample-size and BENCH_TURNS must be at least 1")
    return replace(size, samples=samples, turns=turns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the command line says; answers the exit code."""
    options = parser().parse_args(arguments)
    size = chosen_size(options, os.environ.get)
    base, model = os.environ.get("LLM_BASE_URL") or None, os.environ.get("BENCH_MODEL") or None
    with tempfile.TemporaryDirectory(prefix="agentic-trio-bench-") as directory:
        results = trio.run(Benchmark(size, base, model, Path(directory)).run)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "run.json").write_text(json.dumps(asdict(results), indent=1))
    (options.out / "run.html").write_text(html(results))
    print(terminal(results))
    print(f"\n{options.out / 'run.json'}\n{options.out / 'run.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
