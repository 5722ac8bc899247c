"""When a call to the model server is tried again, and with what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.wire.items import without_oldest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.errors import UpstreamError

RETRIED = frozenset({429, 500, 502, 503, 504})
"""The refusals that another try may get past."""

FIRST_RETRY_DELAY = 0.25
LONGEST_RETRY_DELAY = 30.0


class Retries:
    """The tries of one upstream call, before anything was generated.

    Attributes:
        items: the context to try with: shorter each time that it was too long.
    """

    def __init__(self, items: Sequence[bytes], *, retries: int, truncates: bool) -> None:
        self.items = items
        self._retries = retries
        self._truncates = truncates
        self._delay = FIRST_RETRY_DELAY

    async def after(self, error: UpstreamError) -> None:
        """Make ready for another try, or raise the refusal."""
        if error.code == "context_length_exceeded":
            shorter = without_oldest(self.items) if self._truncates else []
            if not shorter:
                raise error
            self.items = shorter
            return
        if self._retries <= 0 or error.status not in RETRIED:
            raise error
        self._retries -= 1
        asked = error.headers.get("retry-after", "")
        await trio.sleep(min(float(asked) if asked.isdecimal() else self._delay, LONGEST_RETRY_DELAY))
        self._delay = min(2 * self._delay, LONGEST_RETRY_DELAY)
