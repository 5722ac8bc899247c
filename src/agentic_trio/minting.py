"""New object ids: the time, then the kernel's randomness."""

from __future__ import annotations

import os
import secrets
from time import time

RANDOM_BYTES = 18
_POOLED = 64
_pool: list[str] = []
# A forked process that went on with its parent's would mint the same ids.
os.register_at_fork(after_in_child=_pool.clear)


def mint_id(prefix: str) -> str:
    """A new id: 48 bits of milliseconds, so that an index of ids grows at its end and nowhere else, and
    144 random bits, so that it can't be guessed and never repeats."""
    try:
        return f"{prefix}_{int(time() * 1000):012x}{_pool.pop()}"
    except IndexError:
        # The kernel is asked for many at once: a call for each id is what an id would cost.
        digits = secrets.token_hex(RANDOM_BYTES * _POOLED)
        size = 2 * RANDOM_BYTES
        _pool.extend(digits[start : start + size] for start in range(0, len(digits), size))
        return mint_id(prefix)
