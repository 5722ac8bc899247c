"""The Responses API over a WebSocket, on ``GET /v1/responses``.

One task reads messages. Each lane has a task while it has work: it makes the responses that its messages
ask for, one after the other, each of them a turn as any other, and sends their events. What a lane was last
given without being stored it can go on from: that is kept in memory until the socket closes.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from quart_trio.asgi import TrioASGIWebsocketConnection

from agentic_trio.errors import GatewayError, InvalidRequest
from agentic_trio.gateway.admission import Ticket, TooManyRequests
from agentic_trio.gateway.log import FellBehind
from agentic_trio.minting import mint_id
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.web.access import tell
from agentic_trio.web.outliving import outlives
from agentic_trio.web.proxies import FORWARDED_HOST
from agentic_trio.web.scope import RequestScope
from agentic_trio.wire.socket_messages import (
    STEER,
    ClientMessage,
    error_message,
    lane_in,
    limit_reached,
    messages_of,
    parse_message,
    read_members,
    steer_refused,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

    from agentic_trio.gateway.gateway import Gateway
    from agentic_trio.gateway.turn import Turn
    from agentic_trio.store.contract import History
    from agentic_trio.web.dispatch import GatewayApp

logger = logging.getLogger(__name__)

PATH = "/v1/responses"

LIFETIME: Final = 3600.0
"""Seconds after which a socket is closed, as at OpenAI."""

MAX_LANES: Final = 32
"""The lanes of one socket that have names."""

MAX_RUNNING: Final = 16
"""The lanes of one socket that are at work at the same time."""

MAX_QUEUED: Final = 8
"""The messages that wait in one lane."""

GOING_AWAY, UNSUPPORTED = 1001, 1003
"""Close codes (RFC 6455, 7.4.1)."""


class ResponsesSocket(TrioASGIWebsocketConnection):
    """Serves a handshake: with a socket, or a refusal.

    Not a route: routing, CORS and our error handlers want a request, and a handshake is none. Servers other
    than ours are refused with 426, after which clients use HTTP: theirs have no bounds on what a socket may
    cost. (After a 404 Codex tries seven times more.)
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        app = cast("GatewayApp", self.app)
        if not app.proxies.idle:
            self.scope = cast("Any", app.proxies.seen(cast("Any", self.scope)))
        try:
            await self._check(app)
        except GatewayError as refusal:
            await _refuse(refusal, send)
            return
        await _Socket(app.gateway, cast("dict[str, Any]", self.scope), receive, send).run()

    async def _check(self, app: GatewayApp) -> None:
        """Refuse a handshake that has no place here, may not come, or that nobody stands behind."""
        extensions = self.scope.get("extensions") or {}
        if "messages" not in extensions or self.scope["path"] != PATH:
            raise InvalidRequest(f"There are no WebSockets here, except {PATH}: use HTTP.", status=426)
        headers = dict(reversed(list(self.scope["headers"])))
        host, origin = headers.get(b"host"), headers.get(b"origin")
        app.callers.check(
            None if host is None else host.decode("latin-1"),
            None if origin is None else origin.decode("latin-1"),
            cast("Any", self.scope).get(FORWARDED_HOST, ""),
        )
        app.gateway.upstream.refuse_own(list(self.scope["headers"]))
        if app.gateway.authenticator is not None:
            await app.gateway.authenticator.identify(list(self.scope["headers"]))
        if app.gateway.admission.closed:
            app.gateway.admission.check()


async def _refuse(error: GatewayError, send: ASGISendCallable) -> None:
    body = error.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", mint_id("req").encode()),
        *((name.lower().encode(), value.encode("latin-1")) for name, value in error.headers.items()),
    ]
    await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def _is_of_handshake(name: bytes) -> bool:
    return name == b"x-request-id" or name.startswith(b"sec-websocket-")


class _Lane:
    """What one ``stream_id`` asks for, in order.

    Attributes:
        name: its ``stream_id``; None for messages that have none.
        queue: the messages that wait, each with the memory that it takes.
        running: whether a task serves it.
        last: the newest response that wasn't stored: its id, its owner, and what it is continued with.
        kept: the memory that ``last`` takes.
    """

    __slots__ = ("kept", "last", "name", "queue", "running")

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.queue: deque[tuple[ClientMessage, Ticket]] = deque()
        self.running = False
        self.last: tuple[str, str, History] | None = None
        self.kept: Ticket | None = None

    def holds(self, id: str | None, owner: str) -> bool:
        """Whether ``last`` is this response of this owner."""
        return self.last is not None and self.last[:2] == (id, owner)

    def forget(self) -> None:
        self.last = None
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    def close(self) -> None:
        """Give back all memory."""
        self.forget()
        for _, ticket in self.queue:
            ticket.close()
        self.queue.clear()


class _Socket:
    """One socket of one client."""

    def __init__(
        self,
        gateway: Gateway,
        scope: dict[str, Any],
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        self._gateway = gateway
        # Each response is a request of its own: it has its own id and is authorised by itself.
        headers = [field for field in scope["headers"] if not _is_of_handshake(field[0])]
        self._scope = {**scope, "method": "GET", "headers": headers}
        self._receive = receive
        self._send_asgi = send
        self._lanes: dict[str | None, _Lane] = {}
        self._running = 0
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve until either side closes. Cancellation: the turns that depend on the client are cancelled."""
        admission = self._gateway.admission
        with ExitStack() as stack:
            stack.callback(self._close_lanes)
            admission.on_close.add(self._stop_if_idle)
            stack.callback(admission.on_close.discard, self._stop_if_idle)
            await self._accept()
            with trio.move_on_after(LIFETIME) as life:
                async with open_inner_nursery() as self._nursery:
                    with self._reading:
                        await self._read()
                    self._nursery.cancel_scope.cancel()
            if life.cancelled_caught:
                await self._say(error_message(_too_old(), None))
            elif self._reading.cancelled_caught:
                await self._close(GOING_AWAY)

    async def _accept(self) -> None:
        admission = self._gateway.admission
        accept = {
            "type": "websocket.accept",
            "headers": [(b"x-request-id", mint_id("req").encode())],
            "open_message": lambda: Ticket(admission),
        }
        await self._send_asgi(cast("Any", accept))

    def _close_lanes(self) -> None:
        for lane in self._lanes.values():
            lane.close()

    def _stop_if_idle(self) -> None:
        """Close once the server is told to stop and nothing runs here."""
        if self._gateway.admission.closed and not self._running:
            self._reading.cancel()

    async def _read(self) -> None:
        """Take messages until the client leaves."""
        self._stop_if_idle()
        while True:
            message = cast("dict[str, Any]", await self._receive())
            if message["type"] != "websocket.receive":
                return
            with message["reservation"] as ticket:
                if not message["is_text"]:
                    await self._close(UNSUPPORTED)
                    return
                await self._take(message.pop("bytes"), ticket)

    async def _take(self, data: bytes, ticket: Ticket) -> None:
        """Queue a message in its lane, or refuse it."""
        lane = None
        try:
            members = read_members(data)
            lane = lane_in(members)
            message = parse_message(members)
            if message.type == STEER:
                await self._say(steer_refused(message))
            else:
                self._enqueue(message, ticket)
        except GatewayError as refusal:
            await self._say(error_message(refusal, lane))

    def _enqueue(self, message: ClientMessage, ticket: Ticket) -> None:
        lane = self._lanes.get(message.lane)
        if lane is None:
            if message.lane is not None and len(self._lanes.keys() - {None}) >= MAX_LANES:
                raise limit_reached(
                    f"A WebSocket has at most {MAX_LANES} streams.", "websocket_stream_limit_reached"
                )
            lane = self._lanes[message.lane] = _Lane(message.lane)
        if not lane.running and self._running >= MAX_RUNNING:
            raise limit_reached(
                f"At most {MAX_RUNNING} streams of a WebSocket are served at the same time.",
                "websocket_stream_limit_reached",
            )
        if len(lane.queue) >= MAX_QUEUED:
            raise TooManyRequests("Too many requests wait in this stream.")
        lane.queue.append((message, ticket.pop_all()))
        if not lane.running:
            lane.running = True
            self._running += 1
            self._nursery.start_soon(self._serve, lane)

    async def _serve(self, lane: _Lane) -> None:
        """Make a lane's responses until none is asked for."""
        try:
            while lane.queue:
                message, ticket = lane.queue.popleft()
                with ticket:
                    await self._respond(lane, message, ticket)
        finally:
            lane.running = False
            self._running -= 1
            self._stop_if_idle()

    async def _respond(self, lane: _Lane, message: ClientMessage, ticket: Ticket) -> None:
        """Make one response, or say why there is none."""
        parent: _Lane | None = None
        try:
            async with self._open_request() as request:
                owner, previous = request.context.owner, message.previous_response_id
                parent = next((each for each in self._lanes.values() if each.holds(previous, owner)), None)
                local = parent.last[2] if parent is not None and parent.last is not None else None
                turn = await self._begin(request, message, ticket, local)
                await turn.wait_head()
                await self._follow(turn, lane)
        except GatewayError as refusal:
            if parent is not None:
                # As at OpenAI: what a refused request continued isn't kept for another try.
                parent.forget()
            await self._say(error_message(refusal, lane.name))
            return
        except OSError:
            # The client is gone.
            raise
        except Exception:
            logger.exception("a response over a WebSocket failed")
            await self._say(error_message(_bug(), lane.name))
            return
        self._remember(lane, turn)

    @asynccontextmanager
    async def _open_request(self) -> AsyncIterator[RequestScope]:
        """A request of its own for each response. A refusal is told to the operators, as any other."""
        async with AsyncExitStack() as stack:
            scope = cast("Any", self._scope)
            request = RequestScope(scope, self._gateway, self._nursery, stack, self._receive)
            request.route = PATH
            try:
                await request.admit("write")
                yield request
            except GatewayError as refusal:
                request.status, request.error, request.whole = refusal.status, refusal, True
                tell(request)
                raise

    async def _begin(
        self, request: RequestScope, message: ClientMessage, ticket: Ticket, local: History | None
    ) -> Turn:
        gateway = self._gateway
        request.begin_turn(ticket)
        finishes = outlives(request)
        ticket.take_slot()
        turn = await gateway.turns.new(
            message.body(), request.context, ticket, local=local, generates=message.generates
        )
        if turn.call.background or (finishes and turn.call.store):
            gateway.turns.start(turn)
        else:
            self._nursery.start_soon(gateway.turns.run, turn)
        return turn

    async def _follow(self, turn: Turn, lane: _Lane) -> None:
        """Send a turn's events as they come. Returns when the turn is recorded."""
        log, position = turn.log, 0
        while not log.exhausted(position):
            try:
                events = await log.read(position)
            except FellBehind as error:
                await self._say(error_message(error, lane.name))
                break
            position += len(events)
            if events:
                await self._say(*messages_of(events, lane.name))
        await turn.wait_ended()

    def _remember(self, lane: _Lane, turn: Turn) -> None:
        """Keep what an unstored response is continued with, if there is memory for it."""
        lane.forget()
        history = None if turn.call.store else turn.continuation()
        if history is None:
            return
        lane.kept = Ticket(self._gateway.admission)
        try:
            lane.kept.reserve(sum(map(len, history.items)))
        except TooManyRequests:
            lane.forget()
        else:
            lane.last = turn.id, turn.owner, history

    async def _say(self, *messages: bytes) -> None:
        await self._send_asgi(cast("Any", {"type": "websocket.send", "texts": messages}))

    async def _close(self, code: int) -> None:
        await self._send_asgi({"type": "websocket.close", "code": code, "reason": None})


def _too_old() -> GatewayError:
    return InvalidRequest(
        f"Responses websocket connection limit reached ({LIFETIME / 60:.0f} minutes). "
        "Create a new websocket connection to continue.",
        code="websocket_connection_limit_reached",
    )


def _bug() -> GatewayError:
    return GatewayError("The gateway failed.", code="internal_error")
