"""The Response object: what the request said, echoed, and what the turn knows so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentic_trio.wire.dialect import JsonObject, decode_object, encode

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Snapshot:
    """A Response object at one moment.

    Attributes:
        id: ours, the one that is announced.
        created_at: Unix seconds.
        echo: the members that repeat the request, as JSON text without braces.
        status: ``queued``, ``in_progress``, or how it ended.
    """

    id: str
    created_at: int
    echo: bytes
    status: str = "in_progress"
    completed_at: int | None = None
    error: JsonObject | None = None
    incomplete_details: JsonObject | None = None
    usage: JsonObject | None = None

    def under_way(self) -> Snapshot:
        """As it is told while the turn runs: how it ended is nobody's business before its commit."""
        if self.status in ("queued", "in_progress"):
            return self
        return replace(
            self, status="in_progress", completed_at=None, error=None, incomplete_details=None, usage=None
        )

    def queued(self) -> Snapshot:
        """As a background request's client gets it first, whether or not it has begun meanwhile."""
        return replace(self.under_way(), status="queued")

    def body(self) -> bytes:
        """The JSON text without ``output``: what the store keeps."""
        own = encode(
            {
                "id": self.id,
                "object": "response",
                "created_at": self.created_at,
                "status": self.status,
                "completed_at": self.completed_at,
                "error": self.error,
                "incomplete_details": self.incomplete_details,
                "usage": self.usage,
            }
        )
        return b"%b,%b}" % (own[:-1], self.echo)


def with_output(body: bytes, output: Iterable[bytes]) -> bytes:
    """The whole Response object: ``output`` spliced onto its end, from the items' own bytes."""
    return b'%b,"output":[%b]}' % (body[:-1], b",".join(output))


def crashed(body: bytes) -> bytes:
    """An announced body, ended by a crash: the response failed, and says why."""
    return _failed(body, "The server stopped before the response was complete.")


def unstored(body: bytes) -> bytes:
    """An announced body whose ending could not be kept: the response failed, and says why."""
    return _failed(body, "The response could not be stored.")


def _failed(body: bytes, message: str) -> bytes:
    members = decode_object(body)
    members["status"] = "failed"
    members["error"] = {"code": "server_error", "message": message}
    return encode(members)
