"""What calls of tools come to: a text or an error, in OpenAI's three types of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from agentic_trio.errors import GatewayError

if TYPE_CHECKING:
    from mcp import types

    from agentic_trio.tools.carrier import Trouble
    from agentic_trio.wire.dialect import JsonObject

MAX_ERROR_LENGTH = 1000
"""How many characters of a server's own message are repeated."""

INVALID_PARAMS = -32602


class ToolServerError(GatewayError):
    """The tools of an MCP server can't be listed. Worded as OpenAI's API words it."""

    status = 424
    type = "external_connector_error"
    code: str | None = "http_error"

    def __init__(self, label: str, why: str) -> None:
        super().__init__(f"Error retrieving tool list from MCP server: '{label}'. {why}", param="tools")


class Outcome(NamedTuple):
    """How a call ended.

    Attributes:
        output: what the tool answered; None if the call failed.
        error: OpenAI's error object; None if it didn't.
    """

    output: str | None = None
    error: JsonObject | None = None


def outcome(result: types.CallToolResult) -> Outcome:
    """What a tool answered."""
    texts = [part.text if part.type == "text" else f"[{part.type}]" for part in result.content]
    text = "\n".join(texts)
    if result.is_error:
        content = [{"type": "text", "text": text}]
        return Outcome(error={"type": "mcp_tool_execution_error", "content": content})
    return Outcome(output=text)


def refused(message: str) -> Outcome:
    """A call that was not made, or whose result is withheld, for a reason of ours."""
    content = [{"type": "text", "text": message}]
    return Outcome(error={"type": "mcp_tool_execution_error", "content": content})


def protocol_failure(code: int, message: str) -> Outcome:
    """A call that the protocol refuses."""
    error = {"type": "mcp_protocol_error", "code": code, "message": message[:MAX_ERROR_LENGTH]}
    return Outcome(error=error)


def http_failure(code: int, message: str) -> Outcome:
    """A call that HTTP has failed."""
    return Outcome(error={"type": "http_error", "code": code, "message": message[:MAX_ERROR_LENGTH]})


def failure(error: Exception, trouble: Trouble) -> Outcome:
    """What an exception of a call means, in words that show nothing of ours."""
    error = innermost(error)
    if isinstance(error, trio.TooSlowError | TimeoutError):
        return http_failure(504, "The tool did not answer in time.")
    if trouble.status is not None and (trouble.ours or _hides_status(error)):
        return http_failure(trouble.status, trouble.reason or "The server refused the call.")
    if isinstance(error, MCPError):
        return protocol_failure(error.error.code, error.error.message)
    return http_failure(502, _words(error))


def listing_failure(label: str, error: Exception, trouble: Trouble) -> ToolServerError:
    """The same for a list of tools."""
    error = innermost(error)
    if isinstance(error, ToolServerError):
        return error
    if isinstance(error, trio.TooSlowError | TimeoutError):
        return ToolServerError(label, "The server did not answer in time.")
    if trouble.ours:
        return ToolServerError(label, trouble.reason)
    if trouble.status is not None and _hides_status(error):
        reason = f" ({trouble.reason})" if trouble.reason else ""
        return ToolServerError(label, f"Http status code: {trouble.status}{reason}")
    if isinstance(error, MCPError):
        return ToolServerError(label, error.error.message[:MAX_ERROR_LENGTH])
    return ToolServerError(label, _words(error))


STAND_INS = frozenset({"Server returned an error response", "Not Found", "Session terminated"})
"""What ``mcp`` says instead of a status that came without words."""


def _hides_status(error: Exception) -> bool:
    return not isinstance(error, MCPError) or error.error.message in STAND_INS


def _words(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "The server's answer is not one of the Model Context Protocol."
    return "The server failed."


def innermost(error: Exception) -> Exception:
    """The first error of a group, however it is nested; an error that is no group as it is."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
