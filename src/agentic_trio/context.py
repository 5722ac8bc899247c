"""What belongs to one request alone, handed down to whatever works for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

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
    """

    authorization: bytes | None = field(default=None, repr=False)
    owner: str = ""
    request_id: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class CallContext:
    """For whom a program calls the gateway, and how the call ends.

    Attributes:
        owner: whose state it may see; each owner sees only their own. Empty for the single user.
        key: the bearer token for the model server; None for the configured one.
        idempotency_key: a call that is repeated with the same key and request gets the first one's response.
        on_disconnect: what becomes of a stored turn whose block is left: ``cancel`` or ``finish``.
    """

    owner: str = ""
    key: str | None = field(default=None, repr=False)
    idempotency_key: str | None = None
    on_disconnect: Literal["cancel", "finish"] = "cancel"

    def __post_init__(self) -> None:
        if self.on_disconnect not in ("cancel", "finish"):
            raise ValueError(f"on_disconnect is 'cancel' or 'finish', not {self.on_disconnect!r}")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("key has characters that a header can't carry")

    def credentials(self) -> list[bytes]:
        """What says who calls, beside the owner: another's idempotency key is not this one's."""
        return [] if self.key is None else [self.key.encode("ascii")]


def bearer(key: str | None) -> bytes | None:
    """The ``Authorization`` header that carries a key."""
    return b"Bearer " + key.encode("ascii") if key else None


def upstream_authorization(config: Config, sent: bytes | None) -> bytes | None:
    """What goes upstream for a client that sent this ``Authorization`` header, or none."""
    if sent is not None and config.client_auth == "forward":
        return sent
    return bearer(config.openai_api_key)
