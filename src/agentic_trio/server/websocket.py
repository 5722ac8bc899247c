"""A WebSocket on a connection: wsproto's frames in and out, with the bounds of an HTTP/1.1 connection.

The app is called with ASGI's websocket scope and one extension, ``messages``. With it, ``websocket.accept``
may have ``open_message``, which makes a :class:`Reservation` for each message that arrives and comes with it
(``reservation``), and ``websocket.send`` may have ``texts``: several messages, sent in one write.

Compression isn't offered (RFC 7692): a few kilobytes could become hundreds of megabytes, and each socket
would hold two windows of it.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, generate_accept_token

from agentic_trio.errors import GatewayError
from agentic_trio.http1.response_writer import ResponseWriter
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.net.streams import BODY_PIECE
from agentic_trio.server.exchange import ClientGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hypercorn.typing import ASGIFramework, WebsocketScope

    from agentic_trio.http1.request_head import RequestHead
    from agentic_trio.server.channel import Channel
    from agentic_trio.server.state import ServerState

PING_INTERVAL: Final = 30.0
"""Seconds of a client's silence after which it is sent a ping, and then after which it counts as gone."""

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a client has to answer a close frame."""

FAREWELL_TIMEOUT: Final = 0.3
"""The same during a shutdown, which idle sockets must not delay."""

MAX_FRAMES: Final = 10_000
"""The frames of one message. Empty ones would never end."""

NORMAL, GOING_AWAY, POLICY, TOO_BIG, TRY_LATER = 1000, 1001, 1008, 1009, 1013
"""Close codes (RFC 6455, 7.4.1, and IANA's registry)."""

_ABNORMAL: Final = 1006

_GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class Reservation(Protocol):
    """Memory for a message while it arrives, and while the app holds it."""

    def reserve(self, size: int) -> None:
        """Reserve so many more bytes. Raises GatewayError if there is no room."""

    def close(self) -> None:
        """Give everything back."""


def is_handshake(head: RequestHead) -> bool:
    """Whether a request for an upgrade is a handshake of version 13 (RFC 6455, 4.2.1)."""
    fields = dict(head.headers)
    try:
        key = base64.b64decode(fields.get(b"sec-websocket-key", b"").strip(), validate=True)
    except binascii.Error:
        return False
    return len(key) == 16 and fields.get(b"sec-websocket-version", b"").strip() == b"13"


class WebSocket:
    """Serves one handshake and what follows it, in the connection's task and one that reads.

    The app takes a message before the next one is read, so that no more than one waits here.
    """

    def __init__(self, channel: Channel, head: RequestHead, server: ServerState) -> None:
        self._channel = channel
        self._head = head
        self._server = server
        self._frames = Connection(ConnectionType.SERVER)
        self._writing = trio.StrictFIFOLock()
        self._deliver, self._delivered = trio.open_memory_channel[dict[str, Any]](0)
        self._nursery: trio.Nursery | None = None
        self._refusal: ResponseWriter | None = None
        self._open_message: Callable[[], Reservation] | None = None
        self._message = _Arriving()
        self._connected = False
        self._peer_code = _ABNORMAL
        self._read_ended = trio.Event()

    async def run(self, app: ASGIFramework, scope: WebsocketScope) -> None:
        """Call the app, and close the socket when it returns. Raises what the app raises.

        Cancellation: the app is cancelled, and the connection is of no more use.
        """
        try:
            async with open_inner_nursery() as self._nursery:
                await app(scope, cast("Any", self._receive), cast("Any", self._send))
                await self._close(NORMAL)
                self._nursery.cancel_scope.cancel()
        finally:
            self._message.drop()

    async def _receive(self) -> dict[str, Any]:
        """ASGI's ``receive``. Cancellation: nothing is lost."""
        if not self._connected:
            self._connected = True
            await trio.lowlevel.checkpoint()
            return {"type": "websocket.connect"}
        try:
            return await self._delivered.receive()
        except trio.EndOfChannel:
            return {"type": "websocket.disconnect", "code": self._peer_code}

    async def _send(self, message: dict[str, Any]) -> None:
        """ASGI's ``send``. Raises ClientGone. Cancellation: if a message is cut, the connection is closed."""
        kind = message["type"]
        if kind == "websocket.send":
            if self._frames.state is ConnectionState.OPEN:
                await self._write(b"".join(map(_frame, _texts_of(message))))
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind == "websocket.close":
            await self._close(message.get("code", NORMAL))
        elif kind == "websocket.http.response.start":
            self._refusal = ResponseWriter(method="GET", version="1.1")
            self._refusal.start(message["status"], message["headers"])
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            more = message.get("more_body", False)
            headers = self._server.response_headers()
            await self._write(self._refusal.body(message["body"], more, headers))
            if not more:
                await self._linger()
        else:
            raise RuntimeError(f"a websocket has no {kind}")

    async def _accept(self, message: dict[str, Any]) -> None:
        assert self._nursery is not None
        key = dict(self._head.headers)[b"sec-websocket-key"].strip()
        lines = [
            b"HTTP/1.1 101 Switching Protocols",
            b"upgrade: websocket",
            b"connection: Upgrade",
            b"sec-websocket-accept: " + generate_accept_token(key),
            *(b"%b: %b" % field for field in message.get("headers", ())),
        ]
        self._open_message = message.get("open_message")
        await self._write(b"\r\n".join(lines) + b"\r\n\r\n")
        self._nursery.start_soon(self._read)

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            try:
                await self._channel.send(data)
            except trio.Cancelled:
                # Half a frame may have left, and what is sent behind it would be read as its other half.
                await self._channel.close()
                raise
            except _GONE as error:
                # Also wakes the task that reads.
                await self._channel.close()
                raise ClientGone from error

    async def _close(self, code: int) -> None:
        """Send a close frame and wait for the client's, unless either is done."""
        if self._open_message is None or self._frames.state is not ConnectionState.OPEN:
            return
        with suppress(ClientGone):
            await self._write(self._frames.send(CloseConnection(code=code)))
        with trio.move_on_after(FAREWELL_TIMEOUT if code == GOING_AWAY else CLOSE_TIMEOUT):
            await self._read_ended.wait()

    async def _read(self) -> None:
        """Read frames until either side is done; then the app hears of it."""
        try:
            with self._deliver, suppress(ClientGone, *_GONE):
                while await self._take_read() and await self._wait_readable():
                    pass
        finally:
            self._read_ended.set()

    async def _wait_readable(self) -> bool:
        """Read something; False at the end, and if the client is silent for too long."""
        for asked in (False, True):
            try:
                return await self._channel.read(min(PING_INTERVAL, self._message.patience()))
            except trio.TooSlowError:
                if self._message.patience() <= 0:
                    await self._fail(POLICY)
                    return False
                if not asked and self._frames.state is ConnectionState.OPEN:
                    await self._write(self._frames.send(Ping()))
        return False

    async def _take_read(self) -> bool:
        """Take the frames that were read; return whether more may follow."""
        data = bytes(self._channel.buffer)
        self._channel.buffer.clear()
        if data:
            self._message.read(len(data), self._channel.limits.body_timeout)
            self._frames.receive_data(data)
            for event in self._frames.events():
                if not await self._take(event):
                    return False
        return True

    async def _take(self, event: object) -> bool:
        if isinstance(event, Message):
            return self._frames.state is not ConnectionState.OPEN or await self._take_part(event)
        if isinstance(event, Ping):
            if self._frames.state is ConnectionState.OPEN:
                await self._write(self._frames.send(event.response()))
        elif isinstance(event, CloseConnection):
            await self._take_close(event)
            return False
        return True

    async def _take_close(self, event: CloseConnection) -> None:
        if self._frames.state is ConnectionState.REMOTE_CLOSING:
            self._peer_code = event.code
            # What it says besides its code needn't be said back.
            await self._write(self._frames.send(CloseConnection(code=_answerable(event.code))))
        elif self._frames.state is ConnectionState.OPEN:
            # wsproto's verdict on bytes that are no frame.
            await self._fail(event.code)

    async def _take_part(self, event: Message[Any]) -> bool:
        message = self._message
        if message.reservation is None and self._open_message is not None:
            message.reservation = self._open_message()
        try:
            whole = message.add(event, self._channel.limits.max_message_bytes)
        except _TooBig:
            await self._fail(TOO_BIG)
            return False
        except GatewayError:
            await self._fail(TRY_LATER)
            return False
        if whole:
            self._message = _Arriving()
            delivered = message.delivered(isinstance(event, TextMessage))
            try:
                await self._deliver.send(delivered)
            except BaseException:
                message.drop()
                raise
        return True

    async def _fail(self, code: int) -> None:
        """Close for a client's fault, and let it read why before the connection is cut."""
        self._message.drop()
        with suppress(LocalProtocolError):
            await self._write(self._frames.send(CloseConnection(code=code)))
        await self._linger()

    async def _linger(self) -> None:
        with suppress(*_GONE):
            await self._channel.linger()


class _TooBig(Exception):
    """A message is larger than may be, or in too many frames."""


class _Arriving:
    """A message of which not all has been read."""

    __slots__ = ("_data", "_deadline", "_frames", "_piece_left", "reservation")

    def __init__(self) -> None:
        self.reservation: Reservation | None = None
        self._data = bytearray()
        self._frames = 0
        self._deadline = math.inf
        self._piece_left = 0

    def read(self, size: int, timeout: float) -> None:
        """Note that bytes were read, which may be of this message.

        Each ``BODY_PIECE`` of it has ``timeout`` seconds.
        """
        self._piece_left -= size
        if self._piece_left <= 0 or self._deadline == math.inf:
            self._piece_left = BODY_PIECE
            self._deadline = trio.current_time() + timeout

    def patience(self) -> float:
        """For how many seconds the rest may be waited for."""
        return self._deadline - trio.current_time() if self.reservation is not None else math.inf

    def add(self, event: Message[Any], limit: int) -> bool:
        """Take a part; return whether it was the last.

        Raises _TooBig, and GatewayError if there is no memory for it.
        """
        data = event.data.encode() if isinstance(event.data, str) else event.data
        self._frames += event.frame_finished
        if len(self._data) + len(data) > limit or self._frames > MAX_FRAMES:
            raise _TooBig
        if self.reservation is not None:
            self.reservation.reserve(len(data))
        self._data += data
        return event.message_finished

    def delivered(self, is_text: bool) -> dict[str, Any]:
        """The whole message as ASGI's. Texts are UTF-8 too, since their JSON is decoded from that."""
        message = {"type": "websocket.receive", "is_text": is_text, "bytes": bytes(self._data)}
        return message | {"reservation": self.reservation}

    def drop(self) -> None:
        """Give its memory back."""
        self._data.clear()
        if self.reservation is not None:
            self.reservation.close()
            self.reservation = None


def _texts_of(message: dict[str, Any]) -> Iterable[bytes]:
    texts = message.get("texts")
    return texts if texts is not None else [message["text"].encode()]


def _frame(text: bytes) -> bytes:
    """A text message in one frame. wsproto would decode and encode it, for each event of a stream."""
    size = len(text)
    if size < 126:
        return b"\x81%c%b" % (size, text)
    if size < 65536:
        return b"\x81\x7e%b%b" % (struct.pack("!H", size), text)
    return b"\x81\x7f%b%b" % (struct.pack("!Q", size), text)


def _answerable(code: int) -> int:
    """A close code as it may be sent: some only stand for what never was on the wire."""
    return NORMAL if code in (1005, 1006, 1015) else code
