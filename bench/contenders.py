"""Other gateways for the same job: installed from their wheels, each into an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.processes import free_port, our_gateway, running

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bench.processes import Server

INSTALL_TIMEOUT = 600.0


def default_cache() -> Path:
    """Where the environments are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "agentic-trio-bench"


@dataclass(frozen=True)
class Contender:
    """A gateway that can be started. This one is ours; the others need an environment first."""

    name: str = "agentic-trio"

    def prepare(self, cache: Path) -> None:
        """Make it ready to be started. Raises CalledProcessError."""

    def start(self, upstream: str, directory: Path) -> AbstractContextManager[Server]:
        """A new process with new state, for as long as the block lasts."""
        return our_gateway(upstream, directory)


class Installed(Contender):
    """A package with a version, in a virtual environment that is made once."""

    requirement: str

    def __init__(self) -> None:
        super().__init__(self.requirement.replace("==", " "))

    def prepare(self, cache: Path) -> None:
        environment = cache / self.requirement.replace("==", "-")
        object.__setattr__(self, "bin", environment / "bin")
        if (environment / "installed").exists():
            return
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-qq", self.requirement]
        for command in ([sys.executable, "-m", "venv", str(environment)], pip):
            subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT, stdout=sys.stderr)
        (environment / "installed").touch()


class AgenticApi(Installed):
    """A Rust gateway that keeps its state in SQLite."""

    requirement = "agentic-api==0.9.0"

    def start(self, upstream: str, directory: Path) -> AbstractContextManager[Server]:
        port = free_port()
        database = directory / f"agentic-api-{port}.db"
        command = [str(self.bin / "agentic-server"), "--llm-api-base", upstream]
        command += ["--gateway-host", "127.0.0.1", "--gateway-port", str(port)]
        command += ["--db-url", f"sqlite://{database}"]
        quiet = {"RUST_LOG": "warn"}
        return running(self.name.split()[0], command, port, directory, database=database, environment=quiet)


class Smg(Installed):
    """A Rust gateway that keeps its state in memory; the stores that last need a server."""

    requirement = "smg==1.13.0"

    def start(self, upstream: str, directory: Path) -> AbstractContextManager[Server]:
        port = free_port()
        command = [str(self.bin / "smg"), "launch", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--worker-urls", upstream, "--backend", "openai", "--history-backend", "memory"]
        command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        command += ["--disable-tokenizer-autoload", "--log-level", "warn"]
        return running(self.name.split()[0], command, port, directory)


def contenders() -> list[Contender]:
    """Ours first, then those it is compared with."""
    return [Contender(), AgenticApi(), Smg()]
