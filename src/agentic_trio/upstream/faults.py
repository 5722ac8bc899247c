"""What goes wrong with the model server: httpx's errors as the gateway's, and a log of its outages."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING

import httpx

from agentic_trio.errors import UpstreamError
from agentic_trio.telemetry.edges import event

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


def upstream_error(error: httpx.HTTPError) -> UpstreamError:
    """One of httpx's errors, for a client."""
    if isinstance(error, httpx.TimeoutException):
        phase = "accept a connection" if isinstance(error, httpx.ConnectTimeout) else "answer"
        message = f"The model server did not {phase} in time."
        return UpstreamError(message, status=504, code="upstream_timeout")
    if isinstance(error, httpx.ConnectError):
        kind, _ = _why(error)
        return UpstreamError(f"The model server can't be reached: {kind}.", code="upstream_unreachable")
    return UpstreamError("The model server broke off its answer.")


def _why(error: BaseException) -> tuple[str, BaseException]:
    """Why a connection could not be made, in words for a client, and the error that says so."""
    if isinstance(error, httpx.TimeoutException):
        return "it did not accept a connection in time", error
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return "its name was not found", cause
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted", cause
        if isinstance(cause, ssl.SSLError):
            return "the TLS handshake failed", cause
        if isinstance(cause, ConnectionRefusedError):
            return "it refused the connection", cause
        if isinstance(cause, OSError) and cause.errno in _UNREACHABLE:
            return "there is no route to it", cause
    return "the connection failed", error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that led to it. Trio groups the errors of the addresses that it has tried."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    if error.__cause__ is not None:
        yield from _causes(error.__cause__)


class Outages:
    """Logs once when the model server can't be reached, and once when it can be again.

    Args:
        where: names the server in the log.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._reason = ""

    def failed(self, error: httpx.HTTPError) -> None:
        """A call failed. Logged if no connection could be made, for another reason than last time."""
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
            reason, cause = _why(error)
            if reason != self._reason:
                self._reason = reason
                logger.warning(
                    "the model server at %s can't be reached: %s (%s)",
                    self._where,
                    reason,
                    cause,
                    extra=event("model_server_gone", server=self._where, reason=reason),
                )

    def reached(self) -> None:
        """A call got an answer."""
        if self._reason:
            self._reason = ""
            logger.info(
                "the model server at %s can be reached again",
                self._where,
                extra=event("model_server_back", server=self._where),
            )
