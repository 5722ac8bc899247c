"""A progress bar on stderr."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Says what is being done and how far it is: a bar in a terminal, lines elsewhere."""

    WIDTH = 24

    def __init__(self, total: int, out: TextIO = sys.stderr) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._out = out
        self._live = out.isatty()
        self._began = time.monotonic()

    def step(self, label: str) -> None:
        """The next step begins."""
        filled = self.WIDTH * self._done // self._total
        bar = "#" * filled + "." * (self.WIDTH - filled)
        elapsed = time.monotonic() - self._began
        line = f"[{bar}] {self._done}/{self._total} {elapsed:4.0f} s  {label}"
        self._out.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
        self._out.flush()
        self._done = min(self._done + 1, self._total)

    def end(self) -> None:
        """Clear the bar's line."""
        if self._live:
            self._out.write("\r\x1b[K")
            self._out.flush()
