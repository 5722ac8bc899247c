"""Compaction: a context becomes a summary, which the client carries sealed and the model reads as a message.

A history begins at its last compaction. What stood before stays where it is, and is listed as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.checks import shortened

if TYPE_CHECKING:
    from agentic_trio.wire.dialect import JsonObject
    from agentic_trio.wire.sealing import Seal

COMPACTION = "compaction"
"""The type of the item, and the kind of what it holds sealed: the summary, a text."""

COMPACTION_TRIGGER = "compaction_trigger"
"""The type of the input item that asks for a compaction instead of an answer."""

PREFACE = (
    "Another language model worked on this task before you and wrote this summary of all that had happened. "
    "Build on it, and don't repeat work that it says is done.\n\n"
)
"""What stands before a summary in the message that the model reads."""


def opened_compaction(item: JsonObject, seal: Seal | None) -> str:
    """Return the summary that a compaction holds.

    Raises:
        InvalidRequest: it was not made here, or not for this owner, or its key is gone.
    """
    token = item.get("encrypted_content")
    summary = seal.open(COMPACTION, token) if seal is not None and isinstance(token, str) else None
    if not isinstance(summary, str):
        raise InvalidRequest(
            f"The encrypted content of item '{shortened(str(item.get('id')))}' could not be verified.",
            code="invalid_encrypted_content",
            param="input",
        )
    return summary


def summary_message(summary: str) -> JsonObject:
    """Return the message in which the model reads a summary."""
    content = [{"type": "input_text", "text": PREFACE + summary}]
    return {"type": "message", "role": "user", "content": content}
