"""Metrics in Prometheus's form, in a registry of a gateway's own.

Each has its labels bound before it is used, so that a turn costs a handful of additions. A label's values are
ours, never a client's: a metric can't be made to grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.telemetry.figures import Figures
    from agentic_trio.telemetry.lines import Line

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

MAX_REASONS = 100
"""Reasons of refusals that are counted apart. A model server can make up any; the others are ``other``."""

_ENDINGS = ("completed", "incomplete", "failed", "cancelled", "refused")
_OWNERS = ("single", "named")
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_UNITS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one gateway.

    Attributes:
        registry: holds them; another program's metrics may be added.
        commit_units, commit_seconds: of each transaction of the store's writer.
        loop_lag: how late the event loop was.
        lost: turns that a client was told of and that are not on disk. It must stay 0.
        dropped: lines of the log.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        turns = self._counter("turns", "Turns that have ended", "ending", "owner")
        self._turns = {(e, o): turns.labels(e, o) for e in _ENDINGS for o in _OWNERS}
        tokens = self._counter("tokens", "Tokens, as model servers count them", "kind")
        self._input, self._output, self._cached = map(tokens.labels, ("input", "output", "cached"))
        self._retries = self._counter("upstream_retries", "Calls of a model server after a turn's first")
        self._first = self._histogram("first_event_seconds", "From a turn's start to its first event", _SLOW)
        self._gateway = self._histogram("gateway_seconds", "What the gateway itself took of a turn", _FAST)
        self._upstream = self._histogram("upstream_seconds", "How long a model server had a turn", _SLOW)
        self._turn = self._histogram("turn_seconds", "From a turn's beginning to its commit", _SLOW)
        self._requests = self._counter("requests", "Requests that are over", "route", "status")
        self._bound_requests: dict[tuple[str, int], Counter] = {}
        self._refusals = self._counter("refusals", "Requests that were answered with an error", "reason")
        self._bound_refusals: dict[str, Counter] = {}
        self.commit_units = self._histogram("commit_units", "Writes in a transaction of the store", _UNITS)
        self.commit_seconds = self._histogram("commit_seconds", "How long a transaction took", _FAST)
        self.loop_lag = self._histogram("loop_lag_seconds", "How late the event loop was", _FAST)
        self.lost = self._counter("lost", "Turns that clients know of and that are not on disk: must stay 0")
        self._gauges: dict[str, Gauge] = {}

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"agentic_trio_{name}", words, labels, registry=self.registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"agentic_trio_{name}", words, buckets=buckets, registry=self.registry)

    def gauge(self, name: str, words: str, now: Callable[[], float]) -> None:
        """Show a value that is looked up when the metrics are read; the newest of one name is shown."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"agentic_trio_{name}", words, registry=self.registry)
        self._gauges[name].set_function(now)

    def turn(self, figures: Figures) -> None:
        """Count a turn that is over."""
        self._turns[figures.ending, "named" if figures.owner else "single"].inc()
        if figures.first:
            self._first.observe(figures.first - figures.began)
        if figures.called:
            self._upstream.observe(figures.upstream)
            self._gateway.observe(figures.gateway)
            self._turn.observe((figures.stored or figures.ended) - figures.began)
        if figures.input_tokens:
            self._input.inc(figures.input_tokens)
            self._output.inc(figures.output_tokens)
        if figures.cached_tokens:
            self._cached.inc(figures.cached_tokens)
        if figures.retries:
            self._retries.inc(figures.retries)

    def request(self, line: Line) -> None:
        """Count a request that is over."""
        key = line.route, line.status // 100
        counter = self._bound_requests.get(key)
        if counter is None:
            status = f"{key[1]}xx" if key[1] else "none"
            counter = self._bound_requests[key] = self._requests.labels(key[0] or "?", status)
        counter.inc()
        if line.status >= 400:
            self._refusal(line.reason or line.code).inc()

    def _refusal(self, reason: str) -> Counter:
        bound = self._bound_refusals
        if reason not in bound:
            reason = reason if reason and len(bound) < MAX_REASONS else "other"
        if reason not in bound:
            bound[reason] = self._refusals.labels(reason)
        return bound[reason]

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
