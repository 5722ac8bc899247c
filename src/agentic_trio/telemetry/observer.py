"""What a gateway's operators see of it: each request, each turn, each commit is told here once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from agentic_trio.telemetry.lines import line_of_turn

if TYPE_CHECKING:
    from agentic_trio.config import Config
    from agentic_trio.telemetry.figures import Figures
    from agentic_trio.telemetry.line_writer import RequestLog
    from agentic_trio.telemetry.lines import Line


class Observer:
    """Tells the log. One without a log sees nothing, as that of a program that embeds a gateway.

    Args:
        log: takes a line of each request, and of each turn that outlives its request.
        probes: whether the log has the requests of monitors.
    """

    def __init__(self, log: RequestLog | None = None, *, probes: bool = False) -> None:
        self.log = log
        self._probes = probes

    @classmethod
    def of(cls, config: Config, log: RequestLog) -> Observer:
        """The observer that a configuration asks for."""
        return cls(log if config.log_requests else None, probes=config.log_probes)

    def request(self, line: Line, *, quiet: bool = False) -> None:
        """A request is over.

        Args:
            line: tells of it.
            quiet: it was a monitor's.
        """
        if self.log is not None and (self._probes or not quiet):
            self.log.add(line)

    async def run(self) -> None:
        """Write what there is to tell, as it comes. Cancellation: what is left is written if it can be."""
        if self.log is None:
            await trio.sleep_forever()
        else:
            await self.log.run()

    def turn(self, figures: Figures) -> None:
        """A turn is over."""
        if self.log is not None and figures.own_line:
            self.log.add(line_of_turn(figures))
