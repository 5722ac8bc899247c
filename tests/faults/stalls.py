"""Whether anything keeps the event loop from other requests for long."""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_STEP = 0.25
"""Seconds of CPU between two checkpoints of a task, in which no other request is served."""


class StepProbe(trio.abc.Instrument):
    """Notes the longest step of any of the gateway's tasks.

    It counts the CPU time of the loop's own thread: neither a busy machine nor the threads of the store make
    a step longer.

    Attributes:
        longest: seconds.
        where: the name of the task.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.where = ""
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        took = time.thread_time() - self._began
        ours = not task.name.startswith(("tests.", "<test"))
        if ours and took > self.longest:
            self.longest, self.where = took, task.name


@contextmanager
def no_stall() -> Iterator[StepProbe]:
    """Fail if a step of the block takes longer than it may.

    What other tests have left in memory is kept from the collector, which would look through all of it in
    some step of this one.
    """
    probe = StepProbe()
    gc.collect()
    gc.freeze()
    trio.lowlevel.add_instrument(probe)
    try:
        yield probe
    finally:
        trio.lowlevel.remove_instrument(probe)
        gc.unfreeze()
    assert probe.longest < LONGEST_STEP, f"{probe.where} took {probe.longest:.3f} s in one step"
