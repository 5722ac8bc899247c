"""From ASGI to a handler: the request's nursery, and the two ways in.

Each request gets a :class:`~trio.Nursery` of its own, which is cancelled when the client leaves. In it the
app's handler is called, in one of two ways: through Quart's dispatch, with its routing, its hooks and its
error handlers; or directly, for the busy routes that use none of those. A handler can't tell which.
"""

from __future__ import annotations

import logging
import re
from contextlib import AsyncExitStack
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio
from quart import Blueprint, Response, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from werkzeug.exceptions import HTTPException

from agentic_trio.errors import GatewayError, InvalidRequest, NotFound
from agentic_trio.gateway.turn import turn_timeout
from agentic_trio.telemetry.edges import event
from agentic_trio.web.access import tell
from agentic_trio.web.proxies import FORWARDED_HOST
from agentic_trio.web.reply import Reply
from agentic_trio.web.scope import RequestScope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Set

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

    from agentic_trio.context import Scope
    from agentic_trio.gateway.gateway import Gateway
    from agentic_trio.web.callers import Callers
    from agentic_trio.web.proxies import Proxies

    Handler = Callable[..., Awaitable[Reply]]
    View = Callable[..., Awaitable[Response]]

H = TypeVar("H", bound="Handler")

logger = logging.getLogger(__name__)

_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class Routes(Blueprint):
    """A blueprint of handlers: each takes a :class:`RequestScope` and the path's variables.

    Attributes:
        direct: (method, path) -> the handlers that may be called without Quart's dispatch.
        public: the paths that anyone may call.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, __name__)
        self.direct: dict[tuple[str, str], Handler] = {}
        self.public: set[str] = set()

    def handle(
        self,
        method: str,
        path: str,
        *,
        direct: bool = False,
        scope: Scope | None = None,
        public: bool = False,
    ) -> Callable[[H], H]:
        """Route a method and path to the decorated handler, which may stand under several.

        Args:
            method: HTTP's.
            path: in Werkzeug's notation.
            direct: whether our own server may call the handler without Quart's dispatch, which costs
                more than most handlers do. The path then has no variables.
            scope: what a caller must be allowed; by default ``read`` for GET and ``write`` for the others.
            public: whether anyone may call, without saying who it is. The handler has no context then.
        """
        needed = None if public else scope or needed_scope(method)

        def add(handler: H) -> H:
            admitted = _admitted(handler, needed)
            endpoint = f"{handler.__name__} {method} {path}".replace(".", " ")
            self.add_url_rule(path, endpoint=endpoint, view_func=_view(admitted), methods=[method])
            if direct:
                self.direct[method, path] = admitted
            if needed is None:
                self.public.add(path)
            return handler

        return add


def needed_scope(method: str) -> Scope:
    """What a caller must be allowed for a method of HTTP."""
    return "read" if method in ("GET", "HEAD") else "write"


def _admitted(handler: Handler, needed: Scope | None) -> Handler:
    """A handler that is reached only by those who may call it."""
    if needed is None:
        return handler

    async def admit(request: RequestScope, **variables: str) -> Reply:
        await request.admit(needed)
        return request.limited(await handler(request, **variables))

    return admit


def _view(handler: Handler) -> View:
    async def view(**variables: str) -> Response:
        request = this_request()
        reply = await handler(request, **variables)
        request.begin(reply)
        return reply.response()

    return view


class DispatchedRequest(TrioRequest):
    """Quart's request; what handlers use is its ``in_scope``."""

    in_scope: RequestScope


def this_request() -> RequestScope:
    """The request that Quart is dispatching."""
    dispatched = cast("Any", request)._get_current_object()
    return cast("DispatchedRequest", dispatched).in_scope


class RequestNursery(TrioASGIHTTPConnection):
    """Runs one request in a nursery, which the client's leaving cancels."""

    app: GatewayApp

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request: RequestScope | None = None
        try:
            async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                if not self.app.proxies.idle:
                    self.scope = self.app.proxies.seen(self.scope)
                request = RequestScope(self.scope, self.app.gateway, nursery, stack, receive)
                await self._serve(request, send)
            if request.timed_out:
                await self._reply(await refuse(request, turn_timeout(request.gateway.config)), request, send)
        finally:
            if request is not None:
                tell(request)

    async def _serve(self, request: RequestScope, send: ASGISendCallable) -> None:
        try:
            forwarded = cast("Any", self.scope).get(FORWARDED_HOST, "")
            self.app.callers.check(request.header(b"host"), request.header(b"origin"), forwarded)
            self.app.gateway.upstream.refuse_own(request.headers)
        except GatewayError as refusal:
            await self._reply(await refuse(request, refusal), request, send)
            return
        handler = self.app.direct.get((self.scope["method"], self.scope["path"]))
        if handler is not None and request.direct:
            request.route = self.scope["path"]
            await self._call(handler, request, send)
        else:
            await self._dispatch(request, send)

    async def _call(self, handler: Handler, request: RequestScope, send: ASGISendCallable) -> None:
        try:
            reply = await handler(request)
        except Exception as error:
            reply = await refuse(request, error)
        await self._reply(reply, request, send)
        if request.nursery.child_tasks:
            request.nursery.cancel_scope.cancel()

    async def _reply(self, reply: Reply, request: RequestScope, send: ASGISendCallable) -> None:
        reply.headers.append((b"x-request-id", request.request_id.encode()))
        reply.headers.append((b"server-timing", request.timing()))
        request.started = True
        request.status = reply.status
        request.begin(reply)
        try:
            await reply.send(send)
        except GatewayError as error:
            request.error = error
            raise
        request.whole = True

    async def _dispatch(self, request: RequestScope, send: ASGISendCallable) -> None:
        async def send_and_note_the_end(message: ASGISendEvent) -> None:
            request.started = True
            if message["type"] == "http.response.start":
                request.status = message["status"]
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if last:
                request.answered()
            await send(message)
            request.whole = last

        dispatched = cast("DispatchedRequest", self._create_request_from_scope(send))
        dispatched.in_scope = request
        if self.scope["method"] in _BODILESS:
            request.watch()
        try:
            await self.handle_request(request.nursery, dispatched, send_and_note_the_end)
        except GatewayError as error:
            request.error = error
            raise
        finally:
            if dispatched.url_rule is not None:
                request.route = template(dispatched.url_rule.rule)


class GatewayApp(QuartTrio):
    """The app of one gateway, which is set before the first request.

    Attributes:
        gateway: what it serves.
        callers: the hosts and origins that may call.
        proxies: whose word counts on who the client is.
        direct: (method, path) -> handler, for the routes that may skip the dispatch.
        public: the paths that anyone may call, without saying who it is.
    """

    asgi_http_class = RequestNursery
    request_class = DispatchedRequest
    gateway: Gateway
    callers: Callers
    proxies: Proxies
    direct: Mapping[tuple[str, str], Handler]
    public: Set[str]


@cache
def template(rule: str) -> str:
    """One of our routes in OpenAPI's notation: Werkzeug's, without its converters."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


async def refuse(request: RequestScope, error: Exception) -> Reply:
    """The reply to any failure, in OpenAI's envelope: our own refusals, those of routing, and bugs.

    What the request had taken is given back first: its client may retry as soon as it reads the reply.
    """
    await request.stack.aclose()
    if isinstance(error, HTTPException):
        error = _routing_error(request, error)
    elif not isinstance(error, GatewayError):
        bug = event("bug", request_id=request.request_id)
        logger.error("request %s failed", request.request_id, exc_info=error, extra=bug)
        error = GatewayError("The gateway failed.", code="internal_error")
    request.error = error
    reply = Reply(error.body(), error.status)
    reply.headers += [
        (name.lower().encode(), value.encode("latin-1")) for name, value in error.headers.items()
    ]
    return reply


UNSERVED = re.compile(
    r"/v1/(assistants|audio|batches|chat/completions|chatkit|containers|evals|files|fine_tuning|images"
    r"|moderations|organization|prompts|realtime|responses|skills|threads|uploads|vector_stores|videos)(/|$)"
)
"""Paths of OpenAI's API that lead to nothing here, or not to all that they lead to there."""


def unknown_url(request: RequestScope) -> NotFound:
    """A path that is not served. Clients tell from the code that it isn't an id that is unknown."""
    message = f"Invalid URL ({request.where})"
    if UNSERVED.match(request.scope["path"]):
        message += ". It is not served by this gateway: see /openapi.json."
    return NotFound(message, code="unknown_url")


def _routing_error(request: RequestScope, error: HTTPException) -> GatewayError:
    if error.code == 404:
        return unknown_url(request)
    message = f"Invalid method for URL ({request.where})" if error.code == 405 else error.name
    headers = {name: value for name, value in error.get_headers() if name.lower() == "allow"}
    return InvalidRequest(message, status=error.code or 500, headers=headers)
