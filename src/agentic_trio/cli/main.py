"""The command line: ``agentic-trio serve``, ``demo`` and ``db``.

What a command needs is imported when it runs: ``--help``, ``--version`` and the completion in a shell
load neither Trio nor a web framework.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from agentic_trio.cli.database import db
from agentic_trio.cli.options import OnceCommand, config_option, options_of
from agentic_trio.config import SETTINGS, Config, log_sources
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
@click.option("--verbose", is_flag=True, help="log more")
def serve(file: str | None, local: bool, verbose: bool, **flags: str | bool | None) -> None:
    """Run the gateway.

    A setting is taken from its flag, else from its environment variable, else from the configuration
    file, else it is the default.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    config = Config.from_command(flags, file)
    log_sources(config)

    from agentic_trio.cli.run import run_gateway

    run_gateway(config, local=local)


@command_line.command(cls=OnceCommand)
@click.option("--url", help="a running gateway [one of its own by default, with a local model]")
@click.option("--model", help="who answers [the first that the server lists by default]")
def demo(url: str | None, model: str | None) -> None:
    """Show a conversation that remembers: hold it, stream, restart the gateway, go on."""
    import trio

    from agentic_trio.cli.demo import demo as hold_conversation

    trio.run(hold_conversation, url, model)


command_line.add_command(db)


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
