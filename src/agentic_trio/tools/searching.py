"""``web_search``: a tool of an MCP server that the operator has named."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.wire.dialect import JsonObject

QUERY_NAMES = ("query", "q", "search_query", "search", "text", "input")
"""What search tools call what they search for, the likeliest first."""


def search_tool(tools: Sequence[JsonObject], name: str) -> JsonObject | None:
    """Return the tool of this name; without a name, the first that has ``search`` in its own."""
    for tool in tools:
        if tool["name"] == name if name else "search" in tool["name"].lower():
            return tool
    return tools[0] if len(tools) == 1 and not name else None


def query_arguments(tool: JsonObject, query: str) -> JsonObject:
    """Return a search tool's arguments, under the name that its schema has for the query."""
    properties = tool["input_schema"].get("properties")
    names = list(properties) if isinstance(properties, dict) else []
    required = tool["input_schema"].get("required")
    known = [name for name in QUERY_NAMES if name in names]
    needed = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
    return {(known or needed or names or ["query"])[0]: query}
