"""Which headers go to the model server, and which come back: one rule for turns and for relays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.upstream.client import MARK

if TYPE_CHECKING:
    Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that belong to one connection (RFC 9110, section 7.6.1)."""

NOT_FORWARDED = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"authorization",
    b"cookie",
    b"expect",
    b"x-request-id",
    b"x-on-disconnect",
    b"remote-addr",
    b"origin",
    b"accept-encoding",
}
"""Request headers that are ours to set, that we have acted on, or that are nobody's business upstream."""

FORWARDED_WITHOUT_CREDENTIALS = frozenset(
    {
        b"accept",
        b"accept-language",
        b"anthropic-beta",
        b"anthropic-version",
        b"baggage",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"user-agent",
        b"x-session-id",
        MARK,
    }
)
"""All that goes up where clients' credentials must not: any other header might be one."""

NOT_RETURNED = HOP_BY_HOP | {b"date", b"server", b"x-request-id"}


def to_model_server(headers: Headers, *, credentials: bool) -> Headers:
    """The headers of a client's request that go upstream with it.

    Args:
        headers: the client's.
        credentials: whether those go up that might hold credentials, ``Authorization`` aside.
    """
    dropped = _with_named(NOT_FORWARDED, headers)
    if not credentials:
        return [
            field
            for field in headers
            if field[0] in FORWARDED_WITHOUT_CREDENTIALS and field[0] not in dropped
        ]
    return [field for field in headers if field[0] not in dropped]


def to_client(headers: Headers) -> Headers:
    """The headers of a model server's response that go back with it. Names are in lower case.

    Which pages may call is this server's to say, so CORS headers are not among them.
    """
    dropped = _with_named(NOT_RETURNED, headers)
    return [
        field for field in headers if field[0] not in dropped and not field[0].startswith(b"access-control-")
    ]


def _with_named(dropped: frozenset[bytes], headers: Headers) -> frozenset[bytes]:
    """With the headers that ``Connection`` headers name: they belong to the connection as well."""
    for name, value in headers:
        if name == b"connection":
            dropped = dropped.union(named.strip().lower() for named in value.split(b","))
    return dropped
