"""Bad configuration is one line on stderr and exit code 2; good one comes from flags and environment."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio import Config, open_gateway
from agentic_trio.cli.main import main
from agentic_trio.config import SETTINGS
from tests.fake_upstream import open_fake_upstream

from .harness import COMMAND, environment, open_process, open_server, run_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ARGUMENTS = {
    "no command": ([], "command"),
    "unknown command": (["surf"], "surf"),
    "unknown flag": (["serve", "--nope"], "--nope"),
    "flag without value": (["serve", "--port"], "--port"),
    "port is no number": (["serve", "--port", "x"], "--port"),
    "port too large": (["serve", "--port", "65536"], "port"),
    "negative port": (["serve", "--port=-1"], "port"),
    "url is no url": (["serve", "--llm-api-base", "nonsense"], "llm_api_base"),
    "url of another kind": (["serve", "--llm-api-base", "ftp://x"], "llm_api_base"),
    "url with a bad port": (["serve", "--llm-api-base", "http://x:99999"], "llm_api_base"),
    "another database": (["serve", "--db-url", "mysql://x"], "db_url"),
    "no database": (["serve", "--db-url", "sqlite://"], "db_url"),
    "missing directory": (["serve", "--db-url", "sqlite:///no/such/place.db"], "place.db"),
    "negative grace": (["serve", "--graceful-timeout=-1"], "graceful_timeout"),
    "grace is not a number": (["serve", "--graceful-timeout", "nan"], "graceful_timeout"),
    "no body at all": (["serve", "--max-request-body-size-bytes", "0"], "max_request_body_size"),
    "nothing to replace with": (["serve", "--client-auth", "replace"], "openai_api_key"),
    "flag given twice": (["serve", "--port", "1", "--port", "2"], "--port is given 2 times"),
    "switch given twice": (
        ["serve", "--list-endpoints", "--no-list-endpoints"],
        "--list-endpoints",
    ),
    "url with a line break": (["serve", "--llm-api-base", "http://x\r"], "llm_api_base"),
    "database with parameters": (["serve", "--db-url", "sqlite:///x.db?mode=rwc"], "db_url"),
    "host with an empty label": (["serve", "--host", "a..b"], "host"),
    "no configuration file": (["serve", "--config", "/no/such.toml"], "/no/such.toml"),
    "unknown choice": (["serve", "--client-auth", "ignore"], "--client-auth"),
    "value too much": (["serve", "now"], "now"),
    "key with a line break": (["serve", "--openai-api-key", "a\nb"], "openai_api_key"),
}


def assert_one_line(code: object, output: str, errors: str, about: str) -> None:
    assert (code, output) == (2, ""), errors
    (line,) = errors.splitlines()
    assert line.startswith("agentic-trio: ")
    assert about in line


def assert_process_says(arguments: list[str], about: str) -> None:
    result = run_command(*arguments)
    assert_one_line(result.returncode, result.stdout, result.stderr, about)


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """The command, called where no process of its own is needed to see what it says."""

    def call(arguments: list[str], about: str, **variables: str) -> None:
        for name in [name for name in os.environ if name not in environment()]:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert_one_line(exit.value.code, *capsys.readouterr(), about)

    return call


@pytest.mark.parametrize(("arguments", "about"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_bad_argument_is_one_line_and_exit_code_2(
    call: Callable[..., None], arguments: list[str], about: str
) -> None:
    call(arguments, about)


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("GATEWAY_PORT", "x", "GATEWAY_PORT must be a number"),
        ("GATEWAY_PORT", "70000", "port"),
        ("LLM_API_BASE", "nonsense", "llm_api_base"),
        ("DATABASE_URL", "mysql://ada:SECRET@db/x", "mysql://***@db/x"),
        ("OPENAI_API_KEY", "sk-\u00e4", "openai_api_key"),
        ("OPENAI_API_KEY_FILE", "/no/such/key", "OPENAI_API_KEY_FILE"),
        ("LLM_API_BASE", "http://x\t", "llm_api_base"),
        ("AGENTIC_TRIO_CONFIG", "/no/such.toml", "/no/such.toml"),
        ("AGENTIC_TRIO_TURN_TIMEOUT", "long", "AGENTIC_TRIO_TURN_TIMEOUT"),
    ],
)
def test_bad_variable_is_one_line_and_exit_code_2(
    call: Callable[..., None], variable: str, value: str, shown: str
) -> None:
    call(["serve"], shown, **{variable: value})


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (["serve", "--nope"], "--nope"),
        (["serve", "--open", "--host", "192.0.2.1"], "can't listen on 192.0.2.1:9000"),
        (["serve", "--open", "--host", "no such host"], "can't listen on no such host:9000"),
    ],
)
def test_process_ends_with_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], about: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_process_says(arguments, about)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def newer(path: Path) -> None:
    async def create() -> None:
        async with open_gateway(Config(db_url=f"sqlite://{path}")):
            pass

    trio.run(create)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()


def text(path: Path) -> None:
    path.write_text("Dear diary, " * 100)


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [foreign, newer, text, directory])
def test_database_that_is_not_ours_is_refused_and_not_touched(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    call: Callable[..., None],
    make: Callable[[Path], None],
) -> None:
    path = tmp_path / "some.db"
    make(path)
    capsys.readouterr()
    before = path.is_file() and path.read_bytes()
    call(["serve", "--port", "0", "--db-url", f"sqlite://{path}"], "some.db")
    assert (path.is_file() and path.read_bytes()) == before
    assert not (tmp_path / "some.db-wal").exists()


async def test_port_in_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        port = upstream.url.rpartition(":")[2]
        arguments = ["serve", "--port", port, "--db-url", f"sqlite://{tmp_path / 'x.db'}"]
        await trio.to_thread.run_sync(assert_process_says, arguments, port)
    assert os.listdir(tmp_path) == []


async def test_database_of_a_running_gateway_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        arguments = ["serve", "--port", "0", "--db-url", f"sqlite://{tmp_path / 'gateway.db'}"]
        await trio.to_thread.run_sync(
            assert_process_says, arguments, f"in use by process {server.process.pid}"
        )
        assert (await server.client.get("/ready")).status_code == 200


async def test_environment_configures_the_gateway(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        variables = {
            "LLM_API_BASE": f"{upstream.url}/v1",
            "OPENAI_API_KEY": "sk-configured",
            "DATABASE_URL": f"sqlite://{tmp_path / 'env.db'}",
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": "0",
            "CORS_ALLOWED_ORIGINS": "https://a.example, https://b.example",
        }
        async with open_process([*COMMAND, "serve"], tmp_path / "log", variables) as server:
            answer = await server.client.post(
                "/v1/responses",
                json={"model": "tiny", "input": "hi"},
                headers={"origin": "https://b.example"},
            )
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "https://b.example"
        assert upstream.last.headers["authorization"] == "Bearer sk-configured"
        assert (tmp_path / "env.db").exists()


async def test_flags_win_over_the_environment(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        command = [*COMMAND, "serve", "--llm-api-base", upstream.url, "--port", "0"]
        variables = {"LLM_API_BASE": "http://127.0.0.1:1", "DATABASE_URL": f"sqlite://{tmp_path / 'x.db'}"}
        async with open_process(command, tmp_path / "log", variables) as server:
            assert (await server.client.get("/ready")).status_code == 200


async def test_serves_before_the_upstream_is_there(tmp_path: Path) -> None:
    async with open_server(tmp_path, "http://127.0.0.1:1") as server:
        assert (await server.client.get("/health")).status_code == 200
        assert (await server.client.get("/ready")).status_code == 503


async def test_a_file_configures_the_gateway_and_the_log_names_what_did(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        file = tmp_path / "gateway.toml"
        file.write_text(
            f'llm_api_base = "{upstream.url}"\ndb_url = "sqlite://{tmp_path}/file.db"\nport = 1\n'
        )
        variables = {"AGENTIC_TRIO_PORT": "0", "AGENTIC_TRIO_PROT": "sk-none"}
        command = [*COMMAND, "serve", "--config", str(file)]
        async with open_process(command, tmp_path / "log", variables) as server:
            assert (await server.client.get("/ready")).status_code == 200
        log = (tmp_path / "log").read_text()
    assert f"INFO log settings come from file {file}, variable AGENTIC_TRIO_PORT\n" in log
    assert "WARNING log AGENTIC_TRIO_PROT is not a setting" in log
    assert "sk-none" not in log
    assert (tmp_path / "file.db").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"], ["demo", "--help"]])
def test_help_and_version_load_no_framework(arguments: list[str]) -> None:
    code = f"import sys\nfrom agentic_trio.cli.main import main\nmain({arguments})\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = loaded.splitlines()[-1].split()
    assert {"click", "agentic_trio.config"} <= {*modules}
    assert not {"trio", "anyio", "quart", "quart_trio", "hypercorn", "httpx", "sqlite3"} & {*modules}


def test_version_is_the_package_s() -> None:
    assert run_command("--version").stdout == f"agentic-trio {metadata.version('agentic-trio')}\n"


def test_help_names_every_setting_under_its_heading() -> None:
    text = run_command("serve", "--help").stdout
    for each in SETTINGS.values():
        assert f"\n{each.group}:\n" in text
        assert f"\n  {each.flag} " in text


def test_a_shell_can_complete_options() -> None:
    variables = {"_AGENTIC_TRIO_COMPLETE": "bash_complete", "COMP_WORDS": "agentic-trio serve --on-d"}
    assert run_command(**variables, COMP_CWORD="2").stdout == "plain,--on-disconnect\n"
