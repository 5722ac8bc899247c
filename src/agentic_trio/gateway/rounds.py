"""A turn whose tools are run here: several answers of the model server, and calls of tools between them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import GatewayError, InvalidRequest, UpstreamError
from agentic_trio.gateway.turn import Turn
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.store.contract import Item
from agentic_trio.wire.approvals import approved_calls
from agentic_trio.wire.bodies import decode_value
from agentic_trio.wire.checks import shortened
from agentic_trio.wire.hosted_events import protocol_error, tool_error
from agentic_trio.wire.hosting import Hosted, Target, covers, first_choice, is_read_only, known_lists
from agentic_trio.wire.tool_rounds import RoundsAccumulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.tools.mcp_servers import ToolServers, TurnTools
    from agentic_trio.tools.results import Outcome
    from agentic_trio.wire.approvals import Approved
    from agentic_trio.wire.bodies import Members
    from agentic_trio.wire.dialect import JsonObject
    from agentic_trio.wire.hosted_events import HostedCall
    from agentic_trio.wire.hosting import Choice, McpTool

logger = logging.getLogger(__name__)

UNKNOWN_TOOL = -32602
"""JSON-RPC's code for wrong parameters, which MCP servers use for a tool that isn't there."""

NO_MORE_CALLS = "No more tools may be called in this response."

SOURCES = "web_search_call.action.sources"
"""The value of ``include`` that asks for the addresses that a search has found."""

CUT = "\n[cut off: the result is too large]"


class ToolTurn(Turn):
    """Asks the model server until it calls nothing that is run here.

    The fourth of a turn's steps becomes these: list the tools that aren't known; make the calls that the
    client approved; then in each round ask, make the calls, and go on with their results. The response ends
    with a round that calls nothing here, or that waits for the client.

    Calls are announced on disk before they are sent. However the turn ends, its record says which calls may
    have run, and none is made twice.
    """

    accumulator = RoundsAccumulator
    _response: RoundsAccumulator
    _tools: TurnTools

    async def _call_upstream(self) -> None:
        config = self._services.config
        self._scope.deadline = trio.current_time() + config.turn_timeout
        self._at_once = trio.CapacityLimiter(config.max_parallel_calls)
        self._result_bytes = config.max_turn_results_bytes
        servers = self._tool_servers()
        resolved = [servers.resolve(tool) for tool in self.call.servers]
        if self.call.searches:
            resolved.append(servers.search_server())
        async with servers.open(resolved) as self._tools:
            hosted = await self._host()
            self._calls_left = hosted.limit
            await self._make_approved(hosted)
            await self._run_rounds(hosted)

    def _tool_servers(self) -> ToolServers:
        servers = self._services.tools
        if servers is None:
            raise GatewayError("The gateway failed.", code="internal_error")
        return servers

    async def _host(self) -> Hosted:
        """Find out what is offered to the model. Lists in the history are used as they are."""
        call = self.call
        known = known_lists(self.recording.context.items())
        lists = {
            server.label: known[server.label]
            for server in call.servers
            if server.label in known and covers(known[server.label], server)
        }
        asked = [server for server in call.servers if server.label not in lists]
        found = await self._list(asked)
        hosted = Hosted(self._taken_names(), call.value("max_tool_calls"))
        for server in call.servers:
            hosted.add_server(server, lists.get(server.label) or found[server.label])
        if call.searches:
            hosted.add_search()
        told = [(server.label, found[server.label]) for server in asked]
        self._response.host(hosted, told, shows_sources=SOURCES in (call.value("include") or ()))
        if self.announced or not call.stream:
            # Otherwise the stream begins with them.
            self._log(self._response.tell_lists())
        return hosted

    def _taken_names(self) -> list[str]:
        return [tool["name"] for tool in self.call.value("tools") or () if isinstance(tool.get("name"), str)]

    async def _list(self, servers: Sequence[McpTool]) -> dict[str, list[JsonObject]]:
        """Ask servers for their tools, all at once. Raises ToolServerError."""
        found: dict[str, list[JsonObject]] = {}
        refusals: list[GatewayError] = []

        async def look(server: McpTool) -> None:
            try:
                found[server.label] = await self._list_one(server)
            except GatewayError as error:
                refusals.append(error)

        async with open_inner_nursery() as nursery:
            for server in servers:
                nursery.start_soon(look, server)
        if refusals:
            raise refusals[0]
        return found

    async def _list_one(self, server: McpTool) -> list[JsonObject]:
        tools = list(await self._tools.list(server.label))
        allowed = [
            tool for tool in tools if server.allowed.matches(tool["name"], read_only=is_read_only(tool))
        ]
        if self._tools.fits(tools):
            return tools
        self._tools.check_size(server.label, allowed)
        return allowed

    async def _make_approved(self, hosted: Hosted) -> None:
        """Make the calls that the client approved, before the model is asked."""
        context = self.recording.context
        approved = approved_calls(context.history.items, [item.data for item in context.input])
        targets = [(each, self._approved_target(each, hosted)) for each in approved]
        if not targets:
            return
        await self._services.store.spend(self.owner, [each.id for each in approved])
        events = self._response.begin() if self.call.stream and not self.announced else []
        for each, target in targets:
            events += self._response.add_approved(target, each.arguments, each.id)
        calls = self._response.calls
        await self._mark()
        if self.call.stream:
            self._tell(events)
        await self._make(calls)

    def _approved_target(self, approved: Approved, hosted: Hosted) -> Target:
        if approved.label not in {server.label for server in self.call.servers}:
            raise InvalidRequest(
                f"The approved call is one of the MCP server '{shortened(approved.label)}', "
                "which isn't among the tools of this request.",
                code="invalid_value",
                param="tools",
            )
        unknown = Target("mcp_call", approved.label, approved.tool, known=False)
        return hosted.target(approved.label, approved.tool) or unknown

    async def _run_rounds(self, hosted: Hosted) -> None:
        """Ask the model, and make its calls, until it calls nothing more."""
        config, response = self._services.config, self._response
        choice = first_choice(self.call.value("tool_choice"), hosted)
        for number in range(1, config.max_tool_rounds + 1):
            last = number == config.max_tool_rounds or self._calls_left == 0
            await self._ask_round(hosted, choice if number == 1 else None, last=last)
            if response.ended:
                return
            await self._settle_round(last=last)
            if response.waits_for_client or number == config.max_tool_rounds:
                response.conclude()
                return
            if self._tokens_left() == 0:
                response.stop("max_output_tokens")
                return
            response.next_round()

    async def _ask_round(self, hosted: Hosted, choice: Choice | None, *, last: bool) -> None:
        made = [item.stored for item in self._response.items if not item.unusable]
        items = [*self.recording.context.items(), *made]
        try:
            await self._generate(items, self._changed(hosted, choice, last=last))
        except UpstreamError as error:
            if error.status != 400 or error.code == "context_length_exceeded" or not hosted.strict:
                raise
            # It may have refused a schema: it can't hold every one to the letter.
            hosted.strict = False
            await self._generate(items, self._changed(hosted, choice, last=last))

    def _changed(self, hosted: Hosted, choice: Choice | None, *, last: bool) -> Members:
        """The members that this round's request has instead of the client's."""
        changed: Members = {
            "tools": hosted.sent(self._client_tools(), choice and choice.chosen),
            "max_tool_calls": b"",
        }
        if last:
            # The response ends in words.
            changed["tool_choice"] = b'"none"'
        elif choice is None:
            # What had to be called has been: otherwise there would be no end.
            changed["tool_choice"] = b'"none"' if self.call.value("tool_choice") == "none" else b""
        elif choice.value is not None:
            changed["tool_choice"] = choice.value
        tokens = self._tokens_left()
        if tokens is not None:
            changed["max_output_tokens"] = b"%d" % tokens
        return changed

    def _client_tools(self) -> list[JsonObject]:
        """The tools that the client runs, as they go upstream."""
        text = self.call.rewritten.get("tools") or self.call.members.get("tools", b"[]")
        tools: list[JsonObject] = decode_value(text)
        return tools

    def _tokens_left(self) -> int | None:
        """How many tokens the request lets the rounds to come generate; None if it doesn't say."""
        limit = self.call.value("max_output_tokens")
        return None if limit is None else max(0, limit - self._response.generated)

    async def _settle_round(self, *, last: bool) -> None:
        """Make a round's calls. Those that may not be made are told so at once."""
        made = []
        for call in self._response.calls:
            refusal = self._refusal(call, last=last)
            if refusal is None:
                made.append(call)
            else:
                self._log(self._response.settle(call, error=refusal))
        if made:
            await self._mark()
            await self._make(made)

    def _refusal(self, call: HostedCall, *, last: bool) -> JsonObject | None:
        """Why a call is not made; None if it is. The calls that are made are counted."""
        if last or self._calls_left == 0:
            return tool_error(NO_MORE_CALLS)
        if not call.target.known:
            return protocol_error(f"Unknown tool: {shortened(call.target.tool)}", UNKNOWN_TOOL)
        if self._calls_left is not None:
            self._calls_left -= 1
        return None

    async def _mark(self) -> None:
        """Announce that calls are about to be sent. If that fails, they aren't."""
        await self.recording.mark(
            self._response,
            [Item(item.id, data, partial=item.unusable) for item, data in self._response.marked()],
        )

    async def _make(self, calls: Sequence[HostedCall]) -> None:
        """Make calls, ``max_parallel_calls`` at once, and tell each one's end as it comes."""
        async with open_inner_nursery() as nursery:
            for call in calls:
                nursery.start_soon(self._make_one, call)

    async def _make_one(self, call: HostedCall) -> None:
        output: str | None = None
        async with self._at_once:
            call.sent = True
            try:
                output, error = await self._outcome(call)
            except Exception:
                # The other calls go on, and the record says of this one that it may have run.
                logger.exception("a call of turn %s failed", self.id)
                error = protocol_error("The gateway failed.")
        if error is not None and error["type"] == "mcp_tool_execution_error":
            error = tool_error(self._bounded("\n".join(part["text"] for part in error["content"])))
        self._log(self._response.settle(call, None if output is None else self._bounded(output), error))

    async def _outcome(self, call: HostedCall) -> Outcome:
        if call.target.kind == "web_search_call":
            return await self._tools.search(call.query)
        return await self._tools.call(call.target.label, call.target.tool, call.arguments)

    def _bounded(self, output: str) -> str:
        """A result within the bounds of one call and of all."""
        bound = min(self._services.config.max_tool_result_bytes, self._result_bytes)
        data = output.encode("utf-8", "replace")
        if len(data) > bound:
            output = data[:bound].decode("utf-8", "ignore") + CUT
        size = min(len(data), bound)
        self._result_bytes -= size
        self._ticket.charge(size)
        return output
