"""Object ids, shaped as OpenAI's: a prefix that says what it is, and 48 hex digits."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

MintId = Callable[[str], str]
"""Makes a new, unguessable id with the given prefix (``"resp"``, ``"msg"``, ...)."""


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


ITEM_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "image_generation_call": "ig",
    "computer_call": "cu",
    "computer_call_output": "cuo",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "shell_call": "sh",
    "shell_call_output": "sho",
    "apply_patch_call": "apc",
    "apply_patch_call_output": "apco",
    "compaction": "cmp",
}
"""Item type -> prefix of the ids that are given to its items."""

CHECKED_PREFIXES = {
    type: ITEM_PREFIXES[type] for type in ("message", "function_call", "reasoning", "custom_tool_call")
}
"""Item type -> what a client's own id for such an item must begin with (observed at OpenAI)."""


def item_prefix(type: str) -> str:
    """The id prefix of an item type; unknown types are plain items."""
    return ITEM_PREFIXES.get(type, "item")
