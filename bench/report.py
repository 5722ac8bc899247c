"""A run's results for people: tables for a terminal, and one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from bench.charts import Point, Series, line_chart
from bench.tables import short, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.results import Group, LoadPoint, Results

Rows = list[list[str]]

GROUP_HEADER = ["group", "samples", "median ms", "95 % interval", "p99 ms"]
LOAD_HEADER = ["work", "at", "requests", "a second", "first ms", "p50 ms", "p99 ms", "CPU us", "RSS MB"]
SIZE_HEADER = ["size", "value"]


def terminal(results: Results) -> str:
    """All the tables."""
    return "\n\n".join(table(header, rows) for _, header, rows in _tables(results))


def _tables(results: Results) -> Iterable[tuple[str, list[str], Rows]]:
    yield "Latency", GROUP_HEADER, [_group_row(group) for group in results.groups]
    if results.concurrency:
        yield "Concurrency", LOAD_HEADER, [_load_row(point) for point in results.concurrency]
    if results.depth:
        yield "Depth", LOAD_HEADER, [_load_row(point) for point in results.depth]
    if results.sizes:
        yield "Sizes", SIZE_HEADER, [[name, short(value)] for name, value in results.sizes.items()]


def _group_row(group: Group) -> list[str]:
    found = group.summary
    interval = f"{found.low:.3f} - {found.high:.3f}"
    return [group.name, str(found.count), f"{found.median:.3f}", interval, f"{found.p99:.3f}"]


def _load_row(point: LoadPoint) -> list[str]:
    times = [short(value) for value in (point.per_second, point.first, point.p50, point.p99)]
    costs = [short(value) if value else "" for value in (point.cpu, point.rss / 1e6)]
    return [point.name, str(point.at), str(point.requests), *times, *costs]


def html(results: Results) -> str:
    """The page."""
    about = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in results.about.items()
    )
    sections = "".join(
        f"<h2>{escape(title)}</h2>{body}"
        for title, body in [*_plots(results), *_html_tables(results)]
        if body
    )
    return _PAGE % (about, sections)


def _plots(results: Results) -> Iterable[tuple[str, str]]:
    yield "Latency against turns", _against_turns(results.groups)
    yield "Gateway against direct: how latencies are distributed", _distribution(results.groups)
    yield (
        "Latency against clients",
        line_chart(
            [*_load_series(results.concurrency, "p50"), *_load_series(results.concurrency, "p99")],
            x="clients",
            y="ms",
            log_x=True,
            log_y=True,
        ),
    )
    yield (
        "CPU of the gateway for a request, against clients",
        line_chart(
            _load_series([point for point in results.concurrency if point.cpu], "cpu"),
            x="clients",
            y="us",
            log_x=True,
        ),
    )
    yield (
        "Latency against depth",
        line_chart(
            _load_series(results.depth, "p50"), x="turns before this one", y="ms p50", log_x=True, log_y=True
        ),
    )
    yield (
        "CPU of the gateway for a request, against depth",
        line_chart(
            _load_series(results.depth, "cpu"), x="turns before this one", y="us", log_x=True, log_y=True
        ),
    )


def _against_turns(groups: Sequence[Group]) -> str:
    turned = [group for group in groups if group.turns is not None]
    if not turned:
        return ""
    last = max(group.turns or 1 for group in turned)
    series = [
        Series(kind, [_point(group, float(group.turns or 0)) for group in members])
        for kind, members in groupby(turned, lambda group: group.kind)
    ]
    series += [
        Series(
            group.name,
            [Point(1.0, group.summary.median), Point(float(last), group.summary.median)],
            dashed=True,
            dots=False,
        )
        for group in groups
        if group.name.startswith("direct/")
    ]
    return line_chart(series, x="turns", y="ms, median with 95 % interval")


def _point(group: Group, x: float) -> Point:
    found = group.summary
    return Point(x, found.median, found.low, found.high)


def _distribution(groups: Sequence[Group]) -> str:
    """How large a share of the samples took at most so long."""
    series = []
    for group in groups:
        if group.turns is None:
            ordered = sorted(group.values)
            points = [Point(value, 100 * (n + 1) / len(ordered)) for n, value in enumerate(ordered)]
            series.append(Series(group.name, points, dashed=group.name.startswith("direct/"), dots=False))
    return line_chart(series, x="ms", y="% of the samples at most so slow", log_x=True)


def _load_series(points: Sequence[LoadPoint], member: str) -> list[Series]:
    names = dict.fromkeys(point.name for point in points)
    suffix = f", {member}" if member in ("p50", "p99") else ""
    return [
        Series(
            name + suffix,
            [Point(point.at, getattr(point, member)) for point in points if point.name == name],
            dashed=member == "p99",
        )
        for name in names
    ]


def _html_tables(results: Results) -> Iterable[tuple[str, str]]:
    for title, header, rows in _tables(results):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        yield title, f"<table><tr>{head}</tr>{body}</table>"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>agentic-trio benchmark</title>
<meta name="viewport" content="width=device-width">
<style>
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.2rem; font-size: 1.15rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { opacity: .7; } dd { margin: 0; }
figure { margin: 0; } svg { width: 100%%; height: auto; }
svg text { font-size: 11px; fill: currentColor; }
svg .grid { stroke: var(--line); } svg .axis { stroke: currentColor; }
figcaption span { display: inline-block; margin-right: 1rem; font-size: .85rem; }
figcaption i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; width: 100%%; }
td, th { text-align: right; padding: .2rem .5rem; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
</style>
<h1>agentic-trio benchmark</h1>
<dl>%s</dl>
%s
</html>
"""
