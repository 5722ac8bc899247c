"""The line that the log has of each request, and of each turn that outlives its request.

Nothing in a line is text that a client or a model wrote, nor a key. What a client chooses is the request's id
and the model's name, and both stand here only if they look like one.
"""

from __future__ import annotations

import re
from time import gmtime, strftime, time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentic_trio.telemetry.figures import Figures

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+|=-]{0,127}")

# Of an IP address, with or without a port. A proxy may repeat whatever its client has sent for one.
_CLIENT = re.compile(r"[0-9A-Fa-f.:\[\]]{2,64}(?:%[A-Za-z0-9._-]{1,32})?")


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """One line. What is 0 or empty is left out; what ends with ``_ms`` is in milliseconds.

    Attributes:
        event: ``request``; ``turn`` for a turn that has a line of its own.
        at: Unix seconds when it ended.
        request_id: as the answer's ``x-request-id``.
        method, route: what was asked for. The route is one of ours, with the names of its variables.
        status: the answer's; left out if there was none.
        answer: how much of it the client got: ``whole``, ``cut`` short by a failure, or ``gone`` and
            ``too_slow``: the client left, or took nothing for the write timeout.
        code: the error's, of a request that was refused or a turn that failed.
        reason: which bound or deadline it was, where the code doesn't say.
        client: the address that the request came from; ``?`` if a proxy names one that is none.
        owner: whose data it works with.
        response_id: of the response that a request created or named.
        ending: how the turn ended; see :class:`~agentic_trio.telemetry.figures.Figures`.
        model: whose answer it is.
        total_ms: from the request's head to the last byte of the answer; for a turn's own line, to its end.
        history_ms, head_ms, first_event_ms, turn_ms: from the turn's beginning to the history that was
            read, the head of the model server's answer, the first bytes of its stream, and the ending.
        commit_ms: from the ending until it was on disk.
        input_tokens, output_tokens, cached_tokens: as the model server counts them.
        retries: how many calls of the model server came after the first.
    """

    event: str
    at: float = 0.0
    request_id: str = ""
    method: str = ""
    route: str = ""
    status: int = 0
    answer: str = ""
    code: str = ""
    reason: str = ""
    client: str = ""
    owner: str = ""
    response_id: str = ""
    ending: str = ""
    model: str = ""
    total_ms: float = 0.0
    history_ms: float = 0.0
    head_ms: float = 0.0
    first_event_ms: float = 0.0
    turn_ms: float = 0.0
    commit_ms: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    retries: int = 0

    def add(self, figures: Figures) -> None:
        """Take over what a turn knows of itself."""
        # The id of a response that was refused is known to nobody.
        self.response_id = "" if figures.ending == "refused" else figures.response_id
        self.ending = figures.ending
        self.code = figures.code
        self.model = _plain(_MODEL, figures.model)
        began = figures.began
        if figures.history:
            self.history_ms = _ms(figures.history - began)
        if figures.head:
            self.head_ms = _ms(figures.head - began)
        if figures.first:
            self.first_event_ms = _ms(figures.first - began)
        if figures.ended:
            self.turn_ms = _ms(figures.ended - began)
        if figures.stored:
            self.commit_ms = _ms(figures.stored - figures.ended)
        self.input_tokens = figures.input_tokens
        self.output_tokens = figures.output_tokens
        self.cached_tokens = figures.cached_tokens
        self.retries = figures.retries


def line_of_turn(figures: Figures) -> Line:
    """The line of a turn that no request's line tells of."""
    line = Line("turn", time(), figures.request_id, route=figures.route, owner=plain_owner(figures.owner))
    line.add(figures)
    line.total_ms = _ms((figures.stored or figures.ended) - figures.began)
    return line


def plain_owner(owner: str) -> str:
    """An owner as it may stand in a log."""
    return _plain(_OWNER, owner)


def plain_client(client: str) -> str:
    """The address of a client as it may stand in a log."""
    return _plain(_CLIENT, client)


def _plain(pattern: re.Pattern[str], name: str) -> str:
    return name if not name or pattern.fullmatch(name) else "?"


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


class Clock:
    """Unix times as text, in UTC, to the millisecond. The second is formatted once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._text = second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        return f"{self._text}.{int((at - second) * 1000):03d}Z"


_encode = msgspec.json.Encoder().encode


def json_lines() -> Callable[[Line], bytes]:
    """What makes a line of JSON text of each."""
    clock = Clock()

    def encode(line: Line) -> bytes:
        at, line.at = clock.text(line.at), 0.0
        return b'{"time":"%b","level":"info",%b\n' % (at.encode(), _encode(line)[1:])

    return encode


_NAMES = Line.__struct_fields__[2:]


def text_lines() -> Callable[[Line], bytes]:
    """What makes a line for people of each: time, level and event, then names and values."""
    clock = Clock()

    def encode(line: Line) -> bytes:
        values = msgspec.structs.astuple(line)[2:]
        said = [f"{name}={value}" for name, value in zip(_NAMES, values, strict=True) if value]
        return " ".join((clock.text(line.at), "INFO", line.event, *said)).encode() + b"\n"

    return encode
