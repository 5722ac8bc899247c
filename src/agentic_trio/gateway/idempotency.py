"""Idempotency keys: the first request with a key runs, and every repeat gets its response."""

from __future__ import annotations

import hashlib

from agentic_trio.errors import InvalidRequest

KEY_WAIT = 30.0
"""Seconds that a repeated request waits while the first one with its key is being looked up."""


def idempotent_id(owner: str, key: str) -> str:
    """The response id that belongs to an idempotency key: one key, one response."""
    digest = hashlib.sha256(f"{len(owner)}:{owner}{key}".encode()).hexdigest()
    return f"resp_{digest[:48]}"


def fingerprint_of(body: bytes) -> bytes:
    """What tells a repeated request from another one."""
    return hashlib.sha256(body).digest()


def key_in_use() -> InvalidRequest:
    """The first request with an idempotency key has not got so far that a repeat could follow it."""
    return InvalidRequest(
        "A request with this Idempotency-Key is in progress. Please retry in a few seconds.",
        status=409,
        code="idempotency_key_in_use",
    )


def check_repeat(known: bytes | None, fingerprint: bytes) -> None:
    """Refuse an idempotency key that another request has used. Raises InvalidRequest."""
    if known != fingerprint:
        raise InvalidRequest(
            "This Idempotency-Key was used for another request.", code="idempotency_key_reused"
        )
