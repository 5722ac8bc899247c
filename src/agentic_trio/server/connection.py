"""One cleartext HTTP/1.1 connection: requests one after the other, the app run inline."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from hypercorn.utils import parse_socket_addr

from agentic_trio.errors import GatewayError, NotFound
from agentic_trio.http1.request_head import HeadReader, RequestHead, RequestRefused, SwitchToHTTP2
from agentic_trio.http1.response_writer import ResponseWriter
from agentic_trio.minting import mint_id
from agentic_trio.server.exchange import Exchange
from agentic_trio.server.fallback import BoundedTCPServer, ReplayStream

if TYPE_CHECKING:
    from hypercorn.typing import AppWrapper

    from agentic_trio.net.disconnects import Peer
    from agentic_trio.server.application import Address, Application
    from agentic_trio.server.channel import Channel
    from agentic_trio.server.state import ServerState

_CLIENT_LEFT: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""What a read or a send raises when the client is gone, or as good as."""


class HTTPConnection:
    """Serves the requests of one connection.

    WebSocket handshakes and HTTP/2 with prior knowledge are handed over to hypercorn, with every byte
    that was read.
    """

    def __init__(self, app: Application, server: ServerState, channel: Channel, wrapped: AppWrapper) -> None:
        self._app = app
        self._server = server
        self._channel = channel
        self._wrapped = wrapped
        limits = channel.limits
        self._heads = HeadReader(max_bytes=limits.max_header_bytes, max_headers=limits.max_header_count)
        self._requests = 0
        self._peer: Peer | None = None
        self._addresses: tuple[Address, Address] = (None, None)

    async def run(self) -> None:
        """Serve until either side closes.

        Cancellation: the request in flight is cancelled and the socket closed.
        """
        socket, disconnects = self._channel.stream.socket, self._server.disconnects
        descriptor = socket.fileno()
        self._peer = disconnects.add(descriptor) if disconnects is not None else None
        try:
            names = socket.getpeername(), socket.getsockname()
            self._addresses = cast("Any", tuple(parse_socket_addr(socket.family, name) for name in names))
            while await self._serve_one():
                pass
        except GatewayError as refusal:
            await self._refuse(refusal)
        except SwitchToHTTP2:
            await self._hand_over(b"")
        except _CLIENT_LEFT:
            pass
        finally:
            if disconnects is not None and self._peer is not None:
                disconnects.remove(descriptor, self._peer)
            await self._channel.close()

    async def _serve_one(self) -> bool:
        """Serve the next request; return whether another may follow."""
        found = await self._next_head()
        if found is None:
            return False
        head, raw = found
        if head.websocket:
            await self._hand_over(raw)
            return False
        config = self._server.config
        if config.server_names and head.host.decode("ascii") not in config.server_names:
            raise NotFound("No such server name.")
        self._requests += 1
        await self._server.mark_request()
        last = self._requests >= config.keep_alive_max_requests
        exchange = Exchange(self._channel, head, self._server, last=last)
        await self._app.handle(exchange, self._peer, *self._addresses)
        return await self._after(exchange)

    async def _next_head(self) -> tuple[RequestHead, bytes] | None:
        buffer = self._channel.buffer
        found = self._heads.read(buffer) if buffer else None
        # A blank line after a body doesn't begin a request: the buffer may be empty again.
        while found is None and not buffer:
            if not await self._await_request():
                return None
            found = self._heads.read(buffer)
        return found or await self._rest_of_head()

    async def _await_request(self) -> bool:
        """Wait for the first bytes of a request; return whether there are any."""
        server, stream = self._server, self._channel.stream
        if server.shutting_down:
            return False
        server.idle[stream] = None
        try:
            return await self._channel.read(server.config.keep_alive_timeout)
        except trio.TooSlowError:
            return False
        finally:
            del server.idle[stream]

    async def _rest_of_head(self) -> tuple[RequestHead, bytes] | None:
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
        headers = [(b"content-type", b"application/json"), (b"x-request-id", mint_id("req").encode())]
        response.start(refusal.status, headers)
        with suppress(*_CLIENT_LEFT):
            await self._channel.send(response.body(refusal.body(), False, self._server.response_headers()))
            await self._channel.linger()

    async def _hand_over(self, raw: bytes) -> None:
        replay = ReplayStream(self._channel.stream, raw + bytes(self._channel.buffer))
        stream = cast("trio.SSLStream[trio.SocketStream]", replay)
        server, limits = self._server, self._channel.limits
        await BoundedTCPServer(self._wrapped, server.config, server, {}, stream, limits=limits)
