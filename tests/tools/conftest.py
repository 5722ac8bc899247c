"""A gateway that knows the calculator, and the calculator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tools.calculator import Calculator, open_calculator
from tests.web.harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def calc() -> AsyncIterator[Calculator]:
    async with open_calculator() as calculator:
        yield calculator


@pytest.fixture
async def world(calc: Calculator) -> AsyncIterator[World]:
    async with open_world(mcp_servers=(f"calc={calc.url}",)) as world:
        yield world
