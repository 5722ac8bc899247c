"""The tools of a request that are run here: what it may call, what needs an approval, what the model sees.

A request declares MCP servers, and each server lists its tools. To the model every tool is a function, and
:func:`~agentic_trio.wire.tools.function_name` makes its name of the server's label and the tool's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire import checks
from agentic_trio.wire.dialect import JsonObject, decode_object, encode
from agentic_trio.wire.tools import function_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

MAX_LABEL_LENGTH = 64
MAX_SERVERS = 32
"""How many MCP servers one request may declare; each is listed, and may be connected to."""

MAX_TOOL_HEADERS = 64
MAX_TOOL_HEADER_BYTES = 16 * 1024
"""What one server may be sent in headers of the request's own."""

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELD = re.compile(r"[\t\x20-\x7e]*")

OUR_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "last-event-id",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that a request may not set: they frame the message. ``mcp-...`` belongs to the protocol too."""


class ToolFilter(NamedTuple):
    """Some of a server's tools: those that fit in every member that isn't None."""

    names: frozenset[str] | None = None
    read_only: bool | None = None

    def matches(self, tool: str, *, read_only: bool) -> bool:
        """Whether a tool is one of them. ``read_only`` is what its server says of it."""
        named = self.names is None or tool in self.names
        return named and self.read_only in (None, read_only)


EVERY = ToolFilter()
NONE = ToolFilter(frozenset())


@dataclass(frozen=True, slots=True)
class McpTool:
    """An ``mcp`` entry of a request's tools.

    Attributes:
        index: its place in the request, for messages.
        label: names the server in items, and in the names of functions.
        url: where the server is; None if the operator has named it.
        headers: what the request wants the server to be sent, authorization included. Secret.
        allowed: the tools that may be called.
        unasked: the tools that may be called without an approval.
        asked: the tools that never may.
    """

    index: int
    label: str
    url: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    allowed: ToolFilter
    unasked: ToolFilter
    asked: ToolFilter

    def needs_approval(self, tool: str, *, read_only: bool) -> bool:
        """Whether a client must approve each call of a tool."""
        asked = self.asked.matches(tool, read_only=read_only)
        return asked or not self.unasked.matches(tool, read_only=read_only)

    @property
    def path(self) -> str:
        """Where it is in the request."""
        return f"tools[{self.index}]"


def parse_mcp_tools(tools: Sequence[JsonObject]) -> list[McpTool]:
    """Return the MCP servers among a request's tools, whose types were checked. Raises InvalidRequest."""
    found: dict[str, McpTool] = {}
    for index, tool in enumerate(tools):
        if tool["type"] == "mcp":
            server = _mcp_tool(tool, index)
            if server.label in found:
                raise _invalid(f"{server.path}.server_label", f"Duplicate server label: '{server.label}'.")
            found[server.label] = server
    if len(found) > MAX_SERVERS:
        raise _invalid("tools", f"Too many MCP servers: at most {MAX_SERVERS} are accepted.")
    return list(found.values())


def _mcp_tool(tool: JsonObject, index: int) -> McpTool:
    path = f"tools[{index}]"
    given = {name: value for name, value in tool.items() if value is not None}
    for name in ("connector_id", "tunnel_id"):
        if name in given:
            raise InvalidRequest(
                f"Unsupported parameter: '{path}.{name}'. This server only calls MCP servers by their URL.",
                code="unsupported_parameter",
                param=f"{path}.{name}",
            )
    if "server_label" not in given:
        raise checks.missing(f"{path}.server_label")
    label = given["server_label"]
    checks.string(MAX_LABEL_LENGTH)(label, f"{path}.server_label")
    if not _LABEL.fullmatch(label):
        raise _invalid(
            f"{path}.server_label",
            "A server label begins with a letter, and holds only letters, digits, '-' and '_'.",
        )
    if "server_url" in given:
        checks.string()(given["server_url"], f"{path}.server_url")
    return McpTool(
        index=index,
        label=label,
        url=given.get("server_url"),
        headers=_headers(given, path),
        allowed=_allowed(given.get("allowed_tools"), f"{path}.allowed_tools"),
        unasked=_unasked(given.get("require_approval"), f"{path}.require_approval"),
        asked=_excepted(given.get("require_approval"), "always", f"{path}.require_approval"),
    )


def _headers(tool: JsonObject, path: str) -> dict[str, str]:
    given = tool.get("headers", {})
    checks.mapping(given, f"{path}.headers")
    headers: dict[str, str] = {}
    for name, value in given.items():
        lower = name.lower()
        if not _TOKEN.fullmatch(name) or lower in OUR_HEADERS or lower.startswith("mcp-"):
            raise _invalid(f"{path}.headers", "One of the headers has a name that can't be sent.")
        if not isinstance(value, str) or not _FIELD.fullmatch(value):
            raise _invalid(f"{path}.headers", "One of the headers has a value that can't be sent.")
        headers[lower] = value.strip()
    if "authorization" in tool:
        token = tool["authorization"]
        if not isinstance(token, str) or not _FIELD.fullmatch(token):
            raise _invalid(f"{path}.authorization", "It can't be sent in a header.")
        headers["authorization"] = f"Bearer {token.strip()}"
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > MAX_TOOL_HEADERS or size > MAX_TOOL_HEADER_BYTES:
        raise _invalid(f"{path}.headers", "The headers are too large.")
    return headers


def _allowed(value: Any, path: str) -> ToolFilter:
    if isinstance(value, list):
        return ToolFilter(_names(value, path))
    return EVERY if value is None else _filter(value, path)


def _names(value: Any, path: str) -> frozenset[str]:
    checks.array(value, path)
    for index, name in enumerate(value):
        checks.string()(name, f"{path}[{index}]")
    return frozenset(value)


def _filter(value: Any, path: str) -> ToolFilter:
    checks.mapping(value, path)
    names, read_only = value.get("tool_names"), value.get("read_only")
    if read_only is not None:
        checks.boolean(read_only, f"{path}.read_only")
    return ToolFilter(None if names is None else _names(names, f"{path}.tool_names"), read_only)


def _unasked(value: Any, path: str) -> ToolFilter:
    """What needs no approval: ``always`` is the default, as it is at OpenAI."""
    if value is None or isinstance(value, str):
        checks.one_of("always", "never")("always" if value is None else value, path)
        return EVERY if value == "never" else NONE
    return _excepted(value, "never", path)


def _excepted(value: Any, rule: str, path: str) -> ToolFilter:
    """The tools that ``require_approval`` names under a rule. An empty filter names none."""
    if value is None or isinstance(value, str):
        return NONE
    checks.mapping(value, path)
    named = value.get(rule)
    found = NONE if named is None else _filter(named, f"{path}.{rule}")
    return NONE if found == EVERY else found


def _invalid(path: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{path}': {message}", code="invalid_value", param=path)


@dataclass(frozen=True, slots=True)
class Target:
    """What the model means by a function.

    Attributes:
        kind: the type of the item that a call of it makes.
        label: the MCP server's label.
        tool: the tool's name there.
        asks: whether a client must approve each call.
        known: whether the server has such a tool, and the request allows it.
    """

    kind: Literal["mcp_call", "web_search_call"]
    label: str
    tool: str
    asks: bool = False
    known: bool = True


class Hosted:
    """The functions of one response that are run here.

    Attributes:
        functions: as the model server is sent them.
        strict: whether the model server is asked to hold arguments to their schema.
        limit: how many calls the response may make; None if the request doesn't say.
    """

    def __init__(self, taken: Iterable[str], limit: int | None = None) -> None:
        self.functions: list[JsonObject] = []
        self.strict = True
        self.limit = limit
        self._taken = frozenset(taken)
        self._targets: dict[str, Target] = {}
        self._labels: list[str] = []

    def add_server(self, server: McpTool, tools: Iterable[JsonObject]) -> None:
        """Offer what a server lists and the request allows.

        Raises:
            InvalidRequest: one of the request's own functions has the name of one of these.
        """
        self._labels.append(server.label)
        for tool in tools:
            name, read_only = tool["name"], is_read_only(tool)
            if server.allowed.matches(name, read_only=read_only):
                asks = server.needs_approval(name, read_only=read_only)
                target = Target("mcp_call", server.label, name, asks)
                self.add(function_name(server.label, name), target, tool)

    def add_search(self) -> None:
        """Offer a search of the web. Raises InvalidRequest."""
        self.add("web_search", Target("web_search_call", "", "web_search"), SEARCH_FUNCTION)

    def add(self, function: str, target: Target, tool: JsonObject) -> None:
        """Offer one tool as a function. ``tool`` has its description and schema. Raises InvalidRequest."""
        if function in self._taken:
            raise _invalid("tools", f"A function has the name of a tool that is run here: '{function}'.")
        if function in self._targets:
            return
        self._targets[function] = target
        self.functions.append(
            {
                "type": "function",
                "name": function,
                "description": tool.get("description"),
                "parameters": tool["input_schema"],
            }
        )

    def find(self, function: object) -> Target | None:
        """What a function that the model called is here; None if it is the client's.

        A model makes names up, too. One that begins like those of a server is that server's, and not known.
        """
        if not isinstance(function, str) or function in self._taken:
            return None
        if function in self._targets:
            return self._targets[function]
        for label in self._labels:
            tool = function.removeprefix(f"{label}__")
            if tool and tool != function:
                return Target("mcp_call", label, tool, known=False)
        return None

    def target(self, label: str, tool: str) -> Target | None:
        """A tool of a server that may be called, or None."""
        return self._targets.get(function_name(label, tool))

    def sent(self, client_tools: Sequence[JsonObject], chosen: Callable[[Target], bool] | None) -> bytes:
        """Return ``tools`` as they go upstream.

        Args:
            client_tools: those that the client runs.
            chosen: which of ours, alone; None for all, beside the client's.
        """
        functions = self.functions
        if chosen is not None:
            client_tools = ()
            functions = [each for each in functions if chosen(self._targets[each["name"]])]
        return encode([*client_tools, *({**each, "strict": self.strict} for each in functions)])

    def names(self, label: str) -> list[str]:
        """The functions of one server."""
        return [name for name, target in self._targets.items() if target.label == label]


SEARCH_FUNCTION: JsonObject = {
    "name": "web_search",
    "description": "Search the web. Returns texts with their addresses.",
    "input_schema": {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What to search for."}},
        "required": ["query"],
        "additionalProperties": False,
    },
}


def is_read_only(tool: JsonObject) -> bool:
    """Whether a listed tool's server says that it changes nothing."""
    annotations = tool.get("annotations")
    return isinstance(annotations, dict) and annotations.get("read_only") is True


class Choice(NamedTuple):
    """``tool_choice`` in the first round: the value that goes upstream, and what is offered alone."""

    value: bytes | None
    chosen: Callable[[Target], bool] | None = None


def first_choice(tool_choice: Any, hosted: Hosted) -> Choice:
    """Return what a request's ``tool_choice`` means where tools are functions.

    Raises:
        InvalidRequest: it names a server or a tool that isn't there.
    """
    if not isinstance(tool_choice, dict):
        return Choice(None if tool_choice is None else encode(tool_choice))
    if tool_choice["type"] == "mcp":
        return _server_choice(tool_choice, hosted)
    if tool_choice["type"].startswith("web_search"):
        return Choice(b'"required"', lambda target: target.kind == "web_search_call")
    if tool_choice["type"] == "allowed_tools" and isinstance(tool_choice.get("tools"), list):
        tools = [each for tool in tool_choice["tools"] for each in _allowed_functions(tool, hosted)]
        return Choice(encode({**tool_choice, "tools": tools}))
    return Choice(encode(tool_choice))


def _server_choice(choice: JsonObject, hosted: Hosted) -> Choice:
    label, name = choice.get("server_label"), choice.get("name")
    if not isinstance(label, str):
        raise checks.missing("tool_choice.server_label")
    if name is None:
        if not hosted.names(label):
            raise _invalid("tool_choice", "The server that it names has no tools in this request.")
        return Choice(b'"required"', lambda target: (target.kind, target.label) == ("mcp_call", label))
    if not isinstance(name, str) or hosted.target(label, name) is None:
        raise _invalid("tool_choice", "The tool that it names isn't one of this request's.")
    return Choice(encode({"type": "function", "name": function_name(label, name)}))


def _allowed_functions(tool: Any, hosted: Hosted) -> Iterator[Any]:
    if not isinstance(tool, dict) or tool.get("type") != "mcp":
        yield tool
        return
    label, name = tool.get("server_label"), tool.get("name")
    names = hosted.names(str(label)) if name is None else [function_name(str(label), str(name))]
    yield from ({"type": "function", "name": each} for each in names)


def known_lists(items: Iterable[bytes]) -> dict[str, list[JsonObject]]:
    """Return the tools that a history's newest ``mcp_list_tools`` item of each server lists.

    Args:
        items: the JSON texts of items, oldest first. Clients may have written them.
    """
    lists: dict[str, list[JsonObject]] = {}
    for item in items_of_type(items, "mcp_list_tools"):
        tools, label = item.get("tools"), item.get("server_label")
        if isinstance(label, str) and isinstance(tools, list) and all(map(_is_tool, tools)):
            lists[label] = tools
    return lists


def _is_tool(tool: Any) -> bool:
    return (
        isinstance(tool, dict)
        and isinstance(tool.get("name"), str)
        and isinstance(tool.get("input_schema"), dict)
        and isinstance(tool.get("description"), str | None)
    )


def items_of_type(items: Iterable[bytes], type: str) -> Iterator[JsonObject]:
    """Decode the items of one type among many."""
    text = encode(type)
    for data in items:
        # The type comes second, after an id of bounded length.
        if text in data[:1024]:
            item = decode_object(data)
            if item.get("type") == type:
                yield item


def covers(listed: Sequence[JsonObject], server: McpTool) -> bool:
    """Whether a list that was told before has every tool that a request allows by name."""
    names = server.allowed.names
    return names is None or names <= {tool["name"] for tool in listed}
