"""Carries out a command where the database is open: in the gateway that has it, or else here."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click
import msgspec
import trio

from agentic_trio.errors import ConfigError
from agentic_trio.gateway.control import CommandError, address_of
from agentic_trio.gateway.maintenance import run_alone
from agentic_trio.store import schema
from agentic_trio.store.contract import StoreError

if TYPE_CHECKING:
    from agentic_trio.gateway.control import JsonObject, Progress


def run_on_database(path: str, command: str, arguments: JsonObject, progress: Progress) -> JsonObject:
    """Carry out a command on a database, whether a gateway has it open or not.

    Raises:
        ConfigError: the database can't be used.
        ClickException: the command can't be carried out.
    """
    if path == schema.MEMORY:
        raise ConfigError("db_url names a database in memory, which no command can reach")
    try:
        answer = _ask_gateway(path, command, arguments, progress)
        return trio.run(run_alone, path, command, arguments, progress) if answer is None else answer
    except (CommandError, StoreError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _ask_gateway(path: str, command: str, arguments: JsonObject, progress: Progress) -> JsonObject | None:
    """The result from the gateway that has the database open; None if none has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            with address_of(path) as address:
                sock.connect(address)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except OSError as error:
            raise CommandError(f"the gateway can't be reached: {error.strerror or error}") from error
        with suppress(BrokenPipeError):
            sock.sendall(msgspec.json.encode({"command": command, "arguments": arguments}) + b"\n")
        with sock.makefile("rb") as lines:
            for line in lines:
                message: dict[str, Any] = msgspec.json.decode(line)
                if "progress" in message:
                    progress(*message["progress"])
                elif "error" in message:
                    raise CommandError(message["error"])
                else:
                    result: JsonObject = message["result"]
                    return result
    raise CommandError("the gateway stopped before the command was done: run it again")
