#!/usr/bin/env python3
"""Compare this gateway with others on the same work, the same upstream, in interleaved rounds.

    python bench/rivals.py --quick

Every answer is checked: how many items the model was given, how many deltas came. What is compared is
the CPU of the gateways' processes, which a busy machine disturbs less than times. The others are installed
from their wheels, each into an environment of its own, kept between runs. A value that is missing says why:
``wrong`` when the answers were, ``n/a`` when there is none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import works
from bench.checks import Asker, Wrong
from bench.client import Failure
from bench.comparison import Row, attempted, cpu, first_event, interleaved, rendered
from bench.contenders import contenders, default_cache
from bench.processes import fake_upstream
from bench.progress import Progress
from bench.stats import median
from bench.works import Subject
from bench.writes import write_costs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bench.contenders import Contender
    from bench.processes import Server
    from bench.works import Cost

    Plan = list[tuple[Row, Callable[[Subject], Awaitable[Cost]], Callable[[Cost], float]]]

RESULTS = Path(__file__).parent / "results"
MODEL = "tiny"
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done. Requests and streams are those of one round on one gateway."""

    rounds: int
    requests: int
    streams: int
    paced: int
    firsts: int
    depths: dict[int, int]
    """Turns of a thread -> requests that continue it."""
    spoken: int = 0
    """Streams at the pace of a model that is read along, each event alone; 0 leaves them out."""
    live: int = 500
    live_seconds: float = 5.0
    database_turns: int = 1000


QUICK = Size(3, 400, 32, 64, 100, {100: 10, 1000: 3}, live_seconds=2.0, database_turns=300)
FULL = Size(7, 1500, 96, 128, 400, {100: 20, 1000: 5}, spoken=16)
TINY = Size(1, 16, 2, 2, 3, {3: 2}, live=8, live_seconds=0.2, database_turns=5)


def plan(size: Size) -> Plan:
    """The works that run in rounds, with what is hoped for of each."""
    request, event = "us a request", "us an event"
    burst = partial(works.streamed, clients=16, requests=size.streams)
    paced = partial(works.streamed, clients=64, requests=size.paced, interval=0.002)
    whole = partial(works.whole, clients=16, requests=size.requests)
    rows: list[tuple[Row, Callable[[Subject], Awaitable[Cost]]]] = [
        (Row("store=true, 16 clients", request, bar=1.0, aim=0.5), partial(whole, store=True)),
        (Row("store=true, 208 events, burst", event, bar=1.5, aim=1.0), partial(burst, store=True)),
        (Row("store=true, 208 events, paced", event, bar=1.5, aim=1.0), partial(paced, store=True)),
        (Row("store=false, 16 clients", request, bar=3.0, aim=2.0), partial(whole, store=False)),
        (Row("store=false, 208 events, burst", event, bar=3.0, aim=2.0), partial(burst, store=False)),
        (Row("store=false, 208 events, paced", event, bar=3.0, aim=2.0), partial(paced, store=False)),
    ]
    if size.spoken:
        spoken = partial(works.streamed, clients=16, requests=size.spoken, interval=0.02)
        rows += [
            (Row(f"store={name}, 208 events, 50 a second", event), partial(spoken, store=store))
            for name, store in (("true", True), ("false", False))
        ]
    for turns, requests in size.depths.items():
        bar, aim = (0.2, 0.1) if turns >= 1000 else (0.5, 0.3)
        for kind in ("chain", "conversation"):
            row = Row(f"continue a {kind} of {turns} turns", request, bar=bar, aim=aim)
            rows.append((row, partial(works.continued, kind=kind, turns=turns, requests=requests)))
    first = "first event under load, store=true, "
    loads = [
        (Row(f"{first}16 bursts", "ms p50", bar=3.0, aim=2.0), burst),
        (Row(f"{first}64 paced streams", "ms p50", bar=3.0, aim=2.0), paced),
    ]
    return [(*each, cpu) for each in rows] + [
        (row, partial(load, store=True), first_event) for row, load in loads
    ]


class Comparison:
    """Runs the whole comparison in one directory of temporary files."""

    def __init__(self, size: Size, chosen: Sequence[Contender], directory: Path, only: str) -> None:
        self.size = size
        self.chosen = chosen
        self.directory = directory
        self.asker = Asker(MODEL)
        self.plan = [each for each in plan(size) if only in each[0].name]
        self.extras = [
            extra
            for name, extra in (
                ("added to the first event", self.first_event),
                ("memory", self.memory),
                ("write cost", self.writes),
                ("database", self.database),
            )
            if only in name
        ]
        steps = len(self.plan) * size.rounds * len(chosen) + (len(self.extras) + 2) * len(chosen)
        self.progress = Progress(steps)
        self.rows: list[Row] = []

    async def run(self) -> list[Row]:
        """Do all of it; answers the rows."""
        with ExitStack() as stack:
            self.upstream = stack.enter_context(fake_upstream(self.directory))
            await self.upstream.wait_ready()
            await self.rounds()
            for extra in self.extras:
                await extra()
        self.progress.end()
        return self.rows

    async def started(self, stack: ExitStack, contender: Contender) -> Subject:
        """A contender with new state, that answers."""
        server = stack.enter_context(contender.start(self.upstream.url, self.directory))
        await server.wait_ready()
        await self.settled(server)
        return Subject(server, self.asker)

    async def settled(self, server: Server) -> None:
        """Wait for the first right answer: some listen before they know their upstream."""
        subject = Subject(server, self.asker)
        with trio.fail_after(30):
            while True:
                try:
                    await works.whole(subject, clients=1, requests=1, store=True)
                except* (Wrong, Failure, OSError, trio.BrokenResourceError):
                    await trio.sleep(0.25)
                else:
                    return

    async def rounds(self) -> None:
        """What is measured in interleaved rounds, all gateways running side by side."""
        with ExitStack() as stack:
            subjects = [await self.started(stack, contender) for contender in self.chosen]
            depths = [
                turns
                for turns in self.size.depths
                if any(f"of {turns} turns" in row.name for row, *_ in self.plan)
            ]
            async with trio.open_nursery() as nursery:
                for subject in subjects:
                    for turns in depths:
                        self.progress.step(f"seeding {turns} turns into {subject.server.name}")
                        nursery.start_soon(works.seed_threads, subject, turns)
            for row, work, figure in self.plan:
                rounds = self.size.rounds
                self.rows.append(await interleaved(row, subjects, rounds, work, self.progress, figure))

    async def first_event(self) -> None:
        """The time that a gateway adds to the first event, for one client."""
        with ExitStack() as stack:
            subjects = [await self.started(stack, contender) for contender in self.chosen]
            for store in (True, False):
                self.progress.step(f"first events, store={store}")
                times = await works.first_events(
                    self.upstream.url, subjects, requests=self.size.firsts, store=store
                )
                row = Row(f"added to the first event, store={str(store).lower()}", "ms p50")
                row.bar, row.aim, row.relative = 2.0, 1.0, False
                direct = median(times.pop(""))
                row.values |= {name: (median(values) - direct) * 1e3 for name, values in times.items()}
                self.rows.append(row)

    async def memory(self) -> None:
        """Resident memory of a new process, then with many live streams."""
        idle = Row("memory, idle", "MB", bar=70, aim=50, relative=False)
        live = Row(f"memory, {self.size.live} live streams", "MB", bar=150, aim=100, relative=False)
        for contender in self.chosen:
            with ExitStack() as stack:
                subject = await self.started(stack, contender)
                name = subject.server.name
                self.progress.step(f"memory of {name}")
                idle.values[name] = subject.server.rss() / MEGABYTE
                hold = partial(works.live_streams, streams=self.size.live, seconds=self.size.live_seconds)
                peak = await attempted(live, name, hold, subject)
                if peak is not None:
                    live.values[name] = peak / MEGABYTE
        self.rows += [idle, live]

    async def writes(self) -> None:
        """What recording the last of many turns costs, as a multiple of the first. Ours only."""
        depth = self.size.database_turns
        self.progress.step(f"write cost of turn {depth}")
        path = self.directory / "writes.db"
        early, late = await write_costs(path, depth, samples=40 if depth >= 100 else 4)
        name = self.chosen[0].name
        for what, value in (("CPU", late.cpu / early.cpu), ("bytes", late.written / early.written)):
            row = Row(f"write cost of turn {depth}, {what}", "x turn 1", {name: value}, 1.2, 1.0, False)
            self.rows.append(row)

    async def database(self) -> None:
        """The database's size after many turns of two items of 1 KB."""
        row = Row(f"database after {self.size.database_turns} turns", "x items", bar=2.0, aim=1.4)
        row.relative = False
        grow = partial(works.grown_database, turns=self.size.database_turns, item_bytes=1024)
        for contender in self.chosen:
            with ExitStack() as stack:
                subject = await self.started(stack, contender)
                server = subject.server
                if server.database is None:
                    row.values[server.name] = "n/a: it has no durable store without a server"
                    continue
                self.progress.step(f"database of {server.name}")
                items = await attempted(row, server.name, grow, subject)
                stack.close()  # at the end the log goes into the file
                if items:
                    row.values[server.name] = (server.database_bytes() + server.log_bytes()) / items
        self.rows.append(row)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(description="Compare this gateway with others, in interleaved rounds.")
    top.add_argument("--quick", action="store_true", help="fewer rounds and requests: about 3 minutes")
    top.add_argument("--tiny", action="store_true", help="hardly anything: to see that it works")
    top.add_argument("--only", default="", metavar="TEXT", help="works whose name has this in it")
    top.add_argument("--ours", action="store_true", help="only this gateway: nothing is installed")
    top.add_argument("--cache", type=Path, default=default_cache(), help="environments of the others")
    top.add_argument("--json", type=Path, default=RESULTS / "rivals.json", help="where the values go")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison as the command line says; answers the exit code."""
    options = parser().parse_args(arguments)
    size = TINY if options.tiny else QUICK if options.quick else FULL
    chosen = contenders()[:1] if options.ours else contenders()
    for contender in list(chosen):
        try:
            contender.prepare(options.cache)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{contender.name} can't be installed: {error}", file=sys.stderr)
            chosen.remove(contender)
    with tempfile.TemporaryDirectory(prefix="agentic-trio-bench-") as directory:
        rows = trio.run(Comparison(size, chosen, Path(directory), options.only).run)
    print(rendered(rows, [contender.name.split()[0] for contender in chosen]))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
