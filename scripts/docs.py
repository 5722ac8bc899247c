#!/usr/bin/env python
"""Writes the tables of settings into the documents: ``scripts/docs.py``.

They stand between ``<!-- settings: begin -->`` and ``<!-- settings: end -->``. With ``--check`` nothing is
written; the exit code is 1 if a document is not up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agentic_trio.config import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentic_trio.settings import Setting

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"

MOST_USED = (
    "llm_api_base",
    "openai_api_key",
    "client_auth",
    "db_url",
    "host",
    "port",
    "cors_allowed_origins",
    "on_disconnect",
    "turn_timeout",
    "graceful_timeout",
    "max_request_body_size",
)


def reference() -> str:
    """Every setting, a table for each group."""
    groups: dict[str, list[Setting]] = {}
    for each in SETTINGS.values():
        groups.setdefault(each.group, []).append(each)
    head = ("Setting", "Flag", "Variable", "Default", "Effect")
    return "\n\n".join(
        f"### {group}\n\n{table(head, map(reference_row, settings))}" for group, settings in groups.items()
    )


def reference_row(setting: Setting) -> tuple[str, ...]:
    reloads = "A reload changes it." if setting.reloads else ""
    effect = " ".join(filter(None, (f"{setting.help[0].upper()}{setting.help[1:]}.", setting.more, reloads)))
    variables = ", ".join(f"`{variable}`" for variable in setting.variables)
    return f"`{setting.name}`", f"`{setting.flag}`", variables, default(setting), effect


def summary() -> str:
    """The settings that most users need, with the variable that they may know already."""
    head = ("Flag", "Variable", "Default", "Effect")
    rows = (
        (f"`{each.flag}`", f"`{each.variables[-1]}`", default(each), each.help)
        for each in (SETTINGS[name] for name in MOST_USED)
    )
    return table(head, rows)


def default(setting: Setting) -> str:
    value = setting.default
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value:.10g}`" if isinstance(value, float) else f"`{value}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heading, *lines = ("| " + " | ".join(cells) + " |" for cells in (head, *rows))
    return "\n".join([heading, "|" + "---|" * len(head), *lines])


DOCUMENTS = {"docs/configuration.md": reference, "docs/production.md": summary}


def filled(text: str, tables: str) -> str:
    """A document with these tables between its markers."""
    between = re.compile(f"(?<={BEGIN}\n).*?(?={END})", re.DOTALL)
    text, count = between.subn(lambda _: f"\n{tables}\n\n", text)
    if count != 1:
        raise SystemExit(f"{BEGIN} and {END} must stand once in the document")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents, or compare them."""
    parser = argparse.ArgumentParser(description="Write the tables of settings into the documents.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 if something differs"
    )
    check = parser.parse_args(arguments).check
    stale = []
    for name, tables in DOCUMENTS.items():
        path = ROOT / name
        text = path.read_text()
        new = filled(text, tables())
        if new != text:
            stale.append(name)
            if not check:
                path.write_text(new)
    if stale:
        print(f"{'not up to date' if check else 'written'}: {', '.join(stale)}", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
