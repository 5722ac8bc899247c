"""How many requests may be at the model server at once."""

from __future__ import annotations

from agentic_trio.errors import GatewayError, ServiceUnavailable

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
    """Counts requests in while its block lasts; refuses them above a bound, and all of them once closed.

    Raises:
        TooManyRequests: as many as may be are at work.
        ServiceUnavailable: the server is shutting down.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted = 0
        self.closed = False

    def __enter__(self) -> None:
        if self.closed:
            raise ServiceUnavailable("The server is shutting down.", headers={"retry-after": RETRY_AFTER})
        if self._admitted >= self._limit:
            raise TooManyRequests("Too many requests are running. Please retry in a few seconds.")
        self._admitted += 1

    def __exit__(self, *_: object) -> None:
        self._admitted -= 1
