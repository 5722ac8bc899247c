"""How the log's lines look: those of the standard library, rendered for people and for programs."""

from __future__ import annotations

import json
import logging
import sqlite3

import pytest

from agentic_trio.telemetry.edges import event
from agentic_trio.telemetry.process_log import Format, _formatter

SECRET = "sk-SECRET"


def record(message: str, *args: object, error: BaseException | None = None, **extra: object):
    made = logging.makeLogRecord(
        {
            "name": "agentic_trio.x",
            "levelname": "WARNING",
            "levelno": 30,
            "msg": message,
            "args": args,
            **extra,
        }
    )
    made.created = 1.25
    if error is not None:
        made.exc_info = (type(error), error, error.__traceback__)
    return made


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_a_line_for_programs_is_one_object():
    line = _formatter("json").format(
        record("it is %s", "gone", **event("model_server_gone", reason="why", n=None))
    )
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.250Z",
        "level": "warning",
        "event": "model_server_gone",
        "logger": "agentic_trio.x",
        "message": "it is gone",
        "reason": "why",
    }


def test_a_line_for_people_is_one_line():
    line = _formatter("text").format(record("it is\n%s\x1b[2J", "gone", **event("edge", reason="a b")))
    assert line == '1970-01-01T00:00:01.250Z WARNING edge it is\\ngone\\x1b[2J reason="a b"'


@pytest.mark.parametrize("format", ["text", "json"])
def test_an_error_is_told_without_a_value(format: Format):
    error = raised(KeyError(SECRET), raised(ValueError(SECRET)))
    group = raised(ExceptionGroup(SECRET, [error, raised(OSError(28, "No space left on device"))]))
    line = _formatter(format).format(record("a bug", error=group))
    assert SECRET not in line
    for said in (
        "builtins.KeyError",
        "caused by builtins.ValueError",
        "No space left on device",
        "in raised",
    ):
        assert said in line


def test_the_database_s_own_words_are_told():
    error = raised(sqlite3.OperationalError("disk I/O error"))
    assert "disk I/O error" in _formatter("json").format(record("x", error=error))


def test_a_circle_of_causes_ends():
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one
    assert _formatter("text").format(record("x", error=one)).count("ValueError") == 1
