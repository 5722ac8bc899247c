"""One cleartext HTTP/1.1 connection: requests one after the other, the app run inline."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from hypercorn.utils import parse_socket_addr

from agentic_trio.http1.request_head import HeadReader, RequestHead, RequestRefused, SwitchToHTTP2
from agentic_trio.http1.response_writer import ResponseWriter
from agentic_trio.minting import mint_id
from agentic_trio.net.streams import MAX_READ, send_within
from agentic_trio.server.exchange import Exchange, build_scope
from agentic_trio.server.fallback import BoundedTCPServer, ReplayStream

if TYPE_CHECKING:
    from collections.abc import Generator

    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper, HTTPScope

    from agentic_trio.net.disconnects import Peer
    from agentic_trio.net.streams import Stream
    from agentic_trio.server.limits import ConnectionLimits
    from agentic_trio.server.worker import ServerContext

# How long, and for how much, a client may go on sending a request that was answered
# before its end: closed at once, the reset could destroy the answer it hasn't read yet.
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 16 * 1024 * 1024


class HTTPConnection:
    """Serves one connection; takes what hypercorn's ``TCPServer`` takes, and is awaited like it.

    WebSocket handshakes and HTTP/2 with prior knowledge are handed over to it, with
    every byte that was read.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: ServerContext,
        state: dict[str, Any],
        stream: Stream,
        *,
        limits: ConnectionLimits,
    ) -> None:
        self.app = app
        self.config = config
        self.context = context
        self.limits = limits
        self.stream = stream
        self.buffer = bytearray()
        self.peer: Peer | None = None
        self._state = state
        self._heads = HeadReader(max_bytes=limits.max_header_bytes, max_headers=limits.max_header_count)
        self._requests = 0
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        return self.run().__await__()

    async def run(self) -> None:
        """Serve until either side closes.

        Cancellation: the request in flight is cancelled and the socket closed.
        """
        socket, disconnects = self.stream.socket, self.context.disconnects
        descriptor = socket.fileno()
        self.peer = disconnects.add(descriptor) if disconnects is not None else None
        try:
            self._client = parse_socket_addr(socket.family, socket.getpeername())
            self._server = parse_socket_addr(socket.family, socket.getsockname())
            while await self._serve_one():
                pass
        except RequestRefused as refusal:
            await self._refuse(refusal)
        except SwitchToHTTP2:
            await self._hand_over(b"")
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client is gone, or as good as
        finally:
            if disconnects is not None and self.peer is not None:
                disconnects.remove(descriptor, self.peer)
            await trio.aclose_forcefully(self.stream)

    async def _serve_one(self) -> bool:
        """Serve the next request; whether another may follow."""
        found = await self._next_head()
        if found is None:
            return False
        head, raw = found
        if head.websocket:
            await self._hand_over(raw)
            return False
        if self.config.server_names and head.host.decode("ascii") not in self.config.server_names:
            raise RequestRefused(404, "No such server name.")
        self._requests += 1
        await self.context.mark_request()
        exchange = Exchange(self, head)
        await exchange.run()
        return await self._after(exchange)

    async def _next_head(self) -> tuple[RequestHead, bytes] | None:
        found = self._heads.read(self.buffer) if self.buffer else None
        # A blank line behind a body is no beginning of a request: what has come may be gone again.
        while found is None and not self.buffer:
            if not await self._await_request():
                return None
            found = self._heads.read(self.buffer)
        return found or await self._rest_of_head()

    async def _await_request(self) -> bool:
        """Wait for the first bytes of a request; whether there are any."""
        context = self.context
        if context.shutting_down:
            return False
        context.idle[self.stream] = None
        try:
            self.buffer += await self.stream.receive_some(MAX_READ, self.config.keep_alive_timeout)
        except trio.TooSlowError:
            return False
        finally:
            del context.idle[self.stream]
        return bool(self.buffer)

    async def _rest_of_head(self) -> tuple[RequestHead, bytes] | None:
        with trio.move_on_after(self.limits.header_timeout):
            while data := await self.stream.receive_some(MAX_READ):
                self.buffer += data
                found = self._heads.read(self.buffer)
                if found is not None:
                    return found
            return None
        raise RequestRefused(408, "The request headers didn't arrive in time.")

    async def _after(self, exchange: Exchange) -> bool:
        if exchange.finished:
            if exchange.response.keep_alive:
                return exchange.body.complete or await exchange.drain()
            if self.buffer or not exchange.body.complete:
                await self._linger()
        elif exchange.gone:
            pass
        elif exchange.response.head_sent:
            # Neither length nor last chunk: the client sees that the body is cut short.
            if exchange.response.ends_at_close:
                self.stream.reset_on_close()
        elif exchange.refusal is not None:
            raise exchange.refusal
        return False

    def may_keep_alive(self) -> bool:
        """Whether this side would serve another request after the current one."""
        context = self.context
        at_its_last = self._requests >= self.config.keep_alive_max_requests
        return not (at_its_last or context.crowded or context.shutting_down)

    def scope(self, head: RequestHead) -> HTTPScope:
        """The ASGI scope of a request of this connection."""
        return build_scope(
            head,
            root_path=self.config.root_path,
            client=self._client,
            server=self._server,
            state=self._state,
        )

    async def _refuse(self, refusal: RequestRefused) -> None:
        kind = "invalid_request_error" if refusal.status < 500 else "server_error"
        error = {"message": refusal.message, "type": kind, "param": None, "code": None}
        response = ResponseWriter(method="GET", version="1.1")
        headers = [(b"content-type", b"application/json"), (b"x-request-id", mint_id("req").encode())]
        response.start(refusal.status, headers)
        body = json.dumps({"error": error}).encode()
        wire = response.body(body, False, self.context.response_headers())
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            await send_within(self.stream, wire, self.limits.write_timeout)
            await self._linger()

    async def _linger(self) -> None:
        """Read and drop what the client still sends, until it has read the answer."""
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_SECONDS):
            await self.stream.send_eof()
            while left > 0 and (data := await self.stream.receive_some(MAX_READ)):
                left -= len(data)

    async def _hand_over(self, raw: bytes) -> None:
        replay = ReplayStream(self.stream, raw + bytes(self.buffer))
        stream = cast("trio.SSLStream[trio.SocketStream]", replay)
        await BoundedTCPServer(self.app, self.config, self.context, self._state, stream, limits=self.limits)
