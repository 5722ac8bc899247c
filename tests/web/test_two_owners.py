"""Two owners try everything of each other's: every operation of the OpenAPI document, with every id.

What one owner has must look to the other as what was never there: the same answer, byte for byte but for
the id. The operations come from the document, and an id that these tests know nothing of fails them: a new
route or parameter can't be forgotten.
"""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_upstream import Script

from .documented import SCHEMAS, operations, resolved
from .harness import MODEL
from .test_keys import Team, open_team

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

SECRET = "alice's secret"

Ids = dict[str, str]


@dataclass
class Alice:
    """What one owner has, by what it is; and what leads to it."""

    headers: dict[str, str]
    responses: Ids = field(default_factory=dict)
    conversation: str = ""
    item: str = ""
    output: str = ""

    @property
    def ids(self) -> set[str]:
        return {*self.responses.values(), self.conversation, self.item, self.output}


@dataclass
class Owners:
    team: Team
    alice: Alice
    bob: dict[str, str]

    async def ask(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> httpx.Response:
        return await self.team.world.client.request(method, path, headers=headers, json=body)


async def furnish(team: Team, alice: Alice) -> None:
    world = team.world
    made = await world.post("/v1/conversations", {"metadata": {"a": "secret"}}, headers=alice.headers)
    alice.conversation = made.json()["id"]
    items = {"items": [{"role": "user", "content": SECRET}]}
    path = f"/v1/conversations/{alice.conversation}/items"
    alice.item = (await world.post(path, items, headers=alice.headers)).json()["data"][0]["id"]
    ask = {"model": MODEL, "input": SECRET}
    kinds: dict[str, Any] = {
        "ended": {"conversation": alice.conversation},
        "streamed": {"stream": True},
        "in the background": {"background": True},
    }
    for kind, members in kinds.items():
        answer = await world.post("/v1/responses", ask | members, headers=alice.headers)
        assert answer.status_code == 200, answer.text
        alice.responses[kind] = re.findall(r"resp_[0-9a-f]{48}", answer.text)[0]
    ended = await world.client.get(f"/v1/responses/{alice.responses['ended']}", headers=alice.headers)
    alice.output = ended.json()["output"][0]["id"]


@asynccontextmanager
async def running(team: Team, alice: Alice) -> AsyncIterator[None]:
    """Let a turn of alice's run, in the background and streamed: it is in memory, not only on disk."""
    world = team.world
    world.upstream.script(Script(stall_after=3))
    asked = len(world.upstream.requests)
    body = {"model": MODEL, "input": SECRET, "background": True, "stream": True}
    async with world.client.stream("POST", "/v1/responses", json=body, headers=alice.headers) as answer:
        lines = answer.aiter_lines()
        text = ""
        while not (found := re.findall(r"resp_[0-9a-f]{48}", text)):
            text += await anext(lines)
        alice.responses["running"] = found[0]
        await world.upstream.wait_requests(asked + 1)
        world.upstream.script(None)
        assert world.gateway.turns.find("alice", found[0]) is not None
        try:
            yield
        finally:
            world.upstream.release()
            async for _ in lines:
                pass


@pytest.fixture
async def owners(tmp_path: Path) -> AsyncIterator[Owners]:
    async with open_team(tmp_path, list_endpoints=True) as team:
        alice = Alice(team.headers("alice"))
        await furnish(team, alice)
        async with running(team, alice):
            yield Owners(team, alice, team.headers("bob"))


def unknown(id: str) -> str:
    """An id of the same kind and length that nobody has."""
    prefix, _, digits = id.partition("_")
    return f"{prefix}_{digits[:-6]}ffffff"


async def everything(owners: Owners) -> dict[str, bytes]:
    """All that alice can read."""
    alice = owners.alice
    paths = [f"/v1/conversations/{alice.conversation}", f"/v1/conversations/{alice.conversation}/items"]
    for id in alice.responses.values():
        paths += [f"/v1/responses/{id}", f"/v1/responses/{id}/input_items"]
    paths += ["/v1/responses", "/v1/conversations"]
    found = {}
    for path in paths:
        answer = await owners.ask("GET", path, alice.headers)
        assert answer.status_code == 200, (path, answer.text)
        found[path] = answer.content
    return found


def told(answer: httpx.Response, *ids: str) -> tuple[int, list[tuple[str, str]], str]:
    """An answer without what differs in any two, and without ids."""
    text = answer.text
    for id in ids:
        text = text.replace(id, "ID")
    own = {"date", "x-request-id", "content-length", "server-timing"}
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in own)
    return answer.status_code, headers, re.sub(r"(resp|conv|msg)_[0-9a-f]{48}", "NEW", text)


OPERATIONS = [(method, path, operation) for method, path, operation in operations()]
WITH_IDS = [(method, path) for method, path, _ in OPERATIONS if "{" in path and "{model}" not in path]


def ids_in(path: str, alice: Alice) -> list[dict[str, str]]:
    """Ways to fill a path's parameters with alice's ids. Fails for a parameter that isn't known."""
    parameters = re.findall(r"{(\w+)}", path)
    assert set(parameters) <= {"id", "item"}, f"say whose ids {path} takes"
    if path.startswith("/v1/responses/"):
        return [{"id": id} for id in alice.responses.values()]
    assert path.startswith("/v1/conversations/"), f"say whose ids {path} takes"
    ways = [{"id": alice.conversation, "item": item} for item in (alice.item, alice.output)]
    return ways if "item" in parameters else ways[:1]


BODIES = {
    "/v1/conversations/{id}": {"metadata": {"taken": "over"}},
    "/v1/conversations/{id}/items": {"items": [{"role": "user", "content": "mine now"}]},
}


@pytest.mark.parametrize(("method", "path"), WITH_IDS)
async def test_another_owner_s_id_answers_as_an_unknown_one(owners: Owners, method: str, path: str):
    before = await everything(owners)
    queries = [""]
    if method == "GET" and path == "/v1/responses/{id}":
        queries += ["?stream=true", "?stream=true&starting_after=1"]
    for ids in ids_in(path, owners.alice):
        unknown_ids = {name: unknown(id) for name, id in ids.items()}
        for query in queries:
            theirs = await owners.ask(method, path.format(**ids) + query, owners.bob, BODIES.get(path))
            nobody = await owners.ask(
                method, path.format(**unknown_ids) + query, owners.bob, BODIES.get(path)
            )
            assert told(theirs, *ids.values()) == told(nobody, *unknown_ids.values())
            assert theirs.status_code == 404
            assert SECRET not in theirs.text
    assert await everything(owners) == before


async def test_another_owner_s_item_is_not_found_in_one_s_own_conversation(owners: Owners):
    mine = (await owners.ask("POST", "/v1/conversations", owners.bob, {})).json()["id"]
    for method in ("GET", "DELETE"):
        for item in (owners.alice.item, owners.alice.output):
            paths = [f"/v1/conversations/{mine}/items/{each}" for each in (item, unknown(item))]
            theirs, nobody = [await owners.ask(method, path, owners.bob) for path in paths]
            assert told(theirs, item) == told(nobody, unknown(item))


def references(alice: Alice, change: Any) -> list[tuple[str, str, Any]]:
    """Method, path and body of requests that name something of alice's, as ``change`` has it."""
    response, conversation = change(alice.responses["ended"]), change(alice.conversation)
    running = change(alice.responses["running"])
    item, output = change(alice.item), change(alice.output)
    ask = {"model": MODEL, "input": "and now?"}
    found: list[tuple[str, str, Any]] = []
    for store in (True, False):
        for stream in (True, False):
            create = ask | {"store": store, "stream": stream}
            found += [
                ("POST", "/v1/responses", create | members)
                for members in (
                    {"previous_response_id": response},
                    {"previous_response_id": running},
                    {"conversation": conversation},
                    {"conversation": {"id": conversation}},
                    {"conversation_id": conversation},
                    {"input": [{"type": "item_reference", "id": item}]},
                    {"input": [{"type": "item_reference", "id": output}]},
                )
            ]
    reference = {"items": [{"type": "item_reference", "id": item}]}
    return [*found, ("POST", "/v1/conversations", reference)]


NAMES_OF_IDS = {"previous_response_id", "conversation", "conversation_id"}
NO_IDS = {"prompt_cache_key", "safety_identifier"}


def test_every_member_that_names_something_is_tried():
    members = {
        name
        for schema in ("CreateResponse", "CreateConversation", "CreateItems", "UpdateConversation")
        for name in SCHEMAS[schema]["properties"]
        if re.search(r"(^|_)(id|ids|key|identifier|conversation|response|item)$", name)
    }
    assert members == NAMES_OF_IDS | NO_IDS


async def test_what_is_another_owner_s_can_t_be_continued_or_referred_to(owners: Owners):
    before = await everything(owners)
    alice = owners.alice
    theirs = references(alice, lambda id: id)
    nobodys = references(alice, unknown)
    for (method, path, body), (_, _, other) in zip(theirs, nobodys, strict=True):
        asked = len(owners.team.world.upstream.requests)
        one = await owners.ask(method, path, owners.bob, body)
        two = await owners.ask(method, path, owners.bob, other)
        ids = [*alice.ids, *(unknown(id) for id in alice.ids)]
        assert told(one, *ids) == told(two, *ids), body
        assert one.status_code in (400, 404), (body, one.text)
        assert len(owners.team.world.upstream.requests) == asked
    assert await everything(owners) == before


async def test_lists_and_cursors_show_only_one_s_own(owners: Owners):
    mine = (await owners.ask("POST", "/v1/conversations", owners.bob, {})).json()["id"]
    answer = await owners.team.world.post(
        "/v1/responses", {"model": MODEL, "input": "hi"}, headers=owners.bob
    )
    own = {mine, answer.json()["id"]}
    cursors = {resolved(each)["name"] for _, _, each in OPERATIONS for each in each["parameters"]}
    assert {"after", "before"} <= cursors
    lists = [path for method, path, each in OPERATIONS if method == "GET" and has_cursor(each)]
    assert len(lists) == 4
    for path in lists:
        filled = path.format(id=mine if "conversations" in path else answer.json()["id"])
        shown = await owners.ask("GET", filled, owners.bob)
        assert shown.status_code == 200
        assert not owners.alice.ids & set(re.findall(r"\w+_[0-9a-f]{48}", shown.text))
        assert {each["id"] for each in shown.json()["data"]} <= own or "items" in path
        for cursor in ("after", "before"):
            for id in owners.alice.ids:
                one = await owners.ask("GET", f"{filled}?{cursor}={id}", owners.bob)
                two = await owners.ask("GET", f"{filled}?{cursor}={unknown(id)}", owners.bob)
                assert told(one, id) == told(two, unknown(id))


def has_cursor(operation: Any) -> bool:
    return any(resolved(each)["name"] == "after" for each in operation["parameters"])


async def test_an_idempotency_key_finds_only_one_s_own(owners: Owners):
    body = {"model": MODEL, "input": SECRET}
    key = {"idempotency-key": "order-17"}
    client = owners.team.world.client
    first = await client.post("/v1/responses", json=body, headers=owners.alice.headers | key)
    other = await client.post("/v1/responses", json=body, headers=owners.bob | key)
    again = await client.post("/v1/responses", json=body, headers=owners.alice.headers | key)
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    # Nor does a key that another has used for another body say that it was used.
    third = await client.post("/v1/responses", json={**body, "input": "x"}, headers=owners.bob | key)
    assert third.json()["error"]["code"] == "idempotency_key_reused"
    stranger = owners.team.headers("carol") | key
    assert (
        await client.post("/v1/responses", json={**body, "input": "x"}, headers=stranger)
    ).status_code == 200


async def test_one_owner_s_busy_conversation_is_not_another_s(owners: Owners):
    """The ids of two owners may be the same, as a database that was put together of two has them."""
    locks = owners.team.world.gateway._services.locks
    async with locks.lock("alice", owners.alice.conversation), locks.lock("bob", owners.alice.conversation):
        pass


async def test_what_was_stored_without_owners_is_nobody_s(owners: Owners):
    gateway = owners.team.world.gateway
    made = json.loads(await gateway.conversations.create("", b"{}"))
    for headers in (owners.alice.headers, owners.bob):
        assert (await owners.ask("GET", f"/v1/conversations/{made['id']}", headers)).status_code == 404
