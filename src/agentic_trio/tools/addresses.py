"""Where a request's own MCP servers may be: checked where the connection is made.

A name is looked up once, and the connection goes to an address of that answer. A second look-up could give
another one: whoever owns a name decides what it resolves to, each time anew.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpcore2
import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

PUBLIC = "public"
"""Stands in a list of allowed hosts for every host whose addresses are all public."""

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AllowedHosts:
    """The hosts that an operator allows for the MCP servers of requests.

    Args:
        hosts: each ``HOST``, ``HOST:PORT`` or ``public``. A host without a port allows 80 and 443.
    """

    def __init__(self, hosts: Iterable[str]) -> None:
        named = [urlsplit(f"//{host}") for host in hosts if host != PUBLIC]
        self._named = {
            ((each.hostname or "").lower(), port)
            for each in named
            for port in ((80, 443) if each.port is None else (each.port,))
        }
        self._public = PUBLIC in hosts

    def names(self, host: str, port: int) -> bool:
        """Whether the operator has named this host, which then may have any address."""
        return (host.lower().rstrip("."), port) in self._named

    def may_be_asked(self, url: str) -> bool:
        """Whether a URL may be one of an allowed host; its addresses are checked when it is connected to."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            return False
        if not host or parts.scheme not in _PORTS or not url.isprintable() or " " in url:
            return False
        return self._public or self.names(host, port)


def is_public(address: Address) -> bool:
    """Whether an address can only be reached over the internet, whatever other address it wraps."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        # Beside what is reserved, which wraps addresses too (::7f00:1), the network's own NAT64 (RFC 8215).
        if address.teredo is not None or address.is_site_local or address.is_reserved:
            return False
    return address.is_global and not address.is_multicast


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to allowed hosts only. Raises httpcore2.ConnectError for any other."""

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._backend = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a host, at an address that was checked.

        Cancellation: nothing is left open.
        """
        if self._allowed.names(host, port):
            addresses = [host]
        else:
            addresses = await _public_addresses(host, port)
        problem: httpcore2.ConnectError | None = None
        for address in addresses:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore2.ConnectError as error:
                problem = error
        raise problem or httpcore2.ConnectError("the name has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse: a request names hosts."""
        raise httpcore2.ConnectError("a request can't name a socket")

    async def sleep(self, seconds: float) -> None:
        """Sleep. Cancellation: at any time."""
        await trio.sleep(seconds)


async def _public_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, all of which must be public. Cancellation: nothing has happened."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError("its name was not found") from error
    # A scoped address has its zone after a percent sign; none of those is public.
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not addresses or not all(
        "%" not in each and is_public(ipaddress.ip_address(each)) for each in addresses
    ):
        raise httpcore2.ConnectError("it has an address that is not public")
    return addresses
