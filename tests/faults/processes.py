"""Gateways in processes of their own, as the command line runs them: to be killed and stopped.

``python -m tests.faults.processes FD`` has imported the gateway and forks for each that is started, so
that the imports are paid for once.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parents[2]

PATIENCE = 60.0
"""Seconds: the machine may be busy, but no test may hang."""


class Died(Exception):
    """The process ended before it listened.

    Attributes:
        code: its exit code.
        said: the last line of its standard error.
    """

    def __init__(self, code: int, said: str) -> None:
        super().__init__(code, said)
        self.code = code
        self.said = said


@dataclass
class Process:
    """A gateway in a process of its own.

    Attributes:
        pid: to be signalled.
        url: where it listens.
        log: the file with its standard error.
    """

    pid: int
    url: str
    log: Path
    client: httpx.AsyncClient = field(repr=False)
    _output: trio.lowlevel.FdStream = field(repr=False)
    _spawner: Spawner = field(repr=False)
    _code: int | None = None

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def limit_files(self, size: int) -> None:
        """No file that it writes may grow beyond so many bytes: for the process, the disk is full."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, hard))

    def unlimit_files(self) -> None:
        self.limit_files(resource.RLIM_INFINITY)

    def memory(self) -> int:
        """Bytes of real memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    async def exit_code(self) -> int:
        """Wait for its end; negative is the signal that killed it."""
        if self._code is None:
            with trio.fail_after(PATIENCE):
                while await self._output.receive_some():
                    pass
            self._code = self._spawner.reap(self.pid)
        return self._code

    async def kill(self) -> None:
        """As the kernel does when memory is short: nothing of it runs any more."""
        self.signal(signal.SIGKILL)
        assert await self.exit_code() == -signal.SIGKILL


class Spawner:
    """Starts gateways."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def fork(self, arguments: list[str], output: int, log: Path) -> int:
        """Start a gateway with these arguments, whose standard output is a descriptor; answers its pid."""
        with log.open("ab") as file:
            return self._fork({"run": arguments}, output, file.fileno())

    def _fork(self, request: dict[str, Any], *descriptors: int) -> int:
        socket.send_fds(self._control, [json.dumps(request).encode()], list(descriptors))
        return self._answer()

    def reap(self, pid: int) -> int:
        """The exit code of one that has ended."""
        self._control.sendall(json.dumps({"reap": pid}).encode())
        return self._answer()

    def _answer(self) -> int:
        return int(json.loads(self._control.recv(100)))

    @asynccontextmanager
    async def holding(self, database: Path) -> AsyncIterator[None]:
        """Another process is in the middle of a transaction that writes to the file."""
        ours, theirs = os.pipe()
        pid = self._fork({"hold": str(database)}, theirs)
        os.close(theirs)
        async with trio.lowlevel.FdStream(ours) as output:
            with trio.fail_after(PATIENCE):
                assert await output.receive_some()
            try:
                yield
            finally:
                os.kill(pid, signal.SIGKILL)
                self.reap(pid)

    async def start(self, database: Path, upstream: str, *flags: str) -> Process:
        """A gateway that listens. Raises Died."""
        base = ["serve", "--db-url", f"sqlite://{database}", "--llm-api-base", upstream, "--port", "0"]
        log = database.with_suffix(".log")
        ours, theirs = os.pipe()
        try:
            pid = self.fork([*base, *flags], theirs, log)
        finally:
            os.close(theirs)
        output = trio.lowlevel.FdStream(ours)
        said = b""
        try:
            with trio.fail_after(PATIENCE):
                while not (found := re.search(rb"listens on (http://[0-9.:]+);", said)):
                    data = await output.receive_some()
                    if not data:
                        raise Died(self.reap(pid), log.read_text().splitlines()[-1])
                    said += data
        except BaseException as error:
            if not isinstance(error, Died):
                os.kill(pid, signal.SIGKILL)
                self.reap(pid)
            await trio.aclose_forcefully(output)
            raise
        url = found[1].decode()
        client = httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=PATIENCE)
        return Process(pid, url, log, client, output, self)

    @asynccontextmanager
    async def running(self, database: Path, upstream: str, *flags: str) -> AsyncIterator[Process]:
        """A gateway for as long as the block lasts, unless it ends in there; killed if it is left."""
        process = await self.start(database, upstream, *flags)
        try:
            async with process.client:
                yield process
        finally:
            if process._code is None:
                process.signal(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.exit_code()
                await process._output.aclose()


@contextmanager
def open_spawner() -> Iterator[Spawner]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    command = [sys.executable, "-m", "tests.faults.processes", str(theirs.fileno())]
    with ours, subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()]):
        theirs.close()
        yield Spawner(ours)
        ours.close()


def hold(database: str) -> None:
    """Hold a database until killed."""
    db = sqlite3.connect(database, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    print("held")
    signal.pause()


def main(descriptor: int) -> None:
    """Fork gateways until the other side closes."""
    import agentic_trio.cli.run  # noqa: F401  (loaded once, before the forks)
    from agentic_trio.cli.main import main as run

    for name in ("OPENAI_API_KEY", "LLM_API_BASE", "DATABASE_URL", "GATEWAY_PORT", "GATEWAY_HOST"):
        os.environ.pop(name, None)
    control = socket.socket(fileno=descriptor)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 65536, 2)
        if not message:
            return
        request: dict[str, Any] = json.loads(message)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            control.sendall(json.dumps(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            control.close()
            for number, given in enumerate(descriptors, 1):
                os.dup2(given, number)
                os.close(given)
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            code = 0
            try:
                if "hold" in request:
                    hold(request["hold"])
                run(request["run"])
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                code = 70
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        for given in descriptors:
            os.close(given)
        control.sendall(json.dumps(pid).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
