"""What systemd gives a service, and what it is told: sockets that it has opened, and how the service fares.

Both are environment variables and a datagram socket (sd_listen_fds(3), sd_notify(3)); no library is needed.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIRST = 3
"""The first descriptor that is passed on."""


def inherited(environ: Mapping[str, str]) -> list[int]:
    """The descriptors of the sockets that were opened for this process, if any."""
    process, count = environ.get("LISTEN_PID", ""), environ.get("LISTEN_FDS", "")
    if process != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(_FIRST, _FIRST + int(count)))


class Notifier:
    """Tells the service manager how the gateway fares; does nothing where there is none.

    Args:
        environ: has ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC`` if there is one.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        period = environ.get("WATCHDOG_USEC", "")
        watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog = int(period) / 1e6 if period.isdigit() and watched else 0.0

    def ready(self, status: str) -> None:
        """It serves."""
        self._send(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        """It reads its configuration again; ``ready`` says when it has."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It ends."""
        self._send("STOPPING=1\nSTATUS=requests in flight have their time to finish")

    async def keep_watchdog(self) -> None:
        """Show that the loop runs, as often as was asked for. Cancellation: it isn't shown any more."""
        while self._watchdog:
            self._send("WATCHDOG=1")
            await trio.sleep(self._watchdog / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A name that begins with @ is not a file's.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), address)
