"""Object ids, shaped as OpenAI's: a prefix that says what it is, and 48 hex digits."""

from __future__ import annotations

from collections.abc import Callable

MintId = Callable[[str], str]
"""Makes a new, unguessable id with the given prefix (``"resp"``, ``"msg"``, ...)."""


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
"""Item type -> prefix of the ids that the gateway makes for its items."""

CHECKED_PREFIXES = {
    type: ITEM_PREFIXES[type] for type in ("message", "function_call", "reasoning", "custom_tool_call")
}
"""Item type -> the prefix that a client's own id must have (observed at OpenAI)."""

_PREFIXES = frozenset(f"{prefix}_" for prefix in (*ITEM_PREFIXES.values(), "item", "resp", "conv"))


def names_another_type(id: str) -> bool:
    """Whether an id with the wrong prefix is of an object of another type, or none at all.

    Model servers name items as they like (a UUID, the call's id), and clients send such items back: an
    id that follows no scheme of ours is only a name.
    """
    return not id or id[: id.find("_") + 1] in _PREFIXES


def item_prefix(type: str) -> str:
    """Return the id prefix of an item type; unknown types get ``item``."""
    return ITEM_PREFIXES.get(type, "item")
