"""New object ids, from the kernel's randomness."""

from __future__ import annotations

import os
import secrets

ID_BYTES = 24
_POOLED = 64
_pool: list[str] = []
# A forked process that went on with its parent's would mint the same ids.
os.register_at_fork(after_in_child=_pool.clear)


def mint_id(prefix: str) -> str:
    """A new id: 192 random bits, so that it can't be guessed and never repeats."""
    try:
        return f"{prefix}_{_pool.pop()}"
    except IndexError:
        # The kernel is asked for many at once: a call for each id is what an id would cost.
        digits = secrets.token_hex(ID_BYTES * _POOLED)
        size = 2 * ID_BYTES
        _pool.extend(digits[start : start + size] for start in range(0, len(digits), size))
        return mint_id(prefix)
