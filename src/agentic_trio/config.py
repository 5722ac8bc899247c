"""The gateway's configuration: frozen, checked once, from code or from the environment."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from agentic_trio.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SQLITE = "sqlite://"

ENVIRONMENT = {
    "LLM_API_BASE": "llm_api_base",
    "OPENAI_API_KEY": "openai_api_key",
    "DATABASE_URL": "db_url",
    "GATEWAY_HOST": "host",
    "GATEWAY_PORT": "port",
    "CORS_ALLOWED_ORIGINS": "cors_allowed_origins",
}
"""Environment variable -> field. The names are those that users of such gateways set already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a gateway needs to know. Times are in seconds, sizes in bytes.

    Attributes:
        llm_api_base: the model server, with or without a trailing ``/v1``.
        openai_api_key: sent upstream for requests that bring no key of their own.
        db_url: ``sqlite://`` and a path: ``sqlite://./here.db``, ``sqlite:///var/lib/there.db``.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        client_auth: ``forward`` a client's bearer token, or ``replace`` it with ``openai_api_key``.
        cors_allowed_origins: origins whose pages may call; ``*`` is any. None by default.
        graceful_timeout: how long running requests may go on once the server is told to stop.
        max_request_body_size: larger bodies are refused with 413.
        turn_timeout: how long a turn may take, from its request to its last event.
        commit_timeout: how long a turn that has ended waits for its commit.
        connect_timeout: how long connecting to the model server may take.
        idle_timeout: how long the model server may be silent, before its headers or between two reads.
        write_timeout: how long a client may take nothing of what it is sent.
        max_connections: how many clients may be connected at once.
        on_disconnect: what becomes of a turn whose client leaves: ``cancel`` it, or ``finish`` it.
        upstream_retries: how often a call is tried again that failed before anything was generated.
        max_concurrent_requests: how many requests may be at the model server at once; more get 429.
        max_held_bytes: how much of requests' bodies and of histories may be in memory at once; more gets 429.
        max_background: how many background turns run at once; the others are queued.
        replay_retention: how long the stream of an ended turn can be read again; 0 keeps none.
        erase_after: how long what was deleted stays in the database's files, at least; turns that were
            running are waited for, since they may continue it.
        keep_alive_interval: a stream that is silent for so long gets a comment, so that no proxy cuts it.
        conversation_wait: how long a request waits for its turn in a busy conversation; 0 refuses at once.
        strict_parameters: refuse unknown members of a request, as OpenAI does, rather than send them on or
            ignore them.
        list_endpoints: serve ``GET /v1/responses`` and ``GET /v1/conversations``, which OpenAI has not.

    Raises:
        ConfigError: a value can't be used. The message is one line and names the field.
    """

    llm_api_base: str = "http://localhost:8000"
    openai_api_key: str | None = field(default=None, repr=False)
    db_url: str = "sqlite://./agentic_api.db"
    host: str = "127.0.0.1"
    port: int = 9000
    client_auth: Literal["forward", "replace"] = "forward"
    cors_allowed_origins: tuple[str, ...] = ()
    graceful_timeout: float = 20.0
    max_request_body_size: int = 10 * 1024 * 1024
    turn_timeout: float = 3600.0
    commit_timeout: float = 30.0
    connect_timeout: float = 10.0
    idle_timeout: float = 600.0
    write_timeout: float = 30.0
    max_connections: int = 10_000
    on_disconnect: Literal["cancel", "finish"] = "cancel"
    upstream_retries: int = 0
    max_concurrent_requests: int = 1000
    max_held_bytes: int = 1024 * 1024 * 1024
    max_background: int = 100
    replay_retention: float = 86_400.0
    erase_after: float = 60.0
    keep_alive_interval: float = 15.0
    conversation_wait: float = 0.0
    strict_parameters: bool = False
    list_endpoints: bool = False

    def __post_init__(self) -> None:
        _check_base(self.llm_api_base)
        if not self.db_url.startswith(SQLITE) or len(self.db_url) == len(SQLITE):
            raise ConfigError(f"db_url must be {SQLITE} and a path, not {_redacted(self.db_url)!r}")
        if not self.host:
            raise ConfigError("host must not be empty")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be from 0 to 65535, not {self.port}")
        if self.client_auth not in ("forward", "replace"):
            raise ConfigError(f"client_auth must be forward or replace, not {self.client_auth!r}")
        if self.on_disconnect not in ("cancel", "finish"):
            raise ConfigError(f"on_disconnect must be cancel or finish, not {self.on_disconnect!r}")
        if self.client_auth == "replace" and not self.openai_api_key:
            raise ConfigError("client_auth is replace, but there is no openai_api_key to replace with")
        if self.openai_api_key is not None and not _is_header_value(self.openai_api_key):
            raise ConfigError("openai_api_key locks characters that no HTTP header can carry")
        for name in _POSITIVE:
            value = getattr(self, name)
            if not value > 0 or math.isinf(value):
                raise ConfigError(f"{name} must be more than 0, not {value}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more, not {getattr(self, name)}")

    @property
    def upstream_origin(self) -> str:
        """``llm_api_base`` without a trailing ``/v1``: what a path is put behind."""
        return self.llm_api_base.rstrip("/").removesuffix("/v1")

    @property
    def database_path(self) -> str:
        """The database's file: what follows ``sqlite://``."""
        return self.db_url.removeprefix(SQLITE)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /, **overrides: Any) -> Config:
        """The configuration that the environment gives; ``overrides`` that are not None win.

        An empty variable counts as unset. Raises ConfigError.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for variable, name in ENVIRONMENT.items():
            text = environ.get(variable)
            if text:
                values[name] = _parsed(variable, name, text)
        values.update((name, value) for name, value in overrides.items() if value is not None)
        return cls(**values)


_POSITIVE = (
    "max_request_body_size",
    "turn_timeout",
    "commit_timeout",
    "connect_timeout",
    "idle_timeout",
    "write_timeout",
    "max_connections",
    "max_concurrent_requests",
    "max_held_bytes",
    "max_background",
    "erase_after",
    "keep_alive_interval",
)
_NOT_NEGATIVE = ("graceful_timeout", "conversation_wait", "replay_retention", "upstream_retries")


def _parsed(variable: str, name: str, text: str) -> Any:
    if name == "cors_allowed_origins":
        return parse_origins(text)
    if name == "port":
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{variable} must be a number, not {text!r}") from None
    return text


def parse_origins(text: str) -> tuple[str, ...]:
    """A comma-separated list of origins."""
    return tuple(origin.strip().rstrip("/") for origin in text.split(",") if origin.strip())


def _check_base(base: str) -> None:
    shown = _redacted(base)
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError:
        raise ConfigError(f"llm_api_base is not a URL: {shown!r}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"llm_api_base must be an http:// or https:// URL, not {shown!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("llm_api_base must be without user, query and fragment")


def _redacted(url: str) -> str:
    """A URL as it may be shown: without the user and password that it may hold."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else url


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()
