"""Compaction: a context becomes a summary, which the client carries sealed and the model reads as a message.

A history begins at its last compaction. What stood before stays where it is, and is listed as before.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agentic_trio.errors import InvalidRequest, UpstreamError
from agentic_trio.wire.checks import shortened
from agentic_trio.wire.dialect import (
    JsonObject,
    decode_object,
    encode,
    normal_item,
    normal_usage,
    reported_error,
    reports_error,
)
from agentic_trio.wire.items import CALLS, OUTPUTS, decode_kind
from agentic_trio.wire.mending import decode_upstream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.wire.bodies import Members
    from agentic_trio.wire.sealing import Seal

COMPACTION = "compaction"
"""The type of the item, and the kind of what it holds sealed: the summary, a text."""

COMPACTION_TRIGGER = "compaction_trigger"
"""The type of the input item that asks for a compaction instead of an answer."""

PREFACE = (
    "Another language model worked on this task before you and wrote this summary of all that had happened. "
    "Build on it, and don't repeat work that it says is done.\n\n"
)
"""What stands before a summary in the message that the model reads."""


def opened_compaction(item: JsonObject, seal: Seal | None) -> str:
    """Return the summary that a compaction holds.

    Raises:
        InvalidRequest: it was not made here, or not for this owner, or its key is gone.
    """
    token = item.get("encrypted_content")
    summary = seal.open(COMPACTION, token) if seal is not None and isinstance(token, str) else None
    if not isinstance(summary, str):
        raise InvalidRequest(
            f"The encrypted content of item '{shortened(str(item.get('id')))}' could not be verified.",
            code="invalid_encrypted_content",
            param="input",
        )
    return summary


def summary_message(summary: str) -> JsonObject:
    """Return the message in which the model reads a summary."""
    content = [{"type": "input_text", "text": PREFACE + summary}]
    return {"type": "message", "role": "user", "content": content}


class Summary(NamedTuple):
    """A summary that a model has written, and what that took."""

    text: str
    usage: JsonObject | None


_INSTRUCTIONS = (
    "Stop here and hand the task over: another model will go on with it, and will see nothing of this "
    "conversation but what you write now. Write a summary of it. Say what the user wants and how they want "
    "it done, what was decided and why, what has been done and found out, and what remains to be done. "
    "Repeat word for word whatever is needed to go on: names, paths, numbers, ids, code. Answer with the "
    "summary alone, and call no tools."
)

REQUEST = encode(
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": _INSTRUCTIONS}]}
)
"""The last item of a request for a summary."""

SUMMARY_MEMBERS: Members = dict.fromkeys(
    (
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "max_output_tokens",
        "max_tool_calls",
        "top_logprobs",
        "include",
    ),
    b"",
)
"""The members that a request for a summary doesn't have, whatever the client's has."""


def read_summary(body: bytes) -> Summary:
    """Read a summary off the model server's answer. Raises UpstreamError: it holds no text."""
    try:
        answer = decode_upstream(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("The model server sent something that is not a response.") from None
    if reports_error(answer):
        raise reported_error(answer)
    output = answer.get("output")
    messages = [
        normal_item(item, "", "completed")
        for item in (output if isinstance(output, list) else ())
        if isinstance(item, dict) and item.get("type", "message") == "message"
    ]
    text = "".join(
        part["text"] for item in messages for part in item["content"] if part["type"] == "output_text"
    )
    if not text.strip():
        raise UpstreamError("The model server did not write a summary.")
    return Summary(text, normal_usage(answer.get("usage")))


def tail_of(input: Sequence[bytes], history: Sequence[bytes]) -> list[bytes]:
    """Return a request's input with the calls before it whose outputs it has: a model needs both.

    Args:
        input: the JSON texts of the request's items.
        history: those of the items before them.
    """
    kinds = [decode_kind(data) for data in input]
    called = {kind.call_id for kind in kinds if kind.type in CALLS}
    orphans = {kind.call_id for kind in kinds if kind.type in OUTPUTS} - called
    calls = []
    for data in history if orphans else ():
        kind = decode_kind(data)
        if kind.type in CALLS and kind.call_id in orphans:
            calls.append(data)
    return [*calls, *input]


def last_compaction(items: Sequence[bytes]) -> int | None:
    """Return the place of the last compaction in a list of items, or None."""
    for index in range(len(items) - 1, -1, -1):
        if _IS_COMPACTION.match(items[index]):
            return index
    return None


_IS_COMPACTION = re.compile(rb'\{"id":"[^"\\]*","type":"compaction"')


def compacted_window(id: str, created_at: int, items: Sequence[bytes], usage: JsonObject | None) -> bytes:
    """Return the answer of ``/v1/responses/compact``: messages of the user as they were, and the compaction.

    Args:
        id: names the answer.
        created_at: Unix seconds.
        items: the JSON texts of the context, and of the compaction last.
        usage: of the summary.
    """
    output = [data for data in items[:-1] if _is_user_message(data)] + [items[-1]]
    head = encode({"id": id, "object": "response.compaction", "created_at": created_at, "usage": usage})
    return b'%b,"output":[%b]}' % (head[:-1], b",".join(output))


def _is_user_message(data: bytes) -> bool:
    return b'"role":"user"' in data and decode_object(data).get("role") == "user"
