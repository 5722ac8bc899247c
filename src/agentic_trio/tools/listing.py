"""The lists of tools that MCP servers offer: read within bounds, and kept for a while."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import trio
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from agentic_trio.tools.results import ToolServerError
from agentic_trio.wire.dialect import JsonObject, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcp import Client, types

MAX_LISTS = 256
"""How many lists are kept."""

MAX_LISTED_BYTES = 4 * 1024 * 1024
"""How much all tools of one server may take, whether a request allows them or not."""

MAX_PAGES = 100
"""How many pages of tools one server may have."""

MAX_TOOL_NAME_LENGTH = 256
"""How long the name of a tool may be, in characters."""

MAX_KEPT_BYTES = 16 * 1024 * 1024
"""How much JSON all lists that are kept may take together: clients may name servers of their own."""

MAX_SCHEMA_PARTS = 1000
"""Members and elements of a schema that is checked. Each may take a tenth of a millisecond, in which nobody
else is served."""

MAX_SCHEMA_BYTES = 64 * 1024
"""How large a schema is that is checked. Its patterns are compiled, for example."""

_TYPES = 7
"""How many types JSON Schema knows. A longer list of them is compared in quadratic time."""

ANY_OBJECT: JsonObject = {"type": "object"}


async def read_list(client: Client, label: str) -> list[JsonObject]:
    """Read all tools that a server offers, as an ``mcp_list_tools`` item has them.

    Raises:
        ToolServerError: they are too many, or too large.

    Cancellation: nothing has happened.
    """
    tools: list[JsonObject] = []
    left, cursor = MAX_LISTED_BYTES, None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            listed = _listed(tool)
            left -= len(encode(listed))
            if left < 0:
                raise ToolServerError(label, "The tool list is too large.")
            tools.append(listed)
            # Checking a schema takes about a millisecond.
            await trio.lowlevel.checkpoint()
        cursor = page.next_cursor
        if not cursor:
            return tools
    raise ToolServerError(label, "The tool list has too many pages.")


def _listed(tool: types.Tool) -> JsonObject:
    listed: JsonObject = {"name": tool.name[:MAX_TOOL_NAME_LENGTH]}
    if tool.description is not None:
        listed["description"] = tool.description
    listed["input_schema"] = checked_schema(tool.input_schema)
    read_only = tool.annotations is not None and tool.annotations.read_only_hint is True
    return {**listed, "annotations": {"read_only": read_only}}


def checked_schema(schema: JsonObject) -> JsonObject:
    """Return a schema of arguments; one that allows any object for what is none, or takes long to check.

    Model servers refuse a request for one bad schema, and with it all of the request's tools.
    """
    try:
        if not _is_soon_checked(schema):
            return ANY_OBJECT
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError, ValueError, TypeError):
        return ANY_OBJECT
    # Functions take objects.
    return schema if schema.get("type") == "object" else ANY_OBJECT


def _is_soon_checked(schema: JsonObject) -> bool:
    left, waiting = MAX_SCHEMA_PARTS, [schema]
    while waiting:
        value: Any = waiting.pop()
        if isinstance(value, dict):
            types, parts = value.get("type"), list(value.values())
            if isinstance(types, list) and len(types) > _TYPES:
                return False
        elif isinstance(value, list):
            parts = value
        else:
            continue
        left -= len(parts)
        if left < 0:
            return False
        waiting += parts
    return len(encode(schema)) <= MAX_SCHEMA_BYTES


class ListCache:
    """Lists that were read less than ``age`` seconds ago, by server and credentials."""

    def __init__(self, age: float) -> None:
        self._age = age
        self._lists: OrderedDict[bytes, tuple[float, Sequence[JsonObject], int]] = OrderedDict()
        self._size = 0

    @staticmethod
    def key(url: str, headers: Mapping[str, str]) -> bytes:
        """What two requests must have in common to be shown one list."""
        return hashlib.sha256(json.dumps([url, sorted(headers.items())]).encode()).digest()

    def find(self, key: bytes) -> Sequence[JsonObject] | None:
        """A list that is young enough."""
        until, tools, _ = self._lists.get(key, (-math.inf, (), 0))
        return tools if until > trio.current_time() else None

    def keep(self, key: bytes, tools: Sequence[JsonObject]) -> None:
        """Keep a list; the oldest make room for it."""
        self._drop(key)
        size = sum(len(encode(tool)) for tool in tools)
        self._lists[key] = (trio.current_time() + self._age, tools, size)
        self._size += size
        while len(self._lists) > MAX_LISTS or self._size > MAX_KEPT_BYTES:
            self._drop(next(iter(self._lists)))

    def _drop(self, key: bytes) -> None:
        _, _, size = self._lists.pop(key, (0.0, (), 0))
        self._size -= size
