"""JSON from model servers that isn't quite JSON: ``NaN``, infinities, and halves of characters.

Python's own encoder writes all of them. A log probability of minus infinity is ``-Infinity``, and a token
that ends inside an emoji is ``"\\ud83d"``, whose other half comes with the next token. Everything else
that is not JSON is still refused.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from agentic_trio.wire.dialect import JsonObject, decode_object

NO_LOGPROB = -9999.0
"""The log probability of what can't happen, as OpenAI writes it."""


def decode_upstream(data: bytes) -> JsonObject:
    """Decode an object that a model server sent. Raises as :func:`decode_mended` does."""
    try:
        return decode_object(data)
    except msgspec.DecodeError:
        return decode_mended(data)


def decode_mended(data: bytes) -> JsonObject:
    """Decode an object that strict JSON refuses: what can't be said in JSON becomes null or U+FFFD.

    A ``delta`` may still begin or end with half a character: see :func:`split_half`.

    Raises:
        msgspec.DecodeError: it is no object of this kind either.
        UnicodeDecodeError: it is not UTF-8.
        RecursionError: it is nested too deep.
    """
    try:
        value = json.loads(data.decode())
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from None
    if not isinstance(value, dict):
        raise msgspec.DecodeError("not an object")
    delta = value.pop("delta", None)
    mended: JsonObject = _mended(value)
    if delta is not None:
        mended["delta"] = delta if isinstance(delta, str) else _mended(delta)
    return mended


def _mended(value: Any, name: str = "") -> Any:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else NO_LOGPROB if name == "logprob" else None
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {whole_characters(key): _mended(member, key) for key, member in value.items()}
    return value


def whole_characters(text: str) -> str:
    """Return a text whose halves are joined where they meet; a lone half becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def split_half(text: str) -> tuple[str, str]:
    """Return a text without a half character at its end, and that half: the rest may still come."""
    half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
    return whole_characters(text.removesuffix(half) if half else text), half
