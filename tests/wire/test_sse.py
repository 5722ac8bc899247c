"""The decoder answers the same events however the bytes are cut, and never holds more than its bound."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_trio.wire import sse

RECORDINGS = sorted((Path(__file__).parents[1] / "data").glob("*.sse"))


def decoded(chunks: list[bytes]) -> list[bytes]:
    """The data of each event of a stream that has ended."""
    decoder = sse.Decoder()
    blocks = [block for chunk in chunks for block in decoder.feed(chunk)]
    return [block.data for block in [*blocks, *decoder.end()]]


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at these places, modulo their length."""
    ends = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[start:end] for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
@settings(max_examples=20)
@given(places=st.lists(st.integers(0, 10**6), max_size=60))
def test_a_recording_gives_the_same_events_however_it_is_cut(recording: Path, places: list[int]) -> None:
    whole = recording.read_bytes()
    assert decoded(cut(whole, places)) == decoded([whole])


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)
def test_a_recording_gives_the_data_of_each_of_its_lines(recording: Path) -> None:
    whole = recording.read_bytes()
    lines = [line[6:] for line in whole.split(b"\n") if line.startswith(b"data: ")]
    assert decoded([whole]) == lines


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
@given(places=st.lists(st.integers(0, 10**6), max_size=60))
def test_line_ends_make_no_difference(newline: bytes, places: list[int]) -> None:
    whole = (
        b"\xef\xbb\xbf: hello\n\nevent: a\ndata: 1\n\ndata: 2\ndata:3\n\n\n\nid: 4\n\ndata\n\ndata: last\n\n"
    )
    assert decoded(cut(whole.replace(b"\n", newline), places)) == decoded([whole])


LINES = st.sampled_from([b"data: a", b"data:b", b"data", b": c", b"event: d", b"retry: 1", b"datax: e", b""])
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(LINES, ENDS)), st.lists(st.integers(0, 500), max_size=30))
def test_any_stream_gives_the_same_events_however_it_is_cut(
    lines: list[tuple[bytes, bytes]], places: list[int]
) -> None:
    whole = b"".join(line + end for line, end in lines)
    assert decoded(cut(whole, places)) == decoded([whole])
    assert decoded([bytes([byte]) for byte in whole]) == decoded([whole])


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        pytest.param(b"data: a\ndata: b\n\n", [b"a\nb"], id="data lines are joined by a line feed"),
        pytest.param(b"data:a\n\n", [b"a"], id="the space after the colon may be missing"),
        pytest.param(b"data:  a\n\n", [b" a"], id="only one space is dropped"),
        pytest.param(b"data\n\n", [b""], id="a data field without colon is empty"),
        pytest.param(b": ping\n\ndata: a\n\n: pong\n\n", [b"a"], id="comments are no events"),
        pytest.param(b": ping\ndata: a\n\n", [b"a"], id="a comment may stand in an event"),
        pytest.param(b"event: a\nid: 1\nretry: 2\n\n", [], id="an event without data is none"),
        pytest.param(b"\n\n\n\ndata: a\n\n\n\n", [b"a"], id="empty lines are no events"),
        pytest.param(b"\xef\xbb\xbfdata: a\n\n", [b"a"], id="a byte order mark is dropped"),
        pytest.param(b"data: \xef\xbb\xbf\n\n", [b"\xef\xbb\xbf"], id="but only where the stream begins"),
        pytest.param(b"data: a\n\ndata: b\n", [b"a", b"b"], id="the last empty line may be missing"),
        pytest.param(b"data: a\n\ndata: b", [b"a", b"b"], id="the last line end may be missing"),
        pytest.param(b"", [], id="an empty stream has no events"),
        pytest.param(b"\xef\xbb", [], id="half a byte order mark is no event"),
        pytest.param(b"datax: a\n\n", [], id="a field's name is the whole name"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_rules_of_the_standard(stream: bytes, data: list[bytes], size: int) -> None:
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert decoded(chunks) == data


def test_the_raw_bytes_of_an_event_have_normal_line_ends() -> None:
    [block] = sse.Decoder().feed(b"event: a\r\ndata: 1\r\n\r\n")
    assert block.raw == b"event: a\ndata: 1\n\n"


def test_an_event_is_answered_as_soon_as_its_empty_line_is_there() -> None:
    decoder = sse.Decoder()
    assert decoder.feed(b"data: 1\r\n\r") == [sse.Block(b"1", b"data: 1\n\n")]


def test_an_event_that_never_ends_is_refused_at_the_bound() -> None:
    decoder = sse.Decoder(max_event_bytes=20)
    decoder.feed(b"data: 45678901234567")
    with pytest.raises(sse.EventTooLarge):
        decoder.feed(b"8")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_an_event_beyond_the_bound_is_refused_however_it_is_cut(size: int) -> None:
    decoder = sse.Decoder(max_event_bytes=20)
    stream = b"data: " + b"x" * 30 + b"\n\n"
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    with pytest.raises(sse.EventTooLarge):
        list(map(decoder.feed, chunks))


def test_the_bound_is_for_one_event_not_for_the_stream() -> None:
    decoder = sse.Decoder(max_event_bytes=20)
    assert len(decoder.feed(b"data: 456789\n\n" * 1000)) == 1000


def test_an_encoded_event_is_decoded_to_its_data() -> None:
    [block] = sse.Decoder().feed(sse.encode("response.created", b'{"a":1}'))
    assert block.data == b'{"a":1}'
    assert block.raw == b'event: response.created\ndata: {"a":1}\n\n'
