"""The log's other lines: what happens beside requests.

The modules log with the standard library, as a library should, and so does hypercorn. An event that an
operator may wait for has a name and fields: see ``edges.event``. Here structlog renders them, for this
package's own programs; one that embeds a gateway renders them as it likes.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import trio
from structlog.stdlib import ProcessorFormatter

from agentic_trio.telemetry.edges import event
from agentic_trio.telemetry.line_writer import LineWriter, RequestLog
from agentic_trio.telemetry.lines import Clock, json_lines, text_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from structlog.typing import EventDict, WrappedLogger

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

_OTHERS = ("httpx", "httpcore", "hypercorn.access", "asyncio", "quart", "opentelemetry", "urllib3")
"""Loggers of libraries whose chatter says nothing that an operator can act on."""

FRAMES = 30
"""How many frames of an error are shown: the innermost ones."""


class _Held(logging.Handler):
    """Keeps lines until it is known how they are to look."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def lines_held() -> Iterator[None]:
    """Inside this block, lines wait for ``open_log``: a configuration may have to be read first."""
    root = logging.getLogger()
    held = _Held()
    root.addHandler(held)
    try:
        yield
    finally:
        if held in root.handlers:
            root.removeHandler(held)
            _replay(held)


def _replay(held: _Held) -> None:
    for record in held.records:
        if logging.getLogger(record.name).isEnabledFor(record.levelno):
            logging.getLogger(record.name).handle(record)


def open_log(format: Format, level: Level, descriptor: int | None = None) -> RequestLog:
    """Send every line of the process to one log, and make the log of its requests.

    A program that has set up logging itself keeps that; only the lines of requests go here then.

    Args:
        format: for people or for programs.
        level: the least that is written. The lines of requests are ``info``.
        descriptor: where lines go; standard error if it is None.
    """
    rendered = _formatter(format)

    def dropped(count: int) -> bytes:
        words = f"{count} lines of the log were dropped: nobody read it"
        record = {"name": __name__, "levelname": "WARNING", "msg": words, **event("dropped", lines=count)}
        return rendered.format(logging.makeLogRecord(record)).encode() + b"\n"

    writer = LineWriter(_standard_error() if descriptor is None else descriptor, dropped)
    root, least = logging.getLogger(), logging.getLevelNamesMapping()[level.upper()]
    held = [each for each in root.handlers if isinstance(each, _Held)]
    if len(root.handlers) == len(held):
        root.handlers = []
        root.addHandler(_Handler(writer, rendered))
        root.setLevel(least)
        for name in _OTHERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        _take_over("hypercorn.error", rendered)
        for each in held:
            _replay(each)
    encode = json_lines() if format == "json" else text_lines()
    log = RequestLog(writer, encode)
    log.wanted = least <= logging.INFO
    return log


def set_level(level: Level, log: RequestLog) -> None:
    """Change the least that is written to the log that ``open_log`` has made for the process."""
    least = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(least)
    log.wanted = least <= logging.INFO


def _standard_error() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):
        # There is none, or another object stands for it.
        return 2


def _formatter(format: Format) -> logging.Formatter:
    shown = _json if format == "json" else _text
    return ProcessorFormatter(foreign_pre_chain=[_described], processors=[shown])


def _take_over(name: str, formatter: logging.Formatter) -> None:
    """Let the lines of a logger that has handlers of its own look, and go, like all others.

    A file that its user has named stays where they go.
    """
    logger = logging.getLogger(name)
    for handler in logger.handlers[:]:
        if isinstance(handler, logging.FileHandler):
            handler.setFormatter(formatter)
            logger.propagate = False
        else:
            logger.removeHandler(handler)


class _Handler(logging.Handler):
    """Writes at once: the process may be about to end."""

    def __init__(self, writer: LineWriter, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.add(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
            self._writer.flush()
        except Exception as error:
            # The library would print the arguments, whatever they hold.
            kind = type(error).__name__
            self._writer.add(f"ERROR a line of {record.name} can't be shown: {kind}\n".encode())


_clock = Clock()


def _described(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """A record of the standard library as the members of a line, in their order."""
    record: logging.LogRecord = line["_record"]
    described = {
        "time": _clock.text(record.created),
        "level": record.levelname.lower(),
        "event": getattr(record, "event", "log"),
        "logger": record.name,
        "message": line["event"],
    }
    fields: dict[str, Any] = getattr(record, "fields", {})
    described |= {name: value for name, value in fields.items() if value is not None}
    if record.exc_info is not None and record.exc_info[1] is not None:
        described["error"] = "\n".join(told(record.exc_info[1]))
    return described


def _json(logger: WrappedLogger, method: str, line: EventDict) -> str:
    return msgspec.json.encode(line, enc_hook=str).decode()


_OF_EVERY_LINE = frozenset({"time", "level", "event", "logger", "message", "error"})


def _text(logger: WrappedLogger, method: str, line: EventDict) -> str:
    """Time, level, event and message; then the fields. An error's frames stand below, indented."""
    fields = [f"{name}={_quoted(value)}" for name, value in line.items() if name not in _OF_EVERY_LINE]
    parts = [line["time"], line["level"].upper(), line["event"], line["message"], *fields]
    below = (f"\n    {_printable(each)}" for each in line.get("error", "").splitlines())
    return " ".join(map(_printable, parts)) + "".join(below)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if " " in text or '"' in text else text


def _printable(text: str) -> str:
    """Text that stays in its line and does nothing to a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


_SPEAK_FOR_THEMSELVES = (OSError, trio.BrokenResourceError)
"""Errors whose message is the system's, as is that of sqlite3's. That of any other may hold what a client
sent: a ``KeyError`` has the name of a member, and a ``ValueError`` its value."""


def told(error: BaseException) -> Iterator[str]:
    """An error, what caused it, and where each was raised; no values, and no message that may hold one."""
    seen: set[int] = set()
    waiting: list[tuple[str, BaseException | None]] = [("", error)]
    while waiting:
        relation, each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        kind = type(each)
        speaks = isinstance(each, _SPEAK_FOR_THEMSELVES) or kind.__module__ == "sqlite3"
        message = f": {each}" if speaks else ""
        yield f"{relation}{kind.__module__}.{kind.__qualname__}{message}".replace("\n", " ")
        for frame in extract_tb(each.__traceback__)[-FRAMES:]:
            yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
        context = None if each.__suppress_context__ else each.__context__
        waiting.append(("caused by ", each.__cause__ or context))
        if isinstance(each, BaseExceptionGroup):
            waiting += (("grouped: ", member) for member in each.exceptions)
