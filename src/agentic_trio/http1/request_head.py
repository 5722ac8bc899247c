"""HTTP/1.1 request heads, sans-io: bytes in, checked heads out.

llhttp runs through every request in the bytes it is given and can't be stopped between
two, so a head is cut out at its blank line first and llhttp judges exactly those bytes.
What llhttp tolerates and we don't is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import httptools

from agentic_trio.errors import InvalidRequest
from agentic_trio.http1.grammar import parse_length, tokens
from agentic_trio.http1.preface import PREFACE

Headers = list[tuple[bytes, bytes]]

_VERSIONS: Final = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_HOST: Final = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+;=:\[\]]*")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_INTERPRETED: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade")
)


class RequestRefused(InvalidRequest):
    """The client broke the protocol or a limit. The connection is closed after the error is sent."""


class HTTP2Refused(Exception):
    """The connection begins with HTTP/2's preface."""


@dataclass(slots=True)
class RequestHead:
    """One request's line and headers, after every check.

    Attributes:
        target: In origin form (or ``*``); scheme and authority were stripped.
        headers: Lower-cased names, values without surrounding white space.
        host: The authority of the target or of ``Host``; empty on HTTP/1.0 without.
        keep_alive: The client would use the connection again.
        content_length: None when the body is chunked; 0 when there is none.
        expects_continue: The client waits for ``100 Continue`` before its body.
        websocket: A WebSocket handshake.
    """

    method: str
    target: bytes
    version: str
    headers: Headers
    host: bytes
    keep_alive: bool
    content_length: int | None
    expects_continue: bool
    websocket: bool


class HeadReader:
    """Cuts request heads off the front of a connection's buffer.

    Args:
        max_bytes: bound on a request's line and headers together, the blank line included.
        max_headers: bound on the number of its header fields.
    """

    def __init__(self, *, max_bytes: int, max_headers: int) -> None:
        self._max_bytes = max_bytes
        self._max_headers = max_headers
        self._first = True
        self._reset()

    def _reset(self) -> None:
        self._parser: httptools.HttpRequestParser | None = None
        self._fed = 0
        self._blank_line_skipped = False
        self._headers: Headers = []
        self._headers_complete = False

    def read(self, buffer: bytearray) -> RequestHead | None:
        """Take the next head from the front of ``buffer``; None if it isn't all there.

        Raises:
            RequestRefused: not a request that is served; the connection is lost.
            HTTP2Refused: the buffer begins with HTTP/2's preface.
        """
        if self._parser is None and not self._at_request(buffer):
            return None
        end = buffer.find(b"\r\n\r\n", max(0, self._fed - 3))
        stop = len(buffer) if end < 0 else end + 4
        if stop > self._max_bytes:
            raise RequestRefused("The request line and headers are too large.", status=431)
        self._feed(buffer[self._fed : stop])
        # llhttp ends a head early for HTTP/0.9, and never at a blank line of its own reading.
        if self._headers_complete != (end >= 0):
            raise RequestRefused("The request is malformed.")
        if end < 0:
            return None
        line = bytes(buffer[: buffer.index(b"\r\n")])
        headers = self._headers
        del buffer[:stop]
        self._first = False
        self._reset()
        if len(headers) > self._max_headers:
            raise RequestRefused("The request has too many headers.", status=431)
        return _interpret(line, headers)

    def _at_request(self, buffer: bytearray) -> bool:
        """Skip the one blank line that old clients send after a body; start the parser."""
        if buffer[:1] == b"\r" and not self._blank_line_skipped:
            if len(buffer) < 2:
                return False
            if buffer[1:2] == b"\n":
                del buffer[:2]
                self._blank_line_skipped = True
        if not buffer:
            return False
        if buffer[0] in b"\r\n":
            raise RequestRefused("The request is malformed.")
        if self._first and buffer.startswith(PREFACE):
            raise HTTP2Refused
        if self._first and PREFACE.startswith(buffer):
            return False
        self._parser = httptools.HttpRequestParser(self)
        return True

    def _feed(self, data: bytearray) -> None:
        assert self._parser is not None
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # raised after a whole head; whether to switch is not llhttp's choice
        except httptools.HttpParserError as error:
            raise RequestRefused(f"The request is malformed: {error}.") from error

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._headers_complete = True


def _interpret(line: bytes, headers: Headers) -> RequestHead:
    method, target, version = _request_line(line)
    fields: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _INTERPRETED:
            fields.setdefault(name, []).append(value)
    host = _host(fields, version)
    if target[:1] != b"/":
        target, host = _reduce_target(method, target, host, headers)
    connection = tokens(fields.get(b"connection", ()))
    length = _content_length(fields, version)
    return RequestHead(
        method=method,
        target=target,
        version=version,
        headers=headers,
        host=host,
        keep_alive=b"close" not in connection and (version == "1.1" or b"keep-alive" in connection),
        content_length=length,
        expects_continue=(
            version == "1.1" and length != 0 and b"100-continue" in tokens(fields.get(b"expect", ()))
        ),
        websocket=(
            method == "GET"
            and length == 0
            and b"upgrade" in connection
            and tokens(fields.get(b"upgrade", ())) == [b"websocket"]
        ),
    )


def _request_line(line: bytes) -> tuple[str, bytes, str]:
    parts = line.split(b" ")
    if len(parts) != 3 or parts[2] not in _VERSIONS:
        raise RequestRefused("The request line is malformed, or not HTTP/1.0 or HTTP/1.1.")
    method, target, version = parts
    if method == b"CONNECT":
        raise RequestRefused("CONNECT is not supported.")
    if not target.isascii():
        raise RequestRefused("The request target must be ASCII.")
    if b"#" in target:
        raise RequestRefused("The request target must not have a fragment.")
    return method.decode("ascii"), target, _VERSIONS[version]


def _host(fields: dict[bytes, list[bytes]], version: str) -> bytes:
    hosts = fields.get(b"host", ())
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise RequestRefused("Exactly one Host header is required.")
    host = hosts[0] if hosts else b""
    if not _HOST.fullmatch(host):
        raise RequestRefused("The Host header is malformed.")
    return host


def _reduce_target(method: str, target: bytes, host: bytes, headers: Headers) -> tuple[bytes, bytes]:
    """Absolute form to origin form; its authority replaces ``Host`` (RFC 9112, 3.2.2)."""
    if target == b"*" and method == "OPTIONS":
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not _HOST.fullmatch(absolute[1]) or not absolute[1]:
        raise RequestRefused("The request target is malformed.")
    headers[:] = [(n, absolute[1] if n == b"host" else v) for n, v in headers]
    path = absolute[2]
    return (path if path.startswith(b"/") else b"/" + path), absolute[1]


def _content_length(fields: dict[bytes, list[bytes]], version: str) -> int | None:
    """The body's length, None for chunked; every ambiguity is refused (request smuggling)."""
    lengths = fields.get(b"content-length", ())
    codings = fields.get(b"transfer-encoding", ())
    if codings:
        if lengths or version == "1.0" or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise RequestRefused("The only Transfer-Encoding is chunked, without a Content-Length.")
        return None
    if not lengths:
        return 0
    length = parse_length(lengths[0])
    if length is None or len(lengths) > 1:
        raise RequestRefused("The Content-Length is malformed.")
    return length
