"""What options take beside texts and numbers: names, and times."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import click

MAX_NAME = 256
"""Characters of an owner's or a key's name."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_PERIOD = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)


class Name(click.ParamType[str]):
    """A name that can stand in one line of a log."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, as it was given."""
        text = str(value)
        if not text or text != text.strip() or not text.isprintable() or len(text) > MAX_NAME:
            self.fail(f"must be 1 to {MAX_NAME} printable characters, without spaces around them", param, ctx)
        return text


class Period(click.ParamType[int]):
    """A period such as ``90d`` or ``12h``, in seconds."""

    name = "period"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The period in seconds."""
        period = _PERIOD.fullmatch(str(value))
        if period is None:
            self.fail("must be a number with s, m, h, d or w behind it, such as 12h", param, ctx)
        return int(period[1]) * _UNITS[period[2]]


class Moment(click.ParamType[int]):
    """A time to come: so long from now, or a date, with a time or without, in ISO 8601 (UTC by default)."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The moment in Unix seconds."""
        now = int(time.time())
        moment = now + Period().convert(value, param, ctx) if _PERIOD.fullmatch(value) else _date(value)
        if moment is None:
            self.fail("must be a period such as 90d or 12h, or a date such as 2027-01-31", param, ctx)
        if moment <= now:
            self.fail("must be a time to come", param, ctx)
        return moment


def _date(text: str) -> int | None:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp())
