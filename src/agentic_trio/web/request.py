"""One request: the nursery that it lives in, its own values, and how handlers reach them."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

import trio
from quart import Response, current_app, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

from agentic_trio.context import RequestContext, upstream_authorization
from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.ids import mint_id

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

    from agentic_trio.gateway import Gateway

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class GatewayRequest(TrioRequest):
    """A request, with what is scoped by it.

    Attributes:
        nursery: what runs here is cancelled when the client leaves.
        stack: what is entered here is left when the request is over, however it ends.
    """

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
                this_gateway().config, None if sent is None else sent.encode("latin-1")
            ),
            request_id=id if _REQUEST_ID.fullmatch(id) else mint_id("req"),
        )


class RequestNursery(TrioASGIHTTPConnection):
    """Runs one request. The client's leaving cancels it, until its last byte is being sent."""

    _ending = False

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        gateway_request = cast("GatewayRequest", self._create_request_from_scope(send))

        async def send_until_end(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._ending = True
            await send(message)

        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            gateway_request.stack = stack
            gateway_request.nursery = nursery
            nursery.start_soon(self.handle_messages, nursery, gateway_request, receive)
            nursery.start_soon(self.handle_request, nursery, gateway_request, send_until_end)

    async def handle_messages(  # type: ignore[override]
        self, nursery: trio.Nursery, request: GatewayRequest, receive: ASGIReceiveCallable
    ) -> None:
        # hypercorn says "disconnect" of a request that is complete, while it is still sending its end:
        # a cancel would stop it before it closes or recycles the connection.
        await super(TrioASGIHTTPConnection, self).handle_messages(request, receive)
        if not self._ending:
            nursery.cancel_scope.cancel()


class GatewayApp(QuartTrio):
    """The app of one gateway, which is set before the first request."""

    asgi_http_class = RequestNursery
    request_class = GatewayRequest
    gateway: Gateway


def this_gateway() -> Gateway:
    """The gateway of the app that serves the current request."""
    return cast("GatewayApp", current_app).gateway


def this_request() -> GatewayRequest:
    """The current request itself, not a proxy of it."""
    return cast("GatewayRequest", request._get_current_object())  # type: ignore[attr-defined]


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
