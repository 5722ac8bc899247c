"""Who can reach the gateway, and what they could do."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from agentic_trio.cli.doctor.findings import Finding, ok, problem, warning
from agentic_trio.errors import ConfigError
from agentic_trio.server.binding import Binding, tls_context
from agentic_trio.server.serve import check_exposure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentic_trio.config import Config

CHECK = "exposure"


def examine_exposure(config: Config) -> Iterator[Finding]:
    """Look at the address, at TLS, and at who is let in."""
    try:
        binding = Binding.of(config)
        check_exposure(config, authenticates=bool(config.auth))
        tls_context(config)
    except ConfigError as error:
        yield problem(CHECK, f"The gateway won't start: {error}.", "Change the setting that is named.")
        return
    yield from _examine_address(config, binding)
    if "*" in config.forwarded_allow_ips:
        yield warning(
            CHECK,
            "Anybody's X-Forwarded-For counts.",
            "Name the proxies in forwarded_allow_ips, or make sure that only they can connect.",
        )
    if not config.auth and "*" in config.cors_allowed_origins:
        yield warning(
            CHECK,
            "Any web page that a user visits can read and use everything.",
            "Name the origins in cors_allowed_origins, or set auth.",
        )
    yield from _examine_port(config, binding)


def _examine_address(config: Config, binding: Binding) -> Iterator[Finding]:
    if binding.reachable is None:
        where = config.uds or "this machine alone"
        yield ok(CHECK, f"The gateway listens for {where}.")
        return
    if not config.auth:
        yield warning(
            CHECK,
            f"Everyone who reaches {binding.reachable} can read and use everything.",
            "Set auth (--auth keys), unless a proxy in front decides who may come through.",
        )
    if config.certfile is None:
        yield warning(
            CHECK,
            f"What passes through {binding.reachable} is not encrypted.",
            "Set certfile and keyfile, or let only a proxy that serves TLS reach it.",
        )
    elif config.auth:
        yield ok(CHECK, f"{binding.reachable} is served with TLS, to those who have a credential.")


def _examine_port(config: Config, binding: Binding) -> Iterator[Finding]:
    if config.uds is not None or config.fd or config.port == 0 or binding.binds[0].startswith("fd://"):
        return
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((config.host, config.port))
        except OSError as error:
            yield _unbound(config, error)
        else:
            yield ok(CHECK, f"Port {config.port} is free.")


def _unbound(config: Config, error: OSError) -> Finding:
    where = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return ok(CHECK, f"{where} is taken, which is right if the gateway is running.")
    reason = error.strerror or str(error)
    return problem(CHECK, f"{where} can't be listened on: {reason}.", "Set another host or port.")
