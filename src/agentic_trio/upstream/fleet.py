"""Several model servers: which of them gets a request. Sans-io.

The rules:

- A server that is known not to have the model gets no request for it, nor does one that is out of service.
  If that leaves none, those with the model are asked all the same: an honest error is better than ours.
- Requests with the same key go to the same server (rendezvous hashing), where the prefix that they share is
  cached. A server that joins or leaves moves only its own share of the keys.
- A server that has more than its share of the requests under way gets none by its hash; the least loaded one
  gets them. So a key that everyone shares doesn't end up on one server.
- A failed call takes a server out for a second, and for twice as long each time that it fails again. A failed
  look takes it out until a look succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.wire.affinity import Affinity

MAX_SHARE = 1.25
"""How much of the mean number of requests under way a server may have and still get those of its keys."""

FREE_SHARE = 2
"""Requests beyond that share which don't count, so that a few requests don't leave their server."""

FIRST_REST = 1.0
LONGEST_REST = 30.0
"""Seconds for which a failed call takes a server out of service."""


@dataclass(slots=True, eq=False)
class ServerState:
    """One of several model servers, as the gateway sees it.

    Attributes:
        number: its place among ``llm_api_base``, from 1 on.
        name: its address, without scheme.
        models: those that it lists; None if it doesn't say.
        looked_at: whether it has ever been asked for them.
        in_flight: the requests that it works on for this gateway.
        requests: how many it has been sent.
        failures: how many of these failed before an answer began.
        healthy: whether the last look found that it works.
        reason: why it is out of service, or was the last time, for a client.
        rested_at: when a failed call stops keeping it out of service, on the fleet's clock.
        input_tokens, cached_tokens: the prompts of its stored responses, and how much of them it had cached.
    """

    number: int
    name: str
    models: frozenset[str] | None = None
    looked_at: bool = False
    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    healthy: bool = True
    reason: str = ""
    rested_at: float = 0.0
    input_tokens: int = 0
    cached_tokens: int = 0
    _rest: float = FIRST_REST

    def in_service(self, now: float) -> bool:
        """Whether it gets requests."""
        return self.healthy and now >= self.rested_at

    def succeeded(self) -> None:
        """It has answered a call."""
        self.healthy = True
        self.rested_at = 0.0
        self._rest = FIRST_REST

    def failed(self, now: float, reason: str) -> None:
        """A call failed before its answer began."""
        self.failures += 1
        self.reason = reason
        if now >= self.rested_at:
            # Calls that fail together are one failure.
            self.rested_at = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)

    def looked_well(self, models: frozenset[str] | None) -> None:
        """It says that it works, and which models it has."""
        self.healthy = True
        self.rested_at = 0.0
        self.models = models
        self.looked_at = True

    def looked_ill(self, reason: str) -> None:
        """It says that it doesn't work, or nothing."""
        self.healthy = False
        self.reason = reason
        self.looked_at = True

    def used(self, usage: dict[str, Any] | None) -> None:
        """Count the tokens of a response's ``usage``."""
        if usage is not None:
            self.input_tokens += usage["input_tokens"]
            self.cached_tokens += usage["input_tokens_details"]["cached_tokens"]


class Fleet:
    """Chooses among servers."""

    def __init__(self, servers: Sequence[ServerState]) -> None:
        self.servers = servers

    def knows(self, model: str) -> bool:
        """Whether asking all servers for their models is of no use for a request of this one."""
        if any(model in (server.models or ()) for server in self.servers):
            return True
        silent = all(server.models is None for server in self.servers)
        return silent and all(server.looked_at for server in self.servers)

    def choose(
        self, affinity: Affinity, now: float, *, instead_of: ServerState | None = None
    ) -> ServerState | None:
        """The server for a request.

        Args:
            affinity: what the request has in common with others.
            now: seconds, on any clock that only runs forward.
            instead_of: has failed this request, which another server may be able to serve.

        Returns:
            None if there is no other server in service.
        """
        able = [server for server in self.servers if server.models is None or affinity.model in server.models]
        if affinity.model is None or not able:
            able = list(self.servers)
        serving = [server for server in able if server.in_service(now) and server is not instead_of]
        if instead_of is None:
            serving = serving or able
        return self._preferred(serving, affinity.key) if serving else None

    def _preferred(self, servers: Sequence[ServerState], key: bytes) -> ServerState:
        digest = blake2b(key).digest()
        ranked = sorted(servers, key=lambda server: _weight(digest, server), reverse=True) if key else servers
        bound = MAX_SHARE * sum(server.in_flight for server in servers) / len(servers) + FREE_SHARE
        if key and ranked[0].in_flight < bound:
            return ranked[0]
        # The first of several that have as few: of those that are equal a key prefers the same one.
        return min(ranked, key=lambda server: (server.in_flight, 0 if key else server.requests))


def _weight(digest: bytes, server: ServerState) -> bytes:
    return blake2b(digest + server.name.encode()).digest()
