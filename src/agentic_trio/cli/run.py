"""A gateway that runs until a signal ends it."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click
import trio

from agentic_trio.cli.welcome import first_command, warm_up
from agentic_trio.errors import ConfigError
from agentic_trio.gateway.gateway import open_gateway
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.server.serve import bound, check_exposure, serve
from agentic_trio.server.systemd import Notifier
from agentic_trio.store.contract import StoreError
from agentic_trio.telemetry.observer import Observer
from agentic_trio.telemetry.process_log import set_level

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hypercorn.config import Sockets

    from agentic_trio.config import Config
    from agentic_trio.gateway.gateway import Gateway
    from agentic_trio.telemetry.line_writer import RequestLog

logger = logging.getLogger(__name__)

LOCAL_RETRIES = 2

HARD_STOP_SLACK = 2.0
"""Seconds after the grace in which the process must have ended, whatever a client or a disk does."""


def run_gateway(config: Config, log: RequestLog, *, local: bool, reread: Callable[[], Config]) -> None:
    """Run a gateway until SIGTERM or SIGINT has been obeyed; SIGHUP reloads its configuration.

    Args:
        config: its configuration.
        log: gets a line for each request.
        local: start the local model and use it as the model server.
        reread: reads the configuration again.

    Raises:
        ConfigError: the configuration can't be used, or the local model can't be started.
        ClickException: the database can't be used, or the address.
    """
    check_exposure(config, authenticates=bool(config.auth))
    tune_collector()
    tune_allocator()
    try:
        # An address that is taken must not cost a database or the start of a model first.
        with bound(config) as sockets:
            trio.run(_serve_local if local else _serve, config, sockets, log, reread)
    except StoreError as error:
        raise click.ClickException(f"the database can't be used: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        reason = error.strerror or error
        raise click.ClickException(f"can't listen on {_where(config)}: {reason}") from error


def _where(config: Config) -> str:
    return config.uds or (f"fd {config.fd}" if config.fd else f"{config.host}:{config.port}")


def tune_collector() -> None:
    """Look for cycles less often: what is loaded by now stays, and a request leaves next to none behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


MMAP_THRESHOLD = 4 * 1024 * 1024
"""Bytes from which on a block of memory goes back to the system as soon as it is freed."""


def tune_allocator() -> None:
    """Keep glibc from keeping the memory of large bodies.

    It raises its threshold with each large block that is freed: after the first body of 7 MB the later ones
    would come from the heap and leave holes there. With it, the memory of many such bodies was measured at
    1.1 times of what is counted (2.2 while they are parsed), and at 2.75 times without.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)
            # Set by hand, the first threshold no longer raises the second, and each long history that is
            # freed would shrink the heap, to be grown again for the next one.
            mallopt(_M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD)


_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


async def _serve_local(
    config: Config, sockets: Sockets, log: RequestLog, reread: Callable[[], Config]
) -> None:
    from agentic_trio.cli.local_model import MODEL, LocalModelError, run_local_model

    print("Starting the local model (Gemma 3 270M on llama.cpp): a few seconds ...", flush=True)
    async with open_inner_nursery() as nursery:
        try:
            base = await nursery.start(run_local_model)
        except LocalModelError as error:
            raise ConfigError(str(error)) from error
        # llama.cpp closes a connection after a streamed answer without having said that it would.
        retries = max(config.upstream_retries, LOCAL_RETRIES)
        local = replace(config, llm_api_base=base, upstream_retries=retries)
        await _serve(local, sockets, log, reread, warm=MODEL)
        nursery.cancel_scope.cancel()


async def _serve(
    config: Config, sockets: Sockets, log: RequestLog, reread: Callable[[], Config], *, warm: str = ""
) -> None:
    """Serve until SIGTERM or SIGINT has been obeyed. ``warm``: the model to try first."""
    notifier = Notifier(os.environ)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with (
            open_gateway(config, observer=Observer.of(config, log)) as gateway,
            open_inner_nursery() as nursery,
        ):
            told = trio.Event()
            if warm:
                await warm_up(gateway, warm)
            urls = await nursery.start(_until_served, gateway, sockets, told, nursery.cancel_scope)
            servers = config.upstream_origins
            behind = f"server is {servers[0]}" if len(servers) == 1 else f"servers are {', '.join(servers)}"
            for url in urls:
                print(f"agentic-trio listens on {url}; the model {behind}", flush=True)
            gateway.reloads.append(lambda new: set_level(new.log_level, log))
            notifier.ready(f"listens on {', '.join(urls)}")
            nursery.start_soon(notifier.keep_watchdog)
            reload = partial(_reload, gateway, reread, notifier)
            nursery.start_soon(_obey, signals, told, nursery.cancel_scope, config, reload, notifier)
            if warm or sys.stdout.isatty():
                nursery.start_soon(_welcome, gateway, urls[0])


async def _welcome(gateway: Gateway, url: str) -> None:
    command = await first_command(gateway, url)
    if command is not None:
        print(f"Try it from another terminal:\n  {command}\nThe API: {url}/docs", flush=True)


async def _until_served(
    gateway: Gateway,
    sockets: Sockets,
    told: trio.Event,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    await serve(gateway, sockets=sockets, shutdown_trigger=told.wait, task_status=task_status)
    everything.cancel()


def _reload(gateway: Gateway, reread: Callable[[], Config], notifier: Notifier) -> None:
    """Take what can be taken of a changed configuration. One that can't be used changes nothing."""
    notifier.reloading()
    try:
        gateway.reload(reread())
    except ConfigError as error:
        logger.error("the configuration is not reloaded: %s", error)
    else:
        logger.info("the configuration is reloaded")
    notifier.ready("reloaded")


async def _obey(
    signals: AsyncIterator[int],
    told: trio.Event,
    everything: trio.CancelScope,
    config: Config,
    reload: Callable[[], None],
    notifier: Notifier,
) -> None:
    """The first signal starts the graceful end, the second ends everything now.

    SIGHUP reloads, unless it says that the terminal is gone from which the gateway was started.
    """
    from_terminal = os.isatty(0)
    while await anext(signals) == signal.SIGHUP and os.isatty(0) == from_terminal:
        reload()
    notifier.stopping()
    told.set()
    _end_process_after(config.graceful_timeout + HARD_STOP_SLACK)
    while await anext(signals) == signal.SIGHUP:
        pass
    everything.cancel()
    _end_process_after(HARD_STOP_SLACK)


def _end_process_after(seconds: float) -> None:
    """End the process by force, unless it has ended by then: a disk may hang, a thread can't be cancelled."""

    async def end() -> None:
        await trio.sleep(seconds)
        logger.critical("not stopped after %g s: exiting by force", seconds)
        os._exit(1)

    trio.lowlevel.spawn_system_task(end)
