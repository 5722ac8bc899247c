"""PyPI ``llm-comply``: its cases hold every answer and event against the Open Responses schema."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from llm_comply.config import ComplianceConfig
from llm_comply.runner import TestRunner as Runner
from llm_comply.schema import SpecLoader
from llm_comply.tests import get_tests

from tests.fake_upstream import Call, Reasoning, Script, Text

if TYPE_CHECKING:
    from llm_comply.test_case import TestCase

    from .harness import Served

CASES = get_tests("open-responses")

MODEL = "gpt-5-tiny"
"""A name by which it takes a model for one that reasons; otherwise it skips a case."""

SCRIPTS = {
    "tool-calling": Script(output=(Call("get_weather", '{"location": "San Francisco"}'),)),
    "reasoning-summary": Script(output=(Reasoning("15 * 37", summary=("Multiplying.",)), Text("555"))),
}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_case_passes(served: Served, case: TestCase) -> None:
    if case.id in SCRIPTS:
        served.answers(SCRIPTS[case.id])
    config = ComplianceConfig(base_url=served.url, api_key="key", model=MODEL, timeout=10)
    spec = SpecLoader(str(files("llm_comply") / "specs" / "openresponses.json"))
    result = Runner(config, [case], spec).run_one(case)
    assert (result.status.value, result.errors) == ("passed", [])
