"""Requests, and whether their answers are right: a gateway that loses history would be fast."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.client import Reply

DELTAS = 200
EVENTS = DELTAS + 8
"""Events of a stream with one message of ``DELTAS`` deltas, in vLLM's words."""

_ENDS = (b'"completed"', b'"incomplete"')
_STREAM_ENDS = (b'"response.completed"', b'"response.incomplete"')
"""How an answer ends well; a real model may stop at its bound of tokens."""

_ECHO = re.compile(rb"echo: (\d+) items")


class Wrong(Exception):
    """An answer that is not what was asked for. One line that says why."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Makes requests for a model and judges their answers.

    Attributes:
        model: who answers.
        echoes: whether the upstream is our fake, which says how many items it was given.
    """

    model: str
    echoes: bool = True

    def body(self, text: str = "Say hello.", **members: Any) -> bytes:
        """A request's body."""
        bound = {} if self.echoes else {"max_output_tokens": 16}
        return json.dumps({"model": self.model, "input": text, **bound, **members}).encode()

    def check(self, reply: Reply, *, items: int | None = 1, deltas: int | None = None) -> None:
        """Check a whole answer, streamed or not.

        Args:
            reply: the answer.
            items: how many input items the model must have been given.
            deltas: how many text deltas must have come, if it is a stream of a known length.

        Raises:
            Wrong: it is not right.
        """
        body = reply.body
        if reply.status != 200:
            raise Wrong(f"status {reply.status}: {body[:200]!r}")
        streamed = body.startswith((b"event:", b"data:"))
        ends = _STREAM_ENDS if streamed else _ENDS
        if not any(end in body for end in ends[: 1 if self.echoes else 2]):
            raise Wrong(f"not completed: {body[-200:]!r}")
        if not self.echoes:
            return
        found = _ECHO.findall(body)  # of a stream, in the events that hold the whole text
        if items is not None and (not found or int(found[-1]) != items):
            raise Wrong(f"the model was given {int(found[-1]) if found else 'no'} items, not {items}")
        came = body.count(b'"response.output_text.delta"')
        if deltas is not None and came != deltas:
            raise Wrong(f"{came} deltas came, not {deltas}")


def scripted(text: str = "Say hello.", **script: Any) -> str:
    """A text that tells our fake upstream how to answer."""
    return f"!{json.dumps(script)} {text}"


def response_id(reply: Reply) -> str:
    """The id of a response that was not streamed."""
    return str(json.loads(reply.body)["id"])
