"""Stateful OpenAI Responses and Conversations APIs in front of vLLM, on Trio."""

from agentic_trio.config import Config
from agentic_trio.errors import (
    ConfigError,
    GatewayError,
    InvalidRequest,
    NotFound,
    ServiceUnavailable,
    TurnTimeout,
    UpstreamError,
)
from agentic_trio.gateway.gateway import Gateway, open_gateway
from agentic_trio.gateway.log import FellBehind
from agentic_trio.server.serve import serve

__all__ = [
    "Config",
    "ConfigError",
    "FellBehind",
    "Gateway",
    "GatewayError",
    "InvalidRequest",
    "NotFound",
    "ServiceUnavailable",
    "TurnTimeout",
    "UpstreamError",
    "open_gateway",
    "serve",
]
