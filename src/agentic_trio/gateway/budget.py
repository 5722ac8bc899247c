"""How many bytes of requests and histories may be in memory at once."""

from __future__ import annotations

from typing import Self

from agentic_trio.gateway.admission import TooManyRequests

UNCOUNTED = 64 * 1024
"""Bytes of each share that cost nothing: their sum is bounded by the number of requests."""


class Budget:
    """What all requests share.

    Attributes:
        left: bytes that may still be held.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit

    def share(self) -> Share:
        """A new share, of nothing yet."""
        return Share(self)


class Share:
    """What one request locks of a budget. It is given back at the end of its block."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0
        self._counted = 0

    def hold(self, size: int) -> None:
        """Hold ``size`` bytes more.

        Raises:
            TooManyRequests: there is no room for them.
        """
        self._size += size
        more = self._size - self._counted - UNCOUNTED
        if more <= 0:
            return
        if more > self._budget.left:
            raise TooManyRequests("Too much is being worked on at once. Please retry in a few seconds.")
        self._budget.left -= more
        self._counted += more

    def give_to(self, other: Share) -> None:
        """Let another share hold what this one locks."""
        other._size += self._size
        other._counted += self._counted
        self._size = self._counted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.left += self._counted
        self._size = self._counted = 0
