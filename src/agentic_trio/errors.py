"""What can go wrong, and how a client is told.

Two families: an :class:`InvalidRequest` is the caller's fault, an :class:`UpstreamError` the model
server's. Each carries its HTTP status and the four members of OpenAI's error body, so that no
handler has to know one from another.
"""

from __future__ import annotations

from typing import Any

import msgspec


class ConfigError(Exception):
    """The configuration can't be used. One line that names the option and what is wrong with it."""


class GatewayError(Exception):
    """An expected failure, as OpenAI's API words it.

    Attributes:
        status: the HTTP status.
        message: for the client; never holds a token, a path or a statement.
        type: OpenAI's error type.
        code: OpenAI's error code, or None.
        param: the request's member that is at fault, or None.
        headers: headers of the answer beside the body (``retry-after``, ``allow``).
        reason: which bound or deadline it was, for the log; empty where the code says it.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    reason = ""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type

    def members(self) -> dict[str, Any]:
        """The four members of OpenAI's error object; all of them always present."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        """The answer's JSON body."""
        return msgspec.json.encode({"error": self.members()})


class InvalidRequest(GatewayError):
    """The request can't be served as it is (400 unless said otherwise)."""

    status = 400
    type = "invalid_request_error"


class NotFound(InvalidRequest):
    """What the request names isn't there, for this owner."""

    status = 404


class RequestTooLarge(InvalidRequest):
    """The body is larger than the configured bound."""

    status = 413
    code: str | None = "request_too_large"


class ServiceUnavailable(GatewayError):
    """The gateway itself can't serve now: the store failed, or it is shutting down."""

    status = 503
    code: str | None = "service_unavailable"


class TurnTimeout(GatewayError):
    """The turn ran longer than ``turn_timeout``."""

    status = 504
    code: str | None = "turn_timeout"


class UpstreamError(GatewayError):
    """The model server failed: it refused, could not be reached, or broke off.

    A refusal keeps the upstream's own status and ``retry-after``; the other failures are 502 or 504.
    """

    status = 502
    code: str | None = "upstream_error"
