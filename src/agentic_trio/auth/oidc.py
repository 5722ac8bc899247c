"""Tokens of an OpenID Connect issuer: what they must be to let someone in, and as whom."""

from __future__ import annotations

import string
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import jwt

from agentic_trio.auth.key_set import KeySet
from agentic_trio.auth.refusals import bad_credential, cannot_tell, missing_scope
from agentic_trio.config import LOOPBACK
from agentic_trio.context import SCOPES, Identity
from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from agentic_trio.config import Config

MAX_OWNER = 256
"""Characters of an owner's name that is made of a token's claims."""

CHECKED_FOR = 60.0
"""Seconds for which a token that was checked is taken for good, unless it expires before."""

MAX_CHECKED = 10_000
"""How many such tokens are remembered, by their SHA-256."""

SCOPE_PREFIX = "agentic-trio:"
"""May stand before the name of a scope, in tokens that hold those of other services as well."""

_REQUIRED = ["iss", "aud", "exp"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked of a token. Times are in seconds.

    Attributes:
        issuer: its ``iss``.
        audience: one of its ``aud``.
        algorithms: of which its signature is one.
        leeway: how far the issuer's clock may be off.
        owner: the owner's name, with claims in braces.
        scope_claim: the claim that says what the holder may do; without one, everyone may write.
    """

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    leeway: float
    owner: str
    scope_claim: str | None


class Issuer:
    """Lets the holders of an issuer's tokens in.

    Args:
        rules: what is asked of a token.
        keys: check the signatures.
        now: Unix time in seconds.
    """

    def __init__(self, rules: Rules, keys: KeySet, now: Callable[[], float]) -> None:
        self._rules = rules
        self._keys = keys
        self._now = now
        self._checked: dict[bytes, tuple[Identity, float]] = {}

    async def identify(self, token: str) -> Identity:
        """Who the holder of a token is.

        Raises:
            InvalidRequest: the token isn't good here (401), or not good for anything here (403).
            ServiceUnavailable: the issuer's keys have never been reached.
        """
        digest = sha256(token.encode("latin-1")).digest()
        known = self._checked.get(digest)
        if known is not None and self._now() < known[1]:
            return known[0]
        claims = self._claims(token, await self._key(token))
        identity = self._identity(claims)
        self._remember(digest, identity, min(int(claims["exp"]), self._now() + CHECKED_FOR))
        return identity

    async def _key(self, token: str) -> jwt.PyJWK:
        """The key that the token says it is signed with, if what it says may be."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, RecursionError):
            raise bad_credential() from None
        kid = header.get("kid")
        # "crit" names extensions that must be understood; none is here.
        if header.get("alg") not in self._rules.algorithms or "crit" in header:
            raise bad_credential()
        if not isinstance(kid, str | None):
            raise bad_credential()
        key: jwt.PyJWK | None = await self._keys.key(kid)
        if key is None:
            raise bad_credential() if self._keys.known else cannot_tell()
        return key

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        rules = self._rules
        # An RSA key signs in several ways, and its set may name one of them.
        algorithms = [each for each in rules.algorithms if _fits(key, each)]
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=algorithms,
                audience=rules.audience,
                issuer=rules.issuer,
                leeway=rules.leeway,
                options={"require": _REQUIRED},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise bad_credential() from None
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        owner = owner_of(self._rules.owner, claims)
        if owner is None:
            raise bad_credential()
        claim = self._rules.scope_claim
        if claim is None:
            return Identity(owner, "write")
        named = claims.get(claim)
        names = named.split() if isinstance(named, str) else named if isinstance(named, list) else []
        bare = {name.removeprefix(SCOPE_PREFIX) for name in names if isinstance(name, str)}
        for scope in reversed(SCOPES):
            if scope in bare:
                return Identity(owner, scope)
        raise missing_scope("read")

    def _remember(self, digest: bytes, identity: Identity, expires: float) -> None:
        if len(self._checked) >= MAX_CHECKED:
            del self._checked[next(iter(self._checked))]
        self._checked[digest] = identity, expires


def _fits(key: jwt.PyJWK, algorithm: str) -> bool:
    kind = key.key_type or ""
    return algorithm[:2] in {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("Ed",)}[kind]


def owner_of(template: str, claims: Mapping[str, Any]) -> str | None:
    """The owner's name that claims give; None if they give none.

    If there are several claims in it, those are percent-encoded: ``a/b`` and ``c`` must not make the name
    that ``a`` and ``b/c`` make.
    """
    parts = list(string.Formatter().parse(template))
    several = sum(field is not None for _, field, _, _ in parts) > 1
    made = []
    for literal, field, _, _ in parts:
        made.append(literal)
        if field is not None:
            value = claims.get(field)
            if not isinstance(value, str) or not value.strip():
                return None
            made.append(quote(value, safe="") if several else value)
    owner = "".join(made)
    return owner if owner.isprintable() and owner == owner.strip() and len(owner) <= MAX_OWNER else None


def check_url(url: str) -> None:
    """Refuse a URL that others could answer for. Raises ValueError."""
    parts = urlsplit(url)
    local = parts.hostname in LOOPBACK
    if parts.scheme != "https" and not (local and parts.scheme == "http"):
        raise ValueError(f"must be an https:// URL, not {url[:200]!r}")


@asynccontextmanager
async def open_issuer(config: Config, now: Callable[[], float]) -> AsyncIterator[Issuer]:
    """The issuer of a configuration, whose keys are kept fresh for as long as the block lasts.

    It is opened even if the issuer can't be reached now: until it can, tokens are refused with 503.

    Cancellation: while it opens, nothing is left running.
    """
    assert config.oidc_issuer is not None
    assert config.oidc_audience is not None
    rules = Rules(
        config.oidc_issuer,
        config.oidc_audience,
        config.oidc_algorithms,
        config.oidc_leeway,
        config.oidc_owner,
        config.oidc_scope_claim,
    )
    keys = KeySet(rules.issuer, check_url)
    async with open_inner_nursery() as nursery:
        await nursery.start(keys.run)
        try:
            yield Issuer(rules, keys, now)
        finally:
            nursery.cancel_scope.cancel()
