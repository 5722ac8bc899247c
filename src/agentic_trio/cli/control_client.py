"""Carries out a command where the database is open: in the gateway that has it, or else here."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import click
import msgspec
import trio

from agentic_trio.errors import ConfigError
from agentic_trio.gateway.control import CommandError, address_of
from agentic_trio.gateway.maintenance import run_alone
from agentic_trio.store import schema
from agentic_trio.store.contract import StoreError
from agentic_trio.store.key_database import open_keys

if TYPE_CHECKING:
    from agentic_trio.config import Config
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


def forget_keys(config: Config, arguments: JsonObject) -> int:
    """Revoke the keys of an owner all of whose state is to be erased; returns how many those are.

    Raises:
        ConfigError: the file of keys can't be used.
        ClickException: it can't be read or written.
    """
    owner = arguments["owner"]
    whole = arguments["conversation"] is None and arguments["metadata"] is None
    if not owner or not whole or arguments["dry_run"] or not os.path.exists(config.keys_path):
        return 0
    try:
        with closing(open_keys(config.keys_path, create=False)) as database:
            return database.forget_owner(owner, int(time.time()))
    except StoreError as error:
        raise click.ClickException(f"the keys can't be read or written: {error}") from error


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
