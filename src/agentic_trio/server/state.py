"""What the connections of one server share."""

from __future__ import annotations

import logging
from time import time
from typing import TYPE_CHECKING

import trio

from agentic_trio.telemetry.edges import Overload

if TYPE_CHECKING:
    from hypercorn.config import Config

    from agentic_trio.net.disconnects import Disconnects
    from agentic_trio.net.streams import Stream
    from agentic_trio.telemetry.observer import Observer


logger = logging.getLogger(__name__)


class ServerState:
    """What is needed to make room for new connections, and to shut down.

    Attributes:
        config: hypercorn's.
        websockets: whether the app is called for WebSockets.
        idle: the streams of connections that wait for a request, longest first.
        disconnects: tells requests that their client has left; None where the system can't.
        crowded: a new connection waits for one of the busy ones to end, so none is kept alive.
        shutting_down: connections close after the request in flight.
        observer: is told of requests that are refused before the app sees them.
        full: tells of connections that have to wait.
    """

    def __init__(self, config: Config, observer: Observer, *, websockets: bool = False) -> None:
        self.config = config
        self.websockets = websockets
        self.crowded = False
        self.disconnects: Disconnects | None = None
        self.idle: dict[Stream, None] = {}
        self.shutting_down = False
        self.observer = observer
        self.full = Overload(
            logger, "connections", "as many as may be are open and busy", "new connections wait"
        )
        self._requests = 0
        self._served_out = trio.Event()
        self._headers = b""
        self._headers_second = -1

    @property
    def keeps_alive(self) -> bool:
        """Whether a connection may be used for another request after the current one."""
        return not (self.crowded or self.shutting_down)

    def mark_request(self) -> None:
        """Count a request towards the configuration's ``max_requests``."""
        self._requests += 1
        if self.config.max_requests is not None and self._requests > self.config.max_requests:
            self._served_out.set()

    async def wait_served_out(self) -> None:
        """Wait until more than ``max_requests`` have come. Cancellation: nothing happened."""
        await self._served_out.wait()

    def shut_down(self) -> None:
        """Close every idle connection now, and each other one after its response. See ``NEWCOMER_GRACE``."""
        self.shutting_down = True
        for stream in self.idle:
            stream.interrupt()

    def close_longest_idle(self) -> bool:
        """Close the connection that has waited longest for its next request; return whether any does."""
        for stream in self.idle:
            if not stream.interrupted:
                stream.interrupt()
                return True
        return False

    def response_headers(self) -> bytes:
        """The header lines that the configuration adds to a response, encoded once a second for the date."""
        second = int(time())
        if second != self._headers_second:
            headers = self.config.response_headers("h11")
            self._headers = b"".join(b"%b: %b\r\n" % field for field in headers)
            self._headers_second = second
        return self._headers
