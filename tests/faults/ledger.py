"""What the fault suite has done, counted over a whole run and printed at its end."""

from __future__ import annotations

import os
from dataclasses import dataclass

LONG = os.environ.get("FAULTS", "") == "long"
"""Whether the long form runs: ``FAULTS=long pytest tests/faults``."""


@dataclass
class Ledger:
    """
    Attributes:
        faults: disconnects, kills, failures of the model server or of the disk, signals, hostile clients.
        checked: turns whose record was compared with what a client had been told.
        lost: turns that were gone, or told something else. A test fails at the first one.
    """

    faults: int = 0
    checked: int = 0
    lost: int = 0

    def fault(self, count: int = 1) -> None:
        self.faults += count

    def check(self, held: object, why: object) -> None:
        """One turn was compared; ``held`` says whether it is as it was told."""
        self.checked += 1
        if not held:
            self.lost += 1
            raise AssertionError(f"lost: {why}")

    def __str__(self) -> str:
        return f"faults injected: {self.faults}, turns checked: {self.checked}, lost: {self.lost}"


ledger = Ledger()
