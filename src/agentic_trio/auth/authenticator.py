"""Who a request comes from: found once, from its headers, before anything else of it is read."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from agentic_trio.auth.key_text import PREFIX
from agentic_trio.auth.keyring import open_keyring
from agentic_trio.auth.refusals import bad_credential, no_credential
from agentic_trio.errors import ConfigError
from agentic_trio.store.contract import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from agentic_trio.auth.keyring import Keyring
    from agentic_trio.config import Config
    from agentic_trio.context import Identity

    Headers = Iterable[tuple[bytes, bytes]]

MAX_CREDENTIAL = 16 * 1024
"""Bytes of a credential; a longer one is not looked at."""


class Authenticator:
    """The ways in that a gateway has.

    Args:
        keyring: its keys, if those are one.
    """

    def __init__(self, keyring: Keyring | None) -> None:
        self._keyring = keyring

    async def identify(self, headers: Headers) -> Identity:
        """Who sends a request with these headers, whose names are in lower case.

        A client may send a credential that isn't for us beside the one that is. It may not send two that
        are: which of them counts would be a guess.

        Raises:
            InvalidRequest: the credential is missing or worth nothing (401).
            ServiceUnavailable: that can't be found out now.
        """
        found = set(_credentials(headers))
        if not found:
            raise no_credential()
        ours = [each for each in found if self._claims(each)]
        if len(ours) != 1 or len(ours[0]) > MAX_CREDENTIAL or self._keyring is None:
            raise bad_credential()
        return await self._keyring.identify(ours[0].decode("latin-1"))

    def is_ours(self, authorization: bytes) -> bool:
        """Whether an ``Authorization`` header holds, or may hold, a credential of this gateway's."""
        return self._claims(_token(authorization))

    def _claims(self, credential: bytes) -> bool:
        return credential.startswith(PREFIX.encode())


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
async def open_authenticator(config: Config, now: Callable[[], float]) -> AsyncIterator[Authenticator | None]:
    """What a configuration asks clients for, for as long as the block lasts; None if that is nothing.

    Raises:
        ConfigError: a file that it needs can't be used.

    Cancellation: what was opened is closed first.
    """
    if not config.auth:
        yield None
        return
    async with AsyncExitStack() as stack:
        keyring = None
        if "keys" in config.auth:
            try:
                keyring = await stack.enter_async_context(open_keyring(config.keys_path, now))
            except StoreError as error:
                raise ConfigError(f"the keys in {config.keys_path!r}: {error}") from error
        yield Authenticator(keyring)
