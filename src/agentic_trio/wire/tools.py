"""A request's tools: which are refused, which the model server is sent, and how clients see them again.

A *hosted* tool is one that the server runs by itself: nobody runs it here unless ``hosted`` says so. Model
servers take such tools with 200 and never show them to the model, so that a request which counts on one
would be served wrongly. It is refused, except for the tools that agents offer in every request and can do
without; those are left out of what goes upstream, and echoed.

Some members of a tool are secrets. They go to whoever runs the tool and nowhere else: what is shown is
also what is announced, streamed and stored.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.checks import shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from agentic_trio.wire.dialect import JsonObject

OFFERED_ANYWAY = frozenset({"web_search", "web_search_preview", "tool_search", "image_generation"})
"""Hosted tools that agents offer in every request and can do without (Codex offers all of them)."""

HOSTED = OFFERED_ANYWAY | {
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "file_search",
    "local_shell",
    "mcp",
    "programmatic_tool_calling",
    "shell",
}
"""Types of tools that OpenAI runs, or whose calls no model server's chat format can express."""

_VERSION = re.compile(r"_20\d\d_\d\d_\d\d$")
"""The date that OpenAI appends to the type of a tool's older version."""


_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OTHER = re.compile(r"[^A-Za-z0-9_-]")


def function_name(label: str, tool: str) -> str:
    """Return the name under which the model sees a tool of an MCP server.

    It follows from the two alone, so that an item can be rendered without knowing what else was offered
    when it was made. Different pairs have different names, of 64 characters at most.
    """
    name = f"{label}__{tool}"
    if "__" not in label and not label.endswith("_") and _PLAIN.fullmatch(name):
        return name
    digest = hashlib.sha256(f"{label}\0{tool}".encode()).hexdigest()
    return f"{_OTHER.sub('_', name[:51])}_{digest[:12]}"


def refuse_unhosted(tools: Iterable[JsonObject], tool_choice: Any, hosted: Collection[str] = ()) -> None:
    """Refuse a request that counts on a tool that nobody runs.

    Args:
        tools: the request's tools, whose types were checked.
        tool_choice: the request's, checked; None if it has none.
        hosted: the types of hosted tools that are run for clients.

    Raises:
        InvalidRequest: ``unsupported_parameter``.
    """
    for index, tool in enumerate(tools):
        if (type := _unhosted(tool, hosted)) and type not in OFFERED_ANYWAY:
            raise _unsupported(tool["type"], f"tools[{index}].type")
    if isinstance(tool_choice, dict) and _unhosted(tool_choice, hosted):
        raise _unsupported(tool_choice["type"], "tool_choice.type")


def sent_tools(tools: list[JsonObject]) -> list[JsonObject]:
    """Return the tools that go upstream: all but the hosted ones, which hold secrets.

    A tool that needs no other words is the same object in both lists.
    """
    return [_without_grammar(tool) for tool in tools if not _unhosted(tool, ())]


def _without_grammar(tool: JsonObject) -> JsonObject:
    """Return a custom tool with its grammar in words: vLLM refuses a request with one that it has to obey."""
    format, inner = tool.get("format"), tool.get("tools")
    if tool.get("type") == "namespace" and isinstance(inner, list):
        softened = [_without_grammar(each) if isinstance(each, dict) else each for each in inner]
        changed = any(new is not old for new, old in zip(softened, inner, strict=True))
        return {**tool, "tools": softened} if changed else tool
    if tool.get("type") != "custom" or not isinstance(format, dict) or format.get("type") != "grammar":
        return tool
    rule = f"The input must match this {format.get('syntax', '')} grammar:\n{format.get('definition', '')}"
    description = f"{tool['description']}\n\n{rule}" if tool.get("description") else rule
    return {**tool, "description": description, "format": {"type": "text"}}


def shown_tools(tools: list[Any]) -> list[Any]:
    """Return tools as clients see them again: without secrets, functions with all of their members."""
    return [
        {"description": None, "parameters": None, "strict": None, **tool}
        if isinstance(tool, dict) and tool.get("type") == "function"
        else without_secrets(tool)
        for tool in tools
    ]


def without_secrets(value: Any) -> Any:
    """Return a tool, or any value inside one, without its secrets. Functions are returned as they are."""
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    if not isinstance(value, dict) or value.get("type") in ("function", "custom"):
        return value
    shown = {name: _shown_member(name, member) for name, member in value.items() if name != "authorization"}
    return shown | {"headers": None} if shown.get("type") == "mcp" else shown


def _shown_member(name: str, value: Any) -> Any:
    if name in ("headers", "domain_secrets"):
        return None
    if name == "server_url":
        return _shown_url(value)
    # A schema describes arguments: a property of it that is called "headers" is no secret.
    return value if name in ("parameters", "input_schema", "schema") else without_secrets(value)


MAX_URL_LENGTH = 2048
"""How long an address may be of which the host is shown."""

_HOST = re.compile(r"(https?://)(?:[^/?#\\]*@)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(?=[/?#]|$)")


def _shown_url(value: Any) -> Any:
    """Return a server's address up to its host: user, path and query may hold tokens."""
    if value is None:
        return None
    found = _HOST.match(value) if isinstance(value, str) and len(value) <= MAX_URL_LENGTH else None
    if found is None:
        return "<redacted>"
    scheme, host, port = found.groups(default="")
    return f"{scheme}{host}{port}/<redacted>"


def hosted_type(type: str) -> str:
    """Return the type of a tool without its version; empty for one that isn't hosted."""
    plain = _VERSION.sub("", type)
    return plain if plain in HOSTED else ""


def _unhosted(tool: JsonObject, hosted: Collection[str]) -> str:
    """Return the type of a hosted tool that nobody runs, without its version; empty for other tools."""
    type = hosted_type(tool["type"])
    return type if type not in hosted else ""


def _unsupported(type: str, path: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported parameter: '{path}'. This server does not run tools of type '{shortened(type)}'.",
        code="unsupported_parameter",
        param=path,
    )
