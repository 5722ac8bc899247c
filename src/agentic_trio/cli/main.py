"""The command line: ``agentic-trio serve``, ``demo``, ``doctor``, ``keys``, ``config`` and ``db``.

What a command needs is imported when it runs: ``--help``, ``--version`` and the completion in a shell
load neither Trio nor a web framework.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import click

from agentic_trio.cli.database import db
from agentic_trio.cli.options import OnceCommand, config_option, options_of
from agentic_trio.cli.values import Moment, Name, Period
from agentic_trio.config import SETTINGS, Config, log_sources
from agentic_trio.context import SCOPES
from agentic_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "agentic-trio"


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(package_name=NAME, prog_name=NAME, message="%(prog)s %(version)s")
def command_line() -> None:
    """Stateful OpenAI Responses and Conversations in front of vLLM."""


@command_line.command(cls=OnceCommand, params=[config_option(), *options_of(SETTINGS)])
@click.option("--local", is_flag=True, help="start a small real model beside the gateway and use it")
@click.option("--verbose", is_flag=True, help="the same as --log-level debug")
def serve(file: str | None, local: bool, verbose: bool, **flags: str | bool | None) -> None:
    """Run the gateway.

    A setting is taken from its flag, else from its environment variable, else from the configuration
    file, else it is the default.
    """
    from agentic_trio.telemetry.process_log import lines_held, open_log

    def configured() -> Config:
        config = Config.from_command(flags, file)
        return replace(config, log_level="debug") if verbose else config

    with lines_held():
        config = configured()
        log = open_log(config.log_format, config.log_level)
    log_sources(config)

    from agentic_trio.cli.run import run_gateway

    run_gateway(config, log, local=local, reread=configured)


@command_line.command(cls=OnceCommand)
@click.option("--url", help="a running gateway [one of its own by default, with a local model]")
@click.option("--model", help="who answers [the first that the server lists by default]")
def demo(url: str | None, model: str | None) -> None:
    """Show a conversation that remembers: hold it, stream, restart the gateway, go on."""
    import trio

    from agentic_trio.cli.demo import demo as hold_conversation

    trio.run(hold_conversation, url, model)


command_line.add_command(db)


LIMITS = [
    click.Option(
        ["--turns-per-minute"], type=click.IntRange(1), help="requests that may begin in any minute"
    ),
    click.Option(["--turns-at-once"], type=click.IntRange(1), help="requests that may run at once"),
    click.Option(["--tokens-per-day"], type=click.IntRange(1), help="tokens in a day of UTC, in and out"),
]
"""What a key or an owner may use."""


def _keeping(name: str) -> list[click.Parameter]:
    """The options that say where keys are kept, and how a command prints what it found."""
    settings = {field: SETTINGS[field] for field in ("db_url", "keys_file")}
    as_json = click.Option(["--json", "as_json"], is_flag=True, help=f"print {name} as JSON")
    return [as_json, config_option(), *options_of(settings)]


@command_line.group()
def keys() -> None:
    """Say who may call a gateway with --auth keys, also while it runs."""


@keys.command(cls=OnceCommand, params=[*LIMITS, *_keeping("what is known of the key, and the key,")])
@click.option("--owner", required=True, type=Name(), help="whose state its requests see")
@click.option("--name", default="", help="what it is for, so that it can be told from the owner's others")
@click.option("--scope", type=click.Choice(SCOPES), default="write", show_default=True, help="what it may do")
@click.option("--expires", type=Moment(), help="when it ends: so long from now (90d, 12h), or a date")
@click.option("--upstream-key-file", type=click.Path(), help="holds the model server's key for its requests")
@click.option("--client-upstream-key", is_flag=True, help="let its clients send one, as Authorization")
def create(
    file: str | None,
    as_json: bool,
    owner: str,
    name: str,
    scope: str,
    expires: int | None,
    upstream_key_file: str | None,
    client_upstream_key: bool,
    turns_per_minute: int | None,
    turns_at_once: int | None,
    tokens_per_day: int | None,
    **flags: str | bool | None,
) -> None:
    """Make a key and print it. It is shown at no other time, and not stored."""
    from agentic_trio.cli import key_commands

    if upstream_key_file and client_upstream_key:
        raise click.UsageError("--upstream-key-file and --client-upstream-key exclude one another")
    key_commands.create(
        Config.from_command(flags, file),
        as_json=as_json,
        owner=owner,
        name=name,
        scope=scope,
        expires_at=expires,
        upstream_key=key_commands.read_upstream_key(upstream_key_file) if upstream_key_file else None,
        brings_upstream_key=int(client_upstream_key),
        turns_per_minute=turns_per_minute,
        turns_at_once=turns_at_once,
        tokens_per_day=tokens_per_day,
    )


@keys.command("list", cls=OnceCommand, params=_keeping("them"))
@click.option("--owner", help="only this owner's")
def list_keys(file: str | None, as_json: bool, owner: str | None, **flags: str | bool | None) -> None:
    """List the keys: whose they are, what they may do, and when they were used last."""
    from agentic_trio.cli import key_commands

    key_commands.show(Config.from_command(flags, file), owner, as_json=as_json)


@keys.command(cls=OnceCommand, params=_keeping("what is known of the key"))
@click.argument("key")
def revoke(key: str, file: str | None, as_json: bool, **flags: str | bool | None) -> None:
    """Let KEY, an id or a name, be worth nothing, within some seconds on every gateway."""
    from agentic_trio.cli import key_commands

    key_commands.revoke(Config.from_command(flags, file), key, as_json=as_json)


@keys.command(cls=OnceCommand, params=_keeping("what is known of the new key, and the key,"))
@click.argument("key")
@click.option("--grace", type=Period(), default="0s", help="how long the old key is good for yet, as 24h")
def rotate(key: str, grace: int, file: str | None, as_json: bool, **flags: str | bool | None) -> None:
    """Make a key like KEY, an id or a name, in its place, and print it."""
    from agentic_trio.cli import key_commands

    key_commands.rotate(Config.from_command(flags, file), key, grace, as_json=as_json)


@command_line.group(name="config")
def config_group() -> None:
    """Look at the settings."""


_AS_JSON = click.Option(["--json", "as_json"], is_flag=True, help="print JSON")


@config_group.command(cls=OnceCommand, params=[config_option(), *options_of(SETTINGS), _AS_JSON])
def show(file: str | None, as_json: bool, **flags: str | bool | None) -> None:
    """Show each setting's value and where it came from, as `serve` with the same flags would have it.

    Secrets are masked.
    """
    from agentic_trio.cli.settings_commands import show_settings

    show_settings(Config.from_command(flags, file), as_json=as_json)


@command_line.command(cls=OnceCommand, params=[config_option(), *options_of(SETTINGS), _AS_JSON])
@click.option("--no-inference", is_flag=True, help="don't ask the model for a few tokens")
def doctor(file: str | None, as_json: bool, no_inference: bool, **flags: str | bool | None) -> None:
    """Look at everything that the gateway needs, and say what is wrong and what to do.

    Nothing is changed, and a gateway may be running. The exit code is 1 if there is a problem.
    """
    from agentic_trio.cli.settings_commands import run_doctor

    fine = run_doctor(lambda: Config.from_command(flags, file), infer=not no_inference, as_json=as_json)
    if not fine:
        raise SystemExit(1)


@command_line.group()
def owners() -> None:
    """Say what an owner may use, all of its keys together, also while a gateway runs."""


@owners.command("set", cls=OnceCommand, params=[*LIMITS, *_keeping("what was set")])
@click.argument("owner", type=Name())
def set_owner(
    owner: str,
    file: str | None,
    as_json: bool,
    turns_per_minute: int | None,
    turns_at_once: int | None,
    tokens_per_day: int | None,
    **flags: str | bool | None,
) -> None:
    """Set what OWNER may use. What isn't given is as the settings say (--owner-turns-per-minute, ...)."""
    from agentic_trio.cli import key_commands

    limits = (turns_per_minute, turns_at_once, tokens_per_day)
    key_commands.set_owner(Config.from_command(flags, file), owner, limits, as_json=as_json)


@owners.command("list", cls=OnceCommand, params=_keeping("them"))
def list_owners(file: str | None, as_json: bool, **flags: str | bool | None) -> None:
    """List the owners that have limits of their own, or have used tokens today."""
    from agentic_trio.cli import key_commands

    key_commands.show_owners(Config.from_command(flags, file), as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exits with 2 and one line when it can't be run as it was given."""
    try:
        code = command_line.main(arguments, prog_name=NAME, standalone_mode=False)
    except click.ClickException as error:
        fail(error.format_message())
    except ConfigError as error:
        fail(str(error))
    except click.Abort:
        raise SystemExit(130) from None
    if code:
        raise SystemExit(code)


def fail(message: str) -> NoReturn:
    """Say what is wrong in one line, and exit with code 2."""
    print(f"{NAME}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)
