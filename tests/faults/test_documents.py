"""The pages about faults and limits name tests that exist and limits as the code has them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from agentic_trio import Config

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"


def rows(page: str) -> list[list[str]]:
    """The cells of all tables' rows, headings left out."""
    tables = re.split(r"\n\n", (DOCS / page).read_text())
    found = []
    for table in tables:
        lines = [line for line in table.splitlines() if line.startswith("| ")]
        found += [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]
    return found


def defined_in(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f"{file.name}::{node.name}" for node in functions if node.name.startswith("test_")}


TESTS = set().union(*(defined_in(file) for file in HERE.glob("test_*.py")))


def test_each_fault_names_tests_that_exist() -> None:
    for *_, shown_by in rows("what-happens-when.md"):
        named = set(re.findall(r"`(test_\w+\.py::\w+)`", shown_by))
        assert named or shown_by == "the same"
        assert named <= TESTS


def test_each_test_of_a_fault_is_in_the_page() -> None:
    page = (DOCS / "what-happens-when.md").read_text()
    own = {name for name in TESTS if name.startswith("test_documents.py")}
    unnamed = {name for name in TESTS - own if f"`{name}`" not in page}
    # What only sets the stage, or says the same of a limit.
    assert unnamed == {
        "test_every_event.py::test_an_answer_has_as_many_events_as_are_tried",
        "test_overload.py::test_as_many_items_as_may_be_are_taken",
    }


def value_of(name: str) -> Any:
    """What a limit of the page is in the code."""
    if "." not in name:
        return getattr(Config(), name)
    if argument := re.fullmatch(r"(.+)\((\w+)\)", name):
        return inspect.signature(value_of(argument[1])).parameters[argument[2]].default
    path = ["agentic_trio", *name.split(".")]
    for end in range(len(path), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(path[:end]))
        except ModuleNotFoundError:
            continue
        for part in path[end:]:
            defaults = {field.name: field for field in dataclasses.fields(value)} if part.islower() else {}
            value = defaults[part].default if part in defaults else getattr(value, part)
        return value
    raise AssertionError(name)


@pytest.mark.parametrize("row", rows("limits.md"), ids=lambda row: row[0].strip("`"))
def test_a_limit_is_as_the_page_says(row: list[str]) -> None:
    name, value, *_ = row
    assert f"{value_of(name.strip('`')):.10g}" == value


BOUND = re.compile(r"_?MAX_\w+|\w+_BOUND")
BOUNDS_ELSEWHERE = {"_MAX_KEY", "_MAX_LENGTH_DIGITS", "MAX_READ", "MAX_INPUT_LENGTH"}
"""Not of memory: a number's range, one read, and what OpenAI says of a text."""


def test_each_bound_of_the_code_is_in_the_page() -> None:
    page = (DOCS / "limits.md").read_text()
    for file in sorted((HERE.parents[1] / "src" / "agentic_trio").rglob("*.py")):
        for node in ast.parse(file.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and BOUND.fullmatch(target.id):
                    assert target.id in BOUNDS_ELSEWHERE or f".{target.id}`" in page, (file.name, target.id)
