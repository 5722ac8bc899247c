"""Items with ``encrypted_content``, which clients carry from turn to turn without reading it.

A reasoning item carries its own text, for clients that keep no state with us and would otherwise drop it.
Where such an item comes back it is opened at once: what is stored and sent to model servers holds the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.wire.dialect import decode_object, encode

if TYPE_CHECKING:
    from agentic_trio.wire.dialect import JsonObject
    from agentic_trio.wire.sealing import Seal

REASONING = "reasoning"
"""The kind of what a reasoning item holds: the list of its content parts."""

INCLUDED = "reasoning.encrypted_content"
"""The value of ``include`` that asks for sealed reasoning."""

_MEMBER = b'"encrypted_content":'


def sealed_reasoning(item: JsonObject, seal: Seal) -> JsonObject:
    """Return a reasoning item with its content sealed beside it; any other item as it is.

    Replaces what a model server has encrypted itself: nobody could open that here, when it comes back.
    """
    content = item.get("content")
    if item.get("type") != REASONING or not content:
        return item
    return {**item, "encrypted_content": seal.seal(REASONING, content)}


def with_sealed_reasoning(data: bytes, seal: Seal) -> bytes:
    """Return the JSON text of a stored item, as a client that asks for sealed reasoning sees it."""
    if b'"type":"reasoning"' not in data:
        return data
    item = decode_object(data)
    sealed = sealed_reasoning(item, seal)
    return data if sealed is item else encode(sealed)


def opened_reasoning(data: bytes, seal: Seal | None) -> bytes:
    """Return the JSON text of a client's reasoning item with what it carries opened.

    What is sealed wins over content beside it, which anyone could have written. What can't be opened
    (another gateway's, another owner's, one whose key is gone) is dropped: the item keeps what it shows.
    """
    if _MEMBER not in data:
        return data
    item = decode_object(data)
    token = item.pop("encrypted_content", None)
    content = seal.open(REASONING, token) if seal is not None and isinstance(token, str) else None
    if content is not None:
        item["content"] = content
    return encode(item)
