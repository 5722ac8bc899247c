"""What turns work with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from agentic_trio.telemetry.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.auth.authenticator import Authenticator
    from agentic_trio.config import Config
    from agentic_trio.gateway.admission import Admission
    from agentic_trio.gateway.fair_queue import FairQueue
    from agentic_trio.gateway.locks import Locks
    from agentic_trio.gateway.quotas import Quotas
    from agentic_trio.gateway.unrecorded import Unrecorded
    from agentic_trio.store.contract import Store
    from agentic_trio.tools.mcp_servers import ToolServers
    from agentic_trio.upstream.servers import ModelServers
    from agentic_trio.wire.ids import MintId
    from agentic_trio.wire.sealing import Seal, Sealing


@dataclass(slots=True)
class Rendering:
    """What is known of a model server's renderer.

    Attributes:
        absent_until: Trio's time until which it is taken to have none.
    """

    absent_until: float = -math.inf


@dataclass(frozen=True, slots=True)
class Services:
    """The gateway's own parts, which all turns share.

    Attributes:
        config: what the gateway was opened with.
        store: where turns are kept.
        upstream: the model server, or several.
        admission: the bounds on requests and on their memory.
        locks: one turn at a time in a conversation.
        unrecorded: the endings that the store could not take yet.
        background: how many background turns may run at once.
        mint: makes ids.
        now: Unix time in seconds.
        tools: the MCP servers that requests may use; None if there are none.
        clock: seconds from any beginning, for the figures of turns.
        observer: what operators see.
        quotas: what owners and keys may use; None where that is without bounds.
        authenticator: finds out who a request comes from; None where nobody has to say.
        sealing: seals what clients carry; None where that can't be done.
        rendering: whether the model server renders requests to tokens.
    """

    config: Config
    store: Store
    upstream: ModelServers
    admission: Admission
    locks: Locks
    unrecorded: Unrecorded
    background: FairQueue
    mint: MintId
    now: Callable[[], float]
    clock: Callable[[], float] = perf_counter
    observer: Observer = field(default_factory=Observer)
    authenticator: Authenticator | None = None
    quotas: Quotas | None = None
    tools: ToolServers | None = None
    sealing: Sealing | None = None
    rendering: Rendering = field(default_factory=Rendering)

    def seal_of(self, owner: str) -> Seal | None:
        """What seals and opens an owner's values; None where that can't be done."""
        return None if self.sealing is None else self.sealing.of(owner)

    @property
    def hosted(self) -> frozenset[str]:
        """The types of tools that are run here."""
        return frozenset() if self.tools is None else self.tools.types
