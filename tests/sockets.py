"""What a test does to a socket that no stream has a method for."""

from __future__ import annotations

import struct
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio


def reset_on_close(stream: trio.SocketStream) -> None:
    """Let the next close send a TCP reset instead of a FIN."""
    stream.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
