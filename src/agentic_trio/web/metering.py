"""The tokens of an answer that is relayed as it is, for the quotas of its owner."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agentic_trio.gateway.quotas import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from agentic_trio.gateway.quotas import Place

TAIL_BYTES = 8 * 1024
"""How much of an answer's end is searched for its usage."""

_TOTAL = re.compile(rb'"total_tokens"\s*:\s*(\d{1,12})\b')
_PARTS = (
    re.compile(rb'"input_tokens"\s*:\s*(\d{1,12})\b'),
    re.compile(rb'"output_tokens"\s*:\s*(\d{1,12})\b'),
)


class Meter:
    """Counts the tokens of one relayed request.

    A quote inside of a text is escaped, so that no model's words are taken for a member's name.

    Args:
        place: what the request takes of its owner's quotas.
        asked: bytes of the request.
    """

    def __init__(self, place: Place, asked: int) -> None:
        self._place = place
        self._asked = asked
        self._tail = b""
        self._bytes = 0
        self._events = 0

    def feed(self, chunk: bytes) -> None:
        """Take a chunk of the answer."""
        self._bytes += len(chunk)
        self._events += chunk.count(b"data:")
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]

    def finish(self) -> None:
        """Count the tokens: those that the answer names at its end, or else about as many as it seems."""
        self._place.use(self._named() or self._estimated())

    def _named(self) -> int:
        if totals := _TOTAL.findall(self._tail):
            return int(totals[-1])
        found = [pattern.findall(self._tail) for pattern in _PARTS]
        return sum(int(each[-1]) for each in found) if all(found) else 0

    def _estimated(self) -> int:
        # An event of a stream holds a token or so, and much around it.
        answered = self._events or self._bytes // BYTES_PER_TOKEN
        return self._asked // BYTES_PER_TOKEN + answered
