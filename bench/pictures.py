"""Draws the documents' pictures: ``python -m bench.pictures``.

The figures of the plots are those of the tables in docs/performance.md, so page and plot can't disagree.
Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
PERFORMANCE = ROOT / "docs" / "performance.md"

OURS, THEIRS, PAST = "#0072b2", "#d55e00", "#8a8a8a"
"""Okabe and Ito's blue and vermilion, which people with any colour vision can tell apart; they are legible on
white and on black, as the grey of all lines and words is."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agentic-trio",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": PAST,
    "axes.labelcolor": PAST,
    "axes.edgecolor": PAST,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": PAST,
    "ytick.color": PAST,
    "figure.constrained_layout.use": True,
}


def rows(text: str) -> list[list[str]]:
    """The rows of all tables of a page, cells without marks."""
    found = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in found]


def against(text: str) -> dict[str, tuple[float, float]]:
    """Work -> µs of CPU of ours and of agentic-api, of the rows that continue a history."""
    return {
        row[0].removeprefix("continue a "): (_number(row[1]), _number(row[2]))
        for row in rows(text)
        if row[0].startswith("continue a ")
    }


def by_depth(text: str) -> dict[int, tuple[float, float]]:
    """Turns before -> µs of CPU to continue a chain and a conversation."""
    page = rows(text)
    start = next(index for index, row in enumerate(page) if row[0] == "turns before")
    found = {}
    for row in page[start + 2 :]:
        if len(row) != 5 or not row[0].isdigit():
            break
        found[int(row[0])] = (_number(row[2]), _number(row[4]))
    return found


def _number(cell: str) -> float:
    return float(re.sub(r"[^\d.]", "", cell))


def draw_depth(text: str) -> Figure:
    """What it costs to continue a history: against another gateway, and by its length."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(3, 2))
    _draw_against(left, against(text))
    _draw_by_depth(right, by_depth(text))
    return figure


def _draw_against(axes: Axes, figures: dict[str, tuple[float, float]]) -> None:
    names = list(figures)
    for offset, name, color, index in (
        (0.2, "agentic-trio", OURS, 0),
        (-0.2, "agentic-api 0.9.0", THEIRS, 1),
    ):
        values = [figures[work][index] / 1000 for work in names]
        places = [place + offset for place in range(len(names))]
        bars = axes.barh(places, values, height=0.36, color=color, label=name)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("ms of CPU to continue it with one more turn")
    axes.legend(frameon=False, loc="upper right")


def _draw_by_depth(axes: Axes, figures: dict[int, tuple[float, float]]) -> None:
    for index, (name, color) in enumerate((("chain", OURS), ("conversation", THEIRS))):
        values = [each[index] / 1000 for each in figures.values()]
        axes.plot(list(figures), values, "o-", color=color, label=name)
    axes.set_xscale("log")
    axes.set_xticks(list(figures), [f"{turns:,}" for turns in figures])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("turns before")
    axes.set_ylabel("ms of CPU")
    axes.legend(frameon=False, loc="upper left", title="agentic-trio")


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure, axes


TURN = (
    ("client", "gateway", "POST /v1/responses"),
    ("gateway", "store", "read the history"),
    ("gateway", "model server", "history + new input"),
    ("gateway", "store", "announce the id"),
    ("model server", "gateway", "events ..."),
    ("gateway", "client", "events ..., renumbered"),
    ("model server", "gateway", "its last event"),
    ("gateway", "store", "commit, synced to disk"),
    ("gateway", "client", "response.completed"),
)
"""Sender, receiver and message, from top to bottom."""


def draw_turn() -> Figure:
    """A stored, streamed turn as a sequence: the commit comes before the last event."""
    figure, axes = _blank(9, 4.6)
    places = {"client": 1.0, "gateway": 3.6, "store": 6.0, "model server": 8.2}
    for name, x in places.items():
        axes.text(x, 0.3, name, ha="center", weight="bold")
        axes.plot([x, x], [0.5, 4.5], color=PAST, linewidth=0.8)
    for number, (source, target, message) in enumerate(TURN):
        y = 0.9 + 0.42 * number
        color = THEIRS if "commit" in message else OURS
        _arrow(axes, (places[source], y), (places[target], y), color)
        near = min(places[source], places[target])
        axes.text(near + 0.12, y - 0.07, message, color=color, fontsize=9)
    return figure


def draw_forks() -> Figure:
    """A thread and two forks of it: the items before a fork are stored once."""
    figure, axes = _blank(9, 2.6)
    for y, start, end, color, label in (
        (0.6, 0, 8, OURS, "a conversation"),
        (1.4, 4, 7, THEIRS, "continued from its 4th response"),
        (2.2, 2, 4, THEIRS, "a turn that was cancelled, and a second try"),
    ):
        for place in range(start, end):
            axes.plot(1 + 0.7 * place, y, "o", markersize=11, color=color)
            if place > start:
                axes.plot([1 + 0.7 * (place - 1), 1 + 0.7 * place], [y, y], color=color)
        if start:
            _arrow(axes, (1 + 0.7 * (start - 1), 0.6), (1 + 0.7 * start, y), PAST)
        axes.text(1 + 0.7 * end - 0.3, y + 0.07, label, color=color)
    return figure


def _arrow(axes: Axes, start: Sequence[float], end: Sequence[float], color: str) -> None:
    style = {"arrowstyle": "-|>", "color": color, "shrinkA": 2, "shrinkB": 2}
    axes.annotate("", xy=(end[0], end[1]), xytext=(start[0], start[1]), arrowprops=style)


def draw_all(folder: Path) -> list[Path]:
    """Draw every picture into a folder, the same bytes each time; returns the files."""
    text = PERFORMANCE.read_text()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with mpl.rc_context(STYLE):
        for name, figure in (
            ("depth", draw_depth(text)),
            ("turn", draw_turn()),
            ("forks", draw_forks()),
        ):
            file = folder / f"{name}.svg"
            figure.savefig(file, transparent=True, metadata={"Date": None})
            plt.close(figure)
            # Its lines end in spaces, which no editor keeps.
            file.write_text("".join(f"{line.rstrip()}\n" for line in file.read_text().splitlines()))
            files.append(file)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--into", type=Path, default=PICTURES, help="the folder [docs/pictures]")
    for file in draw_all(parser.parse_args().into):
        print(file)


if __name__ == "__main__":
    main()
