"""The MCP servers that requests may use, and what one turn does with them."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import InvalidRequest
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.tools.addresses import AllowedHosts
from agentic_trio.tools.carrier import Carriers, open_carriers
from agentic_trio.tools.listing import ListCache, read_list
from agentic_trio.tools.results import (
    INVALID_PARAMS,
    Outcome,
    ToolServerError,
    failure,
    listing_failure,
    outcome,
    protocol_failure,
    refused,
)
from agentic_trio.tools.searching import query_arguments, search_tool
from agentic_trio.tools.sessions import Server, Session
from agentic_trio.wire.dialect import JsonObject, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from agentic_trio.config import Config
    from agentic_trio.wire.hosting import McpTool


SEARCH = "/search"
"""Stands for the server that searches the web among those of a turn."""


class ToolServers:
    """What the operator has configured.

    Attributes:
        types: the types of tools that are run here.
    """

    def __init__(self, config: Config, carriers: Carriers) -> None:
        self.types = frozenset({"mcp"})
        if config.web_search_server:
            self.types |= {"web_search", "web_search_preview"}
        self._config = config
        self._carriers = carriers
        self._lists = ListCache(config.mcp_list_age)
        self._urls = dict(_split(each) for each in config.mcp_servers)
        self._headers = _headers(config.mcp_tokens)
        self._allowed = AllowedHosts(config.mcp_allow_hosts)

    def resolve(self, tool: McpTool) -> Server:
        """The server that a request means.

        Raises:
            InvalidRequest: it is unknown, or the gateway may not be sent there.
        """
        known = self._urls.get(tool.label)
        if known is not None and tool.url in (None, known):
            return self._named(tool, known)
        if tool.url is None:
            raise InvalidRequest(
                f"Unknown MCP server: '{tool.label}'. This server has none of that name, "
                "and the tool has no 'server_url'.",
                code="unknown_mcp_server",
                param=f"{tool.path}.server_label",
            )
        if not self._allowed.may_be_asked(tool.url):
            raise InvalidRequest(
                f"The operator of this server does not allow the MCP server '{tool.label}' at its address.",
                code="mcp_server_not_allowed",
                param=f"{tool.path}.server_url",
            )
        return Server(tool.label, tool.url, tool.headers, named=False)

    def _named(self, tool: McpTool, url: str) -> Server:
        """A server of the operator's, whose credentials a request can't add to."""
        own = self._headers.get(tool.label, {})
        given = tool.headers.keys() - ({"authorization"} - own.keys())
        if given:
            raise InvalidRequest(
                f"The MCP server '{tool.label}' is this server's own: it takes no headers from a request.",
                code="invalid_value",
                param=f"{tool.path}.headers",
            )
        return Server(tool.label, url, {**tool.headers, **own}, named=True)

    def search_server(self) -> Server:
        """The server that searches the web. Its label is none that a request can choose."""
        label = self._config.web_search_server.partition("/")[0]
        return Server(SEARCH, self._urls[label], self._headers.get(label, {}), named=True)

    @asynccontextmanager
    async def open(self, servers: Iterable[Server]) -> AsyncIterator[TurnTools]:
        """What one turn calls, for as long as the block lasts. Nothing is connected to before it is used.

        Cancellation: each server is told, for ``CLOSE_WITHIN`` at most.
        """
        async with open_inner_nursery() as nursery:
            tools = TurnTools(servers, self._carriers, self._lists, self._config, nursery)
            nursery.start_soon(tools.close_when_cancelled)
            yield tools
            nursery.cancel_scope.cancel()


class TurnTools:
    """The tools of one turn: sessions that no other turn shares."""

    def __init__(
        self,
        servers: Iterable[Server],
        carriers: Carriers,
        lists: ListCache,
        config: Config,
        nursery: trio.Nursery,
    ) -> None:
        self._servers = {server.label: server for server in servers}
        self._carriers = carriers
        self._lists = lists
        self._config = config
        self._nursery = nursery
        self._sessions: dict[str, Session] = {}

    async def close_when_cancelled(self) -> None:
        """Wait for the turn's end, and end the sessions. Cancellation: is what it waits for."""
        try:
            await trio.sleep_forever()
        finally:
            for session in self._sessions.values():
                session.close_soon()

    async def _session(self, label: str) -> Session:
        """The session with a server, begun if there is none. Cancellation: none is begun."""
        # One that begins after the others were told to end would be told by nobody.
        await trio.lowlevel.checkpoint_if_cancelled()
        session = self._sessions.get(label)
        if session is None or session.over:
            server = self._servers[label]
            pool = self._carriers.named if server.named else self._carriers.asked
            session = self._sessions[label] = Session(server, pool, self._config)
            self._nursery.start_soon(session.run)
        return session

    async def list(self, label: str) -> Sequence[JsonObject]:
        """All tools of a server, of which the request may allow some.

        Raises:
            ToolServerError: they can't be listed.

        Cancellation: nothing has happened.
        """
        server = self._servers[label]
        key = self._lists.key(server.url, server.headers)
        found = self._lists.find(key)
        if found is not None:
            return found
        session = await self._session(label)
        try:
            with trio.fail_after(self._config.mcp_list_timeout):
                tools = await read_list(await session.connected(), label)
        except Exception as error:
            raise listing_failure(label, error, session.trouble) from None
        self._lists.keep(key, tools)
        return tools

    def fits(self, tools: Sequence[JsonObject]) -> bool:
        """Whether a model can be shown so many tools."""
        size = sum(len(tool.get("description", "")) + len(encode(tool["input_schema"])) for tool in tools)
        return len(tools) <= self._config.max_mcp_tools and size <= self._config.max_mcp_list_bytes

    def check_size(self, label: str, tools: Sequence[JsonObject]) -> None:
        """Refuse more tools than a model can be shown. Raises ToolServerError."""
        if not self.fits(tools):
            raise ToolServerError(
                label, "It offers too many tools, or too large ones: choose some with 'allowed_tools'."
            )

    async def call(self, label: str, tool: str, arguments: str) -> Outcome:
        """Call a tool, and return what it answered or how it failed. Raises no expected failure.

        Args:
            label: the server's.
            tool: its name there.
            arguments: the JSON text of an object, as the model wrote it.

        Cancellation: the server is told.
        """
        value = _object(arguments)
        if value is None:
            return protocol_failure(INVALID_PARAMS, "The arguments are not a JSON object.")
        return await self._call(label, tool, value)

    async def search(self, query: str) -> Outcome:
        """Search the web, and return what was found or how it failed. Raises no expected failure.

        Cancellation: the server is told.
        """
        try:
            tools = await self.list(SEARCH)
        except ToolServerError as error:
            return refused(error.message)
        tool = search_tool(tools, self._config.web_search_server.partition("/")[2])
        if tool is None:
            return refused("The search server has no such tool.")
        return await self._call(SEARCH, tool["name"], query_arguments(tool, query))

    async def _call(self, label: str, tool: str, arguments: JsonObject) -> Outcome:
        session = await self._session(label)
        try:
            with trio.fail_after(self._config.mcp_call_timeout):
                return outcome(await session.call(tool, arguments))
        except Exception as error:
            return failure(error, session.trouble)


def _object(arguments: str) -> JsonObject | None:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _split(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _headers(tokens: Iterable[str]) -> dict[str, dict[str, str]]:
    """Label -> the headers that a server of the operator's is sent."""
    headers: dict[str, dict[str, str]] = {}
    for name, value in map(_split, tokens):
        label, _, header = name.partition(":")
        sent = {header.lower(): value} if header else {"authorization": f"Bearer {value}"}
        headers.setdefault(label, {}).update(sent)
    return headers


@asynccontextmanager
async def open_tool_servers(config: Config) -> AsyncIterator[ToolServers]:
    """The configured servers, for as long as the block lasts. Cancellation: connections are closed."""
    async with open_carriers(AllowedHosts(config.mcp_allow_hosts)) as carriers:
        yield ToolServers(config, carriers)
