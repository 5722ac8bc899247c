"""When a call to the model server is tried again, and with what."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from random import random
from time import time
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
"""Seconds, without the jitter."""

JITTER = 0.5
"""How much longer a delay may be, as a share of it. Many turns are refused at once, and must not all come
back at once."""


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
        asked = _seconds(error.headers.get("retry-after", ""))
        delay = min(self._delay if asked is None else asked, LONGEST_RETRY_DELAY)
        await trio.sleep(delay * (1 + JITTER * random()))
        self._delay = min(2 * self._delay, LONGEST_RETRY_DELAY)


def _seconds(retry_after: str) -> float | None:
    """How long a ``Retry-After`` asks to wait: it is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except (ValueError, OverflowError):
        return None
