"""The page about operations has every member, event and metric that there is, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from agentic_trio.telemetry.lines import Line
from tests.faults.test_documents import rows
from tests.telemetry.test_metrics import base, names

ROOT = Path(__file__).parents[2]


def first_cells(title: str) -> list[str]:
    """The first cells of the table under a heading."""
    page = (ROOT / "docs" / "operations.md").read_text()
    part = page[page.index(f"{title}\n") :].split("\n#")[0]
    return re.findall(r"^\| `([\w]+)` \|", part, re.MULTILINE)


def events() -> set[str]:
    """The names of all events of the code."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "event"
            if named and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
    return found


def test_each_member_of_a_line_is_in_the_page() -> None:
    assert first_cells("### The line of a request") == list(Line.__struct_fields__)


def test_each_event_is_in_the_page() -> None:
    assert set(first_cells("### Events")) == events()


def test_each_metric_is_in_the_page() -> None:
    assert set(map(base, first_cells("## Metrics"))) == names()


def test_alerts_ask_for_metrics_that_there_are() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    [alerts] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    asked = set(map(base, re.findall(r"agentic_trio_\w+", alerts)))
    assert asked
    assert asked <= names()


def test_each_fault_names_lines_that_there_are() -> None:
    """Every event that a row names is one, and every member is one of a line's or an event's."""
    fields = {*Line.__struct_fields__, "reason"}
    for _, told in [row for row in rows("operations.md") if len(row) == 2 and "`" in row[1]]:
        for quoted in re.findall(r"`([^`]+)`", told):
            for name in re.findall(r"(\w+)=", quoted):
                assert name in fields, quoted
