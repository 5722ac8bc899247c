"""One request and its response: the ASGI side of a connection."""

from __future__ import annotations

from functools import partial
from time import time
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

import trio

from agentic_trio.http1.request_body import ChunkedBody, LengthBody
from agentic_trio.http1.request_head import RequestHead, RequestRefused
from agentic_trio.http1.response_writer import ResponseWriter
from agentic_trio.net.streams import BODY_PIECE, MAX_READ, send_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.typing import (
        ASGIReceiveEvent,
        ASGISendEvent,
        HTTPDisconnectEvent,
        HTTPScope,
        ResponseSummary,
    )

    from agentic_trio.net.disconnects import Peer, Watch
    from agentic_trio.server.connection import HTTPConnection

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_DISCONNECT: Final[HTTPDisconnectEvent] = {"type": "http.disconnect"}


class ClientGone(OSError):
    """Nothing can be sent to the client any more; raised from the app's ``send``."""


class Exchange:
    """Runs the app for one request, in the connection's task.

    There is no reading task: ``receive`` reads the socket, so a disconnect is seen by an
    app that waits for one, and a body is never read ahead of the app.

    Attributes:
        finished: The whole response was sent.
        gone: The client closed, or can't be written to.
        refusal: What to answer instead of a response that never began.
    """

    def __init__(self, connection: HTTPConnection, head: RequestHead) -> None:
        self.head = head
        self.body = ChunkedBody() if head.content_length is None else LengthBody(head.content_length)
        self.response = ResponseWriter(method=head.method, version=head.version)
        self.finished = False
        self.gone = False
        self.refusal: RequestRefused | None = None
        self._connection = connection
        self._body_delivered = False
        self._awaits_continue = head.expects_continue
        self._piece_left = 0
        self._piece_deadline = 0.0
        self._interim: trio.Event | None = None
        self._read_ahead_full: trio.Event | None = None

    async def run(self) -> None:
        """Call the app; its errors are logged, not raised.

        Cancellation: the app is cancelled.
        """
        connection = self._connection
        started = time()
        scope = connection.scope(self.head)
        try:
            await connection.app(
                scope,
                Receive(self, connection.peer),
                self.send,
                trio.to_thread.run_sync,
                trio.from_thread.run,
            )
        except (Exception, BaseExceptionGroup) as error:
            await self._app_failed(error)
        else:
            if not self.finished and not self.gone and self.refusal is None:
                await connection.config.log.error("The ASGI app returned without a complete response")
        if not self.response.head_sent and not self.gone and self.refusal is None:
            self.refusal = RequestRefused(500, "The server had an error.")
        if connection.config.accesslog is not None:
            summary = cast("ResponseSummary", self._summary())
            await connection.config.log.access(scope, summary, time() - started)

    def _summary(self) -> dict[str, Any] | None:
        """The response for the access log; None if the client didn't get one, or not all of it."""
        if self.finished:
            return {"status": self.response.status, "headers": self.response.headers}
        if self.refusal is not None and not self.response.head_sent and not self.gone:
            return {"status": self.refusal.status, "headers": []}
        return None

    async def _app_failed(self, error: Exception | BaseExceptionGroup) -> None:
        errors: BaseException | None = error
        rest: BaseException | None = None
        if not isinstance(error, Exception):
            # A cancelled app may have failed as well; only the cancellation goes on.
            errors, rest = error.split(Exception)
        expected = errors is None or _is_only(errors, ClientGone)
        if not expected:
            await self._connection.config.log.exception("Error in ASGI Framework", exc_info=errors)
        if rest is not None:
            raise rest

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
            data = self.body.read(self._connection.buffer)
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
            self._piece_deadline = trio.current_time() + self._connection.limits.body_timeout
        had = len(self._connection.buffer)
        with trio.CancelScope(deadline=self._piece_deadline) as scope:
            there = await self._read()
            self._piece_left -= len(self._connection.buffer) - had
            return there
        if scope.cancelled_caught:
            raise RequestRefused(408, "The request body didn't arrive in time.")
        return False

    async def _read(self) -> bool:
        try:
            data = await self._connection.stream.receive_some(MAX_READ)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        self._connection.buffer += data
        self.gone = self.gone or not data
        return not self.gone

    def watch(self, peer: Peer, cancel: Callable[[], None]) -> Watch:
        """Call ``cancel`` if the client leaves while the block lasts. The request has been read."""

        def hung_up() -> None:
            self.gone = True
            cancel()

        return peer.watch(hung_up)

    async def _watch(self) -> None:
        """Wait for the client to go away; keep what it sends, up to a bound."""
        connection = self._connection
        while len(connection.buffer) < connection.limits.read_ahead:
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
            ClientGone: The client left, read nothing for the write timeout, or broke the
                framing of its request.
            RuntimeError: The app's messages are no HTTP response.

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
        wire = response.body(data, more, self._connection.context.response_headers())
        if wire:
            await self._transmit(wire)
        self.finished = response.complete

    def _may_keep_alive(self) -> bool:
        return (
            self.head.keep_alive
            and not self._awaits_continue
            and self.body.ends_within(self._connection.limits.read_ahead)
            and self._connection.may_keep_alive()
        )

    async def _transmit(self, data: bytes) -> None:
        connection = self._connection
        try:
            await send_within(connection.stream, data, connection.limits.write_timeout)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self.gone = True
            # Also wakes a `receive` that reads the same socket.
            await trio.aclose_forcefully(connection.stream)
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
                if not self.body.read(self._connection.buffer) and not await self._read_body():
                    return False
        except RequestRefused:
            return False
        return True


class Receive:
    """ASGI's ``receive`` of an exchange.

    Attributes:
        watch: see ``Exchange.watch``; None where the system can't. An app that has read its request may
            leave the watching for a disconnect to the server, rather than call this again.
    """

    def __init__(self, exchange: Exchange, peer: Peer | None) -> None:
        self._receive = exchange.receive
        self.watch = None if peer is None else partial(exchange.watch, peer)

    async def __call__(self) -> ASGIReceiveEvent:
        return await self._receive()


def build_scope(
    head: RequestHead,
    *,
    root_path: str,
    client: tuple[str, int] | None,
    server: tuple[str, int] | None,
    state: dict[str, Any],
) -> HTTPScope:
    """The ASGI scope of a request, with hypercorn's keys."""
    path, _, query = head.target.partition(b"?")
    return {
        "type": "http",
        "http_version": head.version,
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": head.method,
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": root_path,
        "headers": head.headers,
        "client": client,
        "server": server,
        "state": cast("Any", state.copy()),
        "extensions": {},
    }


def _is_only(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)
