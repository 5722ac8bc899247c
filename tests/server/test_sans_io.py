"""The parts without I/O: any split of the bytes reads the same."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_trio.http1.request_body import FREE_FRAMING, ChunkedBody, LengthBody
from agentic_trio.http1.request_head import HeadReader, HTTP2Refused, RequestHead, RequestRefused
from agentic_trio.http1.response_writer import ResponseWriter

HEAD = b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"


def _split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.lists(st.integers(min_value=0), max_size=8))
def test_heads_read_the_same_however_they_arrive(cuts: list[int]) -> None:
    reader, buffer, heads = HeadReader(max_bytes=32 * 1024, max_headers=100), bytearray(), []
    for piece in _split(HEAD + HEAD, cuts):
        buffer += piece
        while buffer and (found := reader.read(buffer)) is not None:
            heads.append(found)
    expected = RequestHead(
        method="POST",
        target=b"/a?b",
        version="1.1",
        headers=[(b"host", b"x"), (b"content-length", b"3"), (b"expect", b"100-continue")],
        host=b"x",
        keep_alive=True,
        content_length=3,
        expects_continue=True,
        websocket=False,
    )
    assert heads == [expected, expected]
    assert not buffer


def test_preface_of_http_2_is_recognised() -> None:
    reader, buffer = HeadReader(max_bytes=32 * 1024, max_headers=100), bytearray()
    preface = b"PRI * HTTP/2.0\r\n\r\n"
    for byte in preface[:-1]:
        buffer.append(byte)
        assert reader.read(buffer) is None
    buffer += preface[-1:]
    with pytest.raises(HTTP2Refused):
        reader.read(buffer)


def test_method_that_begins_like_the_preface_is_a_request() -> None:
    reader, buffer = HeadReader(max_bytes=32 * 1024, max_headers=100), bytearray()
    for byte in b"PROPFIND / HTTP/1.1\r\nHost: x\r\n\r":
        buffer.append(byte)
        assert reader.read(buffer) is None
    buffer += b"\n"
    found = reader.read(buffer)
    assert found is not None
    assert found.method == "PROPFIND"


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(min_value=0), max_size=12)
)
def test_chunks_read_the_same_however_they_arrive(chunks: list[bytes], cuts: list[int]) -> None:
    framed = b"".join(b"%X;e=1\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\nT: 1\r\n\r\n"
    body, buffer, data = ChunkedBody(), bytearray(), b""
    for piece in _split(framed, cuts):
        buffer += piece
        data += body.read(buffer)
    assert data == b"".join(chunks)
    assert body.complete
    buffer += b"next"
    assert (body.read(buffer), bytes(buffer)) == (b"", b"next")


def _read_all(pieces: Iterable[bytes], data: bytearray) -> None:
    body, buffer = ChunkedBody(), bytearray()
    for piece in pieces:
        buffer += piece
        data += body.read(buffer)


def _in_chunks(size: int, count: int) -> bytes:
    return (b"%x\r\n%b\r\n" % (size, b"x" * size)) * count


@pytest.mark.parametrize("step", [64, 65536])
def test_chunks_that_are_mostly_framing_are_refused(step: int) -> None:
    framed, data = _in_chunks(1, 200_000), bytearray()
    with pytest.raises(RequestRefused, match="too small"):
        _read_all((framed[start : start + step] for start in range(0, len(framed), step)), data)
    assert len(data) <= FREE_FRAMING / 4


def test_chunk_extensions_are_framing() -> None:
    with pytest.raises(RequestRefused, match="too small"):
        _read_all([b"1;" + b"e" * 1000 + b"\r\nx\r\n"] * 1000, bytearray())


@pytest.mark.parametrize(("size", "count"), [(1, 10_000), (5, 100_000), (16, 100_000), (100_000, 20)])
def test_chunks_of_a_client_that_writes_what_it_has_are_read(size: int, count: int) -> None:
    body, buffer = ChunkedBody(), bytearray(_in_chunks(size, count) + b"0\r\n\r\n")
    assert len(body.read(buffer)) == size * count
    assert body.complete


def test_length_body_leaves_the_next_request() -> None:
    body, buffer = LengthBody(5), bytearray(b"hel")
    assert body.read(buffer) == b"hel"
    buffer += b"loGET"
    assert (body.read(buffer), bytes(buffer), body.complete) == (b"lo", b"GET", True)


def _writer(method: str = "GET", version: str = "1.1") -> ResponseWriter:
    writer = ResponseWriter(method=method, version=version)
    writer.keep_alive = True
    return writer


def test_small_response_is_one_write() -> None:
    writer = _writer()
    writer.start(200, [(b"Content-Length", b"2")])
    assert writer.body(b"hi", True, b"date: now\r\n") == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: now\r\n\r\nhi"
    )
    assert writer.body(b"", False, b"") == b""
    assert writer.complete


def test_single_part_without_length_gets_one() -> None:
    writer = _writer()
    writer.start(200, [])
    assert writer.body(b"hi", False, b"") == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


def test_empty_part_sends_the_head() -> None:
    writer = _writer()
    writer.start(200, [])
    assert writer.body(b"", True, b"") == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    assert writer.body(b"a", True, b"") == b"1\r\na\r\n"
    assert writer.body(b"b", False, b"") == b"1\r\nb\r\n0\r\n\r\n"


def test_hop_by_hop_headers_of_the_app_are_ours_to_write() -> None:
    writer = _writer()
    writer.start(200, [(b"transfer-encoding", b"gzip"), (b"connection", b"keep-alive"), (b"date", b"d")])
    assert writer.body(b"", False, b"date: now\r\n") == (
        b"HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 0\r\n\r\n"
    )


def test_no_content_has_no_length() -> None:
    writer = _writer()
    writer.start(204, [(b"content-length", b"0")])
    assert writer.body(b"", False, b"") == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_head_response_keeps_its_length() -> None:
    writer = _writer("HEAD")
    writer.start(200, [(b"content-length", b"5")])
    assert writer.body(b"hello", True, b"").endswith(b"content-length: 5\r\n\r\n")
    assert writer.body(b"", False, b"") == b""


@pytest.mark.parametrize(
    "header",
    [(b"a", b"b\r\nc: d"), (b"a", b"b\nc"), (b"a\r\nb", b"c"), (b"a b", b"c"), (b"", b"c"), (b"a", b"\x00")],
)
def test_header_that_breaks_the_framing_is_refused(header: tuple[bytes, bytes]) -> None:
    writer = _writer()
    writer.start(200, [header])
    with pytest.raises(ValueError, match="header is malformed"):
        writer.body(b"", False, b"")
    assert not writer.head_sent


@pytest.mark.parametrize(("body", "more"), [(b"abc", True), (b"a", False)], ids=["longer", "shorter"])
def test_body_must_be_as_long_as_it_says(body: bytes, more: bool) -> None:
    writer = _writer()
    writer.start(200, [(b"content-length", b"2")])
    with pytest.raises(RuntimeError, match="content-length"):
        writer.body(body, more, b"")


def test_messages_out_of_order_are_refused() -> None:
    writer = _writer()
    with pytest.raises(RuntimeError):
        writer.body(b"", False, b"")
    writer.start(200, [])
    with pytest.raises(RuntimeError):
        writer.start(200, [])
    writer.body(b"", False, b"")
    with pytest.raises(RuntimeError):
        writer.body(b"", False, b"")
