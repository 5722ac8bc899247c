"""Run programs as a user does."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]

PATIENCE = 90
"""Seconds: the machine may be busy, but no test may hang."""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


async def run_program(command: Sequence[str], **options: object) -> Ran:
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            list(command), capture_stdout=True, capture_stderr=True, check=False, **options
        )
    assert done.stdout is not None
    assert done.stderr is not None
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


async def run_python(*arguments: str, **options: object) -> Ran:
    return await run_program([sys.executable, *arguments], **options)
