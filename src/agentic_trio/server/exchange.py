"""One request and its response, as ASGI's ``receive`` and ``send``."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from agentic_trio.http1.request_body import ChunkedBody, LengthBody
from agentic_trio.http1.request_head import RequestHead, RequestRefused
from agentic_trio.http1.response_writer import ResponseWriter
from agentic_trio.net.streams import BODY_PIECE

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent, HTTPDisconnectEvent

    from agentic_trio.errors import GatewayError
    from agentic_trio.net.disconnects import Peer, Watch
    from agentic_trio.server.channel import Channel
    from agentic_trio.server.state import ServerState

JOINED: Final = 256 * 1024
"""Bytes up to which a body is copied behind its head, to leave in one write. The copy of a larger one would
be kept for as long as the client takes to read it."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_DISCONNECT: Final[HTTPDisconnectEvent] = {"type": "http.disconnect"}


class ClientGone(OSError):
    """Nothing can be sent to the client any more; raised from the app's ``send``."""


class Exchange:
    """What the app reads and sends for one request, in the connection's task.

    There is no reading task: ``receive`` reads the connection, so a disconnect is seen by an
    app that waits for one, and a body is never read ahead of the app.

    Attributes:
        finished: the whole response was sent.
        gone: the client closed, or can't be written to.
        told: the app has logged how this ended.
        too_slow: it can't be written to because it took nothing for the write timeout.
        refusal: the error to send instead of a response that never began.

    Args:
        last: the connection closes after this exchange.
    """

    def __init__(self, channel: Channel, head: RequestHead, server: ServerState, *, last: bool) -> None:
        self.head = head
        self.body = ChunkedBody() if head.content_length is None else LengthBody(head.content_length)
        self.response = ResponseWriter(method=head.method, version=head.version)
        self.finished = False
        self.gone = False
        self.too_slow = False
        self.told = False
        self.refusal: GatewayError | None = None
        self._channel = channel
        self._server = server
        self._last = last
        self._body_delivered = False
        self._awaits_continue = head.expects_continue
        self._piece_left = 0
        self._piece_deadline = 0.0
        self._interim: trio.Event | None = None
        self._read_ahead_full: trio.Event | None = None
        self._unsent = b""

    async def receive(self) -> ASGIReceiveEvent:
        """ASGI's ``receive``.

        Cancellation: nothing is lost; it can be called again.
        """
        if self.finished or self.gone or self.refusal is not None:
            await trio.lowlevel.checkpoint()
            return _DISCONNECT
        if self._body_delivered:
            await self._watch()
            return _DISCONNECT
        try:
            return await self._receive_body()
        except RequestRefused as refusal:
            self.refusal = refusal
            return _DISCONNECT

    async def _receive_body(self) -> ASGIReceiveEvent:
        while True:
            data = self.body.read(self._channel.buffer)
            complete = self.body.complete
            if data or complete:
                self._awaits_continue = False
                self._body_delivered = complete
                return {"type": "http.request", "body": data, "more_body": not complete}
            if self._awaits_continue and not self.response.head_sent:
                await self._send_continue()
            if not await self._read_body():
                return _DISCONNECT

    async def _read_body(self) -> bool:
        if self._piece_left <= 0:
            self._piece_left = BODY_PIECE
            self._piece_deadline = trio.current_time() + self._channel.limits.body_timeout
        had = len(self._channel.buffer)
        with trio.CancelScope(deadline=self._piece_deadline) as scope:
            there = await self._read()
            self._piece_left -= len(self._channel.buffer) - had
            return there
        if scope.cancelled_caught:
            raise RequestRefused("The request body didn't arrive in time.", status=408)
        return False

    async def _read(self) -> bool:
        try:
            there = await self._channel.read()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            there = False
        self.gone = self.gone or not there
        return not self.gone

    def watch(self, peer: Peer, cancel: Callable[[], None]) -> Watch:
        """Call ``cancel`` if the client leaves while the block lasts. The request has been read."""

        def left() -> None:
            self.gone = True
            cancel()

        return peer.watch(left)

    async def _watch(self) -> None:
        """Wait for the client to leave; keep what it sends, up to a bound."""
        while len(self._channel.buffer) < self._channel.limits.read_ahead:
            if not await self._read():
                return
        self._read_ahead_full = trio.Event()
        await self._read_ahead_full.wait()

    async def _send_continue(self) -> None:
        self._awaits_continue = False
        self._interim = trio.Event()
        try:
            await self._transmit(_CONTINUE)
        except ClientGone:
            pass  # the read that follows says so
        finally:
            self._interim.set()

    async def send(self, message: ASGISendEvent | None) -> None:
        """ASGI's ``send``.

        Raises:
            ClientGone: the client left, read nothing for the write timeout, or broke the
                framing of its request.
            RuntimeError: the app's messages are no HTTP response.

        Cancellation: the response may be cut short; the connection is then closed.
        """
        event = cast("dict[str, Any]", message)
        kind = event["type"]
        if kind == "http.response.start":
            self.response.start(event["status"], event.get("headers", ()))
        elif kind == "http.response.body":
            await self._send_body(event.get("body", b""), event.get("more_body", False))
        else:
            raise RuntimeError(f"an HTTP/1.1 response has no {kind}")

    async def _send_body(self, data: bytes, more: bool) -> None:
        if self.gone or self.refusal is not None:
            raise ClientGone
        if self._interim is not None:
            await self._interim.wait()
            self._interim = None
        response = self.response
        if not response.head_sent:
            response.keep_alive = self._may_keep_alive()
            if len(data) > JOINED and response.has_length:
                await self._transmit(response.body(b"", True, self._server.response_headers()))
        wire = response.body(data, more, self._server.response_headers())
        if self._unsent:
            wire, self._unsent = self._unsent + wire, b""
        if wire:
            await self._transmit(wire)
        self.finished = response.complete

    def send_nowait(self, data: bytes) -> bool:
        """Take a further part of the body between two sends; return whether all of it has left.

        If it hasn't, the next ``send`` sends the rest first, and raises if the client is gone.
        """
        wire = self._unsent + self.response.body(data, True, b"")
        sent = 0
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            sent = self._channel.stream.send_nowait(wire)
        self._unsent = wire[sent:]
        return not self._unsent

    def _may_keep_alive(self) -> bool:
        return (
            self.head.keep_alive
            and not self._last
            and not self._awaits_continue
            and self.body.ends_within(self._channel.limits.read_ahead)
            and self._server.keeps_alive
        )

    async def _transmit(self, data: bytes) -> None:
        try:
            await self._channel.send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self.gone = True
            self.too_slow = isinstance(error, trio.TooSlowError)
            # Also wakes a `receive` that reads the same connection.
            await self._channel.close()
            if self._read_ahead_full is not None:
                self._read_ahead_full.set()
            raise ClientGone from error

    async def drain(self) -> bool:
        """Read what is left of a request body that the app didn't want.

        Returns:
            Whether the connection stands at the next request.

        Cancellation: the rest of the body is still to come.
        """
        try:
            while not self.body.complete:
                if not self.body.read(self._channel.buffer) and not await self._read_body():
                    return False
        except RequestRefused:
            return False
        return True


class Fate:
    """Why a client got no response from its app, or not all of it."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def tell(self) -> None:
        """The app has logged how the exchange ended: an answer that is cut short needs no other line."""
        self._exchange.told = True

    @property
    def refusal(self) -> GatewayError | None:
        """What the server sends instead of the app's response."""
        return None if self._exchange.response.head_sent else self._exchange.refusal

    @property
    def gone(self) -> str:
        """``gone`` if the client left, ``too_slow`` if it took nothing; empty while it is there."""
        if self._exchange.too_slow:
            return "too_slow"
        return "gone" if self._exchange.gone else ""


class Receive:
    """ASGI's ``receive`` of an exchange.

    Attributes:
        watch: see ``Exchange.watch``; None where the system can't. An app that has read its request may
            leave the watching for a disconnect to the server, rather than call this again.
        fate: what became of the exchange, for an app that keeps a log.
    """

    def __init__(self, exchange: Exchange, peer: Peer | None) -> None:
        self.fate = Fate(exchange)
        self._receive = exchange.receive
        self.watch = None if peer is None else partial(exchange.watch, peer)

    async def __call__(self) -> ASGIReceiveEvent:
        return await self._receive()


class Send:
    """ASGI's ``send`` of an exchange.

    Attributes:
        nowait: see ``Exchange.send_nowait``. An app that has new bytes while its own task sleeps may send
            them so, from whatever task it has.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._send = exchange.send
        self.nowait = exchange.send_nowait

    async def __call__(self, message: ASGISendEvent | None) -> None:
        await self._send(message)
