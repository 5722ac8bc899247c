"""Values that clients keep for the gateway: they can be carried and sent back, neither read nor made up.

A sealed value is a Fernet token (AES-128-CBC with HMAC-SHA256, the cryptography package), which holds what
kind of value it is and whose. So a token proves that this gateway made it, and neither another owner's
token nor one of another kind is taken for what it is not.

This module needs the extra ``seal``. Nothing else here imports it: see :mod:`agentic_trio.gateway.keys`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Held(msgspec.Struct, gc=False, frozen=True):
    """What a token holds."""

    k: str
    o: str
    v: Any


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Held).decode


def new_key() -> bytes:
    """Make a key: 32 random bytes in URL-safe base64."""
    return Fernet.generate_key()


class Sealing:
    """Seals with the first of its keys, and opens what any of them has sealed.

    Args:
        keys: as ``new_key`` makes them; at least one.

    Raises:
        ValueError: a key is none.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._box = MultiFernet([Fernet(key) for key in keys])

    def of(self, owner: str) -> Seal:
        """Return what seals and opens an owner's values."""
        return Seal(self._box, owner)


@dataclass(frozen=True, slots=True)
class Seal:
    """Seals and opens the values of one owner."""

    _box: MultiFernet = field(repr=False)
    owner: str

    def seal(self, kind: str, value: Any) -> str:
        """Return a token that holds ``value``, which JSON can express."""
        return self._box.encrypt(_encode(_Held(kind, self.owner, value))).decode()

    def open(self, kind: str, token: str) -> Any:
        """Return the value in a token; None if it was not sealed here, or not as this kind for this owner."""
        try:
            held = _decode(self._box.decrypt(token.encode()))
        except (InvalidToken, msgspec.DecodeError, UnicodeError, RecursionError):
            return None
        return held.v if (held.k, held.o) == (kind, self.owner) else None
