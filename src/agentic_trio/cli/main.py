"""The command line: ``agentic-trio serve`` and ``agentic-trio demo``."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from agentic_trio.config import ENVIRONMENT, Config, parse_origins
from agentic_trio.errors import ConfigError
from agentic_trio.gateway.gateway import open_gateway
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.server.serve import serve
from agentic_trio.store.contract import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from agentic_trio.gateway.gateway import Gateway

LOCAL_RETRIES = 2

HARD_STOP_SLACK = 2.0
"""Seconds after the grace in which the process must have ended, whatever a client or a disk does."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Bad usage is one line and exit code 2, as bad configuration is."""
        fail(message)


def fail(message: str) -> NoReturn:
    """Say what is wrong in one line, and exit with code 2."""
    print(f"agentic-trio: {message}", file=sys.stderr)
    raise SystemExit(2)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser(
        prog="agentic-trio", description="Stateful OpenAI Responses and Conversations in front of vLLM."
    )
    commands = top.add_subparsers(dest="command", required=True, parser_class=_Parser)
    command = commands.add_parser("serve", help="run the gateway", description="Run the gateway.")
    variables = {name: variable for variable, name in ENVIRONMENT.items()}

    def option(flag: str, field: str, help: str, **settings: Any) -> None:
        default = getattr(Config, "__dataclass_fields__")[field].default  # noqa: B009
        shown = f"default {default}" if default not in (None, ()) else "none by default"
        if field in variables:
            shown += f"; ${variables[field]}"
        command.add_argument(flag, dest=field, help=f"{help} ({shown})", **settings)

    option("--llm-api-base", "llm_api_base", "URL of the model server", metavar="URL")
    option("--openai-api-key", "openai_api_key", "key for requests that bring none", metavar="KEY")
    option("--db-url", "db_url", "database, sqlite:// and a path", metavar="URL")
    option("--host", "host", "address to listen on")
    option("--port", "port", "port to listen on, 0 for a free one", type=int)
    option(
        "--client-auth",
        "client_auth",
        "what becomes of a client's bearer token",
        choices=("forward", "replace"),
    )
    option(
        "--cors-allowed-origins",
        "cors_allowed_origins",
        "comma-separated origins, or *",
        type=parse_origins,
        metavar="ORIGINS",
    )
    option("--graceful-timeout", "graceful_timeout", "seconds for requests to finish", type=float)
    option("--turn-timeout", "turn_timeout", "seconds that a turn may take", type=float)
    option("--idle-timeout", "idle_timeout", "seconds that the model server may be silent", type=float)
    option("--max-request-body-size-bytes", "max_request_body_size", "larger bodies are refused", type=int)
    option(
        "--on-disconnect",
        "on_disconnect",
        "what becomes of a turn whose client leaves",
        choices=("cancel", "finish"),
    )
    option("--upstream-retries", "upstream_retries", "tries after a failure before any output", type=int)
    option("--max-concurrent-requests", "max_concurrent_requests", "more get 429", type=int)
    option("--max-held-bytes", "max_held_bytes", "bytes of bodies and histories in memory", type=int)
    option("--max-background", "max_background", "background turns that run at once", type=int)
    option("--replay-retention", "replay_retention", "seconds that an ended stream can be read", type=float)
    option("--erase-after", "erase_after", "seconds after which deleted data leaves the disk", type=float)
    option("--keep-alive-interval", "keep_alive_interval", "seconds of silence before a comment", type=float)
    option("--conversation-wait", "conversation_wait", "seconds to wait for a busy conversation", type=float)
    switch = argparse.BooleanOptionalAction
    option("--strict-parameters", "strict_parameters", "refuse unknown members of a request", action=switch)
    option("--list-endpoints", "list_endpoints", "serve lists of responses and conversations", action=switch)
    command.add_argument("--local", action="store_true", help="start a small real model beside the gateway")
    command.add_argument("--verbose", action="store_true", help="log more")
    demo = commands.add_parser(
        "demo",
        help="show a conversation that remembers",
        description="Hold a conversation, stream, restart the gateway, go on. Uses --url or a local model.",
    )
    demo.add_argument("--url", help="a running gateway (default: one of its own, with a local model)")
    demo.add_argument("--model", help="default: the first that the server lists")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exits with 2 and one line when it can't be run as it was given."""
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    if command == "demo":
        from agentic_trio.cli.demo import demo

        trio.run(demo, options["url"], options["model"])
        return
    local, verbose = options.pop("local"), options.pop("verbose")
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    tune_collector()
    try:
        config = Config.from_env(**options)
        trio.run(_serve_local if local else _serve, config)
    except ConfigError as error:
        fail(str(error))
    except StoreError as error:
        fail(f"the database can't be used: {error}")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        fail(f"can't listen on {config.host}:{config.port}: {error.strerror or error}")


def tune_collector() -> None:
    """Look for cycles less often: what is loaded by now stays, and a request leaves next to none behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _serve_local(config: Config) -> None:
    from dataclasses import replace

    from agentic_trio.cli.local_model import LocalModelError, run_local_model

    print("Starting the local model (Gemma 3 270M on llama.cpp) ...", flush=True)
    async with open_inner_nursery() as nursery:
        try:
            base = await nursery.start(run_local_model)
        except LocalModelError as error:
            raise ConfigError(str(error)) from error
        # llama.cpp closes a connection after a streamed answer without having said that it would.
        retries = max(config.upstream_retries, LOCAL_RETRIES)
        await _serve(replace(config, llm_api_base=base, upstream_retries=retries))
        nursery.cancel_scope.cancel()


async def _serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT has been obeyed."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_gateway(config) as gateway, open_inner_nursery() as nursery:
            told = trio.Event()
            urls = await nursery.start(_until_served, gateway, told, nursery.cancel_scope)
            for url in urls:
                print(
                    f"agentic-trio listens on {url}; the model server is {config.upstream_origin}", flush=True
                )
            nursery.start_soon(_obey, signals, told, nursery.cancel_scope, config)


async def _until_served(
    gateway: Gateway,
    told: trio.Event,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await serve(gateway, shutdown_trigger=told.wait, task_status=task_status)
    everything.cancel()


async def _obey(
    signals: AsyncIterator[int], told: trio.Event, everything: trio.CancelScope, config: Config
) -> None:
    """The first signal starts the graceful end, the second ends everything now."""
    await anext(signals)
    told.set()
    _end_process_after(config.graceful_timeout + HARD_STOP_SLACK)
    await anext(signals)
    everything.cancel()
    _end_process_after(HARD_STOP_SLACK)


def _end_process_after(seconds: float) -> None:
    """End the process by force, unless it has ended by then: a disk may hang, a thread can't be cancelled."""

    async def end() -> None:
        await trio.sleep(seconds)
        logging.getLogger("agentic_trio").critical("not stopped after %g s: exiting by force", seconds)
        os._exit(1)

    trio.lowlevel.spawn_system_task(end)
