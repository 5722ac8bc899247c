"""What one turn knows of itself, taken once: for its row, the log, the metrics and traces."""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Figures(msgspec.Struct, gc=False):
    """The figures of one turn.

    A moment is in seconds of ``clock``, and 0 until it comes. Nothing here is text of a client
    or a model, but for the model's name.

    Attributes:
        response_id: the response's id.
        request_id: names the request in logs and answers.
        owner: whose response it is.
        model: as the request names it.
        route: the way in: a method and a route of HTTP, or ``program``.
        own_line: whether the turn has a line of the log of its own. Otherwise its request's line has it.
        began: when the request's body was there.
        history: when the history had been read.
        called: when the model server was called.
        head: when the model server's first answer without a refusal had its head.
        first: when the first bytes of its stream came.
        answered: when the model server was done.
        ended: when it was known how the turn ended, and its row was handed to the store.
        stored: when the row was committed; 0 if there is none.
        ending: ``completed``, ``incomplete``, ``failed`` or ``cancelled``; ``refused`` if the model server
            never took it and nothing was kept.
        code: the error's code; empty without an error.
        input_tokens, output_tokens, cached_tokens: as the model server counts them.
        retries: how many calls of the model server came after the first.
        clock: tells the time; another one than ``perf_counter`` in a simulation.
    """

    response_id: str = ""
    request_id: str = ""
    owner: str = ""
    model: str = ""
    route: str = "program"
    own_line: bool = True
    began: float = 0.0
    history: float = 0.0
    called: float = 0.0
    head: float = 0.0
    first: float = 0.0
    answered: float = 0.0
    ended: float = 0.0
    stored: float = 0.0
    ending: str = ""
    code: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    retries: int = 0
    clock: Callable[[], float] = perf_counter

    def end(self, ending: str, code: object, usage: Mapping[str, Any] | None) -> None:
        """Note how the turn ended. It is about to be recorded."""
        self.ended = self.clock()
        if self.called and not self.answered:
            self.answered = self.ended
        self.ending = ending
        if isinstance(code, str):
            self.code = plain_code(code)
        if usage is not None:
            self.input_tokens = _count(usage.get("input_tokens"))
            self.output_tokens = _count(usage.get("output_tokens"))
            details = usage.get("input_tokens_details")
            if isinstance(details, dict):
                self.cached_tokens = _count(details.get("cached_tokens"))

    def since(self, moment: float) -> float:
        """Seconds from the beginning to a moment; 0 if that has not come."""
        return moment - self.began if moment else 0.0

    @property
    def upstream(self) -> float:
        """Seconds that the model server had the turn, retries and the pauses before them included."""
        return self.answered - self.called if self.called else 0.0

    @property
    def commit(self) -> float:
        """Seconds from the ending to its commit; 0 if nothing was committed."""
        return self.stored - self.ended if self.stored else 0.0

    @property
    def gateway(self) -> float:
        """Seconds that the gateway itself took: everything but the model server."""
        return (self.stored or self.ended) - self.began - self.upstream


class StoredFigures(msgspec.Struct, frozen=True):
    """The figures as a response's row keeps them; None where there was nothing to take.

    Attributes:
        history_us, head_us, first_event_us, total_us: microseconds from the turn's beginning.
        upstream_us: microseconds that the model server had it.
        commit_us: microseconds from the ending until its row was being written. The commit itself comes
            after that, and is in the log.
    """

    request_id: str | None = None
    route: str | None = None
    model: str | None = None
    code: str | None = None
    history_us: int | None = None
    head_us: int | None = None
    first_event_us: int | None = None
    upstream_us: int | None = None
    total_us: int | None = None
    commit_us: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    retries: int | None = None


def stored(figures: Figures) -> dict[str, str | int | None]:
    """The members of :class:`StoredFigures`, taken while the row is written."""
    if not figures.ended:
        return {"request_id": figures.request_id, "route": figures.route, "model": figures.model}
    began, usage = figures.began, bool(figures.input_tokens or figures.output_tokens)
    return {
        "request_id": figures.request_id,
        "route": figures.route,
        "model": figures.model,
        "code": figures.code or None,
        "history_us": _us(figures.history - began) if figures.history else None,
        "head_us": _us(figures.head - began) if figures.head else None,
        "first_event_us": _us(figures.first - began) if figures.first else None,
        "upstream_us": _us(figures.upstream) if figures.called else None,
        "total_us": _us(figures.ended - began),
        "commit_us": _us(figures.clock() - figures.ended),
        "input_tokens": figures.input_tokens if usage else None,
        "output_tokens": figures.output_tokens if usage else None,
        "cached_tokens": figures.cached_tokens if usage else None,
        "retries": figures.retries,
    }


def plain_code(code: str) -> str:
    """An error's code as it may stand in a log: a model server can send any text for one."""
    return code if _CODE.fullmatch(code) else "other"


def _us(seconds: float) -> int:
    return int(seconds * 1e6)


MOST_TOKENS = 1 << 40
"""A count that is larger is a mistake, and must not break a sum or a row."""


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0
