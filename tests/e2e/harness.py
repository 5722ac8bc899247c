"""The real command in a process of its own, before a fake upstream in this one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import trio

from agentic_trio.config import ENVIRONMENT
from agentic_trio.settings import PREFIX
from tests.oracles import check_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND = (sys.executable, "-m", "agentic_trio")
STARTS_WITHIN = 60.0
"""Seconds; a busy machine takes its time to import."""

_LISTENS = re.compile(rb"(?:listens|Running) on http://[\w.]+:(\d+)")


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what configures a gateway."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ENVIRONMENT and not name.startswith(PREFIX)
    }
    return kept | variables


def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command that should end by itself."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=STARTS_WITHIN,
        check=False,
    )


@dataclass
class Server:
    """A running server process."""

    process: trio.Process
    port: int
    client: httpx.AsyncClient
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def wait(self, patience: float = 10.0) -> int:
        """The exit code, once the process has ended."""
        with trio.fail_after(patience):
            return await self.process.wait()

    async def read(self, id: str) -> dict[str, Any]:
        """A response that must be there."""
        answer = await self.client.get(f"/v1/responses/{id}")
        assert answer.status_code == 200, answer.text
        return check_response(answer.content)

    async def accepts(self) -> bool:
        """Whether it takes new connections."""
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        await stream.aclose()
        return True


async def _port(process: trio.Process, log: Path) -> int:
    while True:
        written = await trio.Path(log).read_bytes()
        if found := _LISTENS.search(written):
            return int(found[1])
        assert process.poll() is None, written.decode()
        await trio.sleep(0.01)  # no event tells what another process has written


@asynccontextmanager
async def open_process(
    command: list[str], log: Path, variables: dict[str, str] | None = None
) -> AsyncIterator[Server]:
    """A server process that says where it listens, on either of its outputs. Killed at the end, with all
    that it started."""
    async with open_group(command, log, variables) as process:
        with trio.fail_after(STARTS_WITHIN):
            port = await _port(process, log)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False, timeout=20
        ) as client:
            yield Server(process, port, client, log)


@asynccontextmanager
async def open_group(
    command: list[str], log: Path, variables: dict[str, str] | None = None
) -> AsyncIterator[trio.Process]:
    """A process that leads a group of its own, both of its outputs in ``log``.

    At the end the group is killed: hypercorn's workers outlive their parent when only that is.
    """
    with log.open("wb") as file:
        process = await trio.lowlevel.open_process(
            command, env=environment(**variables or {}), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(10, shield=True):
            await process.wait()
            await _gone(process.pid)


async def _gone(group: int) -> None:
    while True:
        if not running_in(group):
            return
        await trio.sleep(0.01)  # no event tells that a grandchild is gone


def running_in(group: int) -> list[int]:
    """The processes of a group. One that has ended counts no more, even if its parent didn't take notice."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, _, leader = path.read_text().rpartition(")")[2].split()[:3]
            if int(leader) == group and state not in ("Z", "X"):
                found.append(int(path.parent.name))
    return found


@asynccontextmanager
async def open_server(directory: Path, upstream: str, *flags: str) -> AsyncIterator[Server]:
    """``agentic-trio serve`` with its database in ``directory``."""
    command = [*COMMAND, "serve", "--port", "0", "--llm-api-base", upstream]
    command += ["--db-url", f"sqlite://{directory / 'gateway.db'}", *flags]
    async with open_process(command, directory / "server.log") as server:
        yield server
