"""All pages: what they name is there, their lines are of one width, and each decision is in the index."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.test_architecture import IMPORTS, LAYERS, PACKAGE

from .programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 110
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_a_link_leads_to_a_file_that_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    missing = [link for link in links if not page.parent.joinpath(link).exists()]
    assert not missing


@pages
def test_a_file_that_is_named_is_there(page: Path) -> None:
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", page.read_text())
    missing = [name for name in named if not any((place / name).exists() for place in (ROOT, PACKAGE))]
    assert not missing


def test_the_drawing_of_the_packages_has_their_imports() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawn = {
        (source, target)
        for source, targets in re.findall(r"^ *(\w+) --> (.+)$", text, re.MULTILINE)
        for target in targets.split(" & ")
    }
    names = {name for layer in LAYERS[1:] for name in layer} - {"__main__"}
    imports = {(each.layer, each.below) for each in IMPORTS if each.ours and each.layer != each.below}
    assert drawn == {(source, target) for source, target in imports if {source, target} <= names}


@pages
def test_a_page_is_wrapped(page: Path) -> None:
    """Tables have no choice, nor has a line that is one word."""
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code ^= line.startswith("```")
        if not code and not line.startswith("|") and " " in line.strip():
            assert len(line) <= WIDTH, f"{page.name}:{number}"


def test_each_decision_is_in_the_index() -> None:
    decisions = ROOT / "docs" / "decisions"
    files = sorted(path.name for path in decisions.glob("0*.md"))
    assert files == re.findall(r"\]\((0[^)]+)\)", (decisions / "README.md").read_text())
    for name in files:
        text = (decisions / name).read_text()
        assert text.startswith(f"# {name[:4]}: ")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
