"""What the log says of a request that is over."""

from __future__ import annotations

import re
from time import perf_counter, time
from typing import TYPE_CHECKING

from agentic_trio.telemetry.figures import plain_code
from agentic_trio.telemetry.lines import Line, plain_client, plain_owner

if TYPE_CHECKING:
    from agentic_trio.errors import GatewayError
    from agentic_trio.web.scope import RequestScope

PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Routes that monitors ask every few seconds. Their requests are logged only where that is wanted."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_RESPONSE_ID = re.compile(r"resp_[0-9a-f]{48}")


def tell(request: RequestScope) -> None:
    """Tell the gateway's operators of a request that is over."""
    request.end()
    if request.fate is not None and request.gateway.observer.log is not None:
        request.fate.tell()
    request.gateway.observer.request(line_of(request), quiet=request.route in PROBES)


def line_of(request: RequestScope) -> Line:
    """The line of a request that is over."""
    method, client = request.scope["method"], request.scope["client"]
    line = Line(
        "request",
        time(),
        request.request_id,
        method if method in _METHODS else "?",
        request.route or "?",
        request.status,
        "whole" if request.whole else "cut",
        client=plain_client(client[0]) if client else "",
        owner=plain_owner(request.owner),
        response_id=request.response_id,
        total_ms=round((perf_counter() - request.arrived) * 1e3, 3),
    )
    if request.figures is not None:
        line.add(request.figures)
    error = request.error or request.cut_by
    if error is not None:
        add_refusal(line, error)
    if not request.whole:
        _add_fate(line, request)
    return line


def add_refusal(line: Line, error: GatewayError) -> None:
    """Say in a line why a request was refused, or its answer cut short."""
    line.code = plain_code(error.code or error.type)
    line.reason = error.reason


def _add_fate(line: Line, request: RequestScope) -> None:
    fate = request.fate
    if fate is None:
        # Another server: it doesn't say, but an answer that it cut short is one whose client left.
        line.answer = "cut" if request.error is not None else "gone"
    elif fate.refusal is not None:
        line.status, line.answer = fate.refusal.status, "whole"
        add_refusal(line, fate.refusal)
    elif fate.gone:
        line.answer = fate.gone


def response_id(id: str) -> str:
    """An id that a client names, as it may stand in the log: only one that has the form of ours."""
    return id if _RESPONSE_ID.fullmatch(id) else ""
