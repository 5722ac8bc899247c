"""Turns whose tools run here, under seeded schedules and crashes: nothing runs twice, the record says so."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.simulation.tool_mutations import TOOL_MUTATIONS, mutated_tools
from tests.simulation.tool_turns import simulate_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

WORLDS = 150
"""How many are run each time that the tests are."""

ENOUGH = 400
"""In so many worlds each bug must show."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Interrupted stores and turns log what they should."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_nothing_runs_twice_and_the_record_says_what_ran() -> None:
    ran = faults = 0
    for seed in range(WORLDS):
        world = simulate_tools(seed)
        assert not world.violations, f"seed {seed}: {world.violations}\n{world.record.shown()}"
        ran += len(world.ran)
        faults += sum(world.record.faults.values())
    # Otherwise the worlds have grown too quiet to show anything.
    assert ran > 3 * WORLDS
    assert faults > WORLDS


@pytest.mark.parametrize("bug", TOOL_MUTATIONS)
def test_the_simulation_of_tools_catches(bug: str) -> None:
    with mutated_tools(bug):
        assert any(simulate_tools(seed).violations for seed in range(ENOUGH))


def test_a_seed_of_tools_gives_the_same_run_each_time() -> None:
    for seed in range(5):
        assert simulate_tools(seed).record.digest() == simulate_tools(seed).record.digest()
