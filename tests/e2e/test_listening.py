"""Where and how a server listens: TLS, Unix sockets, sockets that others opened, systemd, reloads."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from tests.fake_upstream import open_fake_upstream

from .harness import COMMAND, STARTS_WITHIN, environment, open_group, open_server, run_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import BinaryIO

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


def certificate(directory: Path, name: str, *, password: str | None = None) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    secret = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        *secret,
        "-days",
        "1",
        "-subj",
        f"/CN={name}",
    ]
    command += [
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(cert),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def start(command: list[str], log: BinaryIO, descriptor: int) -> subprocess.Popen[bytes]:
    """A process that inherits a descriptor, and leads a group of its own."""
    return subprocess.Popen(
        command,
        env=environment(),
        stdout=log,
        stderr=log,
        pass_fds=[descriptor],
        start_new_session=True,
    )


async def until_written(log: Path, text: str) -> str:
    with trio.fail_after(STARTS_WITHIN):
        while True:
            written = await trio.Path(log).read_text()
            if text in written:
                return written
            await trio.sleep(0.01)  # no event tells what another process has written


def serve_command(directory: Path, upstream: str, *flags: str) -> list[str]:
    database = f"sqlite://{directory / 'gateway.db'}"
    return [*COMMAND, "serve", "--llm-api-base", upstream, "--db-url", database, *flags]


@asynccontextmanager
async def served_at(directory: Path, upstream: str, *flags: str) -> AsyncIterator[trio.Process]:
    """A server that listens somewhere else than on a port of its own."""
    log = directory / "server.log"
    async with open_group(serve_command(directory, upstream, *flags), log) as process:
        await until_written(log, "listens on")
        yield process


def peer_name(port: int, trusted: Path) -> tuple[str, str | None]:
    """The name in the certificate that a server shows, and the protocol that it chose."""
    context = ssl.create_default_context(cafile=str(trusted))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        shown: Any = secure.getpeercert()
        [[[_, name]]] = shown["subject"]
        return str(name), secure.selected_alpn_protocol()


@needs_openssl
async def test_tls_is_served_and_a_reload_changes_the_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first")
    async with open_fake_upstream() as upstream:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        flags = ("--port", str(port), "--certfile", str(cert), "--keyfile", str(key))
        async with served_at(tmp_path, upstream.url, *flags) as process:
            log = tmp_path / "server.log"
            assert "https://127.0.0.1" in await until_written(log, "listens on")
            assert await trio.to_thread.run_sync(peer_name, port, cert) == ("first", "http/1.1")
            context = ssl.create_default_context(cafile=str(cert))
            async with httpx.AsyncClient(verify=context, trust_env=False) as client:
                body = {"model": "tiny", "input": "hi", "stream": True}
                answer = await client.post(f"https://127.0.0.1:{port}/v1/responses", json=body)
                assert "response.completed" in answer.text
            new_cert, new_key = certificate(tmp_path, "second")
            shutil.copy(new_cert, cert)
            shutil.copy(new_key, key)
            process.send_signal(signal.SIGHUP)
            await until_written(log, "the configuration is reloaded")
            assert await trio.to_thread.run_sync(peer_name, port, new_cert) == ("second", "http/1.1")
            cert.write_text("nonsense")
            process.send_signal(signal.SIGHUP)
            await until_written(log, "not reloaded: certfile")
            assert await trio.to_thread.run_sync(peer_name, port, new_cert) == ("second", "http/1.1")


@needs_openssl
async def test_an_encrypted_key_needs_its_password(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "locked", password="open sesame")
    flags = ("--port", "0", "--certfile", str(cert), "--keyfile", str(key))
    command = serve_command(tmp_path, "http://127.0.0.1:1", *flags)[len(COMMAND) :]
    ran = run_command(*command)
    assert ran.returncode == 2
    assert "keyfile is encrypted" in ran.stderr
    wrong = run_command(*command, AGENTIC_TRIO_KEYFILE_PASSWORD="wrong")
    assert wrong.returncode == 2
    assert "wrong" not in wrong.stderr
    assert not (tmp_path / "gateway.db").exists()
    secret = tmp_path / "password"
    secret.write_text("open sesame\n")
    log = tmp_path / "server.log"
    variables = {"AGENTIC_TRIO_KEYFILE_PASSWORD_FILE": str(secret)}
    async with open_group([*COMMAND, *command], log, variables):
        assert "https://127.0.0.1" in await until_written(log, "listens on")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--certfile", "/nowhere.pem"), "certfile or keyfile can't be read"),
        (("--certfile", __file__), "certfile and keyfile can't be used"),
        (("--keyfile", __file__), "without a certfile"),
        (("--uds", "x.sock", "--fd", "3"), "uds and fd are both given"),
        (("--fd", "99"), "fd 99 is not an open socket"),
    ],
)
def test_what_can_not_be_listened_with_is_one_line(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    ran = run_command(*serve_command(tmp_path, "http://127.0.0.1:1", *flags)[len(COMMAND) :])
    assert ran.returncode == 2
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not (tmp_path / "gateway.db").exists()


async def test_a_unix_socket_is_for_user_and_group_and_any_host(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    async with open_fake_upstream() as upstream:
        async with served_at(tmp_path, upstream.url, "--uds", str(path)) as process:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://api.example.com") as client:
                body = {"model": "tiny", "input": "hi"}
                made = await client.post("/v1/responses", json=body)
                assert made.status_code == 200
                async with client.stream("POST", "/v1/responses", json=body | {"stream": True}) as stream:
                    assert "response.completed" in (await stream.aread()).decode()
            other = tmp_path / "other"
            other.mkdir()
            command = serve_command(other, upstream.url, "--uds", str(path))[len(COMMAND) :]
            ran = await trio.to_thread.run_sync(lambda: run_command(*command))
            assert ran.returncode == 2
            assert "another server listens there" in ran.stderr
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        assert not path.exists()


async def test_a_socket_that_a_dead_server_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    async with open_fake_upstream() as upstream, served_at(tmp_path, upstream.url, "--uds", str(path)):
        pass
    mine = tmp_path / "mine"
    mine.write_text("mine")
    command = serve_command(tmp_path, "http://127.0.0.1:1", "--uds", str(mine))[len(COMMAND) :]
    ran = await trio.to_thread.run_sync(lambda: run_command(*command))
    assert ran.returncode == 2
    assert mine.read_text() == "mine"


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize("way", ["--fd", "LISTEN_FDS"])
async def test_a_socket_that_is_passed_on_is_listened_on(tmp_path: Path, way: str) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    number = listening.fileno()
    async with open_fake_upstream() as upstream:
        command = serve_command(tmp_path, upstream.url)
        if way == "--fd":
            command += ["--fd", str(number)]
        else:
            command = [sys.executable, "-c", ACTIVATE, str(number), *command[1:]]
        log = tmp_path / "server.log"
        with log.open("wb") as file, listening:
            process = start(command, file, number)
        try:
            await until_written(log, f"127.0.0.1:{port}")
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{port}/health")
                assert answer.status_code == 200
                foreign = {"host": "evil.example"}
                answer = await client.get(f"http://127.0.0.1:{port}/health", headers=foreign)
                assert answer.status_code == 403
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def test_the_service_manager_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(address)
        manager.settimeout(STARTS_WITHIN)

        async def told(text: str) -> None:
            while text not in (await trio.to_thread.run_sync(manager.recv, 4096)).decode():
                pass

        async with open_fake_upstream() as upstream:
            log = tmp_path / "server.log"
            variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
            command = serve_command(tmp_path, upstream.url, "--port", "0")
            async with open_group(command, log, variables) as process:
                await told("READY=1")
                await told("WATCHDOG=1")
                process.send_signal(signal.SIGHUP)
                await told("RELOADING=1")
                await told("READY=1")
                process.send_signal(signal.SIGTERM)
                await told("STOPPING=1")
                assert await process.wait() == 0


async def test_a_reload_takes_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('log_level = "warning"\nturn_timeout = 100\n')
    async with (
        open_fake_upstream() as upstream,
        open_server(tmp_path, upstream.url, "--config", str(file)) as server,
    ):
        body = {"model": "tiny", "input": "hi"}
        await server.client.post("/v1/responses", json=body)
        assert "POST" not in server.log.read_text()
        file.write_text('log_level = "info"\nturn_timeout = 200\n')
        server.signal(signal.SIGHUP)
        written = await until_written(server.log, "the configuration is reloaded")
        assert "need a restart: turn_timeout" in written
        await server.client.post("/v1/responses", json=body)
        await until_written(server.log, "POST")
        file.write_text("nonsense")
        server.signal(signal.SIGHUP)
        await until_written(server.log, "the configuration is not reloaded")
        assert (await server.client.post("/v1/responses", json=body)).status_code == 200


async def test_a_proxy_that_is_named_says_who_the_client_is(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        flags = ("--forwarded-allow-ips", "127.0.0.1", "--root-path", "/llm", "--log-format", "json")
        async with open_server(tmp_path, upstream.url, *flags) as server:
            headers = {"x-forwarded-for": "198.51.100.7"}
            answer = await server.client.get("/llm/v1/models", headers=headers)
            assert answer.status_code == 200
            assert '"198.51.100.7"' in await until_written(server.log, "198.51.100.7")


async def test_a_gateway_ends_with_the_terminal_that_it_was_started_from(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    async with open_fake_upstream() as upstream:
        log = tmp_path / "server.log"
        command = serve_command(tmp_path, upstream.url, "--port", "0")
        with log.open("wb") as file:
            process = await trio.lowlevel.open_process(
                command, env=environment(), stdin=theirs, stdout=file, stderr=file
            )
        os.close(theirs)
        try:
            await until_written(log, "listens on")
            process.send_signal(signal.SIGHUP)
            await until_written(log, "the configuration is reloaded")
            os.close(ours)
            process.send_signal(signal.SIGHUP)
            with trio.fail_after(STARTS_WITHIN):
                assert await process.wait() == 0
        finally:
            process.kill()


async def test_a_bar_is_drawn_on_a_terminal_alone(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        await server.client.post("/v1/responses", json={"model": "tiny", "input": "hi"})
        ours, theirs = os.openpty()
        command = [*COMMAND, "db", "check", "--json", "--db-url", f"sqlite://{tmp_path / 'gateway.db'}"]
        ran = await trio.run_process(
            command, env=environment(TERM="xterm"), capture_stdout=True, stderr=theirs
        )
        os.close(theirs)
        drawn = os.read(ours, 100_000).decode()
        os.close(ours)
    assert "Checking" in drawn
    assert "100%" in drawn
    assert ran.stdout.startswith(b'{"database"')
