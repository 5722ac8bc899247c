"""``agentic-trio db``: looks after the database, also while a gateway uses it."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from agentic_trio.cli.options import OnceCommand, config_option, options_of
from agentic_trio.config import SETTINGS, Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Flags = str | bool | None


@click.group()
def db() -> None:
    """Look after the database, also while a gateway uses it."""


def database_options() -> list[click.Parameter]:
    """What every command here takes: which database, and how to report."""
    as_json = click.Option(["--json", "as_json"], is_flag=True, help="report in JSON on stdout")
    return [config_option(), *options_of({"db_url": SETTINGS["db_url"]}), as_json]


def database_of(file: str | None, flags: dict[str, Flags]) -> str:
    """The path of the configured database."""
    return Config.from_command(flags, file).database_path


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal. It is given what is done, and how much there is."""
    if not sys.stderr.isatty():
        yield lambda done, whole: None
        return
    with click.progressbar(length=0, label=label, file=sys.stderr) as bar:

        def show(done: int, whole: int) -> None:
            bar.length = whole
            bar.update(done - bar.pos)

        yield show


def report(result: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    """Print a result as JSON, or in words."""
    click.echo(json.dumps(result) if as_json else "\n".join(lines))


@db.command(cls=OnceCommand, params=database_options())
@click.argument("target", type=click.Path(dir_okay=False))
def backup(target: str, file: str | None, as_json: bool, **flags: Flags) -> None:
    """Copy the database to TARGET, a new file, also while a gateway uses it.

    A plain copy of the file would lack what is still in its log.
    """
    path = database_of(file, flags)

    from agentic_trio.store.backup import backup as copy
    from agentic_trio.store.backup import note_backup

    with progress_bar("Pages") as show:
        copy(path, target, progress=lambda remaining, total: show(total - remaining, total))
    note_backup(path, target)
    report({"database": path, "backup": target}, as_json, [f"{path} is copied to {target}"])


@db.command(cls=OnceCommand, params=database_options())
@click.option("--owner", metavar="OWNER", help="all that this owner has; '' is what has no owner")
@click.option("--conversation", metavar="ID", help="this conversation and the responses made in it")
@click.option("--metadata", metavar="KEY=VALUE", help="what has this in its metadata")
@click.option("--dry-run", is_flag=True, help="only count it")
@click.option(
    "--rewrite/--no-rewrite",
    default=None,
    help="write the file anew, so that no traces are left [up to 1 GiB, or if no gateway runs]",
)
def erase(file: str | None, as_json: bool, **given: Any) -> None:
    """Erase a person's or a conversation's state, and its traces in the database's files.

    What continues or has copied an erased item goes with it. Criteria that are given together must all
    hold. Turns that are under way in what is erased are ended. Backups are named, and left alone.
    """
    arguments, flags = _erasure(given)
    path = database_of(file, flags)

    from agentic_trio.cli.control_client import run_on_database

    with progress_bar("Erasing") as show:
        result = run_on_database(path, "erase", arguments, show)
    report(result, as_json, _erased(result))


def _erasure(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Flags]]:
    """The command's arguments, and the flags of settings."""
    names = ("owner", "conversation", "metadata", "dry_run", "rewrite")
    arguments = {name: given.pop(name) for name in names}
    if all(arguments[name] is None for name in names[:3]):
        raise click.UsageError("say what to erase: --owner, --conversation or --metadata")
    if arguments["metadata"] is not None:
        key, equals, value = arguments["metadata"].partition("=")
        if not equals or not key:
            raise click.UsageError("--metadata must be KEY=VALUE")
        arguments["metadata"] = [key, value]
    return arguments, given


def _erased(result: dict[str, Any]) -> list[str]:
    counts = [_count(result[name], name) for name in ("responses", "conversations", "items")]
    verb = "Would erase" if result.get("dry_run") else "Erased"
    lines = [f"{verb} {', '.join(counts[:-1])} and {counts[-1]} ({result['bytes']} bytes)."]
    if result.get("traces"):
        lines.append(result["traces"])
    if result["backups"]:
        lines.append("These backups are as they were, and may hold some of it:")
        lines += [f"  {each['path']}" for each in result["backups"]]
    return lines


def _count(number: int, plural: str) -> str:
    return f"{number} {plural[:-1] if number == 1 else plural}"
