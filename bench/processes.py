"""Servers as processes of their own: started, waited for, measured and ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench.client import Client, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT = 60.0
"""Seconds that a server may take until it answers."""
STOP_TIMEOUT = 15.0


@dataclass(slots=True)
class Server:
    """A running process that serves a URL.

    Attributes:
        name: what the tables call it.
        url: where it listens, without a path.
        process: None for one that isn't ours to start, or to look into: it costs nothing.
        log: where its output goes.
        database: its SQLite file, if it has one.
    """

    name: str
    url: str
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path(os.devnull)
    database: Path | None = None

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that the process and its children have used.

        The kernel's own clock of a process: what /proc/PID/stat says, without its 10 ms steps.
        """
        return sum(_cpu_clock(pid) for pid in self.pids())

    def rss(self) -> int:
        """Resident bytes of the process and its children."""
        return sum(_resident(pid) for pid in self.pids())

    def written(self) -> int:
        """Bytes that the process has written to files (sockets that are sent to don't count)."""
        return sum(_written(pid) for pid in self.pids())

    def database_bytes(self) -> int:
        """The size of its database, its log apart."""
        return self.database.stat().st_size if self.database and self.database.exists() else 0

    def log_bytes(self) -> int:
        """The size of its database's write-ahead log."""
        path = Path(f"{self.database}-wal")
        return path.stat().st_size if self.database and path.exists() else 0

    async def wait_ready(self, path: str = "/health") -> None:
        """Wait until it answers. Raises RuntimeError, with its last words, when it ends or is too slow."""
        with trio.move_on_after(START_TIMEOUT):
            while self.process is None or self.process.poll() is None:
                try:
                    async with Client(self.url) as client:
                        if (await client.get(path)).status == 200:
                            return
                except (OSError, Failure, trio.BrokenResourceError):
                    pass
                await trio.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End it: gracefully, then by force."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def pids(self) -> list[int]:
        """The process and its children."""
        pids = [] if self.process is None else [self.process.pid]
        for pid in pids:
            try:
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
        return pids


def _cpu_clock(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the kernel's encoding of "all threads of this process"
    except OSError:
        return 0.0


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _written(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar: "):
            return int(line.removeprefix("wchar: "))
    return 0


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    directory: Path,
    *,
    database: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server for as long as the block lasts. Its output goes to a file of ``directory``."""
    log = directory / f"{name}-{port}.log"
    clean = {key: value for key, value in os.environ.items() if key not in _CONFIGURING}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**clean, **(environment or {})}, cwd=directory
        )
    server = Server(name, f"http://127.0.0.1:{port}", process, log, database)
    try:
        yield server
    finally:
        server.stop()


_CONFIGURING = frozenset({"LLM_API_BASE", "OPENAI_API_KEY", "DATABASE_URL", "GATEWAY_HOST", "GATEWAY_PORT"})


def fake_upstream(directory: Path) -> AbstractContextManager[Server]:
    """Our fake vLLM."""
    port = free_port()
    command = [sys.executable, "-m", "tests.fake_upstream", "--port", str(port)]
    return running("fake-vllm", command, port, directory, environment={"PYTHONPATH": str(ROOT)})


def our_gateway(upstream: str, directory: Path) -> AbstractContextManager[Server]:
    """This project's gateway, with a new database."""
    port = free_port()
    database = directory / f"agentic-trio-{port}.db"
    command = [sys.executable, "-m", "agentic_trio", "serve", "--llm-api-base", upstream]
    command += ["--port", str(port), "--db-url", f"sqlite://{database}", "--graceful-timeout", "3"]
    return running("agentic-trio", command, port, directory, database=database)
