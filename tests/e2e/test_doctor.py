"""``agentic-trio doctor`` and ``config show``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import Script, open_fake_upstream

from .harness import open_server, run_command

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "sk-walrus"


async def doctor(directory: Path, upstream: str, *flags: str, **variables: str) -> tuple[int, dict[str, Any]]:
    arguments = ["doctor", "--json", "--port", "0", "--llm-api-base", upstream]
    arguments += ["--db-url", f"sqlite://{directory / 'gateway.db'}", *flags]
    ran = await trio.to_thread.run_sync(lambda: run_command(*arguments, **variables))
    assert SECRET not in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def levels(found: dict[str, Any], check: str) -> list[str]:
    return [each["level"] for each in found["findings"] if each["check"] == check]


def problems(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["check"], each["says"]) for each in found["findings"] if each["level"] == "problem"]


async def test_a_gateway_that_is_fine_has_no_problem(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        code, found = await doctor(tmp_path, upstream.url)
        assert (code, found["ok"], problems(found)) == (0, True, [])
        checks = {each["check"] for each in found["findings"]}
        assert {"settings", "upstream", "model", "store", "disk", "permissions", "exposure"} <= checks
        assert any(f"process {server.process.pid}" in each["says"] for each in found["findings"])
        assert all(each["advice"] for each in found["findings"] if each["level"] != "ok")


async def test_a_model_server_that_is_down_is_a_problem(tmp_path: Path) -> None:
    code, found = await doctor(tmp_path, "http://127.0.0.1:1")
    assert (code, found["ok"]) == (1, False)
    assert [check for check, _ in problems(found)] == ["upstream"]
    assert not (tmp_path / "gateway.db").exists()


@pytest.mark.parametrize(
    ("script", "check"),
    [
        (Script(status=401), "upstream"),
        (Script(status=500), "model"),
    ],
)
async def test_a_model_server_that_refuses_is_a_problem(tmp_path: Path, script: Script, check: str) -> None:
    async with open_fake_upstream(script) as upstream:
        code, found = await doctor(tmp_path, upstream.url, AGENTIC_TRIO_OPENAI_API_KEY=SECRET)
        assert code == 1
        assert problems(found)


async def test_without_inference_the_model_is_not_asked(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        code, found = await doctor(tmp_path, upstream.url, "--no-inference")
        assert code == 0
        assert levels(found, "model") == []
        assert [request.path for request in upstream.requests] == ["/v1/models"]


async def test_what_a_model_server_says_does_nothing_to_the_terminal(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        upstream.models = ["\x1b]0;pwned\x07", "\u202etiny"]
        arguments = ["doctor", "--port", "0", "--no-inference", "--llm-api-base", upstream.url]
        arguments += ["--db-url", f"sqlite://{tmp_path / 'gateway.db'}"]
        ran = await trio.to_thread.run_sync(lambda: run_command(*arguments))
    assert "pwned" in ran.stdout
    assert all(line.isprintable() for line in ran.stdout.splitlines())


async def test_a_setting_that_can_not_be_used_is_a_problem(tmp_path: Path) -> None:
    code, found = await doctor(tmp_path, "http://127.0.0.1:1", "--turn-timeout", "no")
    assert code == 1
    assert "turn-timeout" in problems(found)[0][1]


async def test_a_variable_that_is_no_setting_is_a_warning(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream:
        _, found = await doctor(tmp_path, upstream.url, AGENTIC_TRIO_TURN_TIMOUT="1")
        assert "warning" in levels(found, "settings")


async def test_a_damaged_database_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "gateway.db").write_text("nonsense " * 100)
    async with open_fake_upstream() as upstream:
        code, found = await doctor(tmp_path, upstream.url)
        assert code == 1
        assert [check for check, _ in problems(found)] == ["store"]


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (("--host", "0.0.0.0"), "problem"),
        (("--host", "0.0.0.0", "--open"), "warning"),
        (("--forwarded-allow-ips", "*"), "warning"),
        (("--cors-allowed-origins", "*"), "warning"),
        (("--certfile", "/nowhere"), "problem"),
        ((), "ok"),
    ],
)
async def test_exposure_is_said(tmp_path: Path, flags: tuple[str, ...], level: str) -> None:
    async with open_fake_upstream() as upstream:
        _, found = await doctor(tmp_path, upstream.url, "--no-inference", *flags)
        assert level in levels(found, "exposure")
        assert ("problem" in levels(found, "exposure")) == (level == "problem")


async def test_a_secret_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    key.chmod(0o644)
    async with open_fake_upstream() as upstream:
        _, found = await doctor(tmp_path, upstream.url, AGENTIC_TRIO_OPENAI_API_KEY_FILE=str(key))
        said = [each["says"] for each in found["findings"] if each["check"] == "permissions"]
        assert any(str(key) in each for each in said)


async def test_words_name_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    ran = await trio.to_thread.run_sync(
        lambda: run_command(
            "doctor", "--port", "0", "--llm-api-base", "http://127.0.0.1:1", "--db-url", "sqlite://:memory:"
        )
    )
    assert ran.returncode == 1
    assert "FAIL  upstream: http://127.0.0.1:1 can't be reached" in ran.stdout
    assert "-> Start it, or set llm_api_base." in ran.stdout


def test_each_setting_is_shown_with_its_source_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("turn_timeout = 60\nretention_days = 7\n")
    variables = {"AGENTIC_TRIO_OPENAI_API_KEY": SECRET, "GATEWAY_PORT": "1234"}
    flags = ("--config", str(file), "--retention-days", "8")
    ran = run_command("config", "show", "--json", *flags, **variables)
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout)
    assert shown["openai_api_key"] == {
        "value": "***",
        "source": {"kind": "variable", "name": "AGENTIC_TRIO_OPENAI_API_KEY"},
    }
    assert shown["port"] == {"value": 1234, "source": {"kind": "variable", "name": "GATEWAY_PORT"}}
    assert shown["turn_timeout"] == {"value": 60, "source": {"kind": "file", "name": str(file)}}
    assert shown["retention_days"] == {"value": 8, "source": {"kind": "flag", "name": "--retention-days"}}
    assert shown["host"] == {"value": "127.0.0.1", "source": {"kind": "default", "name": ""}}
    words = run_command("config", "show", *flags, **variables).stdout
    assert SECRET not in words
    assert "flag --retention-days" in words
