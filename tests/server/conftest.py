import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from .app import App
from .harness import Server


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def ours(nursery: trio.Nursery) -> AsyncIterator[Server]:
    server = Server(nursery)
    yield server
    server.close_clients()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate of localhost. Its key's name ends in ``.key``."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", "-x509", *key, "-nodes", "-days", "1", "-subj", "/CN=x"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{path}.key", "-out", str(path)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return path


@pytest.fixture(params=["plain", "tls"])
async def server(request: Any, nursery: trio.Nursery) -> AsyncIterator[Server]:
    """The same tests, without and with TLS."""
    tls = request.getfixturevalue("certificate") if request.param == "tls" else None
    server = Server(nursery, tls)
    yield server
    server.close_clients()
