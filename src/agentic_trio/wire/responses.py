"""The Response object: the echo of the request, and the state of the turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.wire.dialect import JsonObject, decode_object, encode

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Snapshot:
    """A Response object at one moment.

    Attributes:
        id: the response's id.
        created_at: Unix seconds.
        echo: the members that repeat the request, as JSON text without braces.
        status: ``queued``, ``in_progress``, or a final status.
        reported: what the upstream said at the end and the request didn't: see :func:`reported_members`.
    """

    id: str
    created_at: int
    echo: bytes
    status: str = "in_progress"
    completed_at: int | None = None
    error: JsonObject | None = None
    incomplete_details: JsonObject | None = None
    usage: JsonObject | None = None
    reported: JsonObject = field(default_factory=dict)

    def under_way(self) -> Snapshot:
        """Return the snapshot that clients may see before the ending is stored: it hides the ending."""
        if self.status in ("queued", "in_progress"):
            return self
        return replace(
            self,
            status="in_progress",
            completed_at=None,
            error=None,
            incomplete_details=None,
            usage=None,
            reported={},
        )

    def queued(self) -> Snapshot:
        """Return the snapshot that a background request is answered with, however soon its turn begins."""
        return replace(self.under_way(), status="queued")

    def body(self) -> bytes:
        """Return the JSON text without ``output``, as it is stored."""
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
        return b"%b,%b}" % (own[:-1], _with_reported(self.echo, self.reported))


KEPT = ("tool_usage", "content_filters")
"""The members of an upstream's Response object that are kept, where there are any."""


def reported_members(answer: JsonObject) -> JsonObject:
    """Return what an upstream's final Response object says beside its output, status and usage.

    ``reasoning`` is here if its ``context`` is: the server reports which one it used.
    """
    kept = {name: answer[name] for name in KEPT if isinstance(answer.get(name), dict | list)}
    reasoning = answer.get("reasoning")
    if isinstance(reasoning, dict) and isinstance(reasoning.get("context"), str):
        kept["reasoning"] = {"context": reasoning["context"]}
    return kept


def _with_reported(echo: bytes, reported: JsonObject) -> bytes:
    """Return the echo with what the upstream reported; the members of the echo keep their text."""
    if not reported:
        return echo
    members: dict[str, Any] = _decode_texts(b"{%b}" % echo)
    members |= {name: value for name, value in reported.items() if name != "reasoning"}
    if "reasoning" in reported and "reasoning" in members:
        members["reasoning"] = decode_object(members["reasoning"]) | reported["reasoning"]
    return encode(members)[1:-1]


_decode_texts = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def with_output(body: bytes, output: Iterable[bytes]) -> bytes:
    """Return the whole Response object: the items' own bytes are spliced onto its end as ``output``."""
    return b'%b,"output":[%b]}' % (body[:-1], b",".join(output))


def crashed(body: bytes) -> bytes:
    """Return an announced body as the failed response that a crash left."""
    return _failed(body, "The server stopped before the response was complete.")


def unstored(body: bytes) -> bytes:
    """Return an announced body as the failed response that an ending became that could not be stored."""
    return _failed(body, "The response could not be stored.")


def _failed(body: bytes, message: str) -> bytes:
    members = decode_object(body)
    members["status"] = "failed"
    members["error"] = {"code": "server_error", "message": message}
    return encode(members)
