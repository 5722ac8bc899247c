"""Sessions with MCP servers end with their turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agentic_trio.config import Config
from agentic_trio.tools.mcp_servers import open_tool_servers
from agentic_trio.tools.sessions import Server

if TYPE_CHECKING:
    from agentic_trio.tools.mcp_servers import TurnTools
    from tests.tools.calculator import Calculator

TURN_TIMEOUT = 15.0


async def use_late(tools: TurnTools, how: str) -> None:
    """Use the tools of a turn that was cancelled when its task was about to run for another reason."""
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()
    if how == "list":
        await tools.list("calc")
    else:
        await tools.call("calc", "add", '{"a": 1, "b": 2}')


@pytest.mark.parametrize("how", ["list", "call"])
async def test_no_session_begins_after_its_turn_was_cancelled(calc: Calculator, how: str) -> None:
    config = Config(llm_api_base="http://127.0.0.1:1", turn_timeout=TURN_TIMEOUT)
    began = trio.current_time()
    async with open_tool_servers(config) as servers:
        with trio.CancelScope() as turn:
            async with servers.open([Server("calc", calc.url, {}, named=True)]) as tools:
                turn.cancel()
                await use_late(tools, how)
    assert turn.cancelled_caught
    # A session that nobody ends would last for as long as a turn may.
    assert trio.current_time() - began < TURN_TIMEOUT
