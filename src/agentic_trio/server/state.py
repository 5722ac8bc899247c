"""What the connections of one server share."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from hypercorn.trio.worker_context import WorkerContext

if TYPE_CHECKING:
    from hypercorn.config import Config

    from agentic_trio.net.disconnects import Disconnects
    from agentic_trio.net.streams import Stream


class ServerState(WorkerContext):
    """hypercorn's context, and what is needed to make room for new connections and to shut down.

    Attributes:
        config: hypercorn's.
        idle: the streams of connections that wait for a request, longest first.
        disconnects: tells requests that their client has left; None where the system can't.
        crowded: a new connection waits for one of the busy ones to end, so none is kept alive.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.max_requests)
        self.config = config
        self.crowded = False
        self.disconnects: Disconnects | None = None
        self.idle: dict[Stream, None] = {}
        self._headers = b""
        self._headers_second = -1

    @property
    def shutting_down(self) -> bool:
        return self.terminated.is_set()

    @property
    def keeps_alive(self) -> bool:
        """Whether a connection may be used for another request after the current one."""
        return not (self.crowded or self.shutting_down)

    async def shut_down(self) -> None:
        """Close every idle connection, and each other one after its response.

        Cancellation: has no checkpoint.
        """
        await self.terminated.set()
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
