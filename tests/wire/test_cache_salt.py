"""Salts of owners in bodies that are relayed."""

from __future__ import annotations

import json

import pytest

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.cache_salt import salt_of, salted

BODY = json.dumps({"model": "tiny", "cache_salt": salt_of("bob").decode()})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_no_encoding_lets_a_client_choose_another_owner_s_salt(encoding: str) -> None:
    """Python's ``json`` finds out by itself how bytes are encoded, so that servers take all of these."""
    body = BODY.encode(encoding)
    assert json.loads(body)["cache_salt"]
    with pytest.raises(InvalidRequest):
        salted(body, "alice")


@pytest.mark.parametrize("body", [BODY, f"\ufeff{BODY}", f" {BODY} \r\n", "{ }", '{"cache_salt":"a" }'])
def test_the_owner_s_salt_takes_the_place_of_any_other(body: str) -> None:
    assert json.loads(salted(body.encode(), "alice"))["cache_salt"] == salt_of("alice").decode()
