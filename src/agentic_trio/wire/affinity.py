"""What decides which of several model servers a request goes to: its model, and what it has in common with
earlier requests.

A model server keeps the prefixes that it has seen in its cache. Requests with the same key should therefore
reach the same server: the turns of one thread, and the requests of a client that sends its history again.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import msgspec

MAX_KEY_BYTES = 64 * 1024
"""How much of a relayed body's context is looked at for its key."""

MAX_KEY_ITEMS = 8
"""How many items are looked at for the first one of a user."""


class Affinity(NamedTuple):
    """Where a request wants to go.

    Attributes:
        model: the model that it names, or None.
        key: the same for requests that share a prefix; empty if nothing is known.
    """

    model: str | None = None
    key: bytes = b""


NO_AFFINITY = Affinity()


class _Body(msgspec.Struct, gc=False):
    model: msgspec.Raw = msgspec.Raw(b"")
    prompt_cache_key: msgspec.Raw = msgspec.Raw(b"")
    instructions: msgspec.Raw = msgspec.Raw(b"")
    system: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    messages: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Body).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode_first = json.JSONDecoder().raw_decode


def affinity_of(body: bytes) -> Affinity:
    """Return what a relayed request's body says. A body that says nothing, or is no JSON, has none.

    The key is the client's ``prompt_cache_key``; without one, the instructions and the context up to the
    first item of a user, which stay the same while a conversation grows.
    """
    try:
        members = _decode(body)
    except _UNREADABLE:
        return NO_AFFINITY
    model = _text(members.model)
    if _text(members.prompt_cache_key):
        return Affinity(model, bytes(members.prompt_cache_key))
    context = members.input or members.messages or members.prompt
    return Affinity(model, _start(members.instructions or members.system) + _preface(_start(context)))


def _text(value: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(value, type=str) or None if value else None
    except _UNREADABLE:
        return None


def _start(value: msgspec.Raw) -> bytes:
    return bytes(memoryview(value)[:MAX_KEY_BYTES])


def _preface(context: bytes) -> bytes:
    """The items of a JSON list up to the first one of a user; all of what is there if it is no list."""
    text = context.decode("utf-8", "replace")
    if not text.startswith("["):
        return context
    end = 1
    for _ in range(MAX_KEY_ITEMS):
        try:
            item, end = _decode_first(text, _skip(text, end))
        except (ValueError, RecursionError):
            # The list ends here, or the item is larger than what is looked at.
            break
        if isinstance(item, dict) and item.get("role") == "user":
            break
    return context if end == 1 else text[:end].encode()


def _skip(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n", ","):
        position += 1
    return position
