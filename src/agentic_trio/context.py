"""What belongs to one request alone, handed down to whatever works for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from agentic_trio.config import Config

Scope = Literal["read", "write", "admin"]

SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a caller may do. Each includes those before it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may use; None is no limit.

    Attributes:
        turns_per_minute: requests to the model server that may begin in any minute.
        turns_at_once: requests to the model server that may run at the same time.
        tokens_per_day: tokens, in and out, in one day of UTC.
    """

    turns_per_minute: int | None = None
    turns_at_once: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request comes from. It is found once, before the request's body is read.

    What says who a client is and what goes to the model server for it are two values: no credential that
    was shown to this gateway is in here.

    Attributes:
        owner: whose state the request may see; empty for the single user of an open gateway.
        scope: what it may do.
        key: the id of the key that it came with, which is not the key itself; empty for other ways in.
        upstream_key: goes to the model server instead of the configured key; None if nothing does.
        brings_upstream_key: whether the client's own ``Authorization`` goes to the model server.
        limits: what the key may use, beside what its owner may.
    """

    owner: str = ""
    scope: Scope = "admin"
    key: str = ""
    upstream_key: str | None = field(default=None, repr=False)
    brings_upstream_key: bool = False
    limits: Limits = Limits()

    def may(self, scope: Scope) -> bool:
        """Whether the request may do what needs this scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


ANYONE = Identity(brings_upstream_key=True)
"""Whoever calls a gateway that authenticates nobody."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """A request's own values: frozen, never kept beyond it, never shown.

    Attributes:
        authorization: the value of the ``Authorization`` header for the upstream, or None.
        owner: whose state it may see; empty for the single user of an open gateway.
        request_id: names the request in logs and answers.
        headers: the client's headers that go upstream with it, authorization not among them.
        route: the way it came in, for operators: a method and a route of HTTP, or ``program``.
        identity: who the request comes from; its owner is ``owner``.
    """

    authorization: bytes | None = field(default=None, repr=False)
    owner: str = ""
    request_id: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    route: str = "program"
    identity: Identity = ANYONE


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


def upstream_authorization(config: Config, identity: Identity, sent: bytes | None) -> bytes | None:
    """What goes upstream for a client that sent this ``Authorization`` header, or none.

    Args:
        config: has the key for those who have none, and says whether theirs is taken.
        identity: who the client is.
        sent: what it sent, unless that is what it was identified by.
    """
    if sent is not None and identity.brings_upstream_key and config.client_auth == "forward":
        return sent
    return bearer(identity.upstream_key or config.openai_api_key)
