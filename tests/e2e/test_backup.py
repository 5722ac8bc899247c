"""``agentic-trio db backup``: a copy of a database that is in use."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
import trio

from tests.fake_upstream import open_fake_upstream

from .harness import COMMAND, environment, open_server

if TYPE_CHECKING:
    from pathlib import Path

ASK = {"model": "tiny", "input": "hi"}


async def run_backup(database: Path, target: Path) -> tuple[int, str]:
    """The exit code, and what was said on stderr."""
    command = [*COMMAND, "db", "backup", "--db-url", f"sqlite://{database}", str(target)]
    ran = await trio.run_process(
        command, env=environment(), capture_stdout=True, capture_stderr=True, check=False
    )
    return ran.returncode, ran.stderr.decode()


async def test_the_copy_of_a_database_in_use_is_served_by_another_gateway(tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    async with open_fake_upstream() as upstream:
        async with open_server(tmp_path, upstream.url) as server:
            response = (await server.client.post("/v1/responses", json=ASK)).json()
            code, said = await run_backup(tmp_path / "gateway.db", copied / "gateway.db")
            assert code == 0, said
            later = (await server.client.post("/v1/responses", json=ASK)).json()
        assert stat.S_IMODE((copied / "gateway.db").stat().st_mode) == 0o600
        async with open_server(copied, upstream.url) as server:
            assert (await server.client.get(f"/v1/responses/{response['id']}")).json() == response
            assert (await server.client.get(f"/v1/responses/{later['id']}")).status_code == 404
            body = ASK | {"previous_response_id": response["id"]}
            assert (await server.client.post("/v1/responses", json=body)).status_code == 200


@pytest.mark.parametrize("there", ["target", "nothing"])
async def test_what_can_not_be_copied_is_one_line(tmp_path: Path, there: str) -> None:
    target = tmp_path / "copy.db"
    if there == "target":
        target.write_text("mine")
        async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url):
            pass
    code, said = await run_backup(tmp_path / "gateway.db", target)
    assert code == 2
    assert said.splitlines()[-1].startswith("agentic-trio: store ")
    assert "Traceback" not in said
    assert there == "nothing" or target.read_text() == "mine"
