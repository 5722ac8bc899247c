"""What belongs to one request alone, handed down to whatever works for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentic_trio.config import Config


@dataclass(frozen=True, slots=True)
class RequestContext:
    """A request's own values: frozen, never kept beyond it, never shown.

    Attributes:
        authorization: the value of the ``Authorization`` header for the upstream, or None.
        owner: whose state it may see; empty for the single user of an open gateway.
        request_id: names the request in logs and answers.
        headers: the client's headers that go upstream with it, authorization not among them.
        route: the way it came in, for operators: a method and a route of HTTP, or ``program``.
    """

    authorization: bytes | None = field(default=None, repr=False)
    owner: str = ""
    request_id: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    route: str = "program"


def bearer(key: str | None) -> bytes | None:
    """The ``Authorization`` header that carries a key."""
    return b"Bearer " + key.encode("ascii") if key else None


def upstream_authorization(config: Config, sent: bytes | None) -> bytes | None:
    """What goes upstream for a client that sent this ``Authorization`` header, or none."""
    if sent is not None and config.client_auth == "forward":
        return sent
    return bearer(config.openai_api_key)
