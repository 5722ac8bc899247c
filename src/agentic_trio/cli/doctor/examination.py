"""The parts of an examination, in the order in which they are shown."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentic_trio.cli.doctor.database_health import examine_database
from agentic_trio.cli.doctor.exposure import examine_exposure
from agentic_trio.cli.doctor.findings import Finding, ok, problem, warning
from agentic_trio.cli.doctor.machine import examine_clock, examine_disk, examine_limits, examine_permissions
from agentic_trio.cli.doctor.model_server import examine_model_servers
from agentic_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentic_trio.config import Config


class _Kept(logging.Handler):
    """Keeps the warnings that reading a configuration logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def examine(read: Callable[[], Config], *, infer: bool) -> Iterator[Finding]:
    """Look at everything, one finding after the other. Changes nothing.

    Args:
        read: reads the configuration.
        infer: whether the model is asked for a few tokens.
    """
    kept = _Kept()
    root = logging.getLogger()
    root.addHandler(kept)
    try:
        config = read()
    except ConfigError as error:
        yield problem("settings", f"{error}.", "Mend that setting; nothing else can be looked at before.")
        return
    finally:
        root.removeHandler(kept)
    yield from _examine_settings(config, kept.lines)
    for part in (
        examine_exposure,
        examine_permissions,
        examine_limits,
        examine_database,
        examine_disk,
        examine_clock,
    ):
        yield from part(config)
    yield from examine_model_servers(config, infer=infer)


def _examine_settings(config: Config, warnings: list[str]) -> Iterator[Finding]:
    for line in warnings:
        yield warning("settings", f"{line}.", "Correct the name of the variable, or remove it.")
    used = sorted({source.name for source in map(config.source_of, config.found) if source.name})
    yield ok("settings", f"They can be used; they come from {', '.join(used) or 'the defaults'}.")
