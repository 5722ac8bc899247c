"""kill -9 while tools run: the record says which calls may have run, and none is made again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.e2e.harness import Server, open_server
from tests.fake_upstream import Call, FakeUpstream, Script, Text, open_fake_upstream
from tests.tools.calculator import Calculator, open_calculator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Json = dict[str, Any]

ASK: Json = {"type": "mcp", "server_label": "calc"}
NEVER: Json = {**ASK, "require_approval": "never"}
WAIT = Call("calc__wait", ('{"name": "a"}',))
STORE = Call("calc__store", ('{"value": "x"}',))
MAY_HAVE_RUN = "The call was interrupted: the tool may have run."
OK = Script(output=(Text("ok"),))


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with open_fake_upstream() as upstream:
        yield upstream


@pytest.fixture
async def calc() -> AsyncIterator[Calculator]:
    async with open_calculator() as calculator:
        yield calculator


async def killed_in_a_call(server: Server, calc: Calculator, body: Json, **headers: str) -> None:
    """Kill a server while the call of a request is under way."""
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            try:
                await server.client.post("/v1/responses", json=body, headers=headers)
            except Exception:
                return
            raise AssertionError("it was killed too late")

        nursery.start_soon(ask)
        await calc.began.wait()
        server.signal(signal.SIGKILL)
        await server.wait()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_was_under_way_may_have_run_and_is_not_made_again(
    tmp_path: Path, upstream: FakeUpstream, calc: Calculator, stream: bool
) -> None:
    flags = ("--mcp-server", f"calc={calc.url}")
    upstream.script(Script(output=(STORE, WAIT)))
    body = {"model": "tiny", "input": "go", "tools": [NEVER], "stream": stream}
    async with open_server(tmp_path, upstream.url, *flags) as server:
        await killed_in_a_call(server, calc, body, **{"idempotency-key": "one"})
    ran = list(calc.ran)
    upstream.script(OK)
    async with open_server(tmp_path, upstream.url, *flags) as server:
        body["stream"] = False
        again = await server.client.post(
            "/v1/responses", json=body | {"stream": stream}, headers={"idempotency-key": "one"}
        )
        assert again.status_code == 200
        if stream:
            assert MAY_HAVE_RUN.encode() in again.content
        else:
            response = again.json()
            assert response["status"] == "failed"
            calls = [item for item in response["output"] if item["type"] == "mcp_call"]
            assert [call["status"] for call in calls] == ["incomplete", "incomplete"]
            assert all(call["error"]["message"] == MAY_HAVE_RUN for call in calls)
            assert (await server.read(response["id"]))["output"] == response["output"]
            upstream.script(OK)
            on = {"model": "tiny", "input": "and?", "previous_response_id": response["id"]}
            assert (await server.client.post("/v1/responses", json=on)).status_code == 200
            assert f"Error: {MAY_HAVE_RUN}" in [item.get("output") for item in upstream.last.items]
    assert calc.ran == ran


async def test_what_had_been_done_in_earlier_rounds_is_in_the_record(
    tmp_path: Path, upstream: FakeUpstream, calc: Calculator
) -> None:
    flags = ("--mcp-server", f"calc={calc.url}")
    rounds = iter([Script(output=(Text("First"), STORE)), Script(output=(Text("then"), WAIT))])
    upstream.script(lambda _: next(rounds))
    body = {"model": "tiny", "input": "go", "tools": [NEVER], "background": True}
    async with open_server(tmp_path, upstream.url, *flags) as server:
        id = (await server.client.post("/v1/responses", json=body)).json()["id"]
        await calc.began.wait()
        server.signal(signal.SIGKILL)
        await server.wait()
    async with open_server(tmp_path, upstream.url, *flags) as server:
        response = await server.read(id)
    assert response["status"] == "failed"
    output = [(item["type"], item.get("status")) for item in response["output"]]
    assert output == [
        ("mcp_list_tools", None),
        ("message", "completed"),
        ("mcp_call", "completed"),
        ("message", "completed"),
        ("mcp_call", "incomplete"),
    ]


async def test_an_approval_is_spent_before_its_call_is_made(
    tmp_path: Path, upstream: FakeUpstream, calc: Calculator
) -> None:
    flags = ("--mcp-server", f"calc={calc.url}")
    upstream.script(Script(output=(WAIT,)))
    async with open_server(tmp_path, upstream.url, *flags) as server:
        first = (
            await server.client.post("/v1/responses", json={"model": "tiny", "input": "go", "tools": [ASK]})
        ).json()
        request = first["output"][-1]
        answer = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
        body = {"model": "tiny", "input": [answer], "tools": [ASK], "previous_response_id": first["id"]}
        await killed_in_a_call(server, calc, body)
    async with open_server(tmp_path, upstream.url, *flags) as server:
        again = await server.client.post("/v1/responses", json=body)
        assert (again.status_code, again.json()["error"]["code"]) == (400, "approval_already_used")
    assert calc.ran == [("wait", "a")]
