"""The grammar that both sides of HTTP/1.1 share (RFC 9110, sections 5 and 8.6), written once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""A method or a field's name."""

TEXT: Final = rb"[^\x00\r\n]*"
"""A field's value, or the extensions of a chunk: whatever can't be taken for the end of a line."""

FIELD_LINE: Final = rb"%b: %b\r\n" % (TOKEN, TEXT)
"""A field as it is written here. One that is read may have other white space around its value."""

# 18 digits fit in 63 bits. llhttp takes 2**64 - 1, which another parser may wrap around.
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")


def parse_length(value: bytes) -> int | None:
    """The number of a Content-Length, or None if it is malformed (a sign, a list, no digits, too many)."""
    return int(value) if _LENGTH.fullmatch(value) else None


def tokens(values: Iterable[bytes]) -> list[bytes]:
    """The members of a list field that may be sent in several lines, in lower case."""
    return [token.strip(b" \t") for token in b",".join(values).lower().split(b",")]
