"""The documents as a site."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.test_architecture import PACKAGE

from .programs import ROOT, run_program

if TYPE_CHECKING:
    from pathlib import Path


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
