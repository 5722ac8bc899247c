"""The rounds of a comparison: every work on every gateway in turn, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from bench.checks import Wrong
from bench.client import Failure
from bench.stats import median
from bench.tables import short, table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bench.progress import Progress
    from bench.works import Cost, Subject

WORK_TIMEOUT = 240.0
"""Seconds that one work may take on one gateway."""


@dataclass(slots=True)
class Row:
    """One line of the result.

    Attributes:
        name: the work.
        unit: of the values.
        values: by gateway: a number, or why there is none.
        bar: what our value must not exceed, and ``aim`` what it should not: as a multiple of the reference's
            if ``relative``, else in the unit.
    """

    name: str
    unit: str
    values: dict[str, float | str] = field(default_factory=dict)
    bar: float | None = None
    aim: float | None = None
    relative: bool = True

    def ratio(self, ours: str, other: str) -> float | None:
        """Our value as a multiple of another's."""
        mine, theirs = self.values.get(ours), self.values.get(other)
        if isinstance(mine, str) or isinstance(theirs, str) or mine is None or not theirs:
            return None
        return mine / theirs

    def verdict(self, ours: str, reference: str) -> str:
        """Whether the bar and the aim are met."""
        judged = self.ratio(ours, reference) if self.relative else self.values.get(ours)
        if self.bar is None or not isinstance(judged, float | int):
            return ""
        if self.aim is not None and judged <= self.aim:
            return "aim"
        return "bar" if judged <= self.bar else "missed"


def cpu(cost: Cost) -> float:
    """Microseconds of CPU for each unit."""
    return cost.cpu


def first_event(cost: Cost) -> float:
    """Milliseconds until the first event, at the median."""
    return median(cost.firsts) * 1e3


async def interleaved(
    row: Row,
    subjects: Sequence[Subject],
    rounds: int,
    work: Callable[[Subject], Awaitable[Cost]],
    progress: Progress,
    figure: Callable[[Cost], float] = cpu,
) -> Row:
    """Run a work ``rounds`` times on each gateway, A B C A B C, and keep the median of its figure."""
    costs: dict[str, list[float]] = {subject.server.name: [] for subject in subjects}
    for number in range(rounds):
        for subject in subjects:
            name = subject.server.name
            progress.step(f"{row.name}, round {number + 1}, {name}")
            if name not in row.values:
                cost = await attempted(row, name, work, subject)
                if cost is not None:
                    costs[name].append(figure(cost))
    for name, values in costs.items():
        if name not in row.values:
            row.values[name] = median(values)
    return row


async def attempted(
    row: Row, name: str, work: Callable[[Subject], Awaitable[Any]], subject: Subject
) -> Any | None:
    """What a work answers; None if it can't be done, and then the row says why."""
    try:
        with trio.fail_after(WORK_TIMEOUT):
            return await work(subject)
    except* Wrong as wrong:
        row.values[name] = f"wrong: {first_of(wrong)}"
    except* (Failure, OSError, trio.BrokenResourceError, trio.TooSlowError) as failure:
        row.values[name] = f"n/a: {first_of(failure)}"
    return None


def first_of(group: BaseExceptionGroup[BaseException]) -> str:
    """The first exception in a group, as one line."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split()) or type(error).__name__


def rendered(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The rows as a table, then why some values are missing."""
    ours, *others = names
    header = ["work", "unit", ours]
    for name in others:
        header += [name, "ratio"]
    header += ["bar", "aim", "met"]
    lines, notes = [], []
    for row in rows:
        cells = [row.name, row.unit, _cell(row.values.get(ours))]
        for name in others:
            ratio = row.ratio(ours, name)
            cells += [_cell(row.values.get(name)), "" if ratio is None else f"{ratio:.2f}x"]
        suffix = "x" if row.relative else ""
        cells += ["" if goal is None else f"{goal:g}{suffix}" for goal in (row.bar, row.aim)]
        lines.append([*cells, row.verdict(ours, others[0]) if others else ""])
        notes += [
            f"{row.name}: {name}: {value}" for name, value in row.values.items() if isinstance(value, str)
        ]
    return "\n".join([table(header, lines), *(["", *notes] if notes else [])])


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return short(value) if not isinstance(value, str) else value.partition(":")[0]
