"""Line charts as inline SVG, without a library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which people with any colour vision can tell apart."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value, with its confidence interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A line. ``dots`` off is for lines of many points."""

    name: str
    points: Sequence[Point]
    dashed: bool = False
    dots: bool = True


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values between ``low`` and ``high`` to pixels between ``start`` and ``end``. ``whole`` values get
    no ticks between them."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        at = math.log10(max(value, self.low)) if self.log else value
        return self.start + (at - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values on the scale."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) < 4 else (1,)
            marks = [step * 10.0**power for power in powers for step in steps]
        else:
            step = _round_step((self.high - self.low) / 6)
            step = max(step, 1) if self.whole else step
            marks = [step * n for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough or 1))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough)


def line_chart(series: Sequence[Series], *, x: str, y: str, log_x: bool = False, log_y: bool = False) -> str:
    """A chart of lines, with whiskers where points have intervals, and a legend under it."""
    points = [point for line in series for point in line.points]
    if not points:
        return ""
    across = _scale([point.x for point in points], LEFT, WIDTH - RIGHT, log=log_x)
    tops = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    up = _scale([*tops] if log_y else [0.0, *tops], HEIGHT - BOTTOM, TOP, log=log_y)
    parts = [*_axes(across, up, x, y)]
    for index, line in enumerate(series):
        parts += _line(line, COLORS[index % len(COLORS)], across, up)
    legend = "".join(
        f'<span><i style="background:{COLORS[index % len(COLORS)]}"></i>{escape(line.name)}</span>'
        for index, line in enumerate(series)
    )
    body = "".join(parts)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{body}</svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _scale(values: Sequence[float], start: float, end: float, *, log: bool) -> Scale:
    low, high = min(values), max(values)
    if log:
        low = max(low, 1e-9)
        return Scale(low / 1.2, max(high, low * 1.1) * 1.2, start, end, log=True)
    room = (high - low) * 0.05 or 1.0
    whole = all(value == int(value) for value in values)
    return Scale(low if low == 0 else low - room, high + room, start, end, log=False, whole=whole)


def _axes(across: Scale, up: Scale, x: str, y: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for mark in up.ticks():
        at = up(mark)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for mark in across.ticks():
        at = across(mark)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{mark:g}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 14 {middle})"'
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" {turned}>{escape(y)}</text>')
    return parts


def _line(line: Series, color: str, across: Scale, up: Scale) -> list[str]:
    path = " ".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in line.points)
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>']
    for point in line.points if line.dots else ():
        at = f"{across(point.x):.1f}"
        if point.low is not None and point.high is not None:
            ends = f'y1="{up(point.low):.1f}" y2="{up(point.high):.1f}"'
            parts.append(f'<line x1="{at}" x2="{at}" {ends} stroke="{color}" stroke-width="5" opacity=".3"/>')
        told = escape(f"{line.name}: {point.y:.4g} at {point.x:g}")
        parts.append(
            f'<circle cx="{at}" cy="{up(point.y):.1f}" r="3.5" fill="{color}"><title>{told}</title></circle>'
        )
    return parts
