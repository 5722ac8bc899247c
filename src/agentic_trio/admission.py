"""How many requests may be at the model server at once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentic_trio.errors import GatewayError, ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_AFTER = "1"


class TooManyRequests(GatewayError):
    """The gateway is at a bound of its own; the same request may succeed a little later."""

    status = 429
    type = "rate_limit_exceeded"
    # Codex takes "server_is_overloaded" for final; this one it tries again.
    code: str | None = "rate_limit_exceeded"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"retry-after": RETRY_AFTER})


class Admission:
    """Counts requests in; refuses them above a bound, and all of them once it is closed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted = 0
        self.closed = False

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count one request while the block lasts.

        Raises:
            TooManyRequests: as many as may be are at work.
            ServiceUnavailable: the server is shutting down.
        """
        if self.closed:
            raise ServiceUnavailable("The server is shutting down.", headers={"retry-after": RETRY_AFTER})
        if self._admitted >= self._limit:
            raise TooManyRequests("Too many requests are running. Please retry in a few seconds.")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1
