"""One HTTP/1.1 connection: requests one after the other, the app run inline."""

from __future__ import annotations

from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Final

import trio
from hypercorn.utils import parse_socket_addr

from agentic_trio.errors import GatewayError, NotFound
from agentic_trio.http1.preface import HTTP2_REFUSAL
from agentic_trio.http1.request_head import HeadReader, HTTP2Refused, RequestHead, RequestRefused
from agentic_trio.http1.response_writer import ResponseWriter
from agentic_trio.minting import mint_id
from agentic_trio.server.application import Caller
from agentic_trio.server.exchange import Exchange
from agentic_trio.server.websocket import WebSocket, is_handshake
from agentic_trio.telemetry.figures import plain_code
from agentic_trio.telemetry.lines import Line

if TYPE_CHECKING:
    from agentic_trio.net.disconnects import Peer
    from agentic_trio.net.streams import Stream
    from agentic_trio.server.application import Application
    from agentic_trio.server.channel import Channel
    from agentic_trio.server.state import ServerState

NEWCOMER_GRACE: Final = 1.0
"""Seconds after it was accepted in which a connection's first request is still served during a shutdown."""

_CLIENT_LEFT: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""What a read or a send raises when the client is gone, or as good as."""


class HTTPConnection:
    """Serves the requests of one connection, the last of which may make a WebSocket of it."""

    def __init__(self, app: Application, server: ServerState, channel: Channel) -> None:
        self._app = app
        self._server = server
        self._channel = channel
        limits = channel.limits
        self._heads = HeadReader(max_bytes=limits.max_header_bytes, max_headers=limits.max_header_count)
        self._requests = 0
        self._in_app = False
        self._client = ""
        self._accepted_at = trio.current_time()

    async def run(self) -> None:
        """Serve until either side closes.

        Cancellation: the request in flight is cancelled and the socket closed.
        """
        disconnects, descriptor = self._server.disconnects, self._channel.stream.socket.fileno()
        peer = None
        try:
            if disconnects is not None:
                peer = disconnects.add(descriptor)
            caller = _caller(self._channel.stream, peer)
            self._client = caller.client[0] if caller.client else ""
            while await self._serve_one(caller):
                pass
        except GatewayError as refusal:
            await self._refuse(refusal)
        except HTTP2Refused:
            self._tell(mint_id("req"), 0, "http2_refused")
            await self._send_last(HTTP2_REFUSAL)
        except _CLIENT_LEFT:
            pass
        finally:
            if disconnects is not None and peer is not None:
                disconnects.remove(descriptor, peer)
            await self._channel.close()

    async def _serve_one(self, caller: Caller) -> bool:
        """Serve the next request; return whether another may follow."""
        head = await self._next_head()
        if head is None:
            return False
        if head.websocket and not (self._server.websockets and is_handshake(head)):
            # A client that is told so at once falls back to HTTP. After a 404 Codex tries seven times more.
            raise RequestRefused(
                "There are no WebSockets here, or this is no handshake of version 13: use HTTP.",
                status=426,
                headers={"sec-websocket-version": "13"} if self._server.websockets else None,
            )
        config = self._server.config
        if config.server_names and head.host.decode("ascii") not in config.server_names:
            raise NotFound("No such server name.")
        self._requests += 1
        self._server.mark_request()
        if head.websocket:
            await self._app.handle_socket(WebSocket(self._channel, head, self._server), head, caller)
            return False
        last = self._requests >= config.keep_alive_max_requests
        exchange = Exchange(self._channel, head, self._server, last=last)
        self._in_app = True
        await self._app.handle(exchange, caller)
        follows = await self._after(exchange)
        self._in_app = False
        return follows

    async def _next_head(self) -> RequestHead | None:
        buffer = self._channel.buffer
        found = self._heads.read(buffer) if buffer else None
        if found is not None:
            # Requests that came together are served without a read that would let others run.
            await self._channel.stream.give_way()
        # A blank line after a body doesn't begin a request: the buffer may be empty again.
        while found is None and not buffer:
            if not await self._await_request():
                return None
            found = self._heads.read(buffer)
        return found or await self._rest_of_head()

    async def _await_request(self) -> bool:
        """Wait for the first bytes of a request; return whether there are any."""
        server, stream = self._server, self._channel.stream
        while (patience := self._patience()) > 0:
            was_shutting_down = server.shutting_down
            server.idle[stream] = None
            try:
                return await self._channel.read(patience)
            except trio.TooSlowError:
                if server.shutting_down == was_shutting_down:
                    break
            finally:
                del server.idle[stream]
        return False

    def _patience(self) -> float:
        """For how many seconds to wait for the next request."""
        if not self._server.shutting_down:
            return self._server.config.keep_alive_timeout
        if self._requests > 0:
            return 0
        # A client that connected just before may have sent its first request already.
        return self._accepted_at + NEWCOMER_GRACE - trio.current_time()

    async def _rest_of_head(self) -> RequestHead | None:
        with trio.move_on_after(self._channel.limits.header_timeout):
            while await self._channel.read():
                found = self._heads.read(self._channel.buffer)
                if found is not None:
                    return found
            return None
        raise RequestRefused("The request headers didn't arrive in time.", status=408)

    async def _after(self, exchange: Exchange) -> bool:
        """Leave the connection as the exchange requires; return whether another request may follow."""
        if exchange.finished:
            if exchange.response.keep_alive:
                return exchange.body.complete or await exchange.drain()
            if self._channel.buffer or not exchange.body.complete:
                await self._channel.linger()
        elif exchange.gone:
            pass
        elif exchange.response.head_sent:
            # There is neither a length nor a last chunk, so the client sees that the body is cut short.
            if exchange.response.ends_at_close:
                self._channel.stream.reset_on_close()
        elif exchange.refusal is not None:
            raise exchange.refusal
        return False

    async def _refuse(self, refusal: GatewayError) -> None:
        response = ResponseWriter(method="GET", version="1.1")
        request_id = mint_id("req")
        if not self._in_app:
            self._tell(request_id, refusal.status, plain_code(refusal.code or refusal.type))
        headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
        response.start(refusal.status, headers)
        await self._send_last(response.body(refusal.body(), False, self._server.response_headers()))

    def _tell(self, request_id: str, status: int, code: str) -> None:
        """Tell operators of a request that no app has seen."""
        line = Line("request", time(), request_id, answer="whole", code=code, client=self._client)
        line.status = status
        self._server.observer.request(line)

    async def _send_last(self, data: bytes) -> None:
        with suppress(*_CLIENT_LEFT):
            await self._channel.send(data)
            await self._channel.linger()


def _caller(stream: Stream, peer: Peer | None) -> Caller:
    socket = stream.socket
    return Caller(
        scheme="https" if stream.secure else "http",
        client=parse_socket_addr(socket.family, socket.getpeername()),
        server=parse_socket_addr(socket.family, socket.getsockname()),
        peer=peer,
    )
