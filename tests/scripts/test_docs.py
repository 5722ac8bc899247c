"""What the documents show is run, and what they state is held against the code."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from agentic_trio.cli.main import serve
from agentic_trio.config import SETTINGS
from agentic_trio.web.openapi import document
from tests.fake_upstream import Recorded, Script, Text
from tests.web.harness import said

from .programs import PATIENCE, ROOT, run_python

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Served

MODEL_SERVER = "http://127.0.0.1:8000"
GATEWAY = "http://127.0.0.1:9000"
DOCUMENTS = (
    "README.md",
    "docs/architecture.md",
    "docs/configuration.md",
    "docs/embedding.md",
    "docs/tutorial.md",
    "docs/how-to/let-a-team-in.md",
)


def blocks(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SNIPPETS = [
    pytest.param(code, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, code in enumerate(blocks(name, "python"), 1)
]


@pytest.mark.parametrize("code", SNIPPETS)
async def test_a_snippet_runs_as_it_stands(code: str, served: Served, tmp_path: Path) -> None:
    # Only the ports differ: those of a test are free ones.
    code = code.replace(MODEL_SERVER, served.upstream.url).replace(GATEWAY, served.url)
    ran = await run_python("-W", "error", "-c", code, cwd=tmp_path)
    assert ran.code == 0, ran.err
    called = {request.path for request in served.upstream.requests}
    asks = re.search(r"responses\.create|_response\(|/v1/responses", code)
    assert called == ({"/v1/responses"} if asks else set())


TYPED = [each for each in SNIPPETS if "agentic_trio" in each.values[0]]


def test_the_snippets_pass_a_strict_type_checker(tmp_path: Path) -> None:
    for number, snippet in enumerate(TYPED):
        (tmp_path / f"snippet_{number}.py").write_text(snippet.values[0])
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", str(tmp_path)]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src")
    assert checked.stdout == f"Success: no issues found in {len(TYPED)} source files\n"


def question(request: Recorded) -> str:
    ((_, text),) = said(request)
    return text


async def test_a_batch_that_is_killed_goes_on_where_it_was(served: Served, tmp_path: Path) -> None:
    (code,) = (block for block in blocks("docs/embedding.md", "python") if "idempotency_key" in block)
    code = code.replace(MODEL_SERVER, served.upstream.url)
    upstream = served.upstream

    def asked() -> list[str]:
        return [question(request) for request in upstream.requests]

    def add(request: Recorded) -> Script:
        first, second = re.findall(r"\d+", question(request))
        return Script(output=(Text(f"It is {int(first) + int(second)}."),))

    upstream.script(lambda request: Script(hang=True) if len(upstream.requests) > 40 else add(request))
    process = await trio.lowlevel.open_process([sys.executable, "-c", code], cwd=tmp_path)
    with trio.fail_after(PATIENCE):
        await upstream.wait_stalled(8)
    process.kill()
    await process.wait()
    done, begun = set(asked()[:40]), len(asked())
    upstream.script(add)
    ran = await run_python("-c", code, cwd=tmp_path)
    assert ran.out == "100 of 100 answered, 100 right\n"
    assert not done & set(asked()[begun:])
    assert len(asked()) == begun + 60


async def test_the_readme_s_first_snippet_remembers(served: Served, tmp_path: Path) -> None:
    code = blocks("README.md", "python")[0].replace(GATEWAY, served.url)
    assert len([line for line in code.splitlines() if line]) <= 6
    ran = await run_python("-c", code, cwd=tmp_path)
    assert ran.out == "echo: 3 items; last: What is my name?\n"


async def test_the_app_runs_under_hypercorn(served: Served, tmp_path: Path, nursery: trio.Nursery) -> None:
    (line,) = (block for block in blocks("docs/embedding.md", "shell") if "hypercorn" in block)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = shlex.split(line.replace("127.0.0.1:9000", f"127.0.0.1:{port}"))
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    assert variables == {"LLM_API_BASE": MODEL_SERVER}
    command = words[len(variables) :]
    assert command[:3] == ["hypercorn", "-k", "trio"]
    environment = {**os.environ, "LLM_API_BASE": served.upstream.url}
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", *command], env=environment, cwd=tmp_path
    )
    try:
        url = f"http://127.0.0.1:{port}"
        with trio.fail_after(PATIENCE):
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as client:
                await until_healthy(client)
                body = {"model": "tiny", "input": "hi"}
                answer = await client.post("/v1/responses", json=body)
                assert answer.status_code == 200
                kept = await client.get(f"/v1/responses/{answer.json()['id']}")
                assert kept.json() == answer.json()
            process.terminate()
            assert await process.wait() == 0
    finally:
        process.kill()
    assert (tmp_path / "agentic_api.db").exists()


async def until_healthy(client: httpx.AsyncClient) -> None:
    while True:
        try:
            if (await client.get("/health")).status_code == 200:
                return
        except httpx.ConnectError:
            await trio.sleep(0.05)


def tables(name: str) -> list[list[str]]:
    """The rows of all tables, cells without code marks."""
    rows = [line for line in (ROOT / name).read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def code_in(cell: str) -> str:
    found = re.fullmatch(r"`([^`]*)`", cell)
    return found[1] if found else ""


async def test_the_tables_of_settings_are_up_to_date() -> None:
    ran = await run_python("scripts/docs.py", "--check", cwd=ROOT)
    assert ran.code == 0, ran.err


def test_every_setting_is_documented_as_it_is() -> None:
    rows = [row for row in tables("docs/configuration.md") if len(row) == 5 and row[0] != "Setting"]
    documented = {code_in(row[0]): (code_in(row[1]), re.findall("`(.+?)`", row[2])) for row in rows}
    assert documented == {name: (each.flag, [*each.variables]) for name, each in SETTINGS.items()}
    assert all(row[3] and row[4] for row in rows)


def test_every_switch_is_documented() -> None:
    documented = {code_in(row[0]) for row in tables("docs/configuration.md") if len(row) == 2}
    switches = {option.opts[0] for option in serve.params if option.name not in SETTINGS}
    assert documented - {""} == switches


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_that_are_there(name: str) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / name).read_text())
    missing = [link for link in links if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing


def test_the_http_page_names_every_route_that_is_served() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text()
    paths = [path for path in document()["paths"] if path != "/"]
    shortened = [re.sub(r"^/v1/(responses|conversations)/\{[^}]*\}/", ".../", path) for path in paths]
    missing = [path for path, short in zip(paths, shortened, strict=True) if not {path, short} & named(text)]
    assert not missing


def named(text: str) -> set[str]:
    """The paths in a text's code marks."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()}
