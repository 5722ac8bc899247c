"""Run seeds: ``python -m tests.simulation SEED [--count N]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.run import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds; one shows its transcript")
    given = parser.parse_args()
    totals: Counter[str] = Counter()
    bad: list[int] = []
    began = time.perf_counter()
    for seed in range(given.seed, given.seed + given.count):
        outcome = simulate(seed)
        totals.update(schedules=1, requests=len(outcome.record.requests), calls=len(outcome.record.calls))
        totals.update(turns=outcome.turns, violations=len(outcome.violations))
        totals.update({f"fault: {kind}": count for kind, count in outcome.record.faults.items()})
        if given.count == 1:
            print(outcome.report())
        elif outcome.violations:
            bad.append(seed)
            print(f"seed {seed}:", *map(str, outcome.violations), sep="\n  ")
    took = time.perf_counter() - began
    print(f"{given.count / took * 60:.0f} schedules a minute")
    for name, count in sorted(totals.items()):
        print(f"{count:10d} {name}")
    if bad:
        print("seeds that fail:", *bad)
    return 1 if bad or totals["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
