"""HTTP/1.1 responses, sans-io: ASGI's messages in, bytes for the wire out."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from agentic_trio.http1.grammar import FIELD_LINE, parse_length, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_FIELDS: Final = re.compile(rb"(?:%b)*" % FIELD_LINE)


class ResponseWriter:
    """Encodes one response, and chooses how its end is marked.

    The head leaves together with the first body message, so that a small response is
    one write; an app that wants its head out early sends an empty body part.

    Attributes:
        keep_alive: May be set until the head is encoded; then says what the client was told.
        status: None before ``start``.
        head_sent: The head is among the bytes handed out.
        complete: So is the end of the body.
        ends_at_close: The client can't tell the end from a lost connection, except by a reset.
    """

    __slots__ = (
        "_bodiless",
        "_chunked",
        "_head_request",
        "_http10",
        "_remaining",
        "complete",
        "ends_at_close",
        "head_sent",
        "headers",
        "keep_alive",
        "status",
    )

    def __init__(self, *, method: str, version: str) -> None:
        self._head_request = method == "HEAD"
        self._http10 = version == "1.0"
        self._bodiless = False
        self._chunked = False
        self._remaining: int | None = None
        self.keep_alive = False
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_sent = False
        self.complete = False
        self.ends_at_close = False

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the head; nothing is encoded yet."""
        if self.status is not None:
            raise RuntimeError("the response was started before")
        if not 200 <= status <= 999:
            raise ValueError(f"{status} is not the status of a final response")
        self.status = status
        self.headers = list(headers)
        self._bodiless = self._head_request or status in (204, 304)

    @property
    def has_length(self) -> bool:
        """Whether the app has said how long the body is."""
        return any(name.lower() == b"content-length" for name, _ in self.headers)

    def body(self, data: bytes, more: bool, date: bytes) -> bytes:
        """Encode a body part, after the head if it is the first.

        Args:
            data: May be empty.
            more: Other parts follow.
            date: Header lines that the server adds, unless the app sent a ``date``.

        Raises:
            RuntimeError: out of order, or not as long as ``content-length`` says.
            ValueError: a header that would break the framing.
        """
        if self.status is None or self.complete:
            raise RuntimeError("a body part outside a response")
        head = b"" if self.head_sent else self._head(self.status, data, more, date)
        payload = b"" if self._bodiless else self._frame(data, more)
        self.head_sent = True
        self.complete = not more
        return head + payload

    def _head(self, status: int, data: bytes, more: bool, date: bytes) -> bytes:
        lines: list[bytes] = []
        for raw_name, value in self.headers:
            name = raw_name.lower()
            if name == b"content-length":
                self._take_length(value)
                continue
            if name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in tokens([value])
                continue
            if name == b"transfer-encoding":
                continue
            if name == b"date":
                date = b""
            lines.append(b"%b: %b\r\n" % (name, value))
        lines.extend(self._framing(status, data, more))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self._http10:
            lines.append(b"connection: keep-alive\r\n")
        fields = b"".join(lines)
        if not _FIELDS.fullmatch(fields) or fields.count(b"\n") != len(lines):
            raise ValueError("a response header is malformed")
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return b"%b%b%b\r\n" % (line, fields, date)

    def _take_length(self, value: bytes) -> None:
        length = parse_length(value)
        if length is None or self._remaining not in (None, length):
            raise ValueError("the response's content-length is malformed")
        self._remaining = length

    def _framing(self, status: int, data: bytes, more: bool) -> list[bytes]:
        if status == 204:
            return []  # a content-length is forbidden
        if self._remaining is None and not self._bodiless:
            if more:
                return self._open_ended()
            self._remaining = len(data)
        return [] if self._remaining is None else [b"content-length: %d\r\n" % self._remaining]

    def _open_ended(self) -> list[bytes]:
        if self._http10:
            self.ends_at_close = True
            self.keep_alive = False
            return []
        self._chunked = True
        return [b"transfer-encoding: chunked\r\n"]

    def _frame(self, data: bytes, more: bool) -> bytes:
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._remaining is not None:
            self._remaining -= len(data)
            if self._remaining < 0 or (self._remaining and not more):
                raise RuntimeError("the response body isn't as long as its content-length")
        return data
