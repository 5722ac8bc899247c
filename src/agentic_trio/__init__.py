"""Stateful OpenAI Responses and Conversations APIs in front of vLLM, on Trio."""

from importlib import import_module
from typing import TYPE_CHECKING

from agentic_trio.config import Config
from agentic_trio.context import CallContext, Identity
from agentic_trio.errors import (
    ConfigError,
    GatewayError,
    InvalidRequest,
    NotFound,
    ServiceUnavailable,
    TurnTimeout,
    UpstreamError,
)

if TYPE_CHECKING:
    from agentic_trio.gateway.following import OpenResponse, ResponseEvents
    from agentic_trio.gateway.gateway import Gateway, open_gateway
    from agentic_trio.gateway.log import FellBehind
    from agentic_trio.server.serve import serve
else:
    # Loaded when first used: the command line's help would wait for Trio, Quart and hypercorn.
    _HOMES = {
        "FellBehind": "gateway.log",
        "Gateway": "gateway.gateway",
        "OpenResponse": "gateway.following",
        "ResponseEvents": "gateway.following",
        "open_gateway": "gateway.gateway",
        "serve": "server.serve",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})


__all__ = [
    "CallContext",
    "Config",
    "ConfigError",
    "FellBehind",
    "Gateway",
    "GatewayError",
    "Identity",
    "InvalidRequest",
    "NotFound",
    "OpenResponse",
    "ResponseEvents",
    "ServiceUnavailable",
    "TurnTimeout",
    "UpstreamError",
    "open_gateway",
    "serve",
]
