"""Requests made up from the OpenAPI document: none is answered by a 5xx, or by what the document forbids."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

from tests.web.harness import open_world

CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance"
OPTIONS = ("--checks", CHECKS, "--max-examples", "8", "--generation-deterministic")
"""The same requests in each run: one that fails is to fail for the change that broke it."""

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


async def test_no_made_up_request_gets_a_5xx_or_an_undocumented_answer(tmp_path):
    async with open_world(list_endpoints=True) as world:
        run = await trio.run_process(
            [SCHEMATHESIS, "run", f"{world.url}/openapi.json", *OPTIONS],
            cwd=tmp_path,
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
    assert run.returncode == 0, run.stdout.decode()
