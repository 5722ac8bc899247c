"""The programs in ``examples/`` run, and are typed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import trio

from tests.fake_upstream import Script

from .programs import PATIENCE, ROOT, run_program

if TYPE_CHECKING:
    from .conftest import Served

EXAMPLES = ROOT / "examples"


def environment(served: Served, **more: str) -> dict[str, str]:
    own = {"GATEWAY": f"{served.url}/v1", "LLM_API_BASE": served.upstream.url, "MODEL": "tiny", **more}
    return {**os.environ, **own}


async def run_example(served: Served, name: str, *arguments: str, stdin: bytes = b"") -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    ran = await run_program(command, env=environment(served), stdin=stdin)
    assert ran.code == 0, ran.err
    return ran.out


async def test_a_chat_remembers(served: Served) -> None:
    said = await run_example(served, "chat.py", "tiny", stdin=b"I am Ada.\nWho am I?\n\n")
    assert "echo: 1 items; last: I am Ada." in said
    assert "echo: 3 items; last: Who am I?" in said


async def test_a_stream_that_broke_is_resumed(served: Served) -> None:
    assert "none twice and none lost" in await run_example(served, "resume.py", "tiny")


async def test_branches_share_their_past(served: Served) -> None:
    said = await run_example(served, "branches.py", "tiny")
    assert sorted(line.partition(":")[0] for line in said.splitlines()) == ["happy", "sad", "strange"]
    assert said.count("echo: 3 items") == 3


async def test_a_deadline_keeps_what_was_said(served: Served) -> None:
    served.upstream.script(Script(stall_after=6))
    assert await run_example(served, "deadline.py", "3") == "cancelled 1\n"
    served.upstream.script(None)
    assert await run_example(served, "deadline.py", "60") == "completed 1\n"


async def test_an_app_serves_the_gateway_beside_its_work(served: Served) -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", str(EXAMPLES / "beside_an_app.py")],
        env=environment(served, PORT="0"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with trio.fail_after(PATIENCE):
        said = b""
        while b"\n" not in said:
            said += await process.stdout.receive_some()
        url = said.decode().splitlines()[0].removeprefix("listening on ")
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            answer = await client.post(f"{url}/v1/responses", json={"model": "tiny", "input": "hi"})
        assert answer.status_code == 200
        async for chunk in process.stdout:
            said += chunk
        assert await process.wait() == 0
    assert said.decode().splitlines()[-1] == "1 responses"


def test_the_examples_are_typed() -> None:
    files = sorted(map(str, EXAMPLES.glob("*.py")))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", *files]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src")
    assert checked.stdout == f"Success: no issues found in {len(files)} source files\n"
