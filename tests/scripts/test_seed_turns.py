"""``scripts/seed_turns.py``, through a gateway and into a database."""

from __future__ import annotations

import importlib.util
import io
import json
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

from agentic_trio import Config, open_gateway
from tests.fake_upstream import Script, text_of

from .programs import ROOT, Ran, run_python

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Served

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("seed_turns", ROOT / "scripts/seed_turns.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "seed_turns", loaded)
    spec.loader.exec_module(loaded)
    return loaded


async def seed_turns(*arguments: str, **options: Any) -> Ran:
    return await run_python(str(ROOT / "scripts/seed_turns.py"), *arguments, **options)


def one_line(error: str) -> str:
    assert error.startswith("seed_turns: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1
    return error


async def continued(served: Served, **reference: str) -> int:
    """How many items the model is given when a chain or conversation is continued."""
    await served.gateway.create_response({"model": "tiny", "input": "go on", **reference})
    return len(served.upstream.last.items) - 1


async def test_a_chain_is_the_default_and_its_id_continues_it(served: Served) -> None:
    ran = await seed_turns("--url", served.url, "--turns", "3")
    assert ran.code == 0
    name, _, id = ran.out.strip().partition("=")
    assert name == "response"
    assert await continued(served, previous_response_id=id) == 6


async def test_a_conversation_s_id_continues_it(served: Served) -> None:
    ran = await seed_turns("--url", f"{served.url}/v1", "--turns", "3", "--conversation")
    name, _, id = ran.out.strip().partition("=")
    assert name == "conversation"
    assert await continued(served, conversation=id) == 6


async def test_what_is_there_already_can_be_made_longer(served: Served) -> None:
    first = await seed_turns("--url", served.url, "--turns", "1")
    id = first.out.strip().removeprefix("response=")
    second = await seed_turns("--url", served.url, "--turns", "2", "--chain", id)
    assert await continued(served, previous_response_id=second.out.strip().removeprefix("response=")) == 6
    talk = await served.gateway.create_conversation()
    third = await seed_turns("--url", served.url, "--turns", "2", "--conversation", talk["id"])
    assert third.out == f"conversation={talk['id']}\n"
    assert await continued(served, conversation=talk["id"]) == 4


async def test_several_chains_are_told_one_a_line(served: Served) -> None:
    ran = await seed_turns("--url", served.url, "--turns", "2", "--chains", "3")
    lines = ran.out.splitlines()
    assert len(set(lines)) == 3
    for line in lines:
        assert await continued(served, previous_response_id=line.removeprefix("response=")) == 4


async def test_json_is_one_object(served: Served) -> None:
    ran = await seed_turns("--url", served.url, "--turns", "2", "--chains", "2", "--conversation", "--json")
    told = json.loads(ran.out)
    assert told["model"] == "tiny"
    assert [chain["turns"] for chain in told["chains"]] == [2, 2]
    assert all(chain["conversation"].startswith("conv_") for chain in told["chains"])
    assert all(chain["response"].startswith("resp_") for chain in told["chains"])


async def test_user_texts_have_the_size_that_was_asked_for(served: Served) -> None:
    await seed_turns("--url", served.url, "--turns", "2", "--item-bytes", "1000")
    first, _, second = served.upstream.last.items
    assert len(text_of(first)) == len(text_of(second)) == 1000
    assert text_of(first) != text_of(second)


async def test_the_key_is_sent_and_the_model_is_the_one_named(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-seed")
    await seed_turns("--url", served.url, "--turns", "1", "--model", "other")
    assert served.upstream.last.headers["authorization"] == "Bearer sk-seed"
    assert served.upstream.last.json["model"] == "other"


async def test_progress_goes_to_stderr(served: Served) -> None:
    ran = await seed_turns("--url", served.url, "--turns", "20")
    assert "20/20 turns" in ran.err
    assert "turns" not in ran.out


async def test_a_database_is_seeded_without_a_gateway(served: Served, tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/seeded.db"
    ran = await seed_turns("--db-url", url, "--llm-api-base", served.upstream.url, "--turns", "3")
    assert ran.code == 0, ran.err
    id = ran.out.strip().removeprefix("response=")
    async with open_gateway(Config(db_url=url, llm_api_base=served.upstream.url)) as gateway:
        assert (await gateway.get_response(id))["status"] == "completed"
    with sqlite3.connect(tmp_path / "seeded.db") as database:
        assert database.execute("SELECT count(*) FROM response").fetchone() == (3,)
    database.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--turns", "0"),
        ("--turns", "many"),
        ("--url", "foo"),
        ("--url", NOWHERE, "--db-url", "sqlite://x.db"),
        ("--chain", "--conversation"),
        ("--llm-api-base", NOWHERE),
        ("--chain", "resp_1", "--chains", "2"),
        ("--db-url", "mysql://x"),
        ("--db-url", "sqlite:///no/such/directory/x.db"),
        ("--what",),
    ],
)
def test_bad_usage_is_one_line_and_2(
    arguments: tuple[str, ...], module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = module.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    told = capsys.readouterr()
    one_line(told.err)
    assert told.out == ""


async def test_no_gateway_is_one_line_and_1(tmp_path: Path) -> None:
    ran = await seed_turns("--url", NOWHERE)
    assert (ran.code, ran.out) == (1, "")
    assert NOWHERE in one_line(ran.err)
    ran = await seed_turns("--db-url", f"sqlite://{tmp_path}/x.db", "--llm-api-base", NOWHERE)
    assert (ran.code, ran.out) == (1, "")
    assert "can't be reached" in one_line(ran.err)


async def test_a_refusal_is_told_with_its_status(served: Served) -> None:
    ran = await seed_turns("--url", served.url, "--conversation", "conv_none")
    assert ran.code == 1
    assert "turn 1 of 10 failed: status 404: Conversation with id 'conv_none'" in one_line(ran.err)


async def test_what_was_seeded_before_a_failure_is_named(served: Served) -> None:
    served.upstream.script(lambda request: Script(status=500) if len(request.items) > 4 else None)
    ran = await seed_turns("--url", served.url, "--turns", "5")
    assert ran.code == 1
    assert "turn 3 of 5 failed: status 500" in one_line(ran.err.splitlines(keepends=True)[-1])
    served.upstream.script(None)
    assert await continued(served, previous_response_id=ran.out.strip().removeprefix("response=")) == 4


def test_on_a_terminal_progress_is_one_line_that_is_rewritten(module: Any) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    progress = module.Progress(4, out)
    for _ in range(4):
        progress.advance()
    progress.end()
    *_, last = out.getvalue().split("\r")
    assert last.endswith("\n")
    assert "[##############################] 4/4 turns" in last
    assert out.getvalue().count("\n") == 1
