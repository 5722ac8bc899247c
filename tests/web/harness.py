"""A gateway before a fake upstream, in one process, on real sockets."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from agentic_trio import Config, Gateway, open_gateway, serve
from agentic_trio.net.nurseries import open_inner_nursery
from tests.fake_upstream import FakeUpstream, Recorded, Script, open_fake_upstream, text_of
from tests.oracles import check_conversation, check_event_stream, check_list, check_response

from .documented import check_documented

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentic_trio.auth.authenticator import Authenticate
    from agentic_trio.telemetry.observer import Observer

Json = dict[str, Any]

NOWHERE = "http://127.0.0.1:1"
"""An upstream that is down: the port is reserved, nothing listens there."""

MODEL = "tiny"


@dataclass
class World:
    """What a test talks to. Each answer of its methods has passed the oracles, and each of its client is as
    the OpenAPI document says."""

    gateway: Gateway
    upstream: FakeUpstream
    url: str
    client: httpx.AsyncClient
    port: int

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.client.post(path, json=body, **options)

    async def create(self, input: Any = "hi", **members: Any) -> Json:
        """A response that succeeds, not streamed."""
        body = {"model": MODEL, "input": input, **members}
        answer = await self.post("/v1/responses", body)
        assert answer.status_code == 200, answer.text
        return check_response(answer.content, body)

    async def stream(self, input: Any = "hi", *, interleaved: bool = False, **members: Any) -> list[Json]:
        """The events of a response that succeeds.

        ``interleaved``: a call's end waits for its result, while other items are added.
        """
        body = {"model": MODEL, "input": input, "stream": True, **members}
        answer = await self.post("/v1/responses", body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return check_event_stream(answer.content, body, interleaved=interleaved)

    async def converse(self, **body: Any) -> str:
        """The id of a new conversation."""
        answer = await self.post("/v1/conversations", body)
        assert answer.status_code == 200, answer.text
        conversation = check_conversation(answer.content, metadata=body.get("metadata") or {})
        return str(conversation["id"])

    async def items(self, path: str, **query: Any) -> list[Json]:
        """A list, oldest first."""
        answer = await self.client.get(path, params={"order": "asc", "limit": 100} | query)
        assert answer.status_code == 200, answer.text
        return check_list(answer.content)

    async def refused(self, input: Any = "hi", **members: Any) -> tuple[int, Json]:
        """Status and error of a response that is refused."""
        answer = await self.post("/v1/responses", {"model": MODEL, "input": input, **members})
        return answer.status_code, answer.json()["error"]


@asynccontextmanager
async def open_world(
    script: Script | None = None,
    *,
    llm_api_base: str | None = None,
    observer: Observer | None = None,
    authenticate: Authenticate | None = None,
    **config: Any,
) -> AsyncIterator[World]:
    """A gateway with its state in memory, and a client that brings no credentials."""
    settings = {"db_url": "sqlite://:memory:", "port": 0, "graceful_timeout": 0.0} | config
    async with (
        open_fake_upstream(script) as upstream,
        open_gateway(
            Config(llm_api_base=llm_api_base or upstream.url, **settings),
            observer=observer,
            authenticate=authenticate,
        ) as gateway,
        open_inner_nursery() as nursery,
    ):
        (url,) = await nursery.start(partial(serve, gateway))
        hooks = {"response": [check_documented]}
        options = {"base_url": url, "trust_env": False, "verify": False, "timeout": 10, "event_hooks": hooks}
        async with httpx.AsyncClient(**options) as client:
            yield World(gateway, upstream, url, client, httpx.URL(url).port or 0)
        nursery.cancel_scope.cancel()


def said(request: Recorded | list[Json]) -> list[tuple[str, str]]:
    """Role and text of each item that the model was given."""
    items = request.items if isinstance(request, Recorded) else request
    return [(item.get("role", item["type"]), text_of(item)) for item in items]


def text(response: Json) -> str:
    """The text of a response's first item."""
    return text_of(response["output"][0])


def terminal(events: list[Json]) -> Json:
    response: Json = events[-1]["response"]
    return response


def nested(depth: int) -> str:
    """JSON that is nested ``depth`` deep."""
    return "[" * depth + "]" * depth


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON, order of members aside."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
