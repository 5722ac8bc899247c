"""Events that operators wait for: named, and told when something begins and ends, not each time."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

REPEAT = 60.0
"""Seconds between two lines about one overload."""

QUIET = 10.0
"""Seconds without a refusal after which an overload is over."""


def event(name: str, **fields: str | float | None) -> dict[str, Any]:
    """The ``extra`` of a line of the log that an operator may look for, or set an alert on.

    Args:
        name: stays as it is, whatever the line's words become.
        fields: never text that a client or a model wrote, nor a key.
    """
    return {"event": name, "fields": fields}


class Overload:
    """A bound that refuses requests: a line when it begins to, one each minute, and one at the end.

    Args:
        logger: of the module that refuses.
        reason: names the bound in the log and the metrics.
        words: what is full.
        what: what that does to clients.
    """

    def __init__(
        self, logger: logging.Logger, reason: str, words: str, what: str = "requests are refused"
    ) -> None:
        self._logger = logger
        self._what = what
        self._reason = reason
        self._words = words
        self._began = self._logged = self._latest = 0.0
        self.refused = 0

    def refuse(self) -> None:
        """Count a refusal."""
        self._latest = now = monotonic()
        self.refused += 1
        if self.refused == 1:
            self._began = self._logged = now
            self._logger.warning(
                "%s: %s", self._what, self._words, extra=event("overloaded", reason=self._reason)
            )
        elif now >= self._logged + REPEAT:
            self._logged = now
            self._logger.warning(
                "still, %s: %s (%d so far)",
                self._what,
                self._words,
                self.refused,
                extra=event("overloaded", reason=self._reason, refused=self.refused),
            )

    def admit(self) -> None:
        """Note that there was room. Call it only while ``refused`` isn't 0: it is free then."""
        now = monotonic()
        if now >= self._latest + QUIET:
            self._logger.info(
                "no longer so: %s (%d in %.0f s)",
                self._what,
                self.refused,
                self._latest - self._began,
                extra=event("overload_over", reason=self._reason, refused=self.refused),
            )
            self.refused = 0
