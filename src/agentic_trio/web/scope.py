"""One request: the nursery that it lives in, and the values that are its alone."""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qsl

import trio
from werkzeug.datastructures import MultiDict

from agentic_trio.auth.refusals import missing_scope
from agentic_trio.context import ANYONE, RequestContext, upstream_authorization
from agentic_trio.errors import RequestTooLarge
from agentic_trio.gateway.admission import Ticket
from agentic_trio.minting import mint_id
from agentic_trio.web.encodings import decoded
from agentic_trio.web.forwarding import to_model_server
from agentic_trio.web.reply import Chunks, Reply

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from hypercorn.typing import ASGIReceiveCallable, HTTPScope

    from agentic_trio.context import Identity, Scope
    from agentic_trio.errors import GatewayError
    from agentic_trio.gateway.gateway import Gateway
    from agentic_trio.gateway.quotas import Place
    from agentic_trio.telemetry.figures import Figures

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Fate(Protocol):
    """What our server knows of a request that no app is told: why its client got no answer, or not all."""

    def tell(self) -> None:
        """The log has a line of this request, so that the server needs none."""

    @property
    def refusal(self) -> GatewayError | None:
        """What the server itself answered instead."""

    @property
    def gone(self) -> str:
        """``gone`` if the client left, ``too_slow`` if it took nothing; empty while it is there."""


class RequestScope:
    """What a request scopes. All of it is given back when the request is over, however it ends.

    Attributes:
        scope: ASGI's.
        gateway: what serves the request.
        nursery: its tasks are cancelled when the client leaves, until the last byte is on its way.
        stack: leaves its contexts when the request is over, before a refusal is sent.
        ticket: the request's slot and memory, until a turn takes them over.
        place: what the request takes of its owner's quotas, once it has begun.
        started: whether the response has begun, so that its status can't be another.
        arrived: when its head was there, in seconds of ``time.perf_counter``.
        route: the route that serves it, with the names of its variables; empty if none does.
        status: the response's, once it has begun.
        whole: whether all of the response was sent.
        error: why the request was refused, or its response cut short.
        response_id: of the response that it creates or names, if there is one.
        figures: those of the turn that it makes and owns.
        sent: the reply that was begun.
        model_seconds: how long a relay waited for the beginning of its answer.
    """

    def __init__(
        self,
        scope: HTTPScope,
        gateway: Gateway,
        nursery: trio.Nursery,
        stack: AsyncExitStack,
        receive: ASGIReceiveCallable,
    ) -> None:
        self.arrived = perf_counter()
        self.route = ""
        self.status = 0
        self.whole = False
        self.error: GatewayError | None = None
        self.response_id = ""
        self.figures: Figures | None = None
        self.sent: Reply | None = None
        self.model_seconds = 0.0
        self._ready = self.arrived
        self._streams = False
        self.scope = scope
        self.gateway = gateway
        self.nursery = nursery
        self.stack = stack
        self.ticket = stack.enter_context(Ticket(gateway.admission))
        self._receive = receive
        # Whether the client left, and what our server refused it for.
        self.fate: Fate | None = getattr(receive, "fate", None)
        # How our server tells of a client that leaves, without a task that waits for it.
        self._server_watch = getattr(receive, "watch", None)
        self._request_id: str | None = None
        self._identity: Identity | None = None
        self._context: RequestContext | None = None
        self.place: Place | None = None
        self._first: dict[bytes, bytes] | None = None
        self.started = False
        self._answered = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers in their order, names in lower case."""
        return cast("list[tuple[bytes, bytes]]", self.scope["headers"])

    def header(self, name: bytes) -> str | None:
        """The first header of this (lower-case) name."""
        if self._first is None:
            self._first = dict(reversed(self.headers))
        value = self._first.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def args(self) -> MultiDict[str, str]:
        """The query string's arguments."""
        query = self.scope["query_string"].decode("latin-1")
        return MultiDict(parse_qsl(query, keep_blank_values=True))

    @property
    def owner(self) -> str:
        """Whose data the request works with; empty while that isn't known."""
        return "" if self._identity is None else self._identity.owner

    @property
    def request_id(self) -> str:
        """Names the request in logs and in its answer: as the client calls it, or a new name."""
        if self._request_id is None:
            id = self.header(b"x-request-id")
            self._request_id = id if id and _REQUEST_ID.fullmatch(id) else mint_id("req")
        return self._request_id

    async def authenticate(self) -> None:
        """Find out who the request comes from. It is asked once, and before the body is read.

        Raises:
            GatewayError: it can't be told (401), or not now (503).
        """
        if self._identity is None:
            authenticator = self.gateway.authenticator
            self._identity = ANYONE if authenticator is None else await authenticator.identify(self.headers)

    async def admit(self, scope: Scope) -> None:
        """Let the request in, if whoever sends it may do what needs this scope.

        Raises:
            GatewayError: as ``authenticate``, or it may not (403).
        """
        await self.authenticate()
        if self._identity is not None and not self._identity.may(scope):
            raise missing_scope(scope)

    def begin_turn(self, ticket: Ticket | None = None) -> None:
        """Let a request to the model server in, before its body is read.

        Args:
            ticket: what the request has taken, if that isn't its own ticket.

        Raises:
            TooManyRequests: there is no slot, or its owner or its key has used up what it may.
            ServiceUnavailable: the server is shutting down.
        """
        self.gateway.admission.check()
        quotas = self.gateway.quotas
        if quotas is not None:
            self.place = quotas.enter(self.context.identity)
            if self.place is not None:
                (ticket or self.ticket).take_place(self.place)

    def limited(self, reply: Reply) -> Reply:
        """A reply that says what its owner may use yet, if that is bounded."""
        if self.place is not None and self.gateway.quotas is not None:
            own = self.gateway.quotas.headers(self.place.standings)
            reply.headers = [field for field in reply.headers if not field[0].startswith(b"x-ratelimit-")]
            reply.headers += [(name.encode(), value.encode()) for name, value in own.items()]
        return reply

    @property
    def context(self) -> RequestContext:
        """The request's owner, auth and id: frozen, and handed down to whatever works for the request.

        Raises:
            RuntimeError: who it comes from has not been found out, so it may see nobody's state.
        """
        if self._context is None:
            identity = self._identity
            if identity is None:
                raise RuntimeError(f"{self.where} was not authenticated")
            config = self.gateway.config
            open_to_all = identity is ANYONE
            self._context = RequestContext(
                authorization=upstream_authorization(config, identity, self._brought_authorization()),
                owner=identity.owner,
                request_id=self.request_id,
                headers=tuple(
                    to_model_server(self.headers, credentials=open_to_all and config.client_auth == "forward")
                ),
                route="/v1/responses",
                identity=identity,
            )
        return self._context

    def _brought_authorization(self) -> bytes | None:
        """The ``Authorization`` that a client has for the model server, if it isn't the one for us."""
        for name, value in self.headers:
            if name == b"authorization":
                authenticator = self.gateway.authenticator
                return value if authenticator is None or not authenticator.is_ours(value) else None
        return None

    def credentials(self) -> list[bytes]:
        """The values of the headers that tell one client from another, where no owner does.

        An owner's credentials change: keys are rotated, tokens expire within minutes.
        """
        if self._identity is not ANYONE:
            return []
        return [value for name, value in self.headers if name in (b"authorization", b"x-api-key")]

    @property
    def direct(self) -> bool:
        """Whether the request may skip Quart's dispatch.

        Our server must watch for the client's leaving, and no page may be behind it: CORS is a hook.
        """
        return self._server_watch is not None and self.header(b"origin") is None

    async def body(self) -> bytes:
        """Read the body; from then on the client's leaving cancels the request.

        It is read when a handler asks for it: a request that is refused before that costs no memory, and
        needn't be sent whole. A declared length is reserved on the ticket at once.

        Raises:
            RequestTooLarge: it is larger than ``max_request_body_size``, compressed or not.
        InvalidRequest: its ``content-encoding`` is unknown, or isn't what the body is in.
            TooManyRequests: there is no memory for it.

        Cancellation: part of it has been read, so the connection is good for nothing else.
        """
        limit = self.gateway.config.max_request_body_size
        declared = int(self.header(b"content-length") or 0)
        if declared > limit:
            raise _too_large(limit)
        self.ticket.reserve(declared)
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                await self._leave()
                continue
            part, more = message["body"], message["more_body"]
            parts.append(part)
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            if size > declared:
                self.ticket.reserve(size - declared)
                declared = size
        self.watch()
        self._ready = perf_counter()
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = self.header(b"content-encoding")
        return body if encoding is None else await self._decoded(body, encoding, limit)

    async def _decoded(self, body: bytes, encoding: str, limit: int) -> bytes:
        left = limit

        def take(size: int) -> None:
            nonlocal left
            left -= size
            if left < 0:
                raise _too_large(limit)
            self.ticket.reserve(size)

        return await decoded(body, encoding, take)

    def reply(self, body: bytes) -> Reply:
        """A reply of JSON text that was read from the store, counted until it has been sent.

        Raises:
            TooManyRequests: too many clients have not read theirs.
        """
        self.ticket.reserve(len(body))
        return Reply(body)

    def watch(self) -> None:
        """Cancel the nursery when the client leaves. The body has been read, or never will be."""
        if self._server_watch is not None:
            self.stack.enter_context(self._server_watch(self.nursery.cancel_scope.cancel))
        else:
            self.nursery.start_soon(self._wait_for_disconnect)

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] == "http.request":
            pass
        # hypercorn says "disconnect" of a request that is complete, while it still sends the end of the
        # response: a cancel would stop it before it closes or recycles the connection.
        if not self._answered:
            self.nursery.cancel_scope.cancel()

    @property
    def timed_out(self) -> bool:
        """Whether the request's nursery, which is over, reached its deadline before the response began."""
        scope = self.nursery.cancel_scope
        return scope.cancelled_caught and not self.started and trio.current_time() >= scope.deadline

    def begin(self, reply: Reply) -> None:
        """The reply is about to be sent."""
        self.sent = reply
        if not self._streams and isinstance(reply.body, Chunks):
            self._streams = True
            self.gateway.observer.streams += 1

    def end(self) -> None:
        """The request is over."""
        if self._streams:
            self.gateway.observer.streams -= 1

    def timing(self) -> bytes:
        """``Server-Timing`` as of now: what the gateway itself took, and what it waited for, in milliseconds.

        The time in which a client sends its body is nobody's.
        """
        figures = self.figures
        if figures is None or not figures.called:
            model = self.model_seconds
            own = max(perf_counter() - self._ready - model, 0.0)
            return b"gateway;dur=%.1f, model;dur=%.1f" % (own * 1e3, model * 1e3)
        now = figures.clock()
        model = (figures.answered or figures.head or now) - figures.called
        return b"gateway;dur=%.1f, model;dur=%.1f, history;dur=%.1f, commit;dur=%.1f" % (
            (now - figures.began - model) * 1e3,
            model * 1e3,
            figures.since(figures.history) * 1e3,
            figures.commit * 1e3,
        )

    @property
    def cut_by(self) -> GatewayError | None:
        """Why the body ended before its end, if its reader is told so in its own words."""
        body = None if self.sent is None else self.sent.body
        return body.error if isinstance(body, Chunks) else None

    def answered(self) -> None:
        """The last byte of the response is on its way: the client may leave."""
        self._answered = True

    async def _leave(self) -> None:
        """The client left before all of its request was here: nothing more is done for it."""
        self.nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()

    @property
    def where(self) -> str:
        """The request's method and path, for messages."""
        scope = cast("dict[str, Any]", self.scope)
        return f"{scope['method']} {scope['path']}"


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request's body is larger than {limit} bytes.")
