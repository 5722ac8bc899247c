"""The quotas of a configuration, and what was used of them, kept through a restart where it is of a day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.context import Limits
from agentic_trio.gateway.quotas import Quotas

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.auth.authenticator import Authenticator
    from agentic_trio.config import Config
    from agentic_trio.gateway.services import Services

USAGE_INTERVAL = 1.0
"""Seconds after which tokens that were used are on disk."""


def default_limits(config: Config) -> Limits:
    """What an owner may use that has no limits of its own."""
    return Limits(
        config.owner_turns_per_minute or None,
        config.owner_turns_at_once or None,
        config.owner_tokens_per_day or None,
    )


async def open_quotas(
    config: Config, authenticator: Authenticator | None, now: Callable[[], float]
) -> Quotas:
    """The quotas of a configuration, and what was used of them today.

    Raises:
        StoreError: what was used can't be read.
    """
    keyring = None if authenticator is None else authenticator.keyring
    if keyring is None:
        return Quotas(default_limits(config), now)
    quotas = Quotas(default_limits(config), now, keyring.owner_limits)
    for used in await keyring.read_usage():
        quotas.restore(used.owner, used.key, used.tokens)
    return quotas


async def keep_usage(services: Services) -> None:
    """Write every second what owners have used, so that a restart doesn't give it back."""
    while True:
        await trio.sleep(USAGE_INTERVAL)
        await write_usage(services)


async def write_usage(services: Services) -> None:
    """Write what owners have used since the last time. If that fails, it is tried again with the next."""
    quotas, authenticator = services.quotas, services.authenticator
    if quotas is None or authenticator is None or authenticator.keyring is None:
        return
    unwritten = quotas.take_unwritten()
    if unwritten and not await authenticator.keyring.write_usage(unwritten):
        quotas.put_back(unwritten)
