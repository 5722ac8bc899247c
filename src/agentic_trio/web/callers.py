"""Which pages may call: a browser must not be a way in for a page that its user merely visits.

Two headers that pages can't forge tell. ``Origin`` names the page that sends a request; one that is neither
this server's own nor allowed is refused, since a page needn't read an answer to do harm with a request.
``Host`` names whom the browser takes this server for; a page whose name was made to resolve to this machine
(DNS rebinding) names itself. A server that listens on loopback alone knows its names, and refuses others.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentic_trio.errors import InvalidRequest

if TYPE_CHECKING:
    from agentic_trio.config import Config

MAX_KNOWN = 100
"""How many values of ``Host`` are remembered as allowed."""


class Callers:
    """The hosts and origins of one gateway's configuration.

    Args:
        config: names the allowed ones.
        listens: whether the gateway listens on ``config.host`` itself. Behind another server it doesn't
            know its address, and checks hosts only if some are configured.
    """

    def __init__(self, config: Config, *, listens: bool) -> None:
        self._any_origin = "*" in config.cors_allowed_origins
        self._origins = frozenset(origin.lower() for origin in config.cors_allowed_origins)
        self._hosts = frozenset(host.lower() for host in config.allowed_hosts)
        self._checks_hosts = bool(self._hosts) or (listens and is_loopback(config.host))
        self._known: set[str] = set()

    def check(self, host: str | None, origin: str | None, forwarded_host: str = "") -> None:
        """Refuse a request that a foreign page may have sent. Raises InvalidRequest (403).

        Args:
            host: the ``Host`` header.
            origin: the ``Origin`` header.
            forwarded_host: the host that a trusted proxy was called by; a page may come from there, too.
        """
        if self._checks_hosts and host is not None and host not in self._known:
            self._check_host(host)
        if origin is not None and not self._any_origin:
            self._check_origin(origin.lower(), host, forwarded_host)

    def _check_host(self, host: str) -> None:
        name = _name(host)
        if name not in self._hosts and not is_loopback(name):
            raise InvalidRequest(
                "This host is not served here. The operator can allow it (allowed_hosts).",
                status=403,
                code="host_not_allowed",
            )
        if len(self._known) < MAX_KNOWN:
            self._known.add(host)

    def _check_origin(self, origin: str, host: str | None, forwarded_host: str) -> None:
        page = origin.partition("://")[2]
        own = (host is not None and page == host.lower()) or (page and page == forwarded_host.lower())
        if not own and origin not in self._origins:
            raise InvalidRequest(
                "Pages of this origin may not call. The operator can allow it (cors_allowed_origins).",
                status=403,
                code="origin_not_allowed",
                headers={"vary": "origin"},
            )


def is_loopback(name: str) -> bool:
    """Whether a host's name, without a port, can only mean this machine."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name in a ``Host`` header, without port, brackets and final dot."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
