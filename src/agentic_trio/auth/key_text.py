"""What a key looks like: a prefix that scanners for leaked secrets can know, 256 random bits, a checksum.

``agt_``, 43 digits of base 62, and 6 more for their CRC-32; as a regular expression
``\\bagt_[0-9A-Za-z]{49}\\b``. The checksum tells a key from a text that only looks like one, without asking
the database.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "agt_"

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_DIGITS = 43
"""Digits of base 62 that hold 256 bits."""

_CHECK_DIGITS = 6
"""Digits of base 62 that hold 32 bits."""

_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_DIGITS + _CHECK_DIGITS}}}")


def make_key() -> str:
    """A new key, of the kernel's randomness."""
    random = _in_base_62(secrets.randbits(256), _RANDOM_DIGITS)
    return f"{PREFIX}{random}{_checksum(random)}"


def is_key(text: str) -> bool:
    """Whether a text is a key that a gateway may have made."""
    if _SHAPE.fullmatch(text) is None:
        return False
    random = text[len(PREFIX) : -_CHECK_DIGITS]
    return text.endswith(_checksum(random))


def digest_of(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(random: str) -> str:
    return _in_base_62(zlib.crc32(random.encode()), _CHECK_DIGITS)


def _in_base_62(number: int, digits: int) -> str:
    text = []
    for _ in range(digits):
        number, digit = divmod(number, len(_DIGITS))
        text.append(_DIGITS[digit])
    return "".join(reversed(text))
