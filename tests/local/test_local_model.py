"""The real llama.cpp with the real weights: it starts, answers, remembers, and never outlives its gateway."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from agentic_trio.cli.local_model import MODEL, LocalModelError, child, parent, run_local_model

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="the [local] extra is not installed"
)

STARTS_WITHIN = 120
GATEWAY = """
import trio
from agentic_trio.cli.local_model import run_local_model

async def main():
    async with trio.open_nursery() as nursery:
        print(await nursery.start(run_local_model), flush=True)

trio.run(main)
"""


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """The base URL of one model for all tests that only ask it something."""
    with subprocess.Popen([sys.executable, "-c", GATEWAY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def client_of(base_url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base_url, timeout=STARTS_WITHIN, trust_env=False)


async def ask(base_url: str, items: str | list[dict[str, Any]], **more: Any) -> str:
    async with client_of(base_url) as client:
        response = await client.post("/v1/responses", json={"model": MODEL, "input": items, **more})
    assert response.status_code == 200, response.text
    return response.json()["output"][0]["content"][0]["text"]


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def listens(base_url: str) -> bool:
    url = httpx.URL(base_url)
    with socket.socket() as probe:
        return probe.connect_ex((url.host, url.port or 0)) == 0


def healthy(base_url: str) -> bool:
    return listens(base_url) and httpx.get(f"{base_url}/health", trust_env=False).status_code == 200


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(STARTS_WITHIN):
        while not condition():  # noqa: ASYNC110  (no event tells of what another process does)
            await trio.sleep(0.02)


def children() -> list[int]:
    """The model processes that this process has started."""
    pids = [
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    return [int(pid) for pid in pids if child.__file__ in Path(f"/proc/{pid}/cmdline").read_text()]


@needs_model
@pytest.mark.local_model
async def test_a_question_is_answered_in_one_line(model: str) -> None:
    assert await ask(model, "What is the capital of France?") == "The capital of France is Paris."


@needs_model
@pytest.mark.local_model
async def test_what_was_said_a_turn_ago_is_remembered(model: str) -> None:
    chat = [user("My name is Ada.")]
    chat += [assistant(await ask(model, chat)), user("What is my name?")]
    assert await ask(model, chat) == "Your name is Ada."


@needs_model
@pytest.mark.local_model
async def test_an_answer_is_streamed_in_pieces(model: str) -> None:
    body = {"model": MODEL, "input": "Count from 1 to 10.", "stream": True}
    async with client_of(model) as client, client.stream("POST", "/v1/responses", json=body) as response:
        events = [json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: {")]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
    assert len(deltas) > 10


@needs_model
@pytest.mark.local_model
async def test_every_role_and_kind_of_content_is_read(model: str) -> None:
    chat = [
        {"role": "developer", "content": "Answer briefly."},
        {"role": "user", "content": "What is the weather in Rome?"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "Sunny."},
        {"type": "message", "role": "assistant", "content": "It is sunny."},
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be kind."}]},
        user("What is the capital of France?"),
    ]
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    assert await ask(model, chat, instructions="Be brief.")
    assert await ask(model, chat, tools=[tool])


@needs_model
@pytest.mark.local_model
async def test_cancelling_ends_the_child() -> None:
    async with trio.open_nursery() as owner:
        with trio.fail_after(STARTS_WITHIN):
            base_url = await owner.start(run_local_model)
        assert listens(base_url)
        owner.cancel_scope.cancel()
    assert not listens(base_url)
    assert not children()


@needs_model
@pytest.mark.local_model
async def test_cancelling_while_it_starts_ends_the_child() -> None:
    async with trio.open_nursery() as owner:
        owner.start_soon(run_local_model)
        await until(lambda: bool(children()))
        owner.cancel_scope.cancel()
    assert not children()


@needs_model
@pytest.mark.local_model
async def test_the_child_ends_when_its_gateway_is_killed() -> None:
    gateway = await trio.lowlevel.open_process([sys.executable, "-c", GATEWAY], stdout=subprocess.PIPE)
    assert gateway.stdout is not None
    async with gateway.stdout:
        with trio.fail_after(STARTS_WITHIN):
            base_url = (await gateway.stdout.receive_some()).decode().strip()
    assert listens(base_url)
    gateway.kill()
    await gateway.wait()
    await until(lambda: not listens(base_url))


@needs_model
@pytest.mark.local_model
async def test_a_model_that_crashes_is_started_again_on_its_port(caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as owner:
        base_url = await owner.start(run_local_model)
        os.kill(children()[0], signal.SIGSEGV)
        await until(lambda: not listens(base_url))
        await until(lambda: healthy(base_url))
        assert await ask(base_url, "What is the capital of France?") == "The capital of France is Paris."
        owner.cancel_scope.cancel()
    assert "the local model ended (killed by SIGSEGV)" in caplog.text


@needs_model
@pytest.mark.local_model
async def test_a_port_that_is_taken_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalModelError, match=rf"did not start: .*127\.0\.0\.1:{port}$"):
            await run_local_model(port=port)


@needs_model
@pytest.mark.local_model
async def test_a_model_that_is_not_ready_in_time_is_given_up() -> None:
    with pytest.raises(LocalModelError, match="not ready after 0 s"):
        await run_local_model(start_timeout=0.1)
    assert not children()


async def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "_MODULES", ("no_such_module",))
    with pytest.raises(LocalModelError, match=r"pip install 'agentic-trio\[local\]'"):
        await run_local_model()
