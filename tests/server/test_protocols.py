"""Other protocols: TLS is spoken; HTTP/2 and WebSockets are refused in words that their clients know."""

import json
import shutil
import ssl

import h2.connection
import h2.errors
import h2.events
import pytest
import trio
from trio.testing import MockClock

from agentic_trio.server.limits import ConnectionLimits

from .app import App
from .harness import Server

H2_HEADERS = [(":method", "POST"), (":path", "/echo"), (":scheme", "http"), (":authority", "x")]
GET = b"GET /scope HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("split", [False, True])
async def test_http2_with_prior_knowledge_is_refused(server: Server, app: App, split: bool) -> None:
    await server.start(app)
    client = await server.connect()
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    for stream in range(1, 21, 2):
        connection.send_headers(stream, H2_HEADERS)
    data = connection.data_to_send()
    pieces = [bytes([byte]) for byte in data[:30]] + [data[30:]] if split else [data]
    for piece in pieces:
        await client.send(piece)
    events = connection.receive_data(await client.read_to_close())
    assert isinstance(events[0], h2.events.RemoteSettingsChanged)
    [end] = [event for event in events if isinstance(event, h2.events.ConnectionTerminated)]
    assert (end.error_code, end.last_stream_id) == (h2.errors.ErrorCodes.HTTP_1_1_REQUIRED, 0)
    assert app.log == []


async def test_http2_refused_to_a_client_that_does_not_read_is_over(
    ours: Server, app: App, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02
    await ours.start(app, ConnectionLimits(max_connections=1))
    first = await ours.connect()
    await first.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    second = await ours.connect()
    assert (await second.request(GET)).status == 200


UPGRADES = {
    "a handshake": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "among others": b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n",
    "another connection header": b"Upgrade: websocket\r\nConnection: upgrade\r\nConnection: keep-alive\r\n",
    "another before it": b"Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
}


@pytest.mark.parametrize("name", UPGRADES)
async def test_websocket_is_refused_and_no_other_parser_serves_what_follows(
    server: Server, app: App, name: str
) -> None:
    await server.start(app)
    client = await server.connect()
    handshake = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    response = await client.request(b"GET /scope HTTP/1.1\r\nHost: x\r\n" + UPGRADES[name] + handshake + GET)
    assert response.status == 426
    assert response.headers[b"x-request-id"].startswith(b"req_")
    assert json.loads(response.body)["error"].keys() == {"message", "type", "param", "code"}
    assert await client.is_closed()
    assert app.log == []


async def test_tls_offers_http_1_1_only(server: Server, app: App) -> None:
    if server.certificate is None:
        pytest.skip("without TLS nothing is offered")
    await server.start(app)
    client = await server.connect(protocols=["h2", "http/1.1"])
    assert (await client.request(GET)).status == 200
    assert client.stream.selected_alpn_protocol() == "http/1.1"


async def test_handshake_that_never_ends_is_cut_off_and_its_slot_is_free(
    server: Server, app: App, autojump_clock: MockClock
) -> None:
    if server.certificate is None:
        pytest.skip("there is no handshake")
    autojump_clock.autojump_threshold = 0.02
    await server.start(app, ConnectionLimits(max_connections=1), keep_alive_timeout=5)
    hello = ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(server.certificate))
    client = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    start = trio.current_time()
    await stream.send_all(hello.read())
    with trio.fail_after(60):
        while await stream.receive_some():
            pass
    assert trio.current_time() - start == pytest.approx(5, abs=0.5)
    await stream.aclose()
    assert (await (await server.connect()).request(GET)).status == 200


async def test_what_is_no_tls_is_closed_and_others_are_served(server: Server, app: App) -> None:
    if server.certificate is None:
        pytest.skip("without TLS this is a request")
    await server.start(app)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(GET)
    with trio.fail_after(5):
        while await stream.receive_some():
            pass
    await stream.aclose()
    assert app.log == []
    assert (await (await server.connect()).request(GET)).status == 200


CURL = ["curl", "-sS", "--noproxy", "*", "--max-time", "10"]
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


@curl
@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2"])
async def test_curl_is_served(server: Server, app: App, option: str) -> None:
    await server.start(app)
    body = b"x" * 300_000  # large enough for curl to expect a 100 Continue
    urls = [f"{_origin(server)}/echo"] * 2
    command = [*CURL, "-k", option, "--data-binary", "@-", *urls]
    result = await trio.run_process(command, stdin=body, capture_stdout=True, capture_stderr=True)
    assert (result.stderr, result.stdout) == (b"", body * len(urls))


@curl
async def test_curl_with_prior_knowledge_gives_up_at_once(ours: Server, app: App) -> None:
    await ours.start(app)
    command = [*CURL, "--http2-prior-knowledge", f"{_origin(ours)}/echo"]
    result = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert result.returncode not in (0, 28)  # 28 is a timeout
    assert app.log == []


def _origin(server: Server) -> str:
    return f"{'http' if server.certificate is None else 'https'}://127.0.0.1:{server.port}"
