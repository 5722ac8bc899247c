"""Who a request comes from: found once, from its headers, before anything else of it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from agentic_trio.auth.key_text import PREFIX
from agentic_trio.auth.keyring import open_keyring
from agentic_trio.auth.refusals import bad_credential, cannot_tell, no_credential
from agentic_trio.config import IN_MEMORY
from agentic_trio.context import Identity
from agentic_trio.errors import ConfigError
from agentic_trio.store.contract import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentic_trio.auth.keyring import Keyring
    from agentic_trio.auth.oidc import Issuer
    from agentic_trio.config import Config

Headers = Iterable[tuple[bytes, bytes]]

Authenticate = Callable[[Mapping[str, str]], Awaitable[Identity | str | None]]
"""A program's own way in. It is given a request's headers, names in lower case, of a repeated one the first,
and returns who sends it: an :class:`Identity`, or only an owner's name; None, or an empty name, lets nobody
in (401). It may raise :class:`GatewayError` with another refusal."""

MAX_CREDENTIAL = 16 * 1024
"""Bytes of a credential; a longer one is not looked at."""

AUTHENTICATE_TIMEOUT = 10.0
"""Seconds that a program's own way in may take."""


class Authenticator:
    """The ways in that a gateway has.

    Args:
        keyring: the file of keys, and of what owners may use.
        keys: whether keys are one of the ways.
        issuer: whose tokens are another, if there is one.
        authenticate: the program's own, which is asked about whatever is no key and no token.
    """

    def __init__(
        self,
        keyring: Keyring | None,
        issuer: Issuer | None = None,
        authenticate: Authenticate | None = None,
        *,
        keys: bool = True,
    ) -> None:
        self.keyring = keyring
        self._takes_keys = keys and keyring is not None
        self._issuer = issuer
        self._authenticate = authenticate

    async def identify(self, headers: Headers) -> Identity:
        """Who sends a request with these headers, whose names are in lower case.

        A client may send a credential that isn't for us beside the one that is. It may not send two that
        are: which of them counts would be a guess.

        Raises:
            InvalidRequest: the credential is missing or worth nothing (401).
            ServiceUnavailable: that can't be found out now.
        """
        headers = list(headers)
        found = set(_credentials(headers))
        ours = [each for each in found if self._is_key(each) or self._is_token(each)]
        if not ours and self._authenticate is not None:
            return await self._ask_program(self._authenticate, headers)
        if not found:
            raise no_credential()
        if len(ours) != 1 or len(ours[0]) > MAX_CREDENTIAL:
            raise bad_credential()
        text = ours[0].decode("latin-1")
        if self.keyring is not None and self._is_key(ours[0]):
            return await self.keyring.identify(text)
        assert self._issuer is not None
        return await self._issuer.identify(text)

    async def _ask_program(self, authenticate: Authenticate, headers: Headers) -> Identity:
        values: dict[str, str] = {}
        for name, value in headers:
            values.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        with trio.move_on_after(AUTHENTICATE_TIMEOUT) as asking:
            found = await authenticate(MappingProxyType(values))
        if asking.cancelled_caught:
            raise cannot_tell()
        if isinstance(found, Identity):
            return found
        # No name is nobody's: the empty owner's state is that of a gateway which asks for no credentials.
        if found is None or found == "":
            raise bad_credential() if set(_credentials(headers)) else no_credential()
        if not isinstance(found, str):
            raise TypeError(f"authenticate returned a {type(found).__name__}: neither Identity, str nor None")
        return Identity(found, "write")

    def is_ours(self, authorization: bytes) -> bool:
        """Whether an ``Authorization`` header holds, or may hold, a credential for this gateway."""
        if self._authenticate is not None:
            return True
        token = _token(authorization)
        # Another scheme than Bearer may hold ours, too.
        return PREFIX.encode() in authorization or self._is_token(token)

    def _is_key(self, credential: bytes) -> bool:
        return self._takes_keys and credential.startswith(PREFIX.encode())

    def _is_token(self, credential: bytes) -> bool:
        return self._issuer is not None and credential.count(b".") == 2


def _credentials(headers: Headers) -> Iterable[bytes]:
    for name, value in headers:
        if name == b"authorization":
            yield _token(value)
        elif name == b"x-api-key":
            yield value.strip()


def _token(authorization: bytes) -> bytes:
    """What follows ``Bearer``, or all of a header that has another scheme."""
    scheme, _, token = authorization.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else authorization


@asynccontextmanager
async def open_authenticator(
    config: Config, now: Callable[[], float], authenticate: Authenticate | None = None
) -> AsyncIterator[Authenticator | None]:
    """What a configuration and a program ask clients for, for as long as the block lasts; None if nothing.

    Raises:
        ConfigError: a file or a library that it needs can't be used.

    Cancellation: what was opened is closed first.
    """
    if not config.auth and authenticate is None:
        yield None
        return
    async with AsyncExitStack() as stack:
        keyring = issuer = None
        # It holds what owners may use and have used, too.
        if "keys" in config.auth or (config.auth and has_keys_path(config)):
            try:
                keyring = await stack.enter_async_context(open_keyring(config.keys_path, now))
            except StoreError as error:
                raise ConfigError(f"the keys in {config.keys_path!r}: {error}") from error
        if "oidc" in config.auth:
            issuer = await _open_issuer(config, now, stack)
        yield Authenticator(keyring, issuer, authenticate, keys="keys" in config.auth)


def has_keys_path(config: Config) -> bool:
    """Whether there is a place for the file of keys."""
    return bool(config.keys_file) or config.database_path != IN_MEMORY


async def _open_issuer(config: Config, now: Callable[[], float], stack: AsyncExitStack) -> Issuer:
    try:
        from agentic_trio.auth.oidc import open_issuer
    except ImportError as error:
        raise ConfigError(f"auth has oidc, which needs the extra 'oidc' ({error.name} is missing)") from None
    return await stack.enter_async_context(open_issuer(config, now))
