"""Sessions with MCP servers: each is one turn's, and lives in a task of its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
import mcp
import trio
from mcp import types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agentic_trio.tools.carrier import BoundedTransport, Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpcore2

    from agentic_trio.config import Config
    from agentic_trio.wire.dialect import JsonObject

CLOSE_WITHIN = 1.0
"""Seconds in which a session is ended, and in which a server is told that a call was cancelled."""

HEADER_MISMATCH = -32020
"""The server wants its tools listed before this one is called. It has not run it."""

for _name in ("mcp", "httpx2", "httpcore2"):
    # They log addresses, which may hold tokens, and the text of messages.
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Server:
    """An MCP server as one turn uses it.

    Attributes:
        label: its name in the request.
        url: where it is. Secret: it may hold tokens.
        headers: what it is sent with each request. Secret.
        named: whether the operator has named it.
    """

    label: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    named: bool


class Session:
    """A connection to one server.

    ``run`` is its task: the client's scopes and failures stay in there. Calls come from other tasks.

    Attributes:
        trouble: what HTTP said last that was wrong.
        over: whether it has ended, or never began.
    """

    def __init__(self, server: Server, pool: httpcore2.AsyncConnectionPool, config: Config) -> None:
        self.trouble = Trouble()
        self.over = False
        self._server = server
        self._pool = pool
        self._config = config
        self._client: mcp.Client | None = None
        self._error: Exception | None = None
        self._ready = trio.Event()
        self._closing = trio.Event()
        # The turn's cancellation must reach the server as a message, so it doesn't end this task at once.
        self._scope = trio.CancelScope(shield=True, deadline=trio.current_time() + config.turn_timeout)

    def close_soon(self) -> None:
        """End the session, within ``CLOSE_WITHIN``."""
        self._closing.set()
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_WITHIN)

    async def run(self) -> None:
        """Connect, and stay connected until ``close_soon``.

        Cancellation: ignored until ``close_soon``, or for ``turn_timeout`` at most.
        """
        try:
            with self._scope:
                await self._run()
        except Exception as error:
            self._error = error
        finally:
            self.over = True
            self._client = None
            self._ready.set()

    async def _run(self) -> None:
        config = self._config
        transport = BoundedTransport(self._pool, config.max_mcp_answer_bytes, self.trouble)
        timeout = httpx2.Timeout(config.mcp_call_timeout, connect=config.connect_timeout)
        headers = {**self._server.headers, "accept-encoding": "identity"}
        async with (
            httpx2.AsyncClient(
                transport=transport, headers=headers, timeout=timeout, trust_env=False
            ) as http,
            mcp.Client(
                streamable_http_client(
                    self._server.url, http_client=http, max_sse_event_size=config.max_mcp_answer_bytes
                ),
                read_timeout_seconds=config.mcp_call_timeout,
                cache=None,
            ) as client,
        ):
            self._client = client
            self._ready.set()
            await self._closing.wait()

    async def connected(self) -> mcp.Client:
        """The client, once it has connected.

        Raises:
            Exception: it can't connect.

        Cancellation: it goes on connecting.
        """
        await self._ready.wait()
        if self._client is None:
            raise self._error or trio.ClosedResourceError("the session is over")
        return self._client

    async def call(self, tool: str, arguments: JsonObject) -> types.CallToolResult:
        """Call a tool.

        Raises:
            Exception: what ``mcp``, HTTP or the bounds make of a failure.

        Cancellation: the server is told.
        """
        client = await self.connected()
        self.trouble.clear()
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=tool, arguments=arguments))
        try:
            return await client.session.send_request(request, types.CallToolResult)
        except MCPError as error:
            if error.error.code != HEADER_MISMATCH:
                raise
        await client.list_tools()
        return await client.session.send_request(request, types.CallToolResult)
