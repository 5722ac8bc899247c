"""Approvals: the model's call is a question to the client, whose answer comes with the next request."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire import checks
from agentic_trio.wire.checks import shortened
from agentic_trio.wire.hosting import items_of_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.wire.dialect import JsonObject


class Approved(NamedTuple):
    """A call that a client has approved.

    Attributes:
        id: of the approval request.
        label: the MCP server's.
        tool: its name there.
        arguments: as the model wrote them.
    """

    id: str
    label: str
    tool: str
    arguments: str


def approved_calls(history: Sequence[bytes], items: Sequence[bytes]) -> list[Approved]:
    """Return the calls that new input approves.

    A client that keeps its own history repeats an approval together with the call that it led to: such a
    call isn't made again.

    Args:
        history: the JSON texts of stored items.
        items: those of the new input.

    Raises:
        InvalidRequest: an answer to no question, or a second one.
    """
    answers = list(items_of_type(items, "mcp_approval_response"))
    if not answers:
        return []
    made = {item.get("approval_request_id") for item in items_of_type(items, "mcp_call")}
    before = {item.get("approval_request_id") for item in items_of_type(history, "mcp_approval_response")}
    asked = {item["id"]: item for item in items_of_type([*history, *items], "mcp_approval_request")}
    approved: dict[str, Approved] = {}
    for answer in answers:
        id, approves = _answer(answer)
        if id in made:
            continue
        if id in before or id in approved:
            raise InvalidRequest(
                f"The approval request '{shortened(id)}' has been answered before.",
                code="approval_already_used",
                param="input",
            )
        if id not in asked:
            raise InvalidRequest(
                f"No approval request found with id '{shortened(id)}'.",
                code="approval_request_not_found",
                param="input",
            )
        if approves:
            approved[id] = _approved(asked[id])
    return list(approved.values())


def _answer(item: JsonObject) -> tuple[str, bool]:
    for name, expected in (("approval_request_id", "a string"), ("approve", "a boolean")):
        if item.get(name) is None:
            raise checks.missing(f"input.{name}")
        if not isinstance(item[name], bool if name == "approve" else str):
            raise checks.invalid_type(f"input.{name}", expected, item[name])
    return item["approval_request_id"], item["approve"]


def _approved(request: JsonObject) -> Approved:
    label, tool, arguments = (request.get(name) for name in ("server_label", "name", "arguments"))
    if not (isinstance(label, str) and isinstance(tool, str) and isinstance(arguments, str)):
        raise InvalidRequest(
            f"The approval request '{shortened(request['id'])}' doesn't say what is to be called.",
            code="invalid_value",
            param="input",
        )
    return Approved(request["id"], label, tool, arguments)
