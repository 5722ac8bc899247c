import random
import socket
import ssl
import struct
import subprocess
from contextlib import aclosing, suppress
from functools import partial

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.direct import open_direct_stream
from agentic_trio.net.streams import AdaptedStream, Stream
from agentic_trio.upstream.round_trip import OutgoingRequest
from agentic_trio.upstream.transport import StreamTransport

URL = "http://upstream.test/v1/responses"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class ScriptedStream(trio.abc.Stream):
    """Each read returns, or raises, the next item of the script; then EOF."""

    def __init__(self, *reads, send_error: Exception | None = None):
        self.reads = list(reads)
        self.send_error = send_error
        self.sent = []
        self.closed = False

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        if self.send_error is not None:
            raise self.send_error
        self.sent.append(bytes(data))

    async def wait_send_all_might_not_block(self):
        raise NotImplementedError

    async def receive_some(self, max_bytes=None):
        await trio.lowlevel.checkpoint()
        item = self.reads.pop(0) if self.reads else b""
        if isinstance(item, Exception):
            raise item
        return item

    async def aclose(self):
        self.closed = True
        await trio.lowlevel.checkpoint()


class HangingStream(ScriptedStream):
    def __init__(self, *reads, hang_on_send: bool = False):
        super().__init__(*reads)
        self.hang_on_send = hang_on_send

    async def send_all(self, data):
        if self.hang_on_send:
            await trio.sleep_forever()
        await super().send_all(data)

    async def receive_some(self, max_bytes=None):
        if not self.reads:
            await trio.sleep_forever()
        return await super().receive_some(max_bytes)


class Server:
    """A TCP server on 127.0.0.1 that runs `handler` on each connection and counts."""

    def __init__(self, handler):
        self.handler = handler
        self.accepted = 0
        self.open = 0
        self.none_open = trio.Event()
        self.requests = []
        self.url = ""

    async def start(self, nursery, serve=trio.serve_tcp):
        listeners = await nursery.start(partial(serve, self.handle, 0, host="127.0.0.1"))
        listener = getattr(listeners[0], "transport_listener", listeners[0])
        # A name is looked up in a thread, during which a mock clock jumps.
        base = "http://127.0.0.1" if listener is listeners[0] else "https://localhost"
        self.url = f"{base}:{listener.socket.getsockname()[1]}/v1/responses"
        return self

    async def handle(self, stream):
        self.accepted += 1
        self.open += 1
        self.none_open = trio.Event()
        try:
            with suppress(trio.BrokenResourceError):
                await self.handler(self, stream)
        finally:
            self.open -= 1
            if not self.open:
                self.none_open.set()
            await trio.aclose_forcefully(stream)

    async def all_closed(self):
        with trio.fail_after(5):
            while self.open:
                await self.none_open.wait()

    async def read_request(self, stream) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := await stream.receive_some()):
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        parts = [body]
        left = length - len(body)
        while left > 0:
            if not (more := await stream.receive_some()):
                return b""
            parts.append(more)
            left -= len(more)
        self.requests.append(b"".join([head, b"\r\n\r\n", *parts]))
        return self.requests[-1]


@pytest.fixture(params=["direct stream", "socket stream"])
async def connect(request):
    """How real connections are opened: as the gateway does it, and as Trio does."""
    if request.param == "socket stream":
        yield trio.open_tcp_stream
        return
    async with open_deadlines() as deadlines:
        yield partial(open_direct_stream, deadlines=deadlines)


@pytest.fixture
def jumping(autojump_clock):
    """Time jumps once every task waits; bytes on loopback take far less than this."""
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock


async def answer_ok(server, stream):
    while await server.read_request(stream):
        await stream.send_all(OK)


def client(transport: StreamTransport, **timeouts) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, timeout=httpx.Timeout(None, **timeouts), trust_env=False)


def open_transport(connect, **kwargs) -> StreamTransport:
    """A transport over streams of any kind."""

    async def connect_adapted(host, port):
        stream = await connect(host, port)
        return stream if isinstance(stream, Stream) else AdaptedStream(stream)

    return StreamTransport(connect=connect_adapted, **kwargs)


def scripted(*streams, **kwargs) -> StreamTransport:
    remaining = list(streams)

    async def connect(host, port):
        await trio.lowlevel.checkpoint()
        return remaining.pop(0)

    return open_transport(connect, **kwargs)


async def fetch(stream, method="GET", **kwargs) -> httpx.Response:
    async with client(scripted(stream, **kwargs)) as http:
        return await http.request(method, URL)


async def chunks_of(stream) -> list[bytes]:
    async with client(scripted(stream)) as http, http.stream("GET", URL) as response:
        return [chunk async for chunk in response.aiter_raw()]


RESPONSES = {
    "content-length": (
        b"HTTP/1.1 201 Made It\r\nX-A: 1\r\nX-A:  two \t\r\nContent-Length: 5\r\n\r\nhello",
        (201, "Made It", [(b"X-A", b"1"), (b"X-A", b"two"), (b"Content-Length", b"5")], b"hello"),
    ),
    "chunked with extension and trailer": (
        CHUNKED + b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Trailer: t\r\n\r\n",
        (200, "OK", [(b"Transfer-Encoding", b"chunked")], b"abc0123456789"),
    ),
    "until close": (
        b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nabc\r\n\r\ndef",
        (200, "OK", [(b"X", b"y")], b"abc\r\n\r\ndef"),
    ),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nabc", (200, "OK", [], b"abc")),
    "informational first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        (200, "OK", [(b"Content-Length", b"2")], b"ok"),
    ),
    "204": (b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", (204, "No Content", [(b"X", b"y")], b"")),
    "304 with a length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        (304, "Not Modified", [(b"Content-Length", b"9")], b""),
    ),
    "no reason phrase": (
        b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        (200, "", [(b"Content-Length", b"0")], b""),
    ),
}


@pytest.mark.parametrize("name", RESPONSES)
async def test_any_chunking_gives_the_same_response(name):
    raw, expected = RESPONSES[name]
    scripts = [[raw[:i], raw[i:]] for i in range(1, len(raw))] + [[raw], [bytes([byte]) for byte in raw]]
    for reads in scripts:
        response = await fetch(ScriptedStream(*reads))
        got = (response.status_code, response.reason_phrase, response.headers.raw, response.content)
        assert got == expected, reads


async def test_one_read_of_many_chunks_is_one_chunk():
    stream = ScriptedStream(
        CHUNKED + b"1\r\na\r\n1\r\nb\r\n", b"1\r\nc\r\n2\r\nde\r\n1\r", b"\nf\r\n0\r\n\r\n"
    )
    assert await chunks_of(stream) == [b"ab", b"cde", b"f"]


async def test_first_body_bytes_of_the_heads_read_need_no_other_read():
    stream = HangingStream(CHUNKED + b"3\r\nabc\r\n")
    response = await scripted(stream).handle_async_request(httpx.Request("GET", URL))
    assert await anext(response.stream) == b"abc"
    await response.aclose()
    assert stream.closed
    with pytest.raises(httpx.StreamClosed):
        await anext(response.stream)


async def test_head_response_has_no_body_whatever_its_length():
    response = await fetch(HangingStream(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"), method="HEAD")
    assert (response.status_code, response.headers["content-length"], response.content) == (200, "1000", b"")


async def test_body_wrongly_sent_for_head_is_dropped_with_the_connection():
    stream = ScriptedStream(OK)
    assert (await fetch(stream, method="HEAD")).content == b""
    assert stream.closed


async def test_http_version_is_told():
    assert (await fetch(ScriptedStream(OK))).http_version == "HTTP/1.1"
    assert (await fetch(ScriptedStream(OK.replace(b"1.1", b"1.0")))).http_version == "HTTP/1.0"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        CHUNKED + b"5\r\nabc",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabc\r\n0\r\n",
        CHUNKED + b"zz\r\nabc\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"SMTP ready\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_truncated_or_malformed_response_is_a_remote_protocol_error(raw):
    stream = ScriptedStream(raw) if raw else ScriptedStream()
    with pytest.raises(httpx.RemoteProtocolError):
        await fetch(stream)
    assert stream.closed


@pytest.mark.parametrize("step", [1, 7, 65536])
@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1100 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" * 200 + OK,
        CHUNKED + b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        CHUNKED + b"0\r\nX: " + b"x" * 1100 + b"\r\n\r\n",
    ],
    ids=["one long header", "many headers", "many informational heads", "many trailers", "one long trailer"],
)
async def test_headers_over_the_bound_are_a_remote_protocol_error(raw, step):
    stream = ScriptedStream(*[raw[i : i + step] for i in range(0, len(raw), step)])
    with pytest.raises(httpx.RemoteProtocolError, match="headers exceed 1024 bytes"):
        await fetch(stream, max_header_bytes=1024)
    assert stream.closed


async def test_headers_within_the_bound_pass_however_large_the_body():
    body = b"x" * 5000
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + body
    for step in (1, 100, 6000):
        stream = ScriptedStream(*[raw[i : i + step] for i in range(0, len(raw), step)])
        assert (await fetch(stream, max_header_bytes=100)).content == body


async def test_bytes_body_goes_out_with_the_head_in_one_send():
    stream = ScriptedStream(OK)
    async with client(scripted(stream)) as http:
        await http.post(URL + "?q=%20x", content=b"{}", headers={"X-Key": "k"})
    [sent] = stream.sent
    head, _, body = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/responses?q=%20x HTTP/1.1\r\nHost: upstream.test\r\n")
    assert b"\r\nX-Key: k" in head
    assert b"\r\nContent-Length: 2" in head
    assert body == b"{}"


async def pieces(*items):
    for item in items:
        await trio.lowlevel.checkpoint()
        yield item


async def test_streamed_body_is_sent_chunked():
    stream = ScriptedStream(OK)
    async with client(scripted(stream)) as http:
        await http.post(URL, content=pieces(b"abc", b"", b"0123456789abcdef"))
    head, _, body = b"".join(stream.sent).partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert body == b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"


@pytest.mark.parametrize("items", [(b"abc", b"de"), (b"", b"abcde")])
async def test_streamed_body_with_content_length_is_sent_plain(items):
    stream = ScriptedStream(OK)
    async with client(scripted(stream)) as http:
        await http.post(URL, content=pieces(*items), headers={"Content-Length": "5"})
    head, _, body = b"".join(stream.sent).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"abcde"


async def test_empty_streamed_body_is_sent():
    stream = ScriptedStream(OK)
    async with client(scripted(stream)) as http:
        await http.post(URL, content=pieces())
    assert b"".join(stream.sent).endswith(b"\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("length", ["4", "6", "-5", "5, 5", "x"])
async def test_body_of_another_size_than_declared_is_a_local_protocol_error(length):
    async with client(scripted(HangingStream())) as http, aclosing(pieces(b"ab", b"cde")) as body:
        with pytest.raises(httpx.LocalProtocolError):
            await http.post(URL, content=body, headers={"Content-Length": length})


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"X": "a\r\nInjected: yes"}),
        ("GET", {"X": "a\nb"}),
        ("GET", {"X": "a\0b"}),
        ("GET", {"X y": "a"}),
        ("GET / HTTP/1.1\r\nX:", {}),
        ("GÉT", {}),
        ("POST", {"Transfer-Encoding": "chunked", "Content-Length": "0"}),
        ("POST", {"Transfer-Encoding": "gzip"}),
    ],
)
async def test_request_that_could_be_misread_is_refused_before_connecting(method, headers):
    async with client(scripted()) as http:
        with pytest.raises(httpx.LocalProtocolError):
            await http.request(method, URL, headers=headers)


async def test_early_response_is_read_though_the_body_could_not_be_sent():
    early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig"
    stream = ScriptedStream(early, send_error=trio.BrokenResourceError("reset"))
    async with client(scripted(stream)) as http:
        response = await http.post(URL, content=b"x" * 100)
    assert (response.status_code, response.content) == (413, b"big")
    assert stream.closed


async def test_early_response_then_close_is_read_over_tcp(nursery, connect):
    async def refuse(server, stream):
        await stream.receive_some(1)
        await stream.send_all(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\nbig")

    server = await Server(refuse).start(nursery)
    async with client(open_transport(connect)) as http:
        response = await http.post(server.url, content=b"x" * 20_000_000)
    assert response.status_code == 413
    nursery.cancel_scope.cancel()


async def test_connection_is_reused_and_has_nodelay(nursery, connect):
    streams = []

    async def connect_and_note(host, port):
        streams.append(await connect(host, port))
        return streams[-1]

    server = await Server(answer_ok).start(nursery)
    async with client(open_transport(connect_and_note)) as http:
        for _ in range(5):
            assert (await http.post(server.url, content=b"{}")).content == b"ok"
        assert streams[0].socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY)
    assert (server.accepted, len(server.requests)) == (1, 5)
    assert streams[0].socket.fileno() == -1
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        OK + b"surplus",
        OK + OK,
        CHUNKED + b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    ],
    ids=["close", "HTTP/1.0", "until close", "surplus", "two responses", "surplus after chunks"],
)
async def test_connection_that_did_not_end_cleanly_is_not_reused(raw):
    first, second = ScriptedStream(raw), HangingStream(OK)
    async with client(scripted(first, second)) as http:
        assert (await http.get(URL)).content == b"ok"
        assert first.closed
        assert (await http.get(URL)).content == b"ok"
        assert not second.closed
    assert second.closed


async def test_connection_is_not_reused_when_the_request_said_close():
    stream = ScriptedStream(OK)
    async with client(scripted(stream)) as http:
        await http.get(URL, headers={"Connection": "close"})
        assert stream.closed


async def test_unread_body_closes_the_connection():
    stream = HangingStream(CHUNKED + b"3\r\nabc\r\n", b"0\r\n\r\n")
    async with client(scripted(stream)) as http:
        async with http.stream("GET", URL):
            pass
        assert stream.closed


async def test_connections_are_reused_newest_first_and_per_origin():
    opened = []

    async def connect(host, port):
        opened.append((host, port, HangingStream(OK, OK)))
        return opened[-1][2]

    async with client(open_transport(connect)) as http:
        first, second = [http.build_request("GET", url) for url in (URL, URL)]
        one, two = await http.send(first, stream=True), await http.send(second, stream=True)
        for response in (one, two):
            await response.aread()
        await http.get("http://upstream.test:81/")
        await http.get(URL)
    assert [(host, port) for host, port, _ in opened] == [("upstream.test", 80)] * 2 + [("upstream.test", 81)]
    assert [len(stream.sent) for *_, stream in opened] == [1, 2, 1]


async def test_idle_connections_are_bounded_oldest_closed_first():
    streams = [HangingStream(OK) for _ in range(3)]
    async with client(scripted(*streams, max_idle_connections=2)) as http:
        for port in (1, 2, 3):
            await http.get(f"http://upstream.test:{port}/")
        assert [stream.closed for stream in streams] == [True, False, False]


async def test_expired_connections_are_dropped_on_checkout(autojump_clock):
    old, new = HangingStream(OK, OK, OK), HangingStream(OK)
    async with client(scripted(old, new, keepalive_expiry=10)) as http:
        await http.get(URL)
        await trio.sleep(9)
        await http.get(URL)
        await trio.sleep(11)
        await http.get(URL)
    assert (len(old.sent), len(new.sent), old.closed) == (2, 1, True)


async def test_cancelled_aclose_closes_every_idle_connection():
    streams = [HangingStream(OK) for _ in range(3)]
    transport = scripted(*streams)
    for port in (1, 2, 3):
        await client(transport).get(f"http://upstream.test:{port}/")
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.aclose()
    assert all(stream.closed for stream in streams)


async def test_connection_given_back_after_aclose_is_closed():
    stream = HangingStream(OK)
    transport = scripted(stream)
    response = await transport.handle_async_request(httpx.Request("GET", URL))
    await transport.aclose()
    await response.aread()
    await response.aclose()
    assert stream.closed


async def test_stale_idle_connection_is_replaced(nursery, connect):
    async def answer_once(server, stream):
        await server.read_request(stream)
        await stream.send_all(OK)

    server = await Server(answer_once).start(nursery)
    async with client(open_transport(connect)) as http:
        for _ in range(5):
            assert (await http.post(server.url, content=b"{}")).content == b"ok"
            while server.open:
                await wait_all_tasks_blocked()
    assert (server.accepted, len(server.requests)) == (5, 5)
    nursery.cancel_scope.cancel()


async def test_idle_connection_with_surplus_bytes_is_replaced(nursery, connect):
    surplus_sent = trio.Event()

    async def answer_then_babble(server, stream):
        await server.read_request(stream)
        await stream.send_all(OK)
        await wait_all_tasks_blocked()
        await stream.send_all(OK.replace(b"ok", b"no"))
        surplus_sent.set()
        await stream.receive_some()

    server = await Server(answer_then_babble).start(nursery)
    async with client(open_transport(connect)) as http:
        for _ in range(2):
            assert (await http.get(server.url)).content == b"ok"
            await surplus_sent.wait()
    assert server.accepted == 2
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_request_taken_by_a_reused_connection_is_never_repeated(nursery, connect, method):
    async def answer_then_drop(server, stream):
        await server.read_request(stream)
        await stream.send_all(OK)
        await server.read_request(stream)

    server = await Server(answer_then_drop).start(nursery)
    async with client(open_transport(connect)) as http:
        await http.request(method, server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.request(method, server.url)
    assert (server.accepted, len(server.requests)) == (1, 2)
    nursery.cancel_scope.cancel()


async def use_then_break(http, stream):
    await http.get(URL)
    stream.send_error = trio.BrokenResourceError("reset")


async def test_request_a_reused_connection_did_not_take_goes_out_on_a_fresh_one():
    old, new = ScriptedStream(OK), ScriptedStream(OK)
    async with client(scripted(old, new)) as http:
        await use_then_break(http, old)
        assert (await http.post(URL, content=b"{}")).content == b"ok"
        assert old.closed
    assert len(new.sent) == 1


async def test_request_is_repeated_only_once():
    old, new = ScriptedStream(OK), ScriptedStream(send_error=trio.BrokenResourceError("reset"))
    async with client(scripted(old, new)) as http:
        await use_then_break(http, old)
        with pytest.raises(httpx.WriteError):
            await http.post(URL, content=b"{}")
    assert new.closed


async def test_request_is_not_repeated_after_a_response_byte():
    old = ScriptedStream(OK, b"HTTP/1.1 5")
    async with client(scripted(old)) as http:
        await use_then_break(http, old)
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(URL, content=b"{}")


async def test_streamed_body_is_not_repeated():
    old = ScriptedStream(OK)
    async with client(scripted(old)) as http:
        await use_then_break(http, old)
        with pytest.raises(httpx.WriteError):
            await http.post(URL, content=pieces(b"abc"))


async def test_fresh_connection_that_breaks_is_not_replaced():
    async with client(scripted(ScriptedStream(send_error=trio.BrokenResourceError("reset")))) as http:
        with pytest.raises(httpx.WriteError):
            await http.get(URL)


async def test_refused_connection_is_a_connect_error(connect):
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with client(open_transport(connect)) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("error", [trio.BrokenResourceError("x"), trio.ClosedResourceError(), OSError("x")])
async def test_broken_read_is_a_read_error(error):
    for reads in ([error], [CHUNKED + b"1\r\na\r\n", error]):
        stream = ScriptedStream(*reads)
        with pytest.raises(httpx.ReadError):
            await fetch(stream)
        assert stream.closed


def reset(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize("reply", [b"", CHUNKED + b"1\r\na\r\n"])
async def test_connection_reset_by_the_server_is_a_read_error(nursery, connect, reply):
    received = trio.Event()

    async def reply_then_reset(server, stream):
        await server.read_request(stream)
        await stream.send_all(reply)
        if reply:
            await received.wait()
        reset(stream)

    server = await Server(reply_then_reset).start(nursery)
    transport = open_transport(connect)

    async def read():
        async with client(transport).stream("GET", server.url) as response:
            async for _ in response.aiter_raw():
                received.set()

    with pytest.raises(httpx.ReadError):
        await read()
    nursery.cancel_scope.cancel()


async def test_connection_reset_between_two_pieces_of_a_request_is_a_write_error(nursery, connect):
    async def read_then_reset(server, stream):
        await stream.receive_some()
        reset(stream)

    async def body():
        yield b"abc"
        while not server.accepted or server.open:
            await wait_all_tasks_blocked()
        yield b"de"

    server = await Server(read_then_reset).start(nursery)
    async with client(open_transport(connect)) as http:
        with pytest.raises(httpx.WriteError):
            await http.post(server.url, content=body())
    nursery.cancel_scope.cancel()


async def test_body_larger_than_the_sockets_buffers_arrives_whole(nursery, connect):
    server = await Server(answer_ok).start(nursery)
    bodies = [random.Random(seed).randbytes(8_000_000) for seed in range(2)]
    async with client(open_transport(connect)) as http:
        for body in bodies:
            assert (await http.post(server.url, content=body)).content == b"ok"
    assert server.accepted == 1
    # Compared apart: pytest would take its time to show how they differ.
    arrived = [request.partition(b"\r\n\r\n")[2] for request in server.requests]
    equal = arrived == bodies
    assert equal
    nursery.cancel_scope.cancel()


async def test_connect_timeout(autojump_clock):
    async def connect(host, port):
        await trio.sleep_forever()

    started = trio.current_time()
    async with client(open_transport(connect), connect=3) as http:
        with pytest.raises(httpx.ConnectTimeout):
            await http.get(URL)
    assert trio.current_time() - started == pytest.approx(3)


@pytest.mark.parametrize("reads", [[], [b"HTTP/1.1 200 OK\r\n"], [CHUNKED + b"1\r\na\r\n"]])
async def test_read_timeout_closes_the_socket(autojump_clock, reads):
    stream = HangingStream(*reads)
    async with client(scripted(stream), read=3) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get(URL)
    assert stream.closed


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED, CHUNKED + b"1\r\na\r\n"])
async def test_read_timeout_over_tcp_closes_the_socket(nursery, connect, jumping, reply):
    async def reply_then_wait(server, stream):
        await server.read_request(stream)
        await stream.send_all(reply)
        assert await stream.receive_some() == b""

    server = await Server(reply_then_wait).start(nursery)
    transport = open_transport(connect)
    with trio.fail_after(4), pytest.raises(httpx.ReadTimeout):
        await client(transport, read=3).post(server.url, content=b"{}")
    await server.all_closed()
    nursery.cancel_scope.cancel()


async def test_read_timeout_counts_from_the_last_bytes(nursery, connect, jumping):
    async def trickle(server, stream):
        await server.read_request(stream)
        await stream.send_all(CHUNKED)
        for _ in range(5):
            await trio.sleep(2)
            await stream.send_all(b"1\r\na\r\n")
        await stream.send_all(b"0\r\n\r\n")

    server = await Server(trickle).start(nursery)
    async with client(open_transport(connect), read=3) as http:
        assert (await http.get(server.url)).content == b"aaaaa"
    nursery.cancel_scope.cancel()


async def test_write_timeout_over_tcp_closes_the_socket(nursery, connect, jumping):
    given_up = trio.Event()

    async def read_nothing(server, stream):
        await given_up.wait()
        with suppress(trio.BrokenResourceError):
            async for _ in stream:
                pass

    server = await Server(read_nothing).start(nursery)
    transport = open_transport(connect)
    with trio.fail_after(4), pytest.raises(httpx.WriteTimeout):
        await client(transport, write=3).post(server.url, content=b"x" * 20_000_000)
    given_up.set()
    await server.all_closed()
    nursery.cancel_scope.cancel()


async def test_write_timeout_closes_the_socket(autojump_clock):
    stream = HangingStream(hang_on_send=True)
    async with client(scripted(stream), write=3) as http:
        with pytest.raises(httpx.WriteTimeout):
            await http.get(URL)
    assert stream.closed


async def test_early_response_is_read_when_the_upstream_stops_reading(autojump_clock):
    class Readable:
        def is_readable(self):
            return True

    stream = HangingStream(OK, hang_on_send=True)
    stream.socket = Readable()
    async with client(scripted(stream), write=3) as http:
        assert (await http.post(URL, content=b"{}")).content == b"ok"
    assert stream.closed


async def test_unsupported_scheme_is_told():
    with pytest.raises(httpx.UnsupportedProtocol):
        await scripted().handle_async_request(httpx.Request("GET", "ftp://upstream.test/"))


async def test_cancel_while_connecting_leaves_nothing():
    async def connect(host, port):
        await trio.sleep_forever()

    async with client(open_transport(connect)) as http:
        with trio.move_on_after(0) as scope:
            await http.get(URL)
    assert scope.cancelled_caught


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nX", CHUNKED, CHUNKED + b"3\r\nabc\r\n"])
async def test_cancel_closes_the_socket_at_once(nursery, connect, reply):
    ended = trio.Event()

    async def reply_then_wait(server, stream):
        await server.read_request(stream)
        await stream.send_all(reply)
        with suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        ended.set()

    server = await Server(reply_then_wait).start(nursery)
    transport = open_transport(connect)
    scope = trio.CancelScope()

    async def call():
        with scope:
            await client(transport).post(server.url, content=b"{}")

    nursery.start_soon(call)
    while not server.requests:
        await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    scope.cancel()
    with trio.fail_after(5):
        await ended.wait()
    nursery.cancel_scope.cancel()


async def test_cancel_in_the_tls_handshake_closes_the_socket(nursery):
    stream = HangingStream()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            inner.start_soon(
                partial(scripted(stream).handle_async_request, httpx.Request("GET", "https://u.test/"))
            )
            await wait_all_tasks_blocked()
            assert stream.sent
            scope.cancel()
    assert stream.closed


async def test_reader_whose_response_is_closed_by_another_task_gets_an_httpx_error():
    near, far = trio.testing.memory_stream_pair()
    transport = scripted(near)
    await far.send_all(CHUNKED)
    response = await transport.handle_async_request(httpx.Request("GET", URL))

    async def read():
        with pytest.raises(httpx.ReadError):
            await anext(response.stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await response.aclose()
    assert await far.receive_some() != b""
    assert await far.receive_some() == b""


@pytest.mark.parametrize("reused", [False, True])
async def test_cancel_at_each_checkpoint_closes_the_socket(reused):
    for checkpoints in range(30):
        opened = []
        finished = False

        async def connect(host, port, opened=opened):
            await trio.lowlevel.checkpoint()
            opened.append(HangingStream(OK, OK))
            return opened[-1]

        async with client(open_transport(connect)) as http:
            if reused:
                await http.get(URL)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_after, checkpoints, nursery.cancel_scope)
                await http.get(URL)
                finished = True
            assert [stream.closed for stream in opened] in ([], [not finished])
        assert all(stream.closed for stream in opened)
    assert finished


async def cancel_after(checkpoints, scope):
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_ten_thousand_random_cancels_leak_no_socket(nursery, connect):
    rng = random.Random(20261101)
    streams = set()
    cancelled = 0

    async def connect_and_note(host, port):
        stream = await connect(host, port)
        streams.add(stream)
        return stream

    async def stream_events(server, stream):
        while await server.read_request(stream):
            await stream.send_all(CHUNKED)
            for _ in range(2):
                await stream.send_all(b"3\r\nabc\r\n")
            await stream.send_all(b"0\r\n\r\n")

    async def call_and_cancel(http, url):
        nonlocal cancelled
        async with trio.open_nursery() as inner:
            inner.start_soon(cancel_after, rng.randrange(40), inner.cancel_scope)
            request = httpx.Request("POST", url, content=b"{}")
            response = await http.handle_async_request(request)
            try:
                async for _ in response.stream:
                    pass
            finally:
                await response.aclose()
            await trio.sleep_forever()
        cancelled += 1

    async def worker(http, url, count):
        for _ in range(count):
            await call_and_cancel(http, url)

    server = await Server(stream_events).start(nursery)
    server.url = server.url.replace("localhost", "127.0.0.1")
    transport = open_transport(connect_and_note)
    async with trio.open_nursery() as workers:
        for _ in range(25):
            workers.start_soon(worker, transport, server.url, 400)
    idle = sum(stream.socket.fileno() != -1 for stream in streams)
    assert cancelled == 10_000
    assert idle <= 25
    async with client(transport) as http:
        assert (await http.post(server.url, content=b"{}")).content == b"abc" * 2
    assert all(stream.socket.fileno() == -1 for stream in streams)
    await server.all_closed()
    nursery.cancel_scope.cancel()


def post(url=URL, content=b"{}") -> httpx.Request:
    return httpx.Request("POST", url, content=content)


async def body_of(exchange) -> bytes:
    async with aclosing(exchange):
        return b"".join([chunk async for chunk in exchange])


@pytest.mark.parametrize("body", [b"{}", b"x" * 5_000_000])
async def test_meanwhile_runs_when_the_server_has_the_request_before_it_answers(nursery, connect, body):
    taken, ended = trio.Event(), trio.Event()

    async def answer_when_it_ended(server, stream):
        await server.read_request(stream)
        taken.set()
        await ended.wait()
        await stream.send_all(OK)

    async def meanwhile():
        await taken.wait()
        ended.set()

    server = await Server(answer_when_it_ended).start(nursery)
    async with open_transport(connect) as transport:
        with trio.fail_after(5):
            exchange = await transport.open(OutgoingRequest.of(post(server.url, body)), meanwhile)
        assert await body_of(exchange) == b"ok"
    nursery.cancel_scope.cancel()


async def test_meanwhile_runs_behind_the_last_piece_of_a_streamed_body():
    stream = ScriptedStream(OK)
    sent = []

    async def meanwhile():
        sent.extend(stream.sent)

    await scripted(stream).open(OutgoingRequest.of(post(content=pieces(b"abc", b"de"))), meanwhile)
    assert b"".join(sent).endswith(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")


async def test_head_is_not_read_before_meanwhile_ended():
    stream = ScriptedStream(OK)

    async def meanwhile():
        await wait_all_tasks_blocked()
        assert stream.reads == [OK]

    exchange = await scripted(stream).open(OutgoingRequest.of(post()), meanwhile)
    assert stream.reads == []
    assert await body_of(exchange) == b"ok"


@pytest.mark.parametrize("error", [KeyError("x"), trio.BrokenResourceError(), httpx.ReadError("x")])
async def test_what_meanwhile_raises_comes_out_as_it_is_and_closes_the_socket(nursery, connect, error):
    async def meanwhile():
        while len(server.requests) < server.accepted or not server.open:
            await wait_all_tasks_blocked()
        raise error

    server = await Server(answer_ok).start(nursery)
    transport = open_transport(connect)
    for _ in range(2):
        with pytest.raises(type(error)) as raised:
            await transport.open(OutgoingRequest.of(post(server.url)), meanwhile)
        assert raised.value is error
        await server.all_closed()
    assert (server.accepted, len(server.requests)) == (2, 2)
    nursery.cancel_scope.cancel()


async def test_cancel_in_meanwhile_closes_the_socket(nursery, connect):
    server = await Server(answer_ok).start(nursery)
    transport = open_transport(connect)
    with trio.CancelScope() as scope:

        async def meanwhile():
            while not server.requests:
                await wait_all_tasks_blocked()
            scope.cancel()
            await trio.sleep_forever()

        await transport.open(OutgoingRequest.of(post(server.url)), meanwhile)
    assert scope.cancelled_caught
    await server.all_closed()
    nursery.cancel_scope.cancel()


async def test_meanwhile_runs_once_when_the_request_goes_out_twice():
    old, new = ScriptedStream(OK), ScriptedStream(OK)
    transport = scripted(old, new)
    sent_by_then = []

    async def meanwhile():
        sent_by_then.append(len(new.sent))

    await use_then_break(client(transport), old)
    assert await body_of(await transport.open(OutgoingRequest.of(post()), meanwhile)) == b"ok"
    assert sent_by_then == [1]


def unreachable():
    async def refuse(host, port):
        raise OSError("refused")

    return open_transport(refuse)


async def never():
    raise AssertionError("a request that was not sent")


@pytest.mark.parametrize(
    ("transport", "url", "error"),
    [
        (scripted(), "ftp://upstream.test/", httpx.UnsupportedProtocol),
        (unreachable(), URL, httpx.ConnectError),
        (scripted(ScriptedStream(send_error=trio.BrokenResourceError())), URL, httpx.WriteError),
    ],
)
async def test_meanwhile_does_not_run_when_nothing_could_be_sent(transport, url, error):
    with pytest.raises(error):
        await transport.open(OutgoingRequest.of(post(url)), never)


async def test_meanwhile_does_not_run_before_an_early_response():
    early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig"
    stream = ScriptedStream(early, send_error=trio.BrokenResourceError("reset"))
    assert (await scripted(stream).open(OutgoingRequest.of(post()), never)).status == 413


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", *options.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def server_context(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


async def test_tls_connection_is_verified_and_reused(nursery, connect, certificate, server_context):
    context = ssl.create_default_context(cafile=certificate / "cert.pem")
    serve = partial(trio.serve_ssl_over_tcp, ssl_context=server_context)
    server = await Server(answer_ok).start(nursery, serve)
    async with client(open_transport(connect, ssl_context=context)) as http:
        for _ in range(3):
            assert (await http.post(server.url, content=b"{}")).content == b"ok"
    assert (server.accepted, len(server.requests)) == (1, 3)
    nursery.cancel_scope.cancel()


async def test_untrusted_certificate_is_a_connect_error_and_closes_the_socket(nursery, server_context):
    near, far = trio.testing.memory_stream_pair()

    async def handshake():
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(far, server_context, server_side=True).do_handshake()

    nursery.start_soon(handshake)
    transport = scripted(near, ssl_context=ssl.create_default_context())
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await transport.handle_async_request(httpx.Request("GET", "https://localhost/"))
    with pytest.raises(trio.ClosedResourceError):
        await near.receive_some()
