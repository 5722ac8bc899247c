"""What a run found out: plain data that becomes JSON, a table and a report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.stats import Summary, median, quantile, summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.works import Cost


@dataclass(frozen=True, slots=True)
class Group:
    """The latencies of one published group, in milliseconds."""

    name: str
    summary: Summary
    values: Sequence[float]

    @classmethod
    def of(cls, name: str, seconds: Sequence[float]) -> Group:
        """A group of latencies in seconds."""
        values = [each * 1e3 for each in seconds]
        return cls(name, summarize(values), values)

    @property
    def kind(self) -> str:
        """The name without its number of turns."""
        return self.name.partition("/turns ")[0]

    @property
    def turns(self) -> int | None:
        """The number of turns, if the group has one."""
        number = self.name.partition("/turns ")[2]
        return int(number) if number else None


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """A work at one concurrency or one depth.

    Attributes:
        at: clients, or turns before.
        first: milliseconds until the answer's first bytes, the median.
        p50: milliseconds until its last, as is ``p99``.
        cpu: microseconds of the gateway's CPU for a request; 0 of the upstream itself.
        rss: the gateway's resident bytes after it; likewise.
    """

    name: str
    at: int
    requests: int
    per_second: float
    first: float
    p50: float
    p99: float
    cpu: float
    rss: int

    @classmethod
    def of(cls, name: str, at: int, cost: Cost, rss: int) -> LoadPoint:
        """A point from what a work cost."""
        ordered = sorted(latency * 1e3 for latency in cost.latencies)
        return cls(
            name=name,
            at=at,
            requests=len(ordered),
            per_second=len(ordered) / cost.seconds,
            first=median([first * 1e3 for first in cost.firsts]),
            p50=median(ordered),
            p99=quantile(ordered, 0.99),
            cpu=cost.cpu,
            rss=rss,
        )


@dataclass(slots=True)
class Results:
    """Everything of one run.

    Attributes:
        about: what ran where.
        sizes: single numbers: memory and the database, with their unit in their name.
    """

    about: dict[str, str]
    groups: list[Group] = field(default_factory=list)
    concurrency: list[LoadPoint] = field(default_factory=list)
    depth: list[LoadPoint] = field(default_factory=list)
    sizes: dict[str, float] = field(default_factory=dict)
