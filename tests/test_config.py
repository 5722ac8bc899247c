"""A configuration is right, or refused in one line that names the field and shows no secret."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from agentic_trio import Config, ConfigError
from agentic_trio.config import ENVIRONMENT, parse_origins

SECRET = "sk-secret"

POSITIVE = (
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
NOT_NEGATIVE = ("graceful_timeout", "conversation_wait", "replay_retention", "upstream_retries")


def refused(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Config(**values)
    [message] = caught.value.args
    assert "\n" not in message
    assert SECRET not in message
    return str(message)


def test_the_defaults_are_right() -> None:
    config = Config()
    assert (config.host, config.port) == ("127.0.0.1", 9000)
    assert config.db_url == "sqlite://./agentic_api.db"
    assert config.max_request_body_size == 10 * 1024 * 1024
    assert config.client_auth == "forward"


@pytest.mark.parametrize(
    "base",
    [
        "",
        "localhost:8000",
        "ftp://host",
        "http://",
        "http:///v1",
        "http://host:port",
        "http://host:99999",
        "http://host:0",
        "http://[::1",
        f"http://me:{SECRET}@host",
        f"http://host/?key={SECRET}",
        "http://host/#fragment",
    ],
)
def test_a_model_server_must_be_a_plain_url(base: str) -> None:
    assert "llm_api_base" in refused(llm_api_base=base)


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "here.db", "sqlite:here.db", f"postgresql://me:{SECRET}@host/db"]
)
def test_a_database_must_be_a_sqlite_url_with_a_path(url: str) -> None:
    assert "db_url" in refused(db_url=url)


def test_a_host_must_be_given() -> None:
    assert "host" in refused(host="")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_must_be_one(port: int) -> None:
    assert "port" in refused(port=port)


@pytest.mark.parametrize("port", [0, 1, 65535])
def test_a_port_may_be_any_that_there_is(port: int) -> None:
    assert Config(port=port).port == port


def test_client_auth_must_be_known() -> None:
    assert "client_auth" in refused(client_auth="ignore")


def test_on_disconnect_must_be_known() -> None:
    assert "on_disconnect" in refused(on_disconnect="ignore")


@pytest.mark.parametrize("key", [None, ""])
def test_replacing_the_clients_key_needs_one(key: str | None) -> None:
    assert "client_auth" in refused(client_auth="replace", openai_api_key=key)


@pytest.mark.parametrize(
    "key", [f"{SECRET}\n", f" {SECRET}", f"{SECRET}\r\nx: y", f"{SECRET}é", f"{SECRET}\x00"]
)
def test_a_key_must_fit_into_a_header(key: str) -> None:
    assert "openai_api_key" in refused(openai_api_key=key)


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize("name", POSITIVE)
def test_a_bound_must_be_more_than_nothing(name: str, value: float) -> None:
    assert name in refused(**{name: value})


@pytest.mark.parametrize("value", [-1, math.inf, math.nan])
@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_a_time_must_not_be_negative(name: str, value: float) -> None:
    assert name in refused(**{name: value})


@pytest.mark.parametrize("name", NOT_NEGATIVE)
def test_a_time_may_be_nothing(name: str) -> None:
    assert getattr(Config(**{name: 0}), name) == 0


def test_every_number_has_a_bound() -> None:
    numbers = {each.name for each in dataclasses.fields(Config) if type(each.default) in (int, float)}
    assert numbers - {"port"} == {*POSITIVE, *NOT_NEGATIVE}


def test_a_configuration_shows_no_key() -> None:
    assert SECRET not in repr(Config(openai_api_key=SECRET))


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("base", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"])
def test_the_path_of_a_model_server_may_end_in_v1(base: str) -> None:
    assert Config(llm_api_base=base).upstream_origin == "http://host:1"


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite://./here.db", "./here.db"), ("sqlite:///var/there.db", "/var/there.db"), ("sqlite://x", "x")],
)
def test_what_follows_the_scheme_is_the_path(url: str, path: str) -> None:
    assert Config(db_url=url).database_path == path


# --------------------------------------------------------------------------- environment


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Config.from_env({}) == Config()


def test_the_environment_names_what_users_set_already() -> None:
    environment = {
        "LLM_API_BASE": "http://host:1",
        "OPENAI_API_KEY": SECRET,
        "DATABASE_URL": "sqlite://x.db",
        "GATEWAY_HOST": "0.0.0.0",
        "GATEWAY_PORT": "1",
        "CORS_ALLOWED_ORIGINS": "https://a.example, https://b.example/,",
    }
    assert environment.keys() == ENVIRONMENT.keys()
    assert Config.from_env(environment) == Config(
        llm_api_base="http://host:1",
        openai_api_key=SECRET,
        db_url="sqlite://x.db",
        host="0.0.0.0",
        port=1,
        cors_allowed_origins=("https://a.example", "https://b.example"),
    )


def test_an_empty_variable_is_unset() -> None:
    assert Config.from_env(dict.fromkeys(ENVIRONMENT, "")) == Config()


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "1")
    assert Config.from_env().port == 1


def test_overrides_win() -> None:
    assert Config.from_env({"GATEWAY_PORT": "1"}, port=2).port == 2


def test_an_override_of_none_does_not() -> None:
    assert Config.from_env({"GATEWAY_PORT": "1"}, port=None).port == 1


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match="GATEWAY_PORT must be a number, not 'many'"):
        Config.from_env({"GATEWAY_PORT": "many"})


def test_what_the_environment_gives_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="port"):
        Config.from_env({"GATEWAY_PORT": "65536"})


@pytest.mark.parametrize(
    ("text", "origins"),
    [("", ()), (" , ", ()), ("*", ("*",)), ("https://a.example/", ("https://a.example",))],
)
def test_origins_are_separated_by_commas(text: str, origins: tuple[str, ...]) -> None:
    assert parse_origins(text) == origins
