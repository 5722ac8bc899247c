"""Conversations and lists: the requests that clients send, and the objects that are returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire import checks
from agentic_trio.wire.bodies import parse_object
from agentic_trio.wire.dialect import decode_object, encode
from agentic_trio.wire.items import CALLS, OUTPUTS, InputItem, parse_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentic_trio.wire.ids import MintId

MAX_ITEMS = 20
"""How many items one request may create a conversation with, or add to it."""


def parse_conversation(body: bytes, mint: MintId, *, strict: bool = False) -> tuple[bytes, list[InputItem]]:
    """Parse ``POST /v1/conversations``: the metadata as JSON text, and the first items.

    Args:
        body: the request's bytes; an empty body is an empty object.
        mint: makes ids for the items that have none.
        strict: refuse members that OpenAI doesn't know, in the request and in its items. Otherwise those
            of the request are ignored.

    Raises:
        InvalidRequest: worded as OpenAI's API words it.
    """
    members = parse_object(body)
    if strict:
        checks.known(members, ("items", "metadata", "store"))
    if "store" in members:
        checks.boolean(members["store"], "store")
        if not members["store"]:
            raise InvalidRequest(
                "A conversation is always stored: 'store' can't be false.",
                code="invalid_value",
                param="store",
            )
    items = _items(members["items"], mint, strict=strict) if "items" in members else []
    return _metadata(members), items


def parse_conversation_update(body: bytes, *, strict: bool = False) -> bytes:
    """Parse ``POST /v1/conversations/{id}``: the new metadata as JSON text. Raises InvalidRequest."""
    members = parse_object(body, nulls=True)
    if "metadata" not in members:
        raise checks.missing("metadata")
    if strict:
        checks.known(members, ("metadata",))
    return _metadata(members)


def parse_new_items(body: bytes, mint: MintId, *, strict: bool = False) -> list[InputItem]:
    """Parse ``POST /v1/conversations/{id}/items``: 1 to 20 items. Raises InvalidRequest."""
    members = parse_object(body)
    if "items" not in members:
        raise checks.missing("items")
    if strict:
        checks.known(members, ("items",))
    items = _items(members["items"], mint, strict=strict)
    if not items:
        raise InvalidRequest(
            "Invalid 'items': empty array. Expected an array with minimum length 1, "
            "but got an empty array instead.",
            code="empty_array",
            param="items",
        )
    return items


def _items(values: Any, mint: MintId, *, strict: bool) -> list[InputItem]:
    checks.array(values, "items", MAX_ITEMS, "an array of input items")
    return parse_items(values, "items", mint, strict=strict)


def _metadata(members: dict[str, Any]) -> bytes:
    metadata = members.get("metadata")
    if metadata is None:
        metadata = {}
    checks.metadata(metadata, "metadata")
    return encode(metadata)


def call_effect(items: Iterable[InputItem]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the ids of the calls that new items open, and of those that their outputs close."""
    opened: set[str] = set()
    closed: set[str] = set()
    for item in items:
        if item.call_id is not None and item.type in CALLS:
            opened.add(item.call_id)
        elif item.call_id is not None and item.type in OUTPUTS:
            opened.discard(item.call_id)
            closed.add(item.call_id)
    return frozenset(opened), frozenset(closed)


def removal_effect(data: bytes) -> tuple[frozenset[str], frozenset[str]]:
    """Return the ids of the calls that removing an item opens again, and of those that it removes."""
    item = decode_object(data)
    calls = frozenset({item["call_id"]}) if isinstance(item.get("call_id"), str) else frozenset()
    if item.get("type") in OUTPUTS:
        return calls, frozenset()
    return frozenset(), calls if item.get("type") in CALLS else frozenset()


def conversation_body(id: str, created_at: int, metadata: bytes) -> bytes:
    """Return a conversation object's JSON text."""
    head = encode({"id": id, "object": "conversation", "created_at": created_at})
    return b'%b,"metadata":%b}' % (head[:-1], metadata)


def deleted_body(id: str, object: str, **counts: int) -> bytes:
    """Return the body that reports a deletion, and how much went with it."""
    return encode({"id": id, "object": object, "deleted": True} | counts)


def list_body(entries: Sequence[tuple[str, bytes]], *, has_more: bool) -> bytes:
    """Return a list object's JSON text, from (id, JSON text) pairs in the order of the list."""
    return b'{"object":"list","data":[%b],"first_id":%b,"last_id":%b,"has_more":%b}' % (
        b",".join(data for _, data in entries),
        encode(entries[0][0] if entries else None),
        encode(entries[-1][0] if entries else None),
        b"true" if has_more else b"false",
    )
