"""Tools that nobody runs are refused or left out, and a tool's secrets are never shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire.create_response import CreateResponse, parse_create_response
from agentic_trio.wire.tools import HOSTED, OFFERED_ANYWAY, shown_tools
from tests.playbook import counted_ids

Json = dict[str, Any]

FUNCTION: Json = {"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": True}
MCP: Json = {
    "type": "mcp",
    "server_label": "calc",
    "server_url": "https://me:SECRET@mcp.example.com:8443/SECRET/sse?key=SECRET#SECRET",
    "headers": {"Authorization": "Bearer SECRET", "x-SECRET": "1"},
    "authorization": "SECRET",
    "require_approval": "never",
}


def parsed(hosted: frozenset[str] = frozenset(), **members: Any) -> CreateResponse:
    body = json.dumps({"model": "tiny", "input": "hi", **members}).encode()
    return parse_create_response(body, counted_ids(), hosted=hosted)


def echoed(call: CreateResponse) -> Json:
    echo: Json = json.loads(b"{" + call.echo() + b"}")
    return echo


def sent(call: CreateResponse) -> Json:
    body: Json = json.loads(call.upstream_body([item.data for item in call.input], stream=False))
    return body


@pytest.mark.parametrize("type", sorted(HOSTED - OFFERED_ANYWAY))
def test_a_tool_that_nobody_runs_is_refused(type: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(tools=[FUNCTION, {"type": type, "headers": {"a": "SECRET"}}])
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", "tools[1].type")
    assert "SECRET" not in error.message


@pytest.mark.parametrize(
    "type", sorted([*OFFERED_ANYWAY, "web_search_2025_08_26", "web_search_preview_2025_03_11"])
)
def test_a_tool_that_agents_always_offer_is_echoed_and_not_sent(type: str) -> None:
    tools = [{"type": type, "user_location": None}, FUNCTION]
    call = parsed(tools=tools)
    assert echoed(call)["tools"] == tools
    assert sent(call)["tools"] == [FUNCTION]


@pytest.mark.parametrize("type", ["web_search", "file_search", "mcp", "web_search_preview_2025_03_11"])
def test_a_tool_that_nobody_runs_can_not_be_chosen(type: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(tools=[FUNCTION], tool_choice={"type": type})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tool_choice.type")


@pytest.mark.parametrize(
    "tools",
    [
        [FUNCTION],
        [{"type": "custom", "name": "c"}],
        [{"type": "namespace", "tools": [FUNCTION]}],
        [{"type": "odd"}],
    ],
)
def test_other_tools_go_upstream_byte_for_byte(tools: list[Json]) -> None:
    call = parsed(tools=tools)
    assert b'"tools":%b,' % json.dumps(tools).encode() in call.upstream_body([], stream=False)


GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /a+/"}


@pytest.mark.parametrize("description", ["Patches.", None, ""])
@pytest.mark.parametrize("nested", [False, True])
def test_a_grammar_goes_upstream_in_words(description: str | None, nested: bool) -> None:
    custom = {"type": "custom", "name": "patch", "description": description, "format": GRAMMAR}
    tools = [{"type": "namespace", "name": "n", "tools": [FUNCTION, custom]}] if nested else [custom]
    call = parsed(tools=tools)
    assert echoed(call)["tools"] == tools
    [tool] = sent(call)["tools"]
    if nested:
        assert tool["tools"][0] == FUNCTION
        tool = tool["tools"][1]
    assert tool["format"] == {"type": "text"}
    assert tool["description"].startswith(description or "The input must match this lark grammar:")
    assert tool["description"].endswith("start: /a+/")


def test_the_secrets_of_a_tool_that_is_run_here_are_neither_sent_nor_echoed() -> None:
    call = parsed(frozenset({"mcp"}), tools=[MCP])
    assert sent(call)["tools"] == []
    assert echoed(call)["tools"] == [
        {
            "type": "mcp",
            "server_label": "calc",
            "server_url": "https://mcp.example.com:8443/<redacted>",
            "headers": None,
            "require_approval": "never",
        }
    ]
    assert b"SECRET" not in call.echo()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host", "https://host/<redacted>"),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:1/<redacted>"),
        ("https://[::1]:8/x", "https://[::1]:8/<redacted>"),
        ("https://a:b@c@host/x", "https://host/<redacted>"),
        ("https://host?SECRET", "https://host/<redacted>"),
        ("https://host\\SECRET", "<redacted>"),
        ("https://SECRET\\@host/", "<redacted>"),
        ("https://SECRET SECRET", "<redacted>"),
        ("SECRET", "<redacted>"),
        ("ftp://SECRET", "<redacted>"),
        ({"SECRET": "SECRET"}, "<redacted>"),
        (None, None),
    ],
)
def test_of_an_address_only_the_host_is_shown(url: Any, shown: Any) -> None:
    assert shown_tools([{"type": "mcp", "server_url": url}])[0]["server_url"] == shown


def test_secrets_are_hidden_wherever_they_are_in_a_tool() -> None:
    network = {"type": "allowlist", "domain_secrets": [{"name": "n", "value": "SECRET"}]}
    tools = [
        {"type": "shell", "environment": {"type": "auto", "network_policy": network}},
        {"type": "code_interpreter", "container": {"network_policy": network}},
        {"type": "namespace", "name": "n", "tools": [FUNCTION, MCP]},
        {"type": "new_connector", "authorization": "SECRET", "headers": {"k": "SECRET"}},
    ]
    assert "SECRET" not in json.dumps(shown_tools(tools))


def test_a_function_may_have_arguments_that_are_named_like_secrets() -> None:
    schema = {"properties": {"authorization": {"type": "string"}, "headers": {}, "server_url": {}}}
    tool = {**FUNCTION, "parameters": schema}
    namespace = {"type": "namespace", "name": "n", "tools": [tool]}
    assert shown_tools([tool, namespace]) == [tool, namespace]


@pytest.mark.parametrize("type", ["additional_tools", "tool_search_output"])
def test_tools_of_an_item_are_kept_without_their_secrets(type: str) -> None:
    call = parsed(input=[{"type": type, "call_id": "c", "tools": [MCP, FUNCTION]}])
    assert b"SECRET" not in call.input[0].data
    assert json.loads(call.input[0].data)["tools"][1] == FUNCTION


def test_the_tools_of_a_listed_server_keep_their_schemas() -> None:
    listed = {"name": "t", "input_schema": {"properties": {"headers": {"type": "object"}}}}
    call = parsed(input=[{"type": "mcp_list_tools", "server_label": "l", "tools": [listed]}])
    assert json.loads(call.input[0].data)["tools"] == [listed]
