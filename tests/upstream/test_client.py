"""The model server's client: what its failures are called, what is logged, and what goes with a request."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Any, cast

import pytest
import trio
import trio.testing

from agentic_trio.context import RequestContext
from agentic_trio.errors import GatewayError, InvalidRequest, UpstreamError
from agentic_trio.net.streams import AdaptedStream, Stream
from agentic_trio.upstream.answer import Answer
from agentic_trio.upstream.client import MARK, Upstream
from agentic_trio.upstream.transport import StreamTransport

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
TOKEN = b"Bearer sk-secret"
CONTEXT = RequestContext(authorization=TOKEN, request_id="req_1")


class Wire:
    """Connections that fail, or answer, as a test says."""

    def __init__(self, *does: Exception | bytes) -> None:
        self.does = list(does)
        self.peers: list[trio.StapledStream[Any, Any]] = []

    async def connect(self, host: str, port: int) -> Stream:
        await trio.lowlevel.checkpoint()
        does = self.does.pop(0)
        if isinstance(does, Exception):
            raise does
        near, far = trio.testing.memory_stream_pair()
        self.peers.append(far)
        await far.send_all(does)
        await far.send_eof()
        return AdaptedStream(near)

    async def sent(self) -> bytes:
        """What has been sent on the last connection."""
        return bytes(await self.peers[-1].receive_some())

    def upstream(self, origin: str = "http://user:sk-secret@model:8000") -> Upstream:
        timeouts: dict[str, float | None] = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": None}
        return Upstream(origin, StreamTransport(connect=self.connect), timeouts)


async def get(upstream: Upstream) -> bytes:
    async with upstream.forward("GET", "/v1/models", b"", [], b"", CONTEXT) as answer:
        return await answer.body()


@pytest.mark.parametrize("path", ["@other/v1/models", "%2Fv1@other", ".other/v1/models", "8/v1/models", ""])
async def test_a_path_is_no_part_of_the_server_s_address(path: str) -> None:
    wire = Wire(OK)
    with pytest.raises(InvalidRequest):
        async with wire.upstream("http://model:800").forward("GET", path, b"", [], b"", CONTEXT):
            pass
    assert not wire.peers


def grouped(*errors: Exception) -> OSError:
    """What Trio raises when it has tried several addresses."""
    error = OSError("all attempts to connect to model:80 failed")
    error.__cause__ = ExceptionGroup("multiple connection attempts failed", errors)
    return error


def broken(cause: Exception) -> trio.BrokenResourceError:
    error = trio.BrokenResourceError()
    error.__cause__ = cause
    return error


UNREACHABLE = {
    "its name was not found": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "it refused the connection": grouped(OSError(99, "other"), ConnectionRefusedError(111, "refused")),
    "its certificate is not trusted": broken(ssl.SSLCertVerificationError("self-signed certificate")),
    "the TLS handshake failed": broken(ssl.SSLError("wrong version number")),
    "there is no route to it": OSError(113, "No route to host"),
    "the connection failed": OSError("something else"),
}


@pytest.mark.parametrize("kind", UNREACHABLE)
async def test_a_connection_that_could_not_be_made_says_why(
    caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with pytest.raises(UpstreamError) as raised:
        await get(Wire(UNREACHABLE[kind]).upstream())
    assert raised.value.message == f"The model server can't be reached: {kind}."
    assert (raised.value.status, raised.value.code) == (502, "upstream_unreachable")
    [record] = caplog.records
    assert (record.name, record.levelname) == ("agentic_trio.upstream.faults", "WARNING")
    assert record.getMessage().startswith(f"the model server at model:8000 can't be reached: {kind} (")
    assert "secret" not in caplog.text


async def test_an_outage_is_logged_when_it_begins_changes_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refused, unknown = ConnectionRefusedError(111, "refused"), socket.gaierror(-2, "unknown")
    wire = Wire(refused, refused, unknown, unknown, OK, OK, refused)
    upstream = wire.upstream()
    for does in list(wire.does):
        if does is OK:
            assert await get(upstream) == b"ok"
        else:
            with pytest.raises(UpstreamError):
                await get(upstream)
    said = [
        record.getMessage().partition(" at model:8000 ")[2].partition(" (")[0] for record in caplog.records
    ]
    assert said == [
        "can't be reached: it refused the connection",
        "can't be reached: its name was not found",
        "can be reached again",
        "can't be reached: it refused the connection",
    ]


async def test_a_connection_that_takes_too_long_is_an_outage(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    class Silent(Wire):
        async def connect(self, host: str, port: int) -> Stream:
            await trio.sleep_forever()
            raise AssertionError

    with pytest.raises(UpstreamError) as raised:
        await get(Silent().upstream())
    assert (raised.value.status, raised.value.code) == (504, "upstream_timeout")
    assert "did not accept a connection in time" in caplog.text


async def chunks(upstream: Upstream) -> list[bytes]:
    async with upstream.forward("GET", "/v1/models", b"", [], b"", CONTEXT) as answer:
        return [chunk async for chunk in answer.chunks]


CUT = {
    "before the head": b"",
    "after the head": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
}


@pytest.mark.parametrize("where", CUT)
async def test_an_answer_that_breaks_off_is_an_upstream_error_wherever_it_does(
    caplog: pytest.LogCaptureFixture, where: str
) -> None:
    with pytest.raises(UpstreamError, match="broke off"):
        await get(Wire(CUT[where]).upstream())
    with pytest.raises(UpstreamError, match="broke off"):
        await chunks(Wire(CUT[where]).upstream())
    assert caplog.records == []


@pytest.mark.parametrize("status", [0, 99, 600, 999])
async def test_a_status_that_http_does_not_have_is_an_upstream_error(status: int) -> None:
    with pytest.raises(UpstreamError) as raised:
        await get(Wire(b"HTTP/1.1 %03d X\r\nContent-Length: 0\r\n\r\n" % status).upstream())
    assert (raised.value.status, raised.value.code) == (502, "upstream_error")


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream", True),
        (b"TEXT/EVENT-STREAM ; charset=UTF-8", True),
        (b"text/event-stream-of-something-else", False),
        (b"application/json", False),
        (None, False),
    ],
)
def test_a_media_type_has_no_case(content_type: bytes | None, expected: bool) -> None:
    headers = [] if content_type is None else [(b"Content-Type", content_type)]
    assert Answer(200, headers, chunks=cast("Any", None)).is_event_stream is expected


def marks(sent: bytes) -> list[tuple[bytes, bytes]]:
    """The marks of a request, as a server reads them."""
    lines = [line.partition(b": ") for line in sent.split(b"\r\n")]
    return [(name.lower(), value) for name, _, value in lines if name.lower() == MARK]


async def test_a_gateway_refuses_what_it_has_sent_itself(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(OK)
    upstream = wire.upstream()
    await get(upstream)
    sent = marks(await wire.sent())
    assert len(sent) == 1
    for _ in range(3):
        with pytest.raises(GatewayError) as raised:
            upstream.refuse_own([(b"host", b"x"), *sent])
        assert (raised.value.status, raised.value.code) == (508, "loop_detected")
    [record] = caplog.records
    assert (record.name, record.levelname) == ("agentic_trio.upstream.client", "ERROR")
    assert "model:8000" in record.getMessage()
    assert "secret" not in caplog.text


async def test_a_loop_over_another_gateway_is_found_and_a_chain_of_gateways_is_none() -> None:
    first, second = Wire(OK), Wire(OK)
    one, other = first.upstream(), second.upstream()
    await get(one)
    passed_on = marks(await first.sent())
    other.refuse_own(passed_on)
    async with other.forward("GET", "/v1/models", b"", passed_on, b"", CONTEXT) as answer:
        await answer.body()
    twice = marks(await second.sent())
    for gateway in (one, other):
        with pytest.raises(GatewayError):
            gateway.refuse_own(twice)
    Wire().upstream().refuse_own(twice)
