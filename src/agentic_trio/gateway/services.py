"""What turns work with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentic_trio.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from agentic_trio.config import Config
    from agentic_trio.gateway.admission import Admission
    from agentic_trio.gateway.locks import Locks
    from agentic_trio.gateway.unrecorded import Unrecorded
    from agentic_trio.store.contract import Store
    from agentic_trio.upstream.client import Upstream
    from agentic_trio.wire.ids import MintId


@dataclass(frozen=True, slots=True)
class Services:
    """The gateway's own parts, which all turns share.

    Attributes:
        config: what the gateway was opened with.
        store: where turns are kept.
        upstream: the model server.
        admission: the bounds on requests and on their memory.
        locks: one turn at a time in a conversation.
        unrecorded: the endings that the store could not take yet.
        background: how many background turns may run at once.
        mint: makes ids.
        now: Unix time in seconds.
        observer: what operators see.
    """

    config: Config
    store: Store
    upstream: Upstream
    admission: Admission
    locks: Locks
    unrecorded: Unrecorded
    background: trio.CapacityLimiter
    mint: MintId
    now: Callable[[], float]
    observer: Observer = field(default_factory=Observer)
