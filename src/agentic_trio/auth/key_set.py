"""An issuer's public keys: fetched from where it says they are, kept, and refreshed."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import trio

from agentic_trio.upstream.documents import DOCUMENT_TIMEOUT, DocumentError, fetch_document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

REFRESH_INTERVAL = 600.0
"""Seconds between two refreshes of keys that are known."""

RETRY_INTERVAL = 10.0
"""Seconds between two attempts while there are none, and between two that unknown keys have caused."""

MAX_DOCUMENT_BYTES = 64 * 1024
"""How large the issuer's configuration and its key set may be."""

MAX_KEYS = 100
"""How many keys a set may hold."""

MIN_RSA_BITS = 2048
"""A shorter modulus can be factored."""

MAX_RSA_BITS = 8192
"""A longer one would make each check a cost of its own."""


class _Configuration(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySet:
    """The keys of one issuer, by their ``kid``.

    Args:
        issuer: its URL, as its tokens have it.
        check_url: raises ValueError for a URL that must not be fetched.
    """

    def __init__(self, issuer: str, check_url: Callable[[str], None]) -> None:
        self._issuer = issuer
        self._check_url = check_url
        self._keys: Mapping[str, Any] = {}
        self._fetching = trio.Lock()
        self._failing = False
        self._tried = -math.inf

    @property
    def known(self) -> bool:
        """Whether there are keys, however old."""
        return bool(self._keys)

    async def key(self, kid: str | None) -> Any | None:
        """The key of this name; of a token that names none, the only one there is.

        An unknown name causes a refresh, unless there was one within ``RETRY_INTERVAL``.
        """
        if (found := self._find(kid)) is None and trio.current_time() >= self._tried + RETRY_INTERVAL:
            async with self._fetching:
                # Whoever waited here finds what another has fetched.
                if self._find(kid) is None and trio.current_time() >= self._tried + RETRY_INTERVAL:
                    await self._refresh()
            found = self._find(kid)
        return found

    def _find(self, kid: str | None) -> Any | None:
        if kid is not None:
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the keys fresh. It is started when they have been fetched once, or could not be.

        Cancellation: what is known stays.
        """
        while True:
            async with self._fetching:
                await self._refresh()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(REFRESH_INTERVAL if self._keys and not self._failing else RETRY_INTERVAL)

    async def _refresh(self) -> None:
        """Fetch the keys. If that fails, those that are known stay, and the log says so once."""
        self._tried = trio.current_time()
        try:
            with trio.fail_after(2 * DOCUMENT_TIMEOUT):
                self._keys = await self._fetch()
        except (DocumentError, ValueError, RecursionError, trio.TooSlowError) as error:
            if not self._failing:
                reason = error or type(error).__name__
                logger.error("the keys of the issuer %s can't be fetched: %s", self._issuer, reason)
            self._failing = True
            return
        if self._failing:
            logger.info("the keys of the issuer %s can be fetched again", self._issuer)
        self._failing = False

    async def _fetch(self) -> Mapping[str, Any]:
        where = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        configuration = await self._document(where, _Configuration)
        if configuration.issuer != self._issuer:
            raise ValueError(f"the configuration there is that of {configuration.issuer[:200]!r}")
        self._check_url(configuration.jwks_uri)
        return usable_keys((await self._document(configuration.jwks_uri, _KeySet)).keys)

    async def _document(self, url: str, type: Any) -> Any:
        return msgspec.json.decode(await fetch_document(url, max_bytes=MAX_DOCUMENT_BYTES), type=type)


def usable_keys(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys of a set that can check signatures, by name. Those that are malformed, or of kinds that
    aren't known, are left out.

    Raises:
        ValueError: there are too many, or none.
    """
    if len(found) > MAX_KEYS:
        raise ValueError(f"the key set has more than {MAX_KEYS} keys")
    keys = {}
    for number, each in enumerate(found):
        # A secret that both sides know is no public key: with one, the issuer's readers could sign.
        if each.get("use", "sig") != "sig" or each.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = jwt.PyJWK(each)
        except (jwt.PyJWTError, ValueError, TypeError):
            # One that is malformed is no reason to do without the others.
            continue
        if each["kty"] != "RSA" or MIN_RSA_BITS <= key.key.key_size <= MAX_RSA_BITS:
            keys[str(each.get("kid", f"#{number}"))] = key
    if not keys:
        raise ValueError("the key set has no key that can be used")
    return keys
