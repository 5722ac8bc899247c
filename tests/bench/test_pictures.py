"""The documents' pictures are drawn from the documents' tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scripts.programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib", reason="the [bench] extra is not installed")

from bench import pictures

TEXT = pictures.PERFORMANCE.read_text()


def test_the_plots_have_the_page_s_figures(tmp_path: Path) -> None:
    svg = next(file for file in pictures.draw_all(tmp_path) if file.stem == "depth").read_text()
    figures = pictures.against(TEXT)
    assert len(figures) == 4
    for work, values in figures.items():
        assert work in svg
        for value in values:
            assert f">{value / 1000:.1f}<" in svg
    assert [f"{turns:,}" for turns in pictures.by_depth(TEXT)] == ["1", "10", "100", "1,000"]


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    first, second = pictures.draw_all(tmp_path / "a"), pictures.draw_all(tmp_path / "b")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_each_picture_is_shown_on_a_page(tmp_path: Path) -> None:
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    for file in pictures.draw_all(tmp_path):
        assert f"pictures/{file.name})" in pages
        assert (pictures.PICTURES / file.name).exists()
