from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .ledger import ledger
from .processes import Spawner, open_spawner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def spawner() -> Iterator[Spawner]:
    with open_spawner() as spawner:
        yield spawner


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ledger.faults:
        terminalreporter.write_line(f"fault injection: {ledger}")
