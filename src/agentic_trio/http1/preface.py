"""HTTP/2 with prior knowledge, recognised and refused (RFC 9113, sections 3.3 and 6.8).

Clients that find HTTP/1.1 by themselves never send this. A proxy that is set up to speak HTTP/2 to the
gateway does, and has to be told in its own language.
"""

from __future__ import annotations

import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""What a client's connection begins with. The rest of the preface tells nothing more."""

_SETTINGS, _GOAWAY = 4, 7
_HTTP_1_1_REQUIRED = 0xD


def _frame(kind: int, payload: bytes) -> bytes:
    """A frame without flags, of the connection as a whole."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, 0, 0) + payload


HTTP2_REFUSAL: Final = _frame(_SETTINGS, b"") + _frame(
    _GOAWAY, struct.pack("!II", 0, _HTTP_1_1_REQUIRED) + b"use HTTP/1.1"
)
"""The server's preface, and a GOAWAY which says that no stream was or will be processed."""
