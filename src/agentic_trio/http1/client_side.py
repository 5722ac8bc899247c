"""HTTP/1.1 towards the model server, sans-io: a request's head out, a response's bytes in.

What breaks the rules is one of httpx's errors.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import httptools
import httpx

from agentic_trio.http1.grammar import FIELD_LINE, TOKEN, parse_length, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD: Final = re.compile(rb"%b [!-~]+ HTTP/1\.1\r\n(?:%b)*\r\n" % (TOKEN, FIELD_LINE))


class Head(NamedTuple):
    """A request's head, encoded, and how the body behind it is framed."""

    data: bytes
    chunked: bool
    length: int
    closes: bool


def encode_head(method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Head:
    """Encode the method, target and headers, nothing added.

    Raises:
        httpx.LocalProtocolError: they are no legal head, or don't say how the body is framed.
    """
    lines = [b"%s %s HTTP/1.1\r\n" % (method.encode("ascii", "replace"), target)]
    lines += [b"%s: %s\r\n" % header for header in headers]
    data = b"".join([*lines, b"\r\n"])
    if data.count(b"\n") != len(lines) + 1 or not _HEAD.fullmatch(data):
        raise httpx.LocalProtocolError("illegal character in the request's method, target or headers")
    fields = [(name.lower(), value) for name, value in headers]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    if codings and (codings != [b"chunked"] or lengths):
        raise httpx.LocalProtocolError("a request body is framed by Content-Length or by chunked, not both")
    length = parse_length(lengths[0]) if lengths else 0
    if length is None or len(lengths) > 1:
        raise httpx.LocalProtocolError("illegal Content-Length in the request")
    closes = b"close" in tokens(value for name, value in fields if name == b"connection")
    return Head(data, bool(codings), length, closes)


class Message:
    """Parses one response: bytes in, head and body bytes out.

    Attributes:
        status: 0 until the head is there.
        complete: the whole message has been fed.
        keep_alive: another request may follow on its connection, once it is complete.
    """

    def __init__(self, bodyless: bool, max_header_bytes: int) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.reason = b""
        self.version = ""
        self.complete = False
        self.keep_alive = False
        self._bodyless = bodyless
        self._until_close = False
        self._max_header_bytes = max_header_bytes
        self._header_bytes = 0
        self._overhead = 0
        self._pieces: list[bytes] = []
        self._violation = ""
        self._parser = httptools.HttpResponseParser(self)

    def close(self) -> None:
        """Break the reference cycle with the parser."""
        del self._parser

    def feed(self, data: bytes) -> bytes:
        """Take what one read returned; return all the body bytes in it, joined.

        Raises:
            httpx.RemoteProtocolError: it is malformed, or its headers are too large.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise httpx.RemoteProtocolError(self._violation or str(error)) from error
            self.keep_alive = False
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        # llhttp reports a header, trailer or chunk extension at its end: what trickles in is bounded here.
        self._overhead = 0 if body or self.complete else self._overhead + len(data)
        if self._overhead > self._max_header_bytes:
            raise httpx.RemoteProtocolError(self._too_large())
        return body

    def feed_eof(self) -> None:
        """Take the connection's end. Raises httpx.RemoteProtocolError when it isn't the message's."""
        if not self._until_close:
            raise httpx.RemoteProtocolError("connection closed before the end of the response")
        self.complete = True

    def on_message_begin(self) -> None:
        if self.complete:
            self._refuse("bytes after the end of the response")
        self.headers.clear()
        self.reason = b""

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        if self._header_bytes > self._max_header_bytes:
            self._refuse(self._too_large())
        if self.status == 0:
            self.headers.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        if not 100 <= status < 600 or status == 101 or version not in ("1.0", "1.1"):
            self._refuse(f"unexpected response: HTTP/{version} {status}")
        if status < 200:
            return
        self.status, self.version = status, version
        self._until_close = not self._is_framed() and status not in (204, 304)
        self.keep_alive = version == "1.1" and self._parser.should_keep_alive()
        if self._bodyless:
            # llhttp can't be told that no body follows HEAD, so where this message ends is not certain.
            self.complete, self.keep_alive = True, False

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self.complete = self.status != 0

    def _is_framed(self) -> bool:
        codings = [value.lower() for name, value in self.headers if name.lower() == b"transfer-encoding"]
        lengths = [value for name, value in self.headers if name.lower() == b"content-length"]
        if codings and (codings != [b"chunked"] or self.version == "1.0"):
            self._refuse("unsupported Transfer-Encoding in the response")
        if lengths and parse_length(lengths[0]) is None:
            self._refuse("illegal Content-Length in the response")
        return bool(codings or lengths)

    def _too_large(self) -> str:
        return f"response headers exceed {self._max_header_bytes} bytes"

    def _refuse(self, violation: str) -> NoReturn:
        self._violation = violation
        raise ValueError(violation)
