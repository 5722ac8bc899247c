"""The log of a store that fails: a line at the beginning, one each minute, and one at the end."""

from __future__ import annotations

import logging

import trio

from agentic_trio.store.failures import is_database_failure
from agentic_trio.store.files import FilesGone
from agentic_trio.telemetry.edges import event

logger = logging.getLogger(__name__)

REPEAT = 60.0
"""Seconds between two lines about one outage."""

QUIET = 10.0
"""Seconds without a failure after which a success ends an outage. On a disk that is nearly full, small
writes succeed between large ones that fail."""


class Outage:
    """One kind of work that may fail, and fail again, for one reason.

    Attributes:
        failing: whether an outage lasts.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._logged = self._latest = 0.0
        self._failures = 0

    @property
    def failing(self) -> bool:
        return self._failures > 0

    def failed(self, error: Exception) -> None:
        """Count a failure. One that is not the database's own is a bug, or damage, and logged by itself."""
        if not isinstance(error, FilesGone) and not is_database_failure(error.__cause__):
            logger.error("the store failed", exc_info=error)
            return
        self._latest = now = trio.current_time()
        self._failures += 1
        told = {"cannot": self._what, "reason": str(error)}
        if self._failures == 1:
            self._began = self._logged = now
            logger.error("the store can't %s: %s", self._what, error, extra=event("store_failing", **told))
        elif now >= self._logged + REPEAT:
            self._logged = now
            logger.error(
                "the store still can't %s: %s (%d failures)",
                self._what,
                error,
                self._failures,
                extra=event("store_failing", failures=self._failures, **told),
            )

    def worked(self) -> None:
        """Note a success."""
        if self._failures and trio.current_time() >= self._latest + QUIET:
            self.over()

    def over(self) -> None:
        """End the outage, if there is one: what failed has been seen to work."""
        if self._failures:
            seconds = trio.current_time() - self._began
            logger.info(
                "the store can %s again: %d failures in %.0f s",
                self._what,
                self._failures,
                seconds,
                extra=event("store_back", failures=self._failures, cannot=self._what),
            )
            self._failures = 0
