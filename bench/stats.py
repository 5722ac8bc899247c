"""Medians and what surrounds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Summary:
    """A sample in five numbers, in the sample's unit.

    ``low`` and ``high`` enclose the population's median with at least 95 % confidence; they are members of
    the sample (order statistics), so nothing is assumed of the distribution.
    """

    count: int
    median: float
    low: float
    high: float
    p99: float


def summarize(values: Sequence[float]) -> Summary:
    """Sum up a sample of at least one value."""
    ordered = sorted(values)
    low, high = median_ranks(len(ordered))
    return Summary(len(ordered), median(ordered), ordered[low], ordered[high], quantile(ordered, 0.99))


def median(values: Sequence[float]) -> float:
    """The middle, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def quantile(ordered: Sequence[float], q: float) -> float:
    """The smallest member with at least a share ``q`` of the sample at or below it."""
    return ordered[max(math.ceil(q * len(ordered)) - 1, 0)]


def median_ranks(count: int, confidence: float = 0.95) -> tuple[int, int]:
    """The 0-based ranks of the narrowest symmetric interval that covers the median with ``confidence``.

    How many members lie below the median is binomial(count, 1/2). A sample that is too small for the
    confidence gives its whole range.
    """
    tail, rank = 0.0, 0
    while rank < (count - 1) // 2:
        tail += math.comb(count, rank) / 2**count
        if tail > (1 - confidence) / 2:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return rank, count - 1 - rank
