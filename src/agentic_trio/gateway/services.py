"""What turns work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from agentic_trio.config import Config
    from agentic_trio.gateway.budget import Budget
    from agentic_trio.gateway.locks import Locks
    from agentic_trio.gateway.unrecorded import Unrecorded
    from agentic_trio.store.contract import Store
    from agentic_trio.upstream.client import Upstream
    from agentic_trio.wire.ids import MintId


@dataclass(frozen=True, slots=True)
class Services:
    """What turns work with: the gateway's own parts, shared by all of them."""

    config: Config
    store: Store
    upstream: Upstream
    locks: Locks
    unrecorded: Unrecorded
    budget: Budget
    background: trio.CapacityLimiter
    mint: MintId
    now: Callable[[], float]
