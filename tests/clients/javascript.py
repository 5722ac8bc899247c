"""Scenarios that are JavaScript: one Node process for each client."""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .install import JS, node

if TYPE_CHECKING:
    from collections.abc import Iterator

TIME_LIMIT = 30.0
"""Seconds after which Node is stopped: more than ``run.mjs`` gives a scenario."""


class ScenarioError(Exception):
    """A scenario threw.

    Attributes:
        error: name, message, status, code, param and type of what it threw.
    """

    def __init__(self, error: dict[str, Any], stack: str | None) -> None:
        super().__init__(stack or error)
        self.error = error


class Scenarios:
    """The functions that a client's script exports."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, scenario: str, /, **given: Any) -> Any:
        """Run one. Raises ScenarioError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(TIME_LIMIT, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"scenario": scenario, **given}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert line, "Node has ended"
        answer = json.loads(line)
        if "error" in answer:
            raise ScenarioError(answer["error"], answer.get("stack"))
        return answer["result"]


@contextmanager
def run_node(client: str) -> Iterator[Scenarios]:
    """Run a client's script until the block is left."""
    with subprocess.Popen(
        [node(), "run.mjs", client], cwd=JS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Scenarios(process)
        finally:
            process.kill()
