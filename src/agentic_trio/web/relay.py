"""What goes to the model server and back as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.errors import NotFound
from agentic_trio.web.dispatch import Routes
from agentic_trio.web.reply import Chunks, Reply

if TYPE_CHECKING:
    from agentic_trio.upstream.client import Answer, Headers
    from agentic_trio.web.dispatch import Handler
    from agentic_trio.web.scope import RequestScope

routes = Routes("relay")

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
    b"authorization",
    b"cookie",
    b"expect",
    b"x-request-id",
    b"remote-addr",
    b"origin",
    b"accept-encoding",
}
"""Request headers that are ours to set, or nobody's business upstream."""

NOT_RETURNED = HOP_BY_HOP | {b"date", b"server", b"x-request-id"}


PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
)
"""What is posted to the model server and never looked into."""


def _relays(handler: Handler) -> Handler:
    for path in PATHS:
        routes.handle("POST", path, direct=True)(handler)
    return handler


@_relays
async def relay_as_is(request: RequestScope) -> Reply:
    """Relay to the same path upstream."""
    request.gateway.admission.check()
    body = await request.body()
    request.ticket.take_slot()
    return await relay(request, request.scope["raw_path"].decode("ascii"), body)


@routes.handle("GET", "/v1/models")
@routes.handle("GET", "/v1/models/<path:model>")
async def relay_models(request: RequestScope, model: str = "") -> Reply:
    """Relay a look at the model server's models.

    Raises:
        NotFound: the path has dot segments. They would be resolved on the way, and lead to any path there.
    """
    if not {".", ".."}.isdisjoint(model.replace("\\", "/").split("/")):
        raise NotFound(f"Invalid URL ({request.where})", code="unknown_url")
    return await relay_as_is(request)


async def relay(request: RequestScope, path: str, body: bytes) -> Reply:
    """Send a request upstream, and its answer back as it comes.

    The upstream call is over when the request is, however it ends.

    Raises:
        UpstreamError: the upstream could not be reached.
    """
    fields = request.headers
    kept_back = _with_named(NOT_FORWARDED, fields)
    if request.gateway.config.client_auth == "replace":
        kept_back |= {b"x-api-key"}
    headers = [field for field in fields if field[0] not in kept_back]
    # The bytes go back as they come, so the upstream may only use an encoding that the client takes.
    headers.append((b"accept-encoding", (request.header(b"accept-encoding") or "identity").encode("latin-1")))
    method = request.scope["method"]
    answer = await request.stack.enter_async_context(
        request.gateway.upstream.forward(
            "GET" if method == "HEAD" else method,
            path,
            request.scope["query_string"],
            headers,
            body,
            request.context,
        )
    )
    received = [(name.lower(), value) for name, value in answer.headers]
    kept_back = _with_named(NOT_RETURNED, received)
    # Which pages may call is this server's to say, not the upstream's.
    returned = [
        field
        for field in received
        if field[0] not in kept_back and not field[0].startswith(b"access-control-")
    ]
    return Reply(RelayBody(answer), answer.status, returned)


def _with_named(kept_back: frozenset[bytes], fields: Headers) -> frozenset[bytes]:
    """With the headers that ``Connection`` headers name: they belong to the connection as well."""
    for name, value in fields:
        if name == b"connection":
            kept_back = kept_back.union(named.strip().lower() for named in value.split(b","))
    return kept_back


class RelayBody(Chunks):
    """The upstream's chunks. If they break off, so does the answer: the client must not take it for whole."""

    def __init__(self, answer: Answer) -> None:
        self._chunks = answer.chunks
        # An empty first chunk makes the server send the head: a stream's first event may be long in coming.
        type = answer.header(b"content-type") or ""
        self._head_due = type.startswith("text/event-stream") and answer.chunks.waits

    @property
    def ended(self) -> bool:
        return self._chunks.ended

    async def __anext__(self) -> bytes:
        if self._head_due:
            self._head_due = False
            return b""
        return await anext(self._chunks)
