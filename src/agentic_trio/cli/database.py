"""``agentic-trio db``: looks after the database, also while a gateway uses it."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from agentic_trio.cli.options import OnceCommand, config_option, options_of
from agentic_trio.config import SETTINGS, Config
from agentic_trio.errors import ConfigError

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
    try:
        note_backup(path, target)
    except ConfigError as error:
        # The copy is whole all the same.
        click.echo(f"an erasure won't name this backup: {error}", err=True)
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
    config = Config.from_command(flags, file)

    from agentic_trio.cli.control_client import forget_keys, run_on_database

    # First, so that nothing new comes in.
    keys = forget_keys(config, arguments)
    with progress_bar("Erasing") as show:
        result = run_on_database(config.database_path, "erase", arguments, show) | {"keys": keys}
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
    if result["keys"]:
        lines.append(f"Revoked {_count(result['keys'], 'keys')}, and erased whose they were.")
    if result.get("traces"):
        lines.append(result["traces"])
    if result["backups"]:
        lines.append("These backups are as they were, and may hold some of it:")
        lines += [f"  {each['path']}" for each in result["backups"]]
    return lines


def _count(number: int, plural: str) -> str:
    return f"{number} {plural[:-1] if number == 1 else plural}"


@db.command(cls=OnceCommand, params=database_options())
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
def restore(source: str, file: str | None, as_json: bool, **flags: Flags) -> None:
    """Put the backup SOURCE in the place of the database, which no gateway may have open.

    The database that was there is kept under another name, which is reported.
    """
    path = database_of(file, flags)

    from agentic_trio.store.restore import restore as put_back

    with progress_bar("Pages") as show:
        kept = put_back(source, path, progress=lambda remaining, total: show(total - remaining, total))
    lines = [f"{path} is now what {source} is."]
    if kept is not None:
        lines.append(f"What was there is in {kept}")
    report({"database": path, "restored": source, "kept": kept}, as_json, lines)


@db.command(cls=OnceCommand, params=database_options())
@click.option("--quick", is_flag=True, help="don't compare the indexes with the tables")
def check(file: str | None, as_json: bool, quick: bool, **flags: Flags) -> None:
    """Look for damage in the database, also while a gateway uses it.

    The exit code is 1 if there is any.
    """
    path = database_of(file, flags)

    from agentic_trio.store.inspection import check as look

    with progress_bar("Checking") as show:
        problems = look(path, progress=show, quick=quick)
    report({"database": path, "ok": not problems, "problems": problems}, as_json, problems or ["ok"])
    if problems:
        raise SystemExit(1)


@db.command(cls=OnceCommand, params=database_options())
def stats(file: str | None, as_json: bool, **flags: Flags) -> None:
    """Show what the database holds, and how large it is."""
    path = database_of(file, flags)

    from agentic_trio.store.inspection import stats as count

    with progress_bar("Counting") as show:
        result = count(path, progress=show)
    report(result, as_json, _described(result))


def _described(result: dict[str, Any]) -> list[str]:
    times = {"oldest_response", "newest_response"}
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        elif name in times and value is not None:
            value = datetime.fromtimestamp(value, UTC).isoformat()
        lines.append(f"{name.replace('_', ' ')}: {'none' if value in (None, '') else value}")
    return lines


@db.command(cls=OnceCommand, params=database_options())
@click.option(
    "--older-than", metavar="DAYS", type=click.FloatRange(min=0), help="delete what is older than this"
)
@click.option("--streams", is_flag=True, help="delete the streams that could be read again")
@click.option(
    "--rewrite/--no-rewrite", default=None, help="write the file anew [up to 1 GiB, or without a gateway]"
)
def prune(
    file: str | None,
    as_json: bool,
    older_than: float | None,
    streams: bool,
    rewrite: bool | None,
    **flags: Flags,
) -> None:
    """Make the database smaller: delete what is old, sweep what was deleted, and write the file anew."""
    path = database_of(file, flags)
    now = int(time.time())
    arguments = {
        "before": None if older_than is None else int(now - older_than * 86_400),
        "streams_before": now + 1 if streams else None,
        "rewrite": rewrite,
    }

    from agentic_trio.cli.control_client import run_on_database

    with progress_bar("Deleting") as show:
        result = run_on_database(path, "prune", arguments, show)
    report(result, as_json, _pruned(result))


def _pruned(result: dict[str, Any]) -> list[str]:
    lines = [
        f"Deleted {_count(result['deleted'], 'rows')} and {_count(result['streams'], 'streams')}.",
        f"The files had {result['size_before']} bytes, and have {result['size']} now.",
    ]
    if not result["swept"]:
        lines.append("The gateway erases it after erase_after seconds, as turns may still continue it.")
    return [*lines, *([result["traces"]] if result["traces"] else [])]


@db.command(cls=OnceCommand, params=database_options())
@click.option("--owner", metavar="OWNER", help="only what this owner has; '' is what has no owner")
@click.option(
    "--output", "-o", metavar="FILE", type=click.Path(dir_okay=False), help="a new file [stdout by default]"
)
def export(file: str | None, as_json: bool, owner: str | None, output: str | None, **flags: Flags) -> None:
    """Write all conversations and responses as JSON, one a line, also while a gateway runs.

    With --output, only its user may read the file, and --json reports what was written.
    """
    path = database_of(file, flags)

    from agentic_trio.store.export import count, lines

    number = 0
    with progress_bar("Exporting") as show, _exported_to(output) as target:
        whole = count(path, owner) if output else 0
        for number, line in enumerate(lines(path, owner), 1):
            target.write(line + b"\n")
            if output:
                show(number, whole)
    if output:
        report({"output": output, "lines": number}, as_json, [f"{_count(number, 'lines')} in {output}"])


@contextmanager
def _exported_to(output: str | None) -> Iterator[BinaryIO]:
    """Stdout, or a new and private file, which is removed if the export fails."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as target:
            yield target
    except BaseException:
        os.unlink(output)
        raise


@db.command(cls=OnceCommand, params=database_options())
@click.argument("owner")
@click.option("--from", "former", default="", metavar="OWNER", help="whose it is now ['': nobody's]")
def assign_owner(owner: str, file: str | None, as_json: bool, former: str, **flags: Flags) -> None:
    """Give what has no owner, or all that another owner has, to OWNER.

    What was stored before a gateway had owners has none.
    """
    path = database_of(file, flags)
    if not owner or owner == former:
        raise click.UsageError("OWNER must be another than the one it is taken from, and not empty")

    from agentic_trio.cli.control_client import run_on_database

    with progress_bar("Assigning") as show:
        result = run_on_database(path, "assign_owner", {"owner": owner, "from": former}, show)
    counts = (
        f"{_count(result['responses'], 'responses')} and {_count(result['conversations'], 'conversations')}"
    )
    report(result, as_json, [f"{counts} are {owner}'s now."])
