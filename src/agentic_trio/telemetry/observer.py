"""What a gateway's operators see of it: each request, each turn, each commit is told here once."""

from __future__ import annotations

import logging
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

import trio

from agentic_trio.telemetry.edges import REPEAT, event
from agentic_trio.telemetry.lines import line_of_turn
from agentic_trio.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.config import Config
    from agentic_trio.telemetry.figures import Figures
    from agentic_trio.telemetry.line_writer import RequestLog
    from agentic_trio.telemetry.lines import Line

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks at how late the event loop is."""

STALL = 0.25
"""Seconds of lateness that the log tells of, once a minute at most: everyone waited that long."""


class Observer:
    """Tells the log and the metrics. The one of a program that embeds a gateway has neither.

    Args:
        log: takes a line of each request, and of each turn that outlives its request.
        metrics: count them.
        probes: whether the log has the requests of monitors.

    Attributes:
        streams: answers that are being streamed now.
    """

    def __init__(
        self, log: RequestLog | None = None, metrics: Metrics | None = None, *, probes: bool = False
    ) -> None:
        self.log = log
        self.metrics = metrics
        self.streams = 0
        self._probes = probes
        self._told_of_stall = 0.0
        self.show("live_streams", "Answers that are being streamed", lambda: self.streams)

    @classmethod
    def of(cls, config: Config, log: RequestLog) -> Observer:
        """The observer that a configuration asks for."""
        metrics = Metrics() if config.metrics else None
        return cls(log if config.log_requests else None, metrics, probes=config.log_probes)

    def show(self, name: str, words: str, now: Callable[[], float]) -> None:
        """Show a value of the gateway, which is looked up when the metrics are read."""
        if self.metrics is not None:
            self.metrics.gauge(name, words, now)

    def request(self, line: Line, *, quiet: bool = False) -> None:
        """A request is over.

        Args:
            line: tells of it.
            quiet: it was a monitor's.
        """
        if self.metrics is not None:
            self.metrics.request(line)
        if self.log is not None and (self._probes or not quiet):
            self.log.add(line)

    def turn(self, figures: Figures) -> None:
        """A turn is over."""
        if self.metrics is not None:
            self.metrics.turn(figures)
        if self.log is not None and figures.own_line:
            self.log.add(line_of_turn(figures))

    def committed(self, units: int, seconds: float) -> None:
        """The store's writer has tried to commit a transaction of so many writes."""
        if self.metrics is not None:
            self.metrics.commit_units.observe(units)
            self.metrics.commit_seconds.observe(seconds)

    def lost(self, id: str) -> None:
        """A turn whose client was told of it will not be on disk."""
        logger.error("turn %s is lost: it can't be recorded", id, extra=event("turn_lost", response_id=id))
        if self.metrics is not None:
            self.metrics.lost.inc()

    async def run(self) -> None:
        """Write what there is to tell, as it comes. Cancellation: what is left is written if it can be."""
        async with trio.open_nursery() as nursery:
            if self.log is not None:
                nursery.start_soon(self.log.run)
            if self.metrics is not None:
                nursery.start_soon(self._watch_loop)
            await trio.sleep_forever()

    async def _watch_loop(self) -> None:
        while True:
            began = perf_counter()
            await trio.sleep(LOOK_EVERY)
            self.late(perf_counter() - began - LOOK_EVERY)

    def late(self, seconds: float) -> None:
        """The event loop was late by so much."""
        if self.metrics is not None:
            self.metrics.loop_lag.observe(max(seconds, 0.0))
        now = monotonic()
        if seconds >= STALL and now >= self._told_of_stall:
            self._told_of_stall = now + REPEAT
            logger.warning(
                "the event loop stood still for %.2f s: all clients waited",
                seconds,
                extra=event("loop_stalled", seconds=round(seconds, 3)),
            )
