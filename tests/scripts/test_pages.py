"""All pages: what they name is there, their lines are of one width, and each decision is in the index."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.test_architecture import IMPORTS, LAYERS, PACKAGE

from .programs import ROOT, run_program

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


def test_each_page_is_in_the_site_s_navigation() -> None:
    names = re.findall(r'= "([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text())
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    decisions = {name for name in there if name.startswith("decisions/0")}
    assert set(names) == there - decisions


async def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="the [docs] extra is not installed")
    config = tmp_path / "zensical.toml"
    text = (ROOT / "zensical.toml").read_text()
    text = text.replace('site_dir = "site"', 'site_dir = "made"').replace('["src"]', f'["{PACKAGE.parent}"]')
    config.write_text(text)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(config)]
    ran = await run_program(command, cwd=tmp_path)
    assert ran.code == 0, ran.out + ran.err
    assert "Warning" not in ran.out + ran.err, ran.out + ran.err
    site = tmp_path / "made"
    api = (site / "python-api.html").read_text()
    assert all(name in api for name in ("open_gateway", "open_response", "follow_response", "CallContext"))
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*src="([^"]+)"', page.read_text())
        loaded += re.findall(r'<link[^>]*rel="stylesheet"[^>]*href="([^"]+)"', page.read_text())
        assert not [each for each in loaded if each.startswith(("http:", "https:", "//"))], page
