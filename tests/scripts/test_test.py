"""``scripts/test`` and ``scripts/check`` run what was asked for, and nothing else."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from .programs import ROOT, run_program

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = ("pytest", "ruff", "mypy")
EXTRAS = ("test", "local", "clients", "docs", "bench")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment that counts as installed, whose tools print how they are called."""
    (tmp_path / "bin").mkdir()
    for name in ("python", *TOOLS):
        path = tmp_path / "bin" / name
        path.write_text("#!/bin/sh\n" + ('echo "${0##*/} $*"\n' if name in TOOLS else ""))
        path.chmod(0o755)
    given = f"{ROOT}\n".encode()
    given += b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "scripts/constraints.txt"))
    sum_ = subprocess.run(["cksum"], input=given, capture_output=True, check=True).stdout.decode()
    (tmp_path / ".installed").write_text(sum_ + "\n".join(EXTRAS) + "\n")
    return os.environ | {"VENV": os.path.relpath(tmp_path, ROOT)}


async def calls(environment: dict[str, str], script: str, *arguments: str) -> list[str]:
    ran = await run_program([str(ROOT / "scripts" / script), *arguments], env=environment)
    assert ran.code == 0, ran.err
    return ran.out.splitlines()


async def test_checks_come_before_all_tests(environment: dict[str, str]) -> None:
    checks = ["ruff check .", "ruff format --check .", "mypy "]
    assert await calls(environment, "check") == checks
    assert await calls(environment, "test") == [*checks, "pytest "]


async def test_named_tests_run_alone(environment: dict[str, str]) -> None:
    arguments = ["tests/web/test_auth.py", "-k", "token and not odd"]
    assert await calls(environment, "test", *arguments) == [f"pytest {' '.join(arguments)}"]


async def test_quick_tests_run_alone_and_take_arguments(environment: dict[str, str]) -> None:
    (call,) = await calls(environment, "test", "--quick", "-x")
    named = [each for each in call.split() if each.startswith("tests/")]
    assert call.endswith(" -x")
    assert named
    assert all((ROOT / each).exists() for each in named)


async def test_a_check_that_fails_ends_it(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "ruff").write_text("#!/bin/sh\nexit 3\n")
    ran = await run_program([str(ROOT / "scripts" / "test")], env=environment)
    assert (ran.code, ran.out) == (3, "")
