"""What one client may cost: sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of a connection that hypercorn's ``Config`` has no setting for.

    Attributes:
        max_connections: Connections served at once. At the bound a newcomer takes the
            place of the keep-alive connection that has been idle longest; if all are
            busy it waits, with the others behind it in the kernel's backlog, and the
            next response that ends closes its connection.
        max_header_bytes: Request line and headers together, the blank line included.
        max_header_count: Header fields of one request.
        header_timeout: From the first byte of a request to the end of its headers.
        body_timeout: For each 64 KiB of a request body that the app waits for: a client
            that sends it byte by byte can't hold its place for ever.
        write_timeout: For each 64 KiB of a response: a client that takes nothing for
            this long is cut off.
        read_ahead: Bytes kept beyond the request that is being answered; the socket
            isn't read any further until they are used.
        max_message_bytes: A message on a WebSocket.
    """

    max_connections: int = 4096
    max_header_bytes: int = 32 * 1024
    max_header_count: int = 100
    header_timeout: float = 10.0
    body_timeout: float = 60.0
    write_timeout: float = 30.0
    read_ahead: int = 64 * 1024
    max_message_bytes: int = 10 * 1024 * 1024
