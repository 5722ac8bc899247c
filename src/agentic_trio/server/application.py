"""The ASGI app: called for one exchange, with its errors and its access logged."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from agentic_trio.errors import GatewayError
from agentic_trio.server.exchange import ClientGone, Receive, Send

if TYPE_CHECKING:
    from hypercorn.config import Config
    from hypercorn.typing import ASGIFramework, HTTPScope, ResponseSummary, WebsocketScope

    from agentic_trio.http1.request_head import RequestHead
    from agentic_trio.net.disconnects import Peer
    from agentic_trio.server.exchange import Exchange
    from agentic_trio.server.websocket import WebSocket


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends the requests of a connection.

    Attributes:
        scheme: ``https`` under TLS, else ``http``.
        client: the client's address and port.
        server: the address and port that it connected to.
        peer: tells when it leaves; None where the system can't.
    """

    scheme: str
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    peer: Peer | None


class Application:
    """An ASGI app under hypercorn's configuration."""

    def __init__(self, app: ASGIFramework, config: Config) -> None:
        self._app = app
        self._config = config

    async def handle(self, exchange: Exchange, caller: Caller) -> None:
        """Call the app. Its errors are logged, not raised; without a response the exchange has a refusal.

        Cancellation: the app is cancelled.
        """
        started = time()
        scope = _scope(exchange.head, self._config.root_path, caller)
        try:
            await self._app(scope, Receive(exchange, caller.peer), Send(exchange))
        except (Exception, BaseExceptionGroup) as error:
            _log_failure(error, exchange.head, told=exchange.told)
        else:
            self._returned(exchange)
        if not exchange.response.head_sent and not exchange.gone and exchange.refusal is None:
            exchange.refusal = GatewayError("The server had an error.")
        if self._config.accesslog is not None:
            summary = cast("ResponseSummary", _summary(exchange))
            await self._config.log.access(scope, summary, time() - started)

    async def handle_socket(self, socket: WebSocket, head: RequestHead, caller: Caller) -> None:
        """Call the app for a WebSocket. Its errors are logged, not raised.

        Cancellation: the app is cancelled.
        """
        scope = cast("dict[str, Any]", _scope(head, self._config.root_path, caller))
        scope |= {
            "type": "websocket",
            "scheme": "wss" if caller.scheme == "https" else "ws",
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}, "messages": {}},
        }
        try:
            await socket.run(self._app, cast("WebsocketScope", scope))
        except (Exception, BaseExceptionGroup) as error:
            _log_failure(error, head)

    def _returned(self, exchange: Exchange) -> None:
        if exchange.finished or exchange.gone or exchange.refusal is not None or exchange.told:
            return
        if exchange.response.head_sent:
            logger.warning("%s %s: the response is cut short", *_line(exchange.head))
        else:
            logger.error("%s %s: the app returned without a response", *_line(exchange.head))


def _log_failure(error: Exception | BaseExceptionGroup, head: RequestHead, *, told: bool = False) -> None:
    """Log why an app failed, unless it has ``told`` of that itself. Raises what was cancelled beside that."""
    errors: BaseException | None = error
    rest: BaseException | None = None
    if not isinstance(error, Exception):
        # A cancelled app may have failed as well; only the cancellation goes on.
        errors, rest = error.split(Exception)
    if errors is None or _is_only(errors, ClientGone):
        pass
    elif _is_only(errors, GatewayError):
        # The response had begun, so its client sees no more than that it is cut short.
        if not told:
            logger.warning("%s %s: %s", *_line(head), _first(errors))
    else:
        logger.error("%s %s: the app failed", *_line(head), exc_info=errors)
    if rest is not None:
        raise rest


def _summary(exchange: Exchange) -> dict[str, Any] | None:
    """The response for the access log; None if the client didn't get one, or not all of it."""
    if exchange.finished:
        return {"status": exchange.response.status, "headers": exchange.response.headers}
    if exchange.refusal is not None and not exchange.response.head_sent and not exchange.gone:
        return {"status": exchange.refusal.status, "headers": []}
    return None


def _scope(head: RequestHead, root_path: str, caller: Caller) -> HTTPScope:
    """The ASGI scope of a request, with hypercorn's keys."""
    path, _, query = head.target.partition(b"?")
    return {
        "type": "http",
        "http_version": head.version,
        "asgi": {"spec_version": "2.1", "version": "3.0"},
        "method": head.method,
        "scheme": caller.scheme,
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": root_path,
        "headers": head.headers,
        "client": caller.client,
        "server": caller.server,
        "state": cast("Any", {}),
        "extensions": {},
    }


def _line(head: RequestHead) -> tuple[str, str]:
    """A request's method and the first two parts of its path, for the log: the others may be a client's text,
    and its query may hold a secret."""
    path = b"/".join(head.target.partition(b"?")[0].split(b"/")[:3])
    return head.method, path[:100].decode("ascii")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_only(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(kind)[1] is None
    return isinstance(error, kind)
