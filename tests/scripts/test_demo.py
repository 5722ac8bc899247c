"""``agentic-trio demo``."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio

from agentic_trio.cli import demo as module
from agentic_trio.cli.demo import demo
from agentic_trio.cli.local_model import parent
from tests.fake_upstream import Script, open_fake_upstream

from .programs import run_python

if TYPE_CHECKING:
    from .conftest import Served


async def fake_model(*, task_status: trio.TaskStatus[str]) -> NoReturn:
    async with open_fake_upstream() as upstream:
        task_status.started(upstream.url)
        await trio.sleep_forever()
    raise AssertionError


async def exit_code(url: str | None) -> int:
    with pytest.raises(SystemExit) as stopped:
        await demo(url, None)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


async def test_a_running_gateway_remembers_and_streams(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    await demo(served.url, None)
    told = capsys.readouterr().out
    assert "Model: echo: 1 items; last: My name is Ada." in told
    assert "Model: echo: 3 items; last: What is my name?" in told
    assert "Model, streamed: echo: 5 items; last: Count from 1 to 10. (9 deltas)" in told
    assert "3 responses, equal to what was answered; 6 items" in told


async def test_a_gateway_of_its_own_is_killed_and_forgets_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "run_local_model", fake_model)
    await demo(None, None)
    before, after = capsys.readouterr().out.split("Killing the gateway (SIGKILL")
    assert "Model: echo: 3 items; last: What is my name?" in before
    assert "3 responses, equal to what was answered; 6 items" in after
    assert "Model: echo: 7 items; last: What is my name?" in after


@pytest.mark.local_model
@pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="the [local] extra is not installed"
)
async def test_the_local_model_knows_the_name_before_and_after_the_restart() -> None:
    ran = await run_python("-m", "agentic_trio", "demo")
    assert ran.code == 0, ran.err
    assert len(re.findall(r"What is my name\?\n  Model: Your name is Ada\.\n", ran.out)) == 2
    assert "1, 2, 3, 4, 5, 6, 7, 8, 9, 10" in ran.out


async def test_without_the_local_model_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parent, "_MODULES", ("no_such_module",))
    assert await exit_code(None) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'agentic-trio[local]'" in error


async def test_a_gateway_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def no_url(*, task_status: trio.TaskStatus[str]) -> NoReturn:
        task_status.started("nowhere")
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(module, "run_local_model", no_url)
    assert await exit_code(None) == 1
    assert capfd.readouterr().err.endswith("agentic-trio: the gateway did not start\n")


@pytest.mark.parametrize(("url", "code"), [("foo", 2), ("http://", 2), ("http://127.0.0.1:1", 1)])
async def test_a_url_that_leads_nowhere_is_one_line(
    url: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await exit_code(url) == code
    assert capsys.readouterr().err.count("\n") == 1


async def test_a_server_without_state_is_no_gateway(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await exit_code(served.upstream.url) == 1
    assert "/v1/conversations answers with status 404" in capsys.readouterr().err


async def test_a_refusal_of_the_stream_is_told(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.upstream.script(lambda request: Script(status=429) if request.json["stream"] else None)
    assert await exit_code(served.url) == 1
    assert "/v1/responses answers with status 429" in capsys.readouterr().err
