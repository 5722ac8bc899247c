"""Run seeds: ``python -m tests.simulation SEED [--count N] [--jobs N]``. One seed shows its transcript."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import Outcome, simulate

CHUNK = 50


def counts(outcome: Outcome) -> Counter[str]:
    """What a run was made of."""
    record = outcome.record
    found = Counter(schedules=1, requests=len(record.requests), turns=outcome.turns)
    found.update(calls=len(record.calls))
    found["violations"] += len(outcome.violations)
    found.update({f"fault: {kind}": count for kind, count in record.faults.items()})
    return found


def run_some(seeds: range) -> tuple[Counter[str], dict[int, list[str]]]:
    """Run seeds; what they were made of, and what is wrong, by seed."""
    totals: Counter[str] = Counter()
    wrong: dict[int, list[str]] = {}
    for seed in seeds:
        outcome = simulate(seed)
        totals.update(counts(outcome))
        if outcome.violations:
            wrong[seed] = [str(each) for each in outcome.violations]
    return totals, wrong


def run_all(seeds: range, jobs: int) -> tuple[Counter[str], list[int]]:
    totals: Counter[str] = Counter()
    bad: list[int] = []
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs) as pool:
        for found, wrong in pool.map(run_some, chunks):
            totals.update(found)
            bad += wrong
            for seed, violations in wrong.items():
                print(f"seed {seed}:", *violations, sep="\n  ", flush=True)
    return totals, bad


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    given = parser.parse_args()
    began = time.perf_counter()
    if given.count == 1:
        outcome = simulate(given.seed)
        print(outcome.report())
        totals, bad = counts(outcome), [given.seed] if outcome.violations else []
    else:
        totals, bad = run_all(range(given.seed, given.seed + given.count), given.jobs)
    took = time.perf_counter() - began
    print(f"{given.count / took * 60:.0f} schedules a minute")
    for name, count in sorted(totals.items()):
        print(f"{count:10d} {name}")
    if bad:
        print("seeds that fail:", *bad)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
