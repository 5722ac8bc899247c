"""The OpenAPI document says what is served, and what is served does as it says."""

from __future__ import annotations

import re

from agentic_trio.web.app import create_app
from agentic_trio.web.openapi import document
from tests.web.harness import open_world

METHODS = {"GET", "POST", "DELETE", "PUT", "PATCH"}


def test_every_route_is_documented_and_nothing_else():
    routed = {
        (method, re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule))
        for rule in create_app().url_map.iter_rules()
        if not rule.websocket
        for method in (rule.methods or set()) & METHODS
    }
    documented = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    unknown = {("POST", f"/v1/responses/{name}") for name in ("input_tokens", "compact")}
    assert documented == routed - unknown


def test_every_reference_leads_to_a_schema():
    text = str(document())
    schemas = document()["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(schemas)


async def test_the_document_is_served():
    async with open_world() as world:
        answer = await world.client.get("/openapi.json")
        assert answer.json()["openapi"] == "3.1.0"
