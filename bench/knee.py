#!/usr/bin/env python3
"""How many live streams one core carries: the knee is where the added p99 of an event passes 5 ms.

    python bench/knee.py --quick

An open loop: each stream sends 50 events a second, whether the gateway keeps up or not. The gateway has one
core to itself, and the model server and the clients, which are one small program in C, have another: load
that is made in Python couldn't tell 5 ms. "Direct" is the same load with nothing in between. What other
gateways are compared with, and how they are installed, is as in ``bench/rivals.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.contenders import contenders, default_cache
from bench.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.contenders import Contender
    from bench.processes import Server

RESULTS = Path(__file__).parent / "results"
SOURCE = Path(__file__).with_suffix(".c")

INTERVAL = 20_000
"""Microseconds between two events of a stream."""

BOUND = 5.0
"""Milliseconds: the added p99 beyond which a gateway carries no more streams."""

STREAMS = (50, 75, 100, 150, 200, 300, 400, 500)
QUICK = (50, 100, 200, 300)


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement. ``lockstep``: all streams get their events at one instant, as vLLM sends them."""

    streams: int
    events: int
    lockstep: bool
    store: bool

    def order(self, port: int) -> str:
        """What the load generator reads."""
        return f"{port} {self.streams} {INTERVAL} {self.events} {self.lockstep:d} {self.store:d}\n"


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured; times in milliseconds, the CPU in microseconds an event (0 for the direct way)."""

    contender: str
    load: Load
    p50: float
    p99: float
    first_p50: float
    first_p99: float
    ended: int
    cpu: float


class Generator:
    """The program that sends the events and reads them."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port

    def run(self, load: Load, port: int) -> dict[str, float]:
        """Put a load on a port; return what the program reports."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(load.order(port))
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator has ended")
        found: dict[str, float] = json.loads(line)
        return found


@contextmanager
def generator(directory: Path, core: int) -> Iterator[Generator]:
    """Compile and run the load generator on a core."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("a C compiler is needed for the load generator")
    program = directory / "knee"
    subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
    port = free_port()
    pipe = subprocess.PIPE
    with subprocess.Popen([str(program), str(port)], stdin=pipe, stdout=pipe, text=True) as process:
        os.sched_setaffinity(process.pid, {core})
        try:
            yield Generator(process, port)
        finally:
            process.kill()


def measured(name: str, load: Load, load_generator: Generator, server: Server | None) -> Point:
    """Put a load on a gateway, or on nothing."""
    before = server.cpu() if server else 0.0
    found = load_generator.run(load, int(server.url.rpartition(":")[2]) if server else load_generator.port)
    cpu = (server.cpu() - before if server else 0.0) * 1e6 / max(found["events"], 1)
    values = (found[key] for key in ("p50", "p99", "first_p50", "first_p99"))
    return Point(name, load, *values, ended=int(found["ended"]), cpu=cpu)


def climb(
    chosen: Sequence[Contender], loads: Sequence[Load], cores: tuple[int, int], directory: Path
) -> list[Point]:
    """Take all measurements, the contenders in turns. One that is far past its knee is left out."""
    points: list[Point] = []
    with ExitStack() as stack:
        load_generator = stack.enter_context(generator(directory, cores[1]))
        upstream = f"http://127.0.0.1:{load_generator.port}"
        servers: dict[str, Server | None] = {"direct": None}
        for contender in chosen:
            server = stack.enter_context(contender.start(upstream, directory))
            trio.run(server.wait_ready)
            for pid in server.pids():
                pin(pid, cores[0])
            servers[server.name] = server
        for load in loads:
            for name, server in servers.items():
                past = [p for p in points if p.contender == name and p.load.lockstep == load.lockstep]
                if past and past[-1].p99 > 10 * BOUND:
                    continue
                warm = Load(4, 25, lockstep=load.lockstep, store=load.store)
                measured(name, warm, load_generator, server)
                points.append(measured(name, load, load_generator, server))
                print(shown(points[-1]), file=sys.stderr, flush=True)
    return points


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def shown(point: Point) -> str:
    """One line about a measurement."""
    load = point.load
    way = "lock-step" if load.lockstep else "spread"
    return (
        f"{point.contender:14} {load.streams:4} {way:9} p50 {point.p50:7.2f}  p99 {point.p99:7.2f}  "
        f"first {point.first_p50:6.1f} / {point.first_p99:6.1f}  {point.cpu:5.0f} us an event"
        + ("" if point.ended == load.streams else f"  ({point.ended} ended)")
    )


def knees(points: Sequence[Point]) -> dict[str, int]:
    """By contender: the most spread streams at which the p99 stayed within the bound, and all before it."""
    found: dict[str, int] = {}
    passed: set[str] = set()
    for point in points:
        if point.load.lockstep or point.contender in passed:
            continue
        if point.p99 > BOUND:
            passed.add(point.contender)
        else:
            found[point.contender] = point.load.streams
    return found


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(description="Find how many live streams a gateway carries on one core.")
    top.add_argument("--quick", action="store_true", help="fewer loads")
    top.add_argument("--streams", type=int, nargs="+", help="numbers of streams, ascending")
    top.add_argument("--seconds", type=int, default=5, help="how long each load lasts")
    top.add_argument("--relay", action="store_true", help="store=false instead of stored streams")
    top.add_argument("--ours", action="store_true", help="only this gateway: nothing is installed")
    top.add_argument("--cache", type=Path, default=default_cache(), help="environments of the others")
    top.add_argument("--json", type=Path, default=RESULTS / "knee.json", help="where the values go")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the loads as the command line says; returns the exit code."""
    options = parser().parse_args(arguments)
    chosen = contenders()[:1] if options.ours else contenders()
    for contender in chosen:
        contender.prepare(options.cache)
    counts = options.streams or (QUICK if options.quick else STREAMS)
    events = options.seconds * 1_000_000 // INTERVAL
    loads = [
        Load(streams, events, lockstep=lockstep, store=not options.relay)
        for lockstep in (False, True)
        for streams in counts
    ]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("two cores are needed: one for the gateway, one for the load", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="agentic-trio-bench-") as directory:
        points = climb(chosen, loads, (cores[0], cores[1]), Path(directory))
    for name, streams in knees(points).items():
        print(f"{name}: {streams} streams at a p99 below {BOUND:g} ms")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(point) for point in points], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
