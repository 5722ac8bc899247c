"""JSON, the cutting of texts into deltas, and the marks that stand for ids and times."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from .script import Pieces


# Ids and times of a rendered answer are these marks, replaced for each request: rendering is done once.
NONCE = "nonceNONCE12"
CREATED = 1234509876
REPEATED = "0123456789ab"
_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def pieces_of(given: Pieces, deltas: int | None) -> list[str]:
    """Cut a text into deltas: as given, one a word, or exactly ``deltas`` of them (padded)."""
    if not isinstance(given, str):
        return list(given)
    words = re.findall(r"\s*\S+|\s+$", given)
    if deltas is None:
        return words
    if len(words) < deltas:
        return words + [f" word{number}" for number in range(len(words), deltas)]
    kept = words[: max(deltas - 1, 0)]
    return [*kept, "".join(words[len(kept) :])] if deltas else []
