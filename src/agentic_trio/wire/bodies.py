"""JSON bodies of requests: bounded, and decoded no further than someone asks.

A body is decoded to its members, whose JSON text is kept; a list to its elements. Decoding costs many
times what the bytes do, so a body of very many values is refused before any of it is decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.errors import InvalidRequest

if TYPE_CHECKING:
    from agentic_trio.wire.dialect import JsonObject

Members = dict[str, bytes]
"""A JSON object's members -> their JSON text."""

_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode = msgspec.json.Decoder().decode

MAX_MEMBERS = 1000
"""How many members a request may have."""

MAX_VALUES = 250_000
"""How many values the JSON of a body may contain. Each costs many times its bytes in memory and time: ten
megabytes of ``{},`` are three million objects, and take a second to decode."""


def bounded(body: bytes) -> bytes:
    """Return a body without its byte order mark, if its JSON is worth decoding. Raises InvalidRequest."""
    body = without_mark(body)
    if len(body) > MAX_VALUES and _has_too_many_values(body):
        raise InvalidRequest(
            f"The body of your request has too many JSON values: at most {MAX_VALUES} are accepted.",
            code="too_many_values",
        )
    return body


def _has_too_many_values(body: bytes) -> bool:
    """Whether JSON text has more values than may be, counted by the bytes that begin or part them."""
    if _marks(body) <= MAX_VALUES:
        return False
    # Most of them may be in strings (prose, code). What is left without escaped quotes is parted by quotes.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * MAX_VALUES:
        return True
    return _marks(b"".join(bare.split(b'"')[::2])) > MAX_VALUES


def _marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"{") + text.count(b"[")


def without_mark(body: bytes) -> bytes:
    """Return a body without the byte order mark that some clients put before their JSON."""
    return body.removeprefix(b"\xef\xbb\xbf")


def invalid_json() -> InvalidRequest:
    return InvalidRequest(
        "We could not parse the JSON body of your request. The API expects a JSON object in UTF-8, "
        "not nested too deep.",
        code="invalid_json",
    )


def members_of(body: bytes, *, nulls: bool = False) -> Members:
    """Return a body's members as JSON text, without those that are null unless ``nulls`` is set."""
    body = bounded(body)
    try:
        body.decode()
        raw = _decode_members(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid_json() from None
    if len(raw) > MAX_MEMBERS:
        raise InvalidRequest(
            f"Too many parameters: a request has at most {MAX_MEMBERS}, but this one has {len(raw)}.",
            code="object_above_max_properties",
        )
    return {name: text for name, value in raw.items() if (text := bytes(value)) != b"null" or nulls}


def split_list(text: bytes) -> list[msgspec.Raw]:
    """Return the elements of a JSON array as JSON text. Raises InvalidRequest."""
    try:
        return _decode_list(text)
    except (msgspec.DecodeError, RecursionError):
        raise invalid_json() from None


def decode_value(text: bytes | msgspec.Raw) -> Any:
    """Decode a member's JSON text. Raises InvalidRequest for a number that no double can represent."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise invalid_json() from None


def parse_object(body: bytes, *, nulls: bool = False) -> JsonObject:
    """Decode a whole JSON object. An empty body is an empty object.

    Args:
        body: the request's bytes.
        nulls: keep members that are null.

    Raises:
        InvalidRequest: the body is not a JSON object in UTF-8.
    """
    members = members_of(body, nulls=nulls) if body.strip() else {}
    return {name: decode_value(text) for name, text in members.items()}
