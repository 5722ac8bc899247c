"""One request: the nursery that it lives in, its own values, and how handlers reach them."""

from __future__ import annotations

import logging
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import trio
from quart import Response, current_app, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import HTTPException

from agentic_trio.context import RequestContext, upstream_authorization
from agentic_trio.errors import GatewayError, InvalidRequest, NotFound, RequestTooLarge
from agentic_trio.gateway.budget import UNCOUNTED
from agentic_trio.minting import mint_id
from agentic_trio.web.reply import Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractContextManager

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope

    from agentic_trio.gateway.budget import Share
    from agentic_trio.gateway.gateway import Gateway

    Handler = Callable[["Scoped"], Awaitable[Reply]]
    Watch = Callable[[Callable[[], None]], AbstractContextManager[None]]

logger = logging.getLogger("agentic_trio")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Scoped:
    """What a request scopes, and the values that are its alone.

    Attributes:
        scope: ASGI's.
        gateway: what serves it.
        nursery: what runs here is cancelled when the client leaves.
        stack: what is entered here is left when the request is over, however it ends.
        held: its body's share of what may be in memory; None for a small one.
    """

    scope: Any
    gateway: Gateway
    nursery: trio.Nursery
    stack: AsyncExitStack
    held: Share | None = None
    _context: RequestContext | None = None
    _firsts: dict[bytes, bytes] | None = None

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The headers as they came, names in lower case."""
        return cast("list[tuple[bytes, bytes]]", self.scope["headers"])

    def field(self, name: bytes) -> str | None:
        """The first header of this (lower-case) name."""
        if self._firsts is None:
            self._firsts = dict(reversed(self.fields))
        value = self._firsts.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def context(self) -> RequestContext:
        """The values of this request alone."""
        if self._context is None:
            sent = self.field(b"authorization")
            id = self.field(b"x-request-id")
            self._context = RequestContext(
                authorization=upstream_authorization(
                    self.gateway.config, None if sent is None else sent.encode("latin-1")
                ),
                request_id=id if id and _REQUEST_ID.fullmatch(id) else mint_id("req"),
            )
        return self._context

    async def raw_body(self) -> bytes:
        """The body's bytes. Raises RequestTooLarge; TooManyRequests, if there is no memory for it."""
        raise NotImplementedError

    async def _receive_body(self, receive: ASGIReceiveCallable) -> bytes:
        left = self.gateway.config.max_request_body_size
        declared = self.field(b"content-length")
        if declared is not None and int(declared) > left:
            raise request_too_large(self.gateway)
        parts = []
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise _ClientLeft
            part, more = message["body"], message["more_body"]
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise request_too_large(self.gateway)
            if self.held is None and (more or len(part) > UNCOUNTED):
                self.held = self.stack.enter_context(self.gateway.budget.share())
            if self.held is not None:
                self.held.hold(len(part))
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _ClientLeft(Exception):
    """The client left before all of its request was here."""


class GatewayRequest(Scoped, TrioRequest):
    """A request that is dispatched by Quart. Its body is read here, since Quart's versions differ."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._arrived = trio.Event()
        self._whole = b""
        self._refusal: GatewayError | None = None

    async def follow(self, receive: ASGIReceiveCallable) -> None:
        """Read the body, then wait until the client leaves."""
        try:
            self._whole = await self._receive_body(receive)
        except GatewayError as refusal:
            self._refusal = refusal
        except _ClientLeft:
            return
        self._arrived.set()
        while (await receive())["type"] == "http.request":
            pass

    async def raw_body(self) -> bytes:
        await self._arrived.wait()
        if self._refusal is not None:
            raise self._refusal
        return self._whole


class DirectRequest(Scoped):
    """A request of a busy route. Its body is read when the handler asks for it, not before: one that is
    refused must not cost memory, nor wait for a client that is slow to send it."""

    def __init__(
        self,
        scope: HTTPScope,
        gateway: Gateway,
        nursery: trio.Nursery,
        stack: AsyncExitStack,
        receive: ASGIReceiveCallable,
        watch: Watch,
    ) -> None:
        self.scope = scope
        self.gateway = gateway
        self.nursery = nursery
        self.stack = stack
        self._receive = receive
        self._watch = watch

    async def raw_body(self) -> bytes:
        """The body's bytes; from then on the client's leaving cancels the request.

        Raises:
            RequestTooLarge: there are more than may be.
            TooManyRequests: there are more than is left for all bodies.
        """
        body = await self._receive_body(self._receive)
        self.stack.enter_context(self._watch(self.nursery.cancel_scope.cancel))
        return body


class RequestNursery(TrioASGIHTTPConnection):
    """Runs one request. The client's leaving cancels it, until its last byte is being sent."""

    app: GatewayApp
    _ending = False

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        handler = self.app.direct.get((self.scope["method"], self.scope["path"]))
        watch: Watch | None = getattr(receive, "watch", None)
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            if handler is not None and watch is not None:
                request = DirectRequest(self.scope, self.app.gateway, nursery, stack, receive, watch)
                if request.field(b"origin") is None:
                    await self._call(handler, request, send)
                    return
            await self._dispatch(nursery, stack, receive, send)

    async def _call(self, handler: Handler, request: DirectRequest, send: ASGISendCallable) -> None:
        """Call a busy route's handler, and leave it to the server to watch for the client's leaving."""
        try:
            reply = await handler(request)
        except _ClientLeft:
            return
        except Exception as error:
            reply = error_reply(request, error)
        reply.headers.append((b"x-request-id", request.context.request_id.encode()))
        await reply.send(send)
        if request.nursery.child_tasks:
            request.nursery.cancel_scope.cancel()

    async def _dispatch(
        self,
        nursery: trio.Nursery,
        stack: AsyncExitStack,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        async def send_until_end(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._ending = True
            await send(message)

        request = cast("GatewayRequest", self._create_request_from_scope(send))
        request.gateway = self.app.gateway
        request.stack = stack
        request.nursery = nursery
        nursery.start_soon(self._follow, request, receive)
        await self.handle_request(nursery, request, send_until_end)

    async def _follow(self, request: GatewayRequest, receive: ASGIReceiveCallable) -> None:
        await request.follow(receive)
        # hypercorn says "disconnect" of a request that is complete, while it is still sending its end:
        # a cancel would stop it before it closes or recycles the connection.
        if not self._ending:
            request.nursery.cancel_scope.cancel()


class GatewayApp(QuartTrio):
    """The app of one gateway, which is set before the first request.

    Attributes:
        gateway: what it serves.
        direct: (method, path) -> the handler behind that route, for the busy routes: our own server calls
            it without the request object, context, signals and hooks of a dispatch, none of which it
            uses. A request of a browser's page is dispatched, since CORS is a hook.
    """

    asgi_http_class = RequestNursery
    request_class = GatewayRequest
    gateway: Gateway
    direct: Mapping[tuple[str, str], Handler]


def this_gateway() -> Gateway:
    """The gateway of the app that serves the current request."""
    return cast("GatewayApp", current_app).gateway


def this_request() -> GatewayRequest:
    """The current request itself, not a proxy of it."""
    return cast("GatewayRequest", cast("Any", request)._get_current_object())


def name_request(request: GatewayRequest, response: Response) -> Response:
    """Put the request's id on its answer."""
    response.headers["x-request-id"] = request.context.request_id
    return response


def error_reply(request: GatewayRequest | DirectRequest, error: Exception) -> Reply:
    """Any failure in OpenAI's envelope: ours, those of routing and of reading the body, and bugs."""
    if isinstance(error, HTTPException):
        error = _refused(cast("GatewayRequest", request), error)
    elif not isinstance(error, GatewayError):
        logger.error("request %s failed", request.context.request_id, exc_info=error)
        error = GatewayError("The gateway failed.", code="internal_error")
    reply = json_reply(error.body(), error.status)
    reply.headers += [
        (name.lower().encode(), value.encode("latin-1")) for name, value in error.headers.items()
    ]
    return reply


def _refused(request: GatewayRequest, error: HTTPException) -> GatewayError:
    where = f"{request.method} {request.path}"
    if error.code == 404:
        return NotFound(f"Invalid URL ({where})", code="unknown_url")
    message = f"Invalid method for URL ({where})" if error.code == 405 else error.name
    headers = {name: value for name, value in error.get_headers() if name.lower() == "allow"}
    return InvalidRequest(message, status=error.code or 500, headers=headers)


def request_too_large(gateway: Gateway) -> RequestTooLarge:
    limit = gateway.config.max_request_body_size
    return RequestTooLarge(f"The request's body is larger than {limit} bytes.")


def json_response(body: bytes, status: int = 200) -> Response:
    """An answer of JSON text."""
    return json_reply(body, status).response()


def require_list_endpoints() -> None:
    """Lists tell a stranger what others have stored: they are served only where that was switched on.

    Raises:
        InvalidRequest: they are off, so the method is unknown here, as it is at OpenAI.
    """
    if not this_gateway().config.list_endpoints:
        request = this_request()
        where = f"{request.method} {request.path}"
        raise InvalidRequest(f"Invalid method for URL ({where})", status=405, headers={"allow": "POST"})
