"""Requests that two parsers could read in two ways are refused, and the connection with them."""

import json

import pytest

from agentic_trio.server.limits import ConnectionLimits

from .app import App
from .harness import Client, Server

_POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
MALFORMED = {
    "both lengths": _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": (
        _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": _POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": _POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": _POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": _POST + b"Content-Length: +5\r\n\r\nhello",
    "hex length": _POST + b"Content-Length: 0x5\r\n\r\nhello",
    "empty length": _POST + b"Content-Length:\r\n\r\nhello",
    "length of 2**64 - 1": _POST + b"Content-Length: 18446744073709551615\r\n\r\nhello",
    "length of 2**64 + 5": _POST + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "gzip, chunked": _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": _POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "xchunked": _POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": _POST + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked twice": (_POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked on HTTP/1.0": b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "white space before the colon": _POST + b"Content-Length : 5\r\n\r\nhello",
    "obs-fold": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "folded first header": b"GET / HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n",
    "header without a colon": b"GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
    "header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    "CR in a header": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: x\r\n\r\n",
    "bare LF after a header": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare LFs only": b"GET / HTTP/1.1\nHost: x\n\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "a host that is none": b"GET / HTTP/1.1\r\nHost: x/../y\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "ICE/1.0": b"GET / ICE/1.0\r\nHost: x\r\n\r\n",
    "HTTP/2.0 in a request line": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "space after the version": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "authority form": b"GET a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk without OPTIONS": b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    "target beyond ASCII": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target with a fragment": b"GET /a?b=#c HTTP/1.1\r\nHost: x\r\n\r\n",
    "many blank lines first": b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
}

_CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD_CHUNKS = {
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "signed size": b"+5\r\nhello\r\n0\r\n\r\n",
    "0x size": b"0x5\r\nhello\r\n0\r\n\r\n",
    "negative size": b"-1\r\nhello\r\n0\r\n\r\n",
    "size of 2**64": b"10000000000000000\r\nhello\r\n0\r\n\r\n",
    "size with a space": b"5 \r\nhello\r\n0\r\n\r\n",
    "bare LF after a size": b"5\nhello\r\n0\r\n\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "chunk longer than its size": b"4\r\nhello\r\n0\r\n\r\n",
    "chunk that ends in LF": b"5\r\nhello\n0\r\n\r\n",
    "trailer without a colon": b"5\r\nhello\r\n0\r\nbad\r\n\r\n",
    "folded trailer": b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
    "endless size line": b"5;" + b"a" * 5000,
    "endless trailers": b"0\r\n" + b"A: b\r\n" * 5000,
}


async def _refused(server: Server, app: App, data: bytes) -> None:
    await server.start(app)
    client = await server.connect()
    await client.send(data)
    await client.send(b"GET /scope HTTP/1.1\r\nHost: x\r\n\r\n")
    response = await client.response("POST", patience=1.0)
    assert await client.is_closed()
    assert "/scope" not in app.log
    assert not app.bodies
    assert response.status in (400, 431)
    error = json.loads(response.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_request_is_refused_and_closed(server: Server, app: App, name: str) -> None:
    await _refused(server, app, MALFORMED[name])


@pytest.mark.parametrize("name", BAD_CHUNKS)
async def test_malformed_chunk_is_refused_and_closed(server: Server, app: App, name: str) -> None:
    await _refused(server, app, _CHUNKED + BAD_CHUNKS[name])


async def test_broken_chunk_after_the_response_began_cuts_it(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    await client.send(_CHUNKED.replace(b"/", b"/bidirectional", 1) + b"3\r\none\r\n")
    await client.read_until(b"one\r\n")
    await client.send(b"zz\r\n")
    assert b"0\r\n\r\n" not in await client.read_to_close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    ],
    ids=["target", "header", "unfinished header", "count"],
)
async def test_too_large_head_is_431(ours: Server, app: App, data: bytes) -> None:
    await ours.start(app)
    client = await ours.connect()
    await client.send(data)
    assert (await client.response()).status == 431
    assert await client.is_closed()


async def test_head_at_the_limits_is_served(ours: Server, app: App) -> None:
    start, end = b"GET /scope HTTP/1.1\r\nHost: x\r\nA: ", b"\r\n\r\n"
    limits = ConnectionLimits(max_header_bytes=200, max_header_count=2)
    await ours.start(app, limits)
    client = await ours.connect()
    padding = b"a" * (200 - len(start) - len(end))
    assert (await client.request(start + padding + end)).status == 200
    assert (await client.request(start + padding + b"a" + end)).status == 431


async def test_preface_on_a_used_connection_is_refused(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    assert (await client.request(b"GET /scope HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200
    assert (await client.request(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).status == 400


ACCEPTED = {
    "absolute form": (b"GET http://y/scope?q=1 HTTP/1.1\r\nHost: x\r\n\r\n", "/scope", b"y"),
    "absolute form without a path": (b"GET http://y?q=1 HTTP/1.1\r\nHost: x\r\n\r\n", "/", b"y"),
    "no host on HTTP/1.0": (b"GET /scope HTTP/1.0\r\n\r\n", "/scope", None),
    "one blank line first": (b"\r\nGET /scope HTTP/1.1\r\nHost: x\r\n\r\n", "/scope", b"x"),
    "white space around a value": (b"GET /scope HTTP/1.1\r\nHost: \t x \t\r\n\r\n", "/scope", b"x"),
    "h2c upgrade": (
        b"GET /scope HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        "/scope",
        b"x",
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_unusual_request_is_served(ours: Server, app: App, name: str) -> None:
    data, path, host = ACCEPTED[name]
    seen = {}

    async def spy(scope: object, receive: object, send: object) -> None:
        seen.update(scope)
        await app.stream(scope, receive, send)

    await ours.start(spy)
    client: Client = await ours.connect()
    assert (await client.request(data)).status == 200
    assert seen["path"] == path
    assert dict(seen["headers"]).get(b"host") == host


async def test_http_1_0_keep_alive_is_granted_on_request(ours: Server, app: App) -> None:
    await ours.start(app)
    client = await ours.connect()
    data = b"POST /echo HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi"
    for _ in range(2):
        response = await client.request(data, "POST")
        assert (response.body, response.headers[b"connection"]) == (b"hi", b"keep-alive")
