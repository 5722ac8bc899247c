"""``pytest tests/simulation --seed N [--seeds COUNT]`` runs other worlds than the usual ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="the first seed of the simulation")
    parser.addoption("--seeds", type=int, default=None, help="how many seeds are simulated")


@pytest.fixture
def seeds(request: pytest.FixtureRequest) -> Iterator[range]:
    first = request.config.getoption("--seed", default=None)
    count = request.config.getoption("--seeds", default=None)
    if first is None:
        yield range(count or QUICK)
    else:
        yield range(first, first + (count or 1))


QUICK = 400
"""How many seeds are run each time that the tests are."""
