"""``cache_salt``: keeps the prefix caches of a model server's users apart (vLLM).

A prefix that another user has sent before is answered faster, so that timing tells what others have sent.
"""

from __future__ import annotations

import hashlib

from agentic_trio.wire.bodies import invalid_json


def salt_of(owner: str) -> bytes:
    """The salt of an owner's requests."""
    return hashlib.sha256(b"agentic-trio cache_salt\0" + owner.encode()).hexdigest().encode()


def salted(body: bytes, owner: str) -> bytes:
    """A request's body with its owner's salt, which takes the place of any that it has.

    The member is put last: of several with one name, servers take the last. What isn't an object is left as
    it is, for the server to refuse.

    Raises:
        InvalidRequest: the body is in UTF-16 or UTF-32, which servers may take, too: its end is another, and
            the client's own salt would stay.
    """
    # JSON in UTF-8 has no NUL, and in those it always has some.
    if b"\0" in body:
        raise invalid_json()
    bare = body.rstrip(b" \t\r\n")
    if not bare.endswith(b"}"):
        return body
    rest = bare[:-1].rstrip(b" \t\r\n")
    comma = b"" if rest.endswith(b"{") else b","
    return b'%b%b"cache_salt":"%b"}' % (rest, comma, salt_of(owner))
