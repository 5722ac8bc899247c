"""The API as a page, as a client that others generate, and what it says of what it hasn't."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from agentic_trio import Config, open_gateway, serve
from agentic_trio.net.nurseries import open_inner_nursery
from tests.fake_upstream import open_fake_upstream
from tests.scripts.programs import run_program

from .documented import DOCUMENT, SCHEMAS, operations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .harness import World


class Page(HTMLParser):
    """A page's ids, links, and the tags that load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.active: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if "id" in named:
            self.ids.append(str(named["id"]))
        if "href" in named:
            self.links.append(str(named["href"]))
        if tag in {"script", "link", "img", "iframe", "object"} or any(name[:2] == "on" for name in named):
            self.active.append(tag)


async def test_the_page_has_each_operation_and_each_schema_and_no_dead_link(world: World):
    answer = await world.client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    wanted = {operation["operationId"] for _, _, operation in operations()}
    assert wanted | {f"schema-{name}" for name in SCHEMAS} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"/openapi.json"}


async def test_the_page_runs_and_loads_nothing(world: World):
    answer = await world.client.get("/docs")
    assert Page(answer.text).active == []
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"url\(|@import|https?://", answer.text)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/files"),
        ("GET", "/v1/vector_stores/vs_1/files"),
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/images/generations"),
        ("GET", "/v1/assistants"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("GET", "/v1/chat/completions/chatcmpl_1"),
        ("GET", "/v1/responses/resp_1/nothing"),
    ],
)
async def test_what_openai_has_and_we_have_not_points_to_what_there_is(world: World, method: str, path: str):
    answer = await world.client.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "unknown_url")
    assert error["message"].startswith(f"Invalid URL ({method} {path})")
    assert error["message"].endswith("see /openapi.json.")


async def test_a_path_that_nobody_has_is_only_said_to_be_wrong(world: World):
    error = (await world.client.get("/v1/flies")).json()["error"]
    assert error["message"] == "Invalid URL (GET /v1/flies)"


@pytest.fixture
async def generated(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """A served gateway's URL, and the folder of a client that was generated from its document."""
    async with open_fake_upstream() as upstream:
        config = Config(llm_api_base=upstream.url, db_url="sqlite://:memory:", port=0, graceful_timeout=0)
        async with open_gateway(config) as gateway, open_inner_nursery() as nursery:
            (url,) = await nursery.start(serve, gateway)
            (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(DOCUMENT))
            ran = await run_program(
                [
                    *(sys.executable, "-m", "openapi_python_client", "generate"),
                    *("--path", "openapi.json", "--meta", "none", "--output-path", "made"),
                ],
                cwd=tmp_path,
            )
            assert (ran.code, ran.err) == (0, ""), ran.out
            assert "WARNING" not in ran.out
            assert "Unable" not in ran.out
            yield url, tmp_path
            nursery.cancel_scope.cancel()


async def test_a_generated_client_does_the_main_job(
    generated: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
):
    url, folder = generated
    monkeypatch.syspath_prepend(folder)
    try:
        await trio.to_thread.run_sync(converse, url)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "made"]:
            del sys.modules[name]


def converse(url: str) -> None:
    from made import Client
    from made.api.conversations import create_conversation, list_conversation_items
    from made.api.responses import create_response, delete_response, get_response, list_input_items
    from made.models import (
        CreateConversation,
        CreateResponse,
        Error,
        ResponseObject,
        ResponseObjectStatus,
    )

    def ask(**members: Any) -> ResponseObject:
        answer = create_response.sync(client=client, body=CreateResponse(model="tiny", **members))
        assert isinstance(answer, ResponseObject), answer
        assert answer.status == ResponseObjectStatus.COMPLETED
        return answer

    with Client(base_url=url, httpx_args={"trust_env": False}) as client:
        first = ask(input_="My name is Ada.")
        second = ask(input_="What is my name?", previous_response_id=first.id)
        assert second.output[0].content[0].text.startswith("echo: 3 items")
        kept = get_response.sync(second.id, client=client)
        assert isinstance(kept, ResponseObject)
        assert kept.to_dict() == second.to_dict()
        assert len(list_input_items.sync(second.id, client=client).data) == 3
        conversation = create_conversation.sync(client=client, body=CreateConversation())
        ask(input_="hi", conversation=conversation.id)
        assert len(list_conversation_items.sync(conversation.id, client=client).data) == 2
        assert delete_response.sync(first.id, client=client).deleted
        gone = get_response.sync(first.id, client=client)
        assert isinstance(gone, Error)
        assert gone.error.type_ == "invalid_request_error"
