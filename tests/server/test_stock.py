"""What is left to hypercorn: HTTP/2 and TLS; and that a stalled client can't hold up a shutdown."""

import shutil
import ssl
import subprocess
from pathlib import Path

import h2.connection
import h2.events
import pytest
import trio
from trio.testing import MockClock

from agentic_trio.server.limits import ConnectionLimits

from .app import App
from .harness import Client, Server

H2_HEADERS = [(":method", "GET"), (":path", "/scope"), (":scheme", "http"), (":authority", "x")]


@pytest.mark.parametrize("split", [False, True])
async def test_http2_with_prior_knowledge(ours: Server, app: App, split: bool) -> None:
    await ours.start(app)
    client = await ours.connect()
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    for stream in (1, 3):
        connection.send_headers(stream, H2_HEADERS, end_stream=True)
        data = connection.data_to_send()
        if split:
            for byte in data[:30]:
                await client.send(bytes([byte]))
            data = data[30:]
        await client.send(data)
        assert b'"http_version": "2"' in await _h2_body(client, connection)


async def _h2_body(client: Client, connection: h2.connection.H2Connection) -> bytes:
    body = b""
    with trio.fail_after(5):
        while True:
            for event in connection.receive_data(await client.stream.receive_some()):
                if isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return body


async def test_stalled_http2_client_does_not_hold_up_shutdown(
    ours: Server, app: App, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02
    await ours.start(app, ConnectionLimits(write_timeout=30), graceful_timeout=3)
    client = await ours.connect()
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
    connection.increment_flow_control_window(2**31 - 1 - 65535)
    flood = [(n, "/flood" if n == ":path" else v) for n, v in H2_HEADERS]
    connection.send_headers(1, flood, end_stream=True)
    await client.send(connection.data_to_send())
    await app.has_seen("/flood")
    started = trio.current_time()
    ours.stop.set()
    await ours.stopped.wait()
    assert trio.current_time() - started <= 3 + 30 + 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path) + ".key", "-out", str(path)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    return path


async def test_tls_is_served(ours: Server, app: App, certificate: Path) -> None:
    await ours.start(app, certfile=str(certificate), keyfile=str(certificate) + ".key")
    context = ssl.create_default_context(cafile=str(certificate))
    tcp = await trio.open_tcp_stream("127.0.0.1", ours.port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    await stream.send_all(b"GET /scope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    data = b""
    with trio.fail_after(5):
        while more := await stream.receive_some():
            data += more
    await stream.aclose()
    assert b'"scheme": "https"' in data


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2", "--http2-prior-knowledge"])
async def test_curl(ours: Server, app: App, option: str) -> None:
    await ours.start(app)
    url = f"http://127.0.0.1:{ours.port}/echo"
    body = b"x" * 300_000  # large enough for curl to expect a 100 Continue
    # Debian's curl 7.88 can't use an HTTP/2 connection twice; hypercorn alone shows the same.
    urls = [url] if option == "--http2-prior-knowledge" else [url, url]
    command = ["curl", "-sS", "--max-time", "10", option, "--data-binary", "@-", *urls]
    result = await trio.run_process(command, stdin=body, capture_stdout=True, capture_stderr=True)
    assert (result.stderr, result.stdout) == (b"", body * len(urls))
