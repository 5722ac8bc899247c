"""A configuration is right, or refused in one line that names the field and shows no secret."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest

from agentic_trio import Config, ConfigError
from agentic_trio.config import ENVIRONMENT, SETTINGS, log_sources, parse_origins
from agentic_trio.settings import Source

if TYPE_CHECKING:
    from pathlib import Path

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
    "mcp_list_timeout",
    "mcp_call_timeout",
    "max_mcp_tools",
    "max_mcp_list_bytes",
    "max_mcp_answer_bytes",
    "max_tool_result_bytes",
    "max_turn_results_bytes",
    "max_parallel_calls",
    "max_tool_rounds",
)
NOT_NEGATIVE = (
    "mcp_list_age",
    "graceful_timeout",
    "oidc_leeway",
    "owner_turns_per_minute",
    "owner_turns_at_once",
    "owner_tokens_per_day",
    "conversation_wait",
    "replay_retention",
    "retention_days",
    "fd",
    "upstream_retries",
)


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
        "http://host\r",
        "http://host\t",
        "http://host ",
        " http://host",
        "http://ho\nst",
        "http://host/\x00",
        "http://host\u2028",
        "http://a..b",
    ],
)
def test_a_model_server_must_be_a_plain_url(base: str) -> None:
    assert "llm_api_base" in refused(llm_api_base=base)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite://",
        "here.db",
        "sqlite:here.db",
        f"postgresql://me:{SECRET}@host/db",
        "sqlite:///x.db?mode=rwc",
        "sqlite://x.db#here",
        "sqlite://x\x00.db",
        "sqlite://x.db\n",
    ],
)
def test_a_database_must_be_a_sqlite_url_with_a_path(url: str) -> None:
    assert "db_url" in refused(db_url=url)


@pytest.mark.parametrize("host", ["", "a..b", "x" * 64, "a\nb", "a\x00"])
def test_a_host_must_be_one(host: str) -> None:
    assert "host" in refused(host=host)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "9000"),
        ("port", True),
        ("max_connections", 1.5),
        ("turn_timeout", "5"),
        ("list_endpoints", "yes"),
        ("cors_allowed_origins", "https://a.example"),
        ("host", None),
        ("openai_api_key", 5),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object) -> None:
    assert refused(**{name: value}).startswith(f"{name} must be ")


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
    assert numbers - {"port", "metrics_port"} == {*POSITIVE, *NOT_NEGATIVE}


def test_a_configuration_shows_no_key() -> None:
    assert SECRET not in repr(Config(openai_api_key=SECRET))


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("base", ["http://host:1", "http://host:1/", "http://host:1/v1", "http://host:1/v1/"])
def test_the_path_of_a_model_server_may_end_in_v1(base: str) -> None:
    assert Config(llm_api_base=base).upstream_origins == ("http://host:1",)


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


TEXTS: dict[str, tuple[str, Any]] = {
    "llm_api_base": ("https://host", "https://host"),
    "db_url": ("sqlite://x.db", "sqlite://x.db"),
    "cors_allowed_origins": ("https://a.example,*", ("https://a.example", "*")),
    "allowed_hosts": ("gateway.example, localhost", ("gateway.example", "localhost")),
    "client_auth": ("replace", "replace"),
    "on_disconnect": ("finish", "finish"),
    "strict_parameters": ("true", True),
    "list_endpoints": ("1", True),
    "log_format": ("json", "json"),
    "log_level": ("debug", "debug"),
    "log_probes": ("true", True),
    "log_requests": ("false", False),
    "metrics": ("false", False),
    "metrics_host": ("::1", "::1"),
    "bridge_silence": ("false", False),
    "migration_backup": ("false", False),
    "uds": ("/run/x.sock", "/run/x.sock"),
    "certfile": ("x.pem", "x.pem"),
    "keyfile": ("x.key", "x.key"),
    "keyfile_password": ("null", "null"),
    "root_path": ("/llm/", "/llm"),
    "forwarded_allow_ips": ("10.0.0.0/8, unix", ("10.0.0.0/8", "unix")),
    "host": ("::1", "::1"),
    "auth": (" keys ,", ("keys",)),
    "open": ("true", True),
    "cache_salt": ("true", True),
    "oidc_issuer": ("https://issuer.example", "https://issuer.example"),
    "oidc_audience": ("gateway", "gateway"),
    "oidc_algorithms": ("ES512,RS256", ("ES512", "RS256")),
    "oidc_owner": ("oidc:{sub}", "oidc:{sub}"),
    "oidc_scope_claim": ("scp", "scp"),
    "keys_file": ("some.keys", "some.keys"),
    "openai_api_key": ("null", "null"),
    "mcp_servers": ("a=http://host/mcp\nb=https://x", ("a=http://host/mcp", "b=https://x")),
    "mcp_tokens": ("a=secret,b:x-key=other=", ("a=secret", "b:x-key=other=")),
    "mcp_allow_hosts": ("host.example, [::1]:80,public", ("host.example", "[::1]:80", "public")),
    "web_search_server": ("search/find", "search/find"),
    "seal_keys_file": ("/run/keys", "/run/keys"),
}
"""Field -> a text and its value. All others are numbers."""


FILLED = Config(
    openai_api_key=SECRET,
    seal_keys_file="keys",
    keys_file="keys",
    uds="x",
    certfile="x",
    keyfile="x",
    keyfile_password="x",
    oidc_issuer="https://issuer.example",
    oidc_audience="gateway",
    oidc_scope_claim="scope",
)
"""Has a value where the default is none."""


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_variable_of_its_own(name: str) -> None:
    text, value = TEXTS.get(name, (" 7 ", 7))
    variable = f"AGENTIC_TRIO_{name.upper()}"
    config = Config.from_env({"OPENAI_API_KEY": SECRET, variable: text})
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(getattr(FILLED, name))
    assert config.source_of(name) == Source("variable", variable)


def test_a_variable_of_our_own_wins_over_an_older_name() -> None:
    assert Config.from_env({"GATEWAY_PORT": "1", "AGENTIC_TRIO_PORT": "2"}).port == 2
    assert Config.from_env({"GATEWAY_PORT": "1", "AGENTIC_TRIO_PORT": ""}).port == 1


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("AGENTIC_TRIO_TURN_TIMEOUT", "long"),
        ("AGENTIC_TRIO_MAX_BACKGROUND", "1.5"),
        ("AGENTIC_TRIO_LIST_ENDPOINTS", "perhaps"),
        ("AGENTIC_TRIO_ON_DISCONNECT", "ignore"),
    ],
)
def test_a_variable_that_can_t_be_read_is_named(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable} must be .*, not '{text}'$"):
        Config.from_env({variable: text})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_variable_that_is_not_utf_8_is_one_line(name: str) -> None:
    variable = SETTINGS[name].variable
    with pytest.raises(ConfigError, match=f"{variable}|{name}") as caught:
        Config.from_env({variable: "\udcff"})
    assert str(caught.value).isprintable()


def test_a_value_that_can_t_be_used_is_named_with_its_variable() -> None:
    with pytest.raises(
        ConfigError, match=r"^port must be from 0 to 65535, not 65536 \(set by GATEWAY_PORT\)$"
    ):
        Config.from_env({"GATEWAY_PORT": "65536"})


@pytest.mark.parametrize("variable", ["AGENTIC_TRIO_PROT", "AGENTIC_TRIO_PORT_FILE"])
def test_an_unknown_variable_is_named_and_its_value_is_not(
    variable: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Config.from_env({variable: SECRET}) == Config()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        f"{variable} is not a setting and has no effect: did you mean AGENTIC_TRIO_PORT?"
    )


def test_known_variables_and_those_of_others_get_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    ours = {variable: "" for each in SETTINGS.values() for variable in each.variables}
    Config.from_env(ours | {"AGENTIC_TRIO_CONFIG": "", "AGENTIC_TRIO_OPENAI_API_KEY_FILE": "", "PATH": "x"})
    assert not caplog.records


# --------------------------------------------------------------------------- secrets in files


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY_FILE", "AGENTIC_TRIO_OPENAI_API_KEY_FILE"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_can_be_in_a_file(variable: str, end: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(f"{SECRET}{end}".encode())
    config = Config.from_env({variable: str(tmp_path / "key")})
    assert config.openai_api_key == SECRET
    assert config.source_of("openai_api_key") == Source("variable", variable)


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (None, "OPENAI_API_KEY_FILE names can't be read: No such file"),
        (b"", "OPENAI_API_KEY_FILE names is empty"),
        (b"\n", "OPENAI_API_KEY_FILE names is empty"),
        (b"\xff", "OPENAI_API_KEY_FILE names can't be read: it is not UTF-8"),
        (f"{SECRET}\n\n".encode(), "openai_api_key has characters"),
    ],
)
def test_a_secret_s_file_that_can_t_be_used_is_named(
    content: bytes | None, about: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=about) as caught:
        Config.from_env({"OPENAI_API_KEY_FILE": str(tmp_path / "key")})
    assert SECRET not in str(caught.value)


def test_a_secret_is_given_once() -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set"):
        Config.from_env({"OPENAI_API_KEY": SECRET, "OPENAI_API_KEY_FILE": "/none"})


# --------------------------------------------------------------------------- file and flags


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text('port = 1\nhost = "::1"\nturn_timeout = 5\nlist_endpoints = true\nmax_background = 7\n')
    return path


def test_a_file_sets_values_of_every_type(file: Path) -> None:
    file.write_text(file.read_text() + 'cors_allowed_origins = ["https://a.example/", "https://b.example"]')
    config = Config.from_env({"AGENTIC_TRIO_CONFIG": str(file)})
    assert config == Config(
        port=1,
        host="::1",
        turn_timeout=5.0,
        list_endpoints=True,
        max_background=7,
        cors_allowed_origins=("https://a.example", "https://b.example"),
    )


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(file: Path) -> None:
    environ = {"GATEWAY_PORT": "2", "GATEWAY_HOST": "127.0.0.2", "AGENTIC_TRIO_CONFIG": "/none"}
    config = Config.from_command({"port": "3", "host": None}, str(file), environ)
    assert (config.port, config.host, config.turn_timeout) == (3, "127.0.0.2", 5.0)
    assert config.source_of("port") == Source("flag", "--port")
    assert config.source_of("host") == Source("variable", "GATEWAY_HOST")
    assert config.source_of("turn_timeout") == Source("file", str(file))
    assert config.source_of("idle_timeout") == Source("default")


def test_what_a_program_gives_is_known_as_that() -> None:
    assert Config(port=1).source_of("port") == Source("program")
    config = Config.from_env({"GATEWAY_PORT": "1", "GATEWAY_HOST": "h"}, port=2)
    assert config.source_of("port") == Source("program")
    assert dataclasses.replace(config, port=3).source_of("host") == Source("variable", "GATEWAY_HOST")
    assert dataclasses.replace(config, host="i").source_of("host") == Source("program")


@pytest.mark.parametrize(
    ("content", "about"),
    [
        ("prot = 1", "unknown key 'prot': did you mean port?"),
        ("[server]\nport = 1", "unknown key 'server'"),
        ("port = ", "is not TOML"),
        ('port = "many"', "port in .* must be a number, not 'many'"),
        pytest.param(f"port = {'9' * 5000}", "is not TOML", id="a number of 5000 digits"),
        (f"turn_timeout = {'9' * 400}", "turn_timeout"),
        ("max_connections = -1e999", "max_connections"),
        ("port = 1979-05-27", "port in .* must be a number"),
        ('"a\\nb" = 1', r"unknown key 'a\\nb'"),
        ("port = [1]", "port in .* must be a number"),
        ("port = 65536", r"port must be from 0 to 65535, not 65536 \(set by .*gateway.toml\)"),
        ("host = 5", "host in .* must be text, not int"),
        (f"openai_api_key = ['{SECRET}']", "openai_api_key in .* must be text, not list"),
        ("cors_allowed_origins = 5", "cors_allowed_origins in .* must be a list of texts"),
    ],
)
def test_a_file_that_can_t_be_used_is_one_line_that_names_it(content: str, about: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=about) as caught:
        Config.from_command({}, str(file), {})
    assert "gateway.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/no/such.toml can't be read: No such file"):
        Config.from_command({}, "/no/such.toml", {})


@pytest.mark.parametrize(("flag", "text"), [("port", "x"), ("turn_timeout", "soon")])
def test_a_flag_that_can_t_be_read_is_named(flag: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{SETTINGS[flag].flag} must be a number, not '{text}'$"):
        Config.from_command({flag: text}, None, {})


def test_the_log_says_which_variables_and_file_were_used(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    environ = {"OPENAI_API_KEY": SECRET, "AGENTIC_TRIO_PORT": "4711", "GATEWAY_PORT": "1"}
    log_sources(Config.from_command({"host": "h"}, str(file), environ))
    (line,) = caplog.messages
    assert line == f"settings come from file {file}, variable AGENTIC_TRIO_PORT, variable OPENAI_API_KEY"


def test_the_log_says_nothing_of_defaults_and_flags(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_sources(Config.from_command({"port": "1"}, None, {}))
    assert not caplog.messages


# --------------------------------------------------------------------------- tools


@pytest.mark.parametrize(
    "server",
    [
        SECRET,
        f"calc:http://host/{SECRET}",
        f"1calc=http://host/{SECRET}",
        f"ca lc=http://host/{SECRET}",
        f"{'x' * 65}=http://host/{SECRET}",
        f"calc=ftp://host/{SECRET}",
        f"calc=http://host:0/{SECRET}",
        f"calc=http://host:x/{SECRET}",
        f"calc=http:///{SECRET}",
        f"calc=http://ho st/{SECRET}",
        f"calc=http://host/\n{SECRET}",
        "calc=",
    ],
)
def test_an_mcp_server_must_have_a_label_and_a_url(server: str) -> None:
    assert "mcp_servers" in refused(mcp_servers=(server,))


def test_two_mcp_servers_must_have_two_labels() -> None:
    assert "'calc'" in refused(mcp_servers=("calc=http://a", f"calc=http://b/{SECRET}"))


@pytest.mark.parametrize(
    "token", [SECRET, f"calc={SECRET}\nx: y", f"calc={SECRET}é", f"calc:a b={SECRET}", f"={SECRET}", "calc="]
)
def test_a_token_must_fit_into_a_header(token: str) -> None:
    assert "mcp_tokens" in refused(mcp_tokens=(token,))


@pytest.mark.parametrize(
    "host", ["http://host", "me@host", "host/path", "host:x", "host:0", "", "ho st", "é.example"]
)
def test_an_allowed_mcp_host_must_be_one(host: str) -> None:
    assert "mcp_allow_hosts" in refused(mcp_allow_hosts=(host,))


def test_a_configuration_shows_no_secret_of_a_tool() -> None:
    config = Config(mcp_servers=(f"calc=http://host/?key={SECRET}",), mcp_tokens=(f"calc={SECRET}",))
    assert SECRET not in repr(config)


def test_tools_are_configured_by_a_file_of_secrets(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"a={SECRET}\nb:x-key={SECRET}\n")
    config = Config.from_env({"AGENTIC_TRIO_MCP_TOKENS_FILE": str(file)})
    assert config.mcp_tokens == (f"a={SECRET}", f"b:x-key={SECRET}")
