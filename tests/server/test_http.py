"""HTTP/1.1 between a client and an app, without and with TLS."""

import json
import logging
from typing import Any

import h11
import pytest
import trio

from agentic_trio.errors import UpstreamError
from agentic_trio.server.connection import HTTPConnection

from .app import BIG, App
from .harness import Client, Server

GET = b"GET /scope HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: dropped\r\n\r\n"
)


@pytest.fixture
async def client(server: Server, app: App) -> Client:
    await server.start(app)
    return await server.connect()


async def test_scope_has_what_hypercorn_puts_there(server: Server, app: App) -> None:
    await server.start(app, root_path="/root")
    client = await server.connect()
    request = b"GET /scope?q=%41 HTTP/1.1\r\nHost: h\r\nX-Name: a\r\nX-Name: b\r\n\r\n"
    scope = json.loads((await client.request(request)).body)
    address = client.tcp.socket.getsockname()
    assert scope == {
        "type": "http",
        "http_version": "1.1",
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": "GET",
        "scheme": "http" if server.certificate is None else "https",
        "path": "/scope",
        "raw_path": "/scope",
        "query_string": "q=%41",
        "root_path": "/root",
        "headers": [["host", "h"], ["x-name", "a"], ["x-name", "b"]],
        "client": list(address),
        "server": ["127.0.0.1", server.port],
        "state": {},
        "extensions": {},
    }


async def test_path_is_unquoted(client: Client) -> None:
    scope = json.loads((await client.request(GET.replace(b"/scope", b"/%73cope"))).body)
    assert (scope["path"], scope["raw_path"]) == ("/scope", "/%73cope")


@pytest.mark.parametrize("request_bytes", [POST, CHUNKED], ids=["length", "chunked"])
async def test_split_at_every_byte(client: Client, request_bytes: bytes) -> None:
    for at in range(1, len(request_bytes)):
        await client.send(request_bytes[:at])
        await client.send(request_bytes[at:])
        assert (await client.response("POST")).body == b"hello"


@pytest.mark.parametrize("request_bytes", [POST, CHUNKED], ids=["length", "chunked"])
async def test_one_byte_at_a_time(client: Client, request_bytes: bytes) -> None:
    for byte in request_bytes:
        await client.send(bytes([byte]))
    assert (await client.response("POST")).body == b"hello"


async def test_pipelined_requests_are_answered_in_order(client: Client, app: App) -> None:
    await client.send(POST + CHUNKED + GET + POST.replace(b"hello", b"world"))
    bodies = [(await client.response("POST")).body for _ in range(4)]
    assert bodies[:2] == [b"hello", b"hello"]
    assert json.loads(bodies[2])["path"] == "/scope"
    assert bodies[3] == b"world"
    assert app.log == ["/echo", "/echo", "/scope", "/echo"]


async def test_head_has_the_length_and_no_body(client: Client) -> None:
    response = await client.request(GET.replace(b"GET", b"HEAD"), "HEAD")
    assert int(response.headers[b"content-length"]) > 0
    assert (await client.request(POST, "POST")).body == b"hello"


@pytest.mark.parametrize(("path", "status"), [(b"/no-content", 204), (b"/not-modified", 304)])
async def test_statuses_without_a_body_keep_the_connection(client: Client, path: bytes, status: int) -> None:
    response = await client.request(GET.replace(b"/scope", path))
    assert (response.status, response.body) == (status, b"")
    assert (await client.request(POST, "POST")).body == b"hello"


async def test_body_without_length_is_chunked(client: Client) -> None:
    response = await client.request(GET.replace(b"/scope", b"/stream"))
    assert response.body == b"one two three"
    assert response.headers[b"transfer-encoding"] == b"chunked"
    assert (await client.request(POST, "POST")).body == b"hello"


async def test_response_has_a_date_and_no_server_header(client: Client) -> None:
    headers = (await client.request(GET)).headers
    assert b"date" in headers
    assert b"server" not in headers


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        GET.replace(b"\r\n\r\n", b"\r\nConnection: foo, Close\r\n\r\n"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET.replace(b"/scope", b"/close"),
    ],
    ids=["close", "close among others", "HTTP/1.0", "the app closes"],
)
async def test_connection_is_closed_after_the_response(client: Client, request_bytes: bytes) -> None:
    response = await client.request(request_bytes)
    assert response.status == 200
    assert response.headers[b"connection"] == b"close"
    assert await client.is_closed()


async def test_http_1_0_stream_ends_at_close(client: Client) -> None:
    await client.send(b"GET /stream HTTP/1.0\r\n\r\n")
    head, _, body = (await client.read_to_close()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"one two three"


async def test_last_request_of_a_connection_is_told_so(server: Server, app: App) -> None:
    await server.start(app, keep_alive_max_requests=2)
    client = await server.connect()
    assert b"connection" not in (await client.request(GET)).headers
    assert (await client.request(GET)).headers[b"connection"] == b"close"
    assert await client.is_closed()


async def test_continue_is_sent_when_the_app_wants_the_body(client: Client) -> None:
    head, body = POST[:-5], POST[-5:]
    await client.send(head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    interim = await client.stream.receive_some()
    assert interim.startswith(b"HTTP/1.1 100 ")
    assert interim.endswith(b"\r\n\r\n")
    assert (await client.request(body, "POST")).body == b"hello"


async def test_big_bodies_go_both_ways(client: Client) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BIG
    assert (await client.request(head + b"y" * BIG, "POST")).body == b"y" * BIG
    assert len((await client.request(GET.replace(b"/scope", b"/big"))).body) == BIG


async def test_response_may_begin_before_the_request_has_ended(client: Client) -> None:
    await client.send(b"POST /bidirectional HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\none")
    await client.read_until(b"one")
    await client.send(b"two")
    await client.read_until(b"two\r\n0\r\n\r\n")


async def test_app_failing_before_its_response_is_a_500(client: Client) -> None:
    assert (await client.request(GET.replace(b"/scope", b"/fail"))).status == 500


async def test_app_without_a_response_is_a_500(client: Client) -> None:
    assert (await client.request(GET.replace(b"/scope", b"/silent"))).status == 500


@pytest.mark.parametrize("path", [b"/fail-late", b"/stop-early"])
async def test_cut_response_has_no_clean_end(client: Client, path: bytes) -> None:
    await client.send(GET.replace(b"/scope", path))
    with pytest.raises(h11.RemoteProtocolError, match=r"without sending complete|incomplete"):
        await client.response()


FAILURES = {
    "/fail": ("POST /fail: the app failed", "before the response"),
    "/fail-late": ("POST /fail-late: the app failed", "after the response began"),
    "/silent": ("POST /silent: the app returned without a response", ""),
}


async def test_response_that_is_cut_short_is_logged(
    server: Server, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    await server.start(app)
    client = await server.connect()
    await client.send(POST.replace(b"/echo", b"/stop-early"))
    await client.read_to_close()
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "WARNING",
        "POST /stop-early: the response is cut short",
    )


async def test_expected_failure_after_the_head_is_one_line_of_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks_off(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery():
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            raise UpstreamError("The model server broke off its answer.")

    await server.start(breaks_off)
    client = await server.connect()
    await client.send(GET)
    await client.read_to_close()
    [record] = caplog.records
    assert record.getMessage() == "GET /scope: The model server broke off its answer."
    assert (record.levelname, record.exc_info) == ("WARNING", None)


@pytest.mark.parametrize("path", FAILURES)
async def test_failure_of_the_app_is_logged_without_its_query(
    server: Server, app: App, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    message, error = FAILURES[path]
    await server.start(app)
    client = await server.connect()
    await client.send(POST.replace(b"/echo", path.encode() + b"?key=secret"))
    await client.read_to_close()
    [record] = caplog.records
    assert (record.name, record.levelname) == ("agentic_trio.server.application", "ERROR")
    assert record.getMessage() == message
    assert error in caplog.text
    assert "secret" not in caplog.text


async def test_failure_of_the_server_is_logged_and_ends_one_connection(
    ours: Server, app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.start(app)
    broken, sound = await ours.connect(), await ours.connect()
    with monkeypatch.context() as patched:
        patched.setattr(HTTPConnection, "_after", lambda self, exchange: 1 / 0)
        await broken.send(GET)
        await broken.read_to_close()
        with trio.fail_after(5):
            while not caplog.records:
                await trio.lowlevel.checkpoint()
    [record] = caplog.records
    assert (record.name, record.levelname) == ("agentic_trio.server.asgi_server", "ERROR")
    assert "ZeroDivisionError" in caplog.text
    assert (await sound.request(GET)).status == 200


async def test_server_names_are_enforced(server: Server, app: App) -> None:
    await server.start(app, server_names=["good"])
    client = await server.connect()
    assert (await client.request(GET.replace(b"Host: x", b"Host: good"))).status == 200
    assert (await client.request(GET)).status == 404


@pytest.mark.parametrize(("path", "status"), [("/scope", "200"), ("/fail", "500"), ("/stop-early", "-")])
async def test_access_log_has_the_status(ours: Server, app: App, path: str, status: str) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.Logger("access")
    logger.addHandler(handler)
    await ours.start(app, accesslog=logger, access_log_format="%(m)s %(U)s %(s)s")
    client = await ours.connect()
    await client.send(GET.replace(b"/scope", path.encode()).replace(b"x\r\n", b"x\r\nConnection: close\r\n"))
    await client.read_to_close()
    assert lines == [f"GET {path} {status}"]
