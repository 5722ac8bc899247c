"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: which part it belongs to.
        level: ``ok``; ``warning``, which is not as it should be; ``problem``, with which the gateway doesn't
            serve, or not safely.
        says: what was found, a sentence.
        advice: what to do about it, a sentence; empty if nothing.
    """

    check: str
    level: Literal["ok", "warning", "problem"]
    says: str
    advice: str = ""


def ok(check: str, says: str) -> Finding:
    return Finding(check, "ok", says)


def warning(check: str, says: str, advice: str) -> Finding:
    return Finding(check, "warning", says, advice)


def problem(check: str, says: str, advice: str) -> Finding:
    return Finding(check, "problem", says, advice)
