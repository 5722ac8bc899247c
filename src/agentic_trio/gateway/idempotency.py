"""Idempotency keys: the first request with a key runs, and every repeat gets its response."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from agentic_trio.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY_WAIT = 30.0
"""Seconds that a repeated request waits while the first one with its key is being looked up."""


class IdempotencyKey(NamedTuple):
    """What makes a request a repeat of another.

    Attributes:
        digest: of the key and of the credentials that came with it: whoever guesses a key can't read the
            response, and two clients that choose the same key don't meet.
        fingerprint: of the body. A key that comes with another body is refused.
    """

    digest: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, key: str, credentials: Iterable[bytes], body: bytes) -> IdempotencyKey:
        """The key of a request.

        Args:
            key: the value of its ``Idempotency-Key`` header.
            credentials: the values of the headers that say who the client is.
            body: its bytes.
        """
        digest = hashlib.sha256()
        for part in (key.encode(), *credentials):
            digest.update(b"%d:%b" % (len(part), part))
        return cls(digest.digest(), hashlib.sha256(body).digest())

    def check(self, fingerprint: bytes | None) -> None:
        """Refuse a key that was used for a request with another body. Raises InvalidRequest."""
        if fingerprint != self.fingerprint:
            raise InvalidRequest(
                "This Idempotency-Key was used for another request.", code="idempotency_key_reused"
            )


def key_in_use() -> InvalidRequest:
    """The first request with an idempotency key has not got so far that a repeat could follow it."""
    return InvalidRequest(
        "A request with this Idempotency-Key is in progress. Please retry in a few seconds.",
        status=409,
        code="idempotency_key_in_use",
    )
