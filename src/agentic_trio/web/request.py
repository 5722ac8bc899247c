"""One request: the nursery that it lives in, its own values, and how handlers reach them."""

from __future__ import annotations

import logging
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import trio
from quart import Response, current_app, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from agentic_trio.context import RequestContext, upstream_authorization
from agentic_trio.errors import GatewayError, InvalidRequest, NotFound, RequestTooLarge
from agentic_trio.wire.ids import mint_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractContextManager

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

    from agentic_trio.gateway import Gateway

    Handler = Callable[["GatewayRequest"], Awaitable[Response]]
    Watch = Callable[[Callable[[], None]], AbstractContextManager[None]]

logger = logging.getLogger("agentic_trio")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class GatewayRequest(TrioRequest):
    """A request, with what is scoped by it.

    Attributes:
        gateway: what serves it.
        nursery: what runs here is cancelled when the client leaves.
        stack: what is entered here is left when the request is over, however it ends.
    """

    gateway: Gateway
    nursery: trio.Nursery
    stack: AsyncExitStack
    _context: RequestContext | None = None

    @property
    def context(self) -> RequestContext:
        """The values of this request alone."""
        if self._context is None:
            self._context = self._make_context()
        return self._context

    async def raw_body(self) -> bytes:
        """The body's bytes. Raises werkzeug's RequestEntityTooLarge."""
        return cast("bytes", await self.get_data())

    def _make_context(self) -> RequestContext:
        sent = self.headers.get("Authorization")
        id = self.headers.get("X-Request-Id", "")
        return RequestContext(
            authorization=upstream_authorization(
                self.gateway.config, None if sent is None else sent.encode("latin-1")
            ),
            request_id=id if _REQUEST_ID.fullmatch(id) else mint_id("req"),
        )


class RequestNursery(TrioASGIHTTPConnection):
    """Runs one request. The client's leaving cancels it, until its last byte is being sent."""

    app: GatewayApp
    _ending = False

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_until_end(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._ending = True
            await send(message)

        request = cast("GatewayRequest", self._create_request_from_scope(send))
        request.gateway = self.app.gateway
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            request.stack = stack
            request.nursery = nursery
            watch: Watch | None = getattr(receive, "watch", None)
            if watch is None:
                nursery.start_soon(self.handle_messages, nursery, request, receive)
            elif await self._read(request, receive):
                stack.enter_context(watch(nursery.cancel_scope.cancel))
            else:
                return
            await self.handle_request(nursery, request, send_until_end)

    async def _read(self, request: GatewayRequest, receive: ASGIReceiveCallable) -> bool:
        """Read the body up to the bound on it; whether the client is still there."""
        left = self.app.config["MAX_CONTENT_LENGTH"]
        if (request.content_length or 0) > left:
            left = -1
        while left >= 0:
            message = await receive()
            if message["type"] != "http.request":
                return False
            request.body.append(message["body"])
            left -= len(message["body"])
            if not message["more_body"]:
                request.body.set_complete()
                return True
        # The body says that it is too large once a handler asks for it.
        return True

    async def handle_messages(  # type: ignore[override]
        self, nursery: trio.Nursery, request: GatewayRequest, receive: ASGIReceiveCallable
    ) -> None:
        # hypercorn says "disconnect" of a request that is complete, while it is still sending its end:
        # a cancel would stop it before it closes or recycles the connection.
        await super(TrioASGIHTTPConnection, self).handle_messages(request, receive)
        if not self._ending:
            nursery.cancel_scope.cancel()

    async def handle_request(  # type: ignore[override]
        self, nursery: trio.Nursery, request: GatewayRequest, send: ASGISendCallable
    ) -> None:
        handler = self.app.direct.get((request.method, request.path))
        if handler is None or "origin" in request.headers:
            await super().handle_request(nursery, request, send)
            return
        await self._send_response(send, await self.app.answer(handler, request))
        nursery.cancel_scope.cancel()


class GatewayApp(QuartTrio):
    """The app of one gateway, which is set before the first request.

    Attributes:
        gateway: what it serves.
        direct: (method, path) -> the handler behind that route, for the busy routes: they are called
            without the context, signals and hooks of a dispatch, none of which they use. A request of a
            browser's page is dispatched, since CORS is a hook.
    """

    asgi_http_class = RequestNursery
    request_class = GatewayRequest
    gateway: Gateway
    direct: Mapping[tuple[str, str], Handler]

    async def answer(self, handler: Handler, request: GatewayRequest) -> Response:
        """Call a handler, and turn what it raises into an answer, as a dispatch would."""
        try:
            response = await handler(request)
        except Exception as error:
            response = error_response(request, error)
        return name_request(request, response)


def this_gateway() -> Gateway:
    """The gateway of the app that serves the current request."""
    return cast("GatewayApp", current_app).gateway


def this_request() -> GatewayRequest:
    """The current request itself, not a proxy of it."""
    return cast("GatewayRequest", request._get_current_object())  # type: ignore[attr-defined]


def name_request(request: GatewayRequest, response: Response) -> Response:
    """Put the request's id on its answer."""
    response.headers["x-request-id"] = request.context.request_id
    return response


def error_response(request: GatewayRequest, error: Exception) -> Response:
    """Any failure in OpenAI's envelope: ours, those of routing and of reading the body, and bugs."""
    if isinstance(error, HTTPException):
        error = _refused(request, error)
    elif not isinstance(error, GatewayError):
        logger.error("request %s failed", request.context.request_id, exc_info=error)
        error = GatewayError("The gateway failed.", code="internal_error")
    response = json_response(error.body(), error.status)
    response.headers.extend(error.headers)
    return response


def _refused(request: GatewayRequest, error: HTTPException) -> GatewayError:
    where = f"{request.method} {request.path}"
    if isinstance(error, RequestEntityTooLarge):
        limit = request.gateway.config.max_request_body_size
        return RequestTooLarge(f"The request's body is larger than {limit} bytes.")
    if error.code == 404:
        return NotFound(f"Invalid URL ({where})", code="unknown_url")
    message = f"Invalid method for URL ({where})" if error.code == 405 else error.name
    headers = {name: value for name, value in error.get_headers() if name.lower() == "allow"}
    return InvalidRequest(message, status=error.code or 500, headers=headers)


def json_response(body: bytes, status: int = 200) -> Response:
    """An answer of JSON text."""
    return Response(body, status, content_type="application/json")


def require_list_endpoints() -> None:
    """Lists tell a stranger what others have stored: they are served only where that was switched on.

    Raises:
        InvalidRequest: they are off, so the method is unknown here, as it is at OpenAI.
    """
    if not this_gateway().config.list_endpoints:
        request = this_request()
        where = f"{request.method} {request.path}"
        raise InvalidRequest(f"Invalid method for URL ({where})", status=405, headers={"allow": "POST"})
