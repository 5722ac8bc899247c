"""What a proxy says of its client, if the proxy is one of those that may.

Anybody can send ``X-Forwarded-For``. It counts only in requests that come from a named proxy; and in a chain
of proxies, the client is the last address that isn't one of theirs.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercorn.typing import HTTPScope

    from agentic_trio.config import Config

UNIX = "unix"
"""Stands for whoever connects to a Unix socket."""

FORWARDED_HOST = "agentic_trio.forwarded_host"
"""The key of a scope for the host that a proxy has been called by; empty or missing if none said."""

_USED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})


class Proxies:
    """Reads what proxies have added to a request, and takes off the path under which they serve it.

    Args:
        config: names the proxies and the path.
    """

    def __init__(self, config: Config) -> None:
        names = config.forwarded_allow_ips
        self._any = "*" in names
        self._unix = UNIX in names
        self._networks = [
            ipaddress.ip_network(name, strict=False) for name in names if name not in ("*", UNIX)
        ]
        self._root = config.root_path
        self.idle = not names and not self._root

    def seen(self, scope: HTTPScope) -> HTTPScope:
        """A request as its client sent it, and as the routes know it. The original is left as it is."""
        found = cast("dict[str, Any]", scope).copy()
        if self._root:
            self._take_off_root(found)
        client = scope["client"]
        if self._trusts(None if client is None else client[0]):
            self._apply(found)
        return cast("HTTPScope", found)

    def _take_off_root(self, scope: dict[str, Any]) -> None:
        """A proxy may have taken it off, or not."""
        scope["root_path"] = ""
        root = self._root
        if scope["path"] == root or scope["path"].startswith(f"{root}/"):
            scope["path"] = scope["path"][len(root) :] or "/"
            raw = scope["raw_path"][len(root) :] or b"/"
            # One that is encoded differently (``/root%2Fv1``) has no such part that could be cut off. What is
            # left must begin with a slash: it stands behind the model server's address.
            whole = scope["raw_path"].startswith(root.encode()) and raw.startswith(b"/")
            scope["raw_path"] = raw if whole else quote(scope["path"]).encode()

    def _apply(self, scope: dict[str, Any]) -> None:
        given: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in _USED:
                given[name] = f"{given.get(name, '')},{value.decode('latin-1')}"
        chain = [each.strip() for each in given.get(b"x-forwarded-for", "").split(",") if each.strip()]
        if chain:
            scope["client"] = (self._client(chain), 0)
        proto = given.get(b"x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        if proto in ("http", "https"):
            scope["scheme"] = proto
        # Not in the place of Host: a page whose name was made to resolve to this machine could send it, too.
        scope[FORWARDED_HOST] = given.get(b"x-forwarded-host", "").rpartition(",")[2].strip()

    def _client(self, chain: Sequence[str]) -> str:
        for address in reversed(chain):
            if not self._trusts(address):
                return address
        return chain[0]

    def _trusts(self, address: str | None) -> bool:
        if address is None:
            return self._unix or self._any
        if self._any:
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(mapped in network for network in self._networks)
