"""``agentic-trio config show``, and what ``agentic-trio doctor`` prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from agentic_trio.config import SETTINGS, Config

if TYPE_CHECKING:
    from collections.abc import Callable

MASK = "***"
"""Stands for a secret that is set."""

MARKS = {"ok": "  ok", "warning": "warn", "problem": "FAIL"}


def show_settings(config: Config, *, as_json: bool) -> None:
    """Print each setting's value and where it came from; secrets only as set or not."""
    shown = {name: _shown(config, name) for name in SETTINGS}
    if as_json:
        click.echo(json.dumps(shown))
        return
    width = max(map(len, shown))
    for name, each in shown.items():
        source = each["source"]
        origin = f"{source['kind']} {source['name']}".strip()
        click.echo(f"{name:{width}}  {_text(each['value'])}  ({origin})")


def _shown(config: Config, name: str) -> dict[str, Any]:
    value, source = getattr(config, name), config.source_of(name)
    if SETTINGS[name].secret and value is not None:
        value = MASK
    return {"value": value, "source": {"kind": source.kind, "name": source.name}}


def _text(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return text if text.isprintable() else ascii(text)


def run_doctor(read: Callable[[], Config], *, infer: bool, as_json: bool) -> bool:
    """Examine everything and print what is found; returns whether there is no problem."""
    from agentic_trio.cli.doctor import examine

    findings = []
    for finding in examine(read, infer=infer):
        findings.append(finding)
        if not as_json:
            # A model server says what its models are called: nothing of it may act on the terminal.
            click.echo(f"{MARKS[finding.level]}  {finding.check}: {_text(finding.says)}")
            if finding.advice:
                click.echo(f"      -> {_text(finding.advice)}")
    fine = all(each.level != "problem" for each in findings)
    if as_json:
        click.echo(json.dumps({"ok": fine, "findings": [asdict(each) for each in findings]}))
    return fine
