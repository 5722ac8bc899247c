"""The whole gateway under seeded schedules and faults: nothing that was promised is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.oracles import check_event_stream, check_list, check_response
from tests.simulation.client import seen_id
from tests.simulation.mutations import MUTATIONS, mutated
from tests.simulation.run import simulate

if TYPE_CHECKING:
    from tests.simulation.record import Record

ROOT = Path(__file__).parents[2]

ENOUGH = 3000
"""In so many worlds each bug must show."""

SHOWN_BY = {
    "a_deleted_response_comes_back": 651,
    "a_refused_request_with_a_key_leaves_a_row": 107,
    "a_success_is_told_from_memory": 1049,
    "an_ending_is_told_early": 418,
    "the_ending_leaves_before_its_commit": 63,
}
"""Where to look first for those that take long to show. What a seed shows changes with the simulation."""


def test_nothing_that_was_promised_is_lost(seeds: range, capsys: pytest.CaptureFixture[str]) -> None:
    totals: Counter[str] = Counter()
    for seed in seeds:
        outcome = simulate(seed)
        assert not outcome.violations, outcome.report()
        totals.update(schedules=1, requests=len(outcome.record.requests), turns=outcome.turns)
        totals.update(faults=sum(outcome.record.faults.values()))
    with capsys.disabled():
        shown = ", ".join(f"{count} {name}" for name, count in totals.items())
        print(f"\nsimulated: {shown}, 0 violations")


@pytest.mark.parametrize("bug", MUTATIONS)
def test_the_simulation_catches(bug: str) -> None:
    first = SHOWN_BY.get(bug, 0)
    with mutated(bug):
        assert any(simulate(seed).violations for seed in [first, *range(ENOUGH)])


def test_a_seed_gives_the_same_run_each_time() -> None:
    for seed in range(5, 10):
        assert simulate(seed).digest == simulate(seed).digest


def test_a_seed_gives_the_same_run_in_another_process() -> None:
    first, count = 40, 5
    code = (
        "from tests.simulation.run import simulate\n"
        f"for seed in range({first}, {first + count}): print(simulate(seed).digest)"
    )
    here = [simulate(seed).digest for seed in range(first, first + count)]
    # Sets of strings are ordered by this.
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    there = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.split() == here


def test_answers_keep_the_contract_under_faults() -> None:
    for seed in range(100, 112):
        check_answers(simulate(seed).record)


def check_answers(record: Record) -> None:
    """By the strict and slow oracles."""
    for request in record.requests:
        if request.status != 200 or request.relayed:
            continue
        if request.kind.startswith("text/event-stream"):
            if request.method == "POST" and seen_id(request) is not None:
                whole_events = request.content[: request.content.rindex(b"\n\n") + 2]
                check_event_stream(whole_events, request.body, cut=True)
        elif request.whole and seen_id(request) is not None:
            check_response(request.content, request.body if request.method == "POST" else None)
        elif request.whole and request.method == "GET" and request.path.endswith("items"):
            check_list(request.content)
