"""Reasoning that clients carry: sealed where they ask, opened where it comes back, and nobody else's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from agentic_trio import Config, open_gateway
from agentic_trio.errors import ConfigError
from agentic_trio.gateway import keys
from agentic_trio.wire.sealing import Sealing, new_key
from tests.fake_upstream import Reasoning, Script, Text, Unknown

from .harness import Json, World, open_world, terminal

if TYPE_CHECKING:
    from pathlib import Path

THOUGHT = Script(output=(Reasoning(text="because"), Text("yes")))

ASKED: Json = {"include": ["reasoning.encrypted_content"]}


def reasoning(response: Json) -> Json:
    item: Json = response["output"][0]
    assert item["type"] == "reasoning"
    return item


def sent_reasoning(world: World) -> list[str]:
    """The texts of the reasoning that the model server was sent last."""
    return [
        "".join(part["text"] for part in item["content"])
        for item in world.upstream.last.items
        if item["type"] == "reasoning"
    ]


async def carried(world: World, item: Json, **members: Any) -> list[str]:
    """Send a reasoning item back as clients do that keep no state here; what the model server gets."""
    user = {"role": "user", "content": "go on"}
    await world.create([item, user], store=False, **members)
    return sent_reasoning(world)


@pytest.mark.parametrize("store", [True, False])
async def test_sealed_reasoning_reaches_the_model_again(world: World, store: bool) -> None:
    world.upstream.script(lambda _: THOUGHT)
    item = reasoning(await world.create(store=store, **ASKED))
    assert "because" not in item["encrypted_content"]
    assert item["content"][0]["text"] == "because"
    # Clients that show no reasoning keep only what is sealed.
    bare = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    assert await carried(world, bare, **ASKED) == ["because"]
    assert "encrypted_content" not in world.upstream.last.body.decode()


async def test_a_stream_shows_sealed_reasoning_alike_in_each_event(world: World) -> None:
    world.upstream.script(lambda _: THOUGHT)
    events = await world.stream(store=False, **ASKED)
    done = next(each["item"] for each in events if each["type"] == "response.output_item.done")
    assert done["encrypted_content"]
    assert reasoning(terminal(events)) == done


async def test_nothing_is_sealed_unasked(world: World) -> None:
    world.upstream.script(lambda _: THOUGHT)
    assert "encrypted_content" not in reasoning(await world.create())


async def test_what_is_stored_is_sealed_again_for_those_who_ask(world: World) -> None:
    world.upstream.script(lambda _: THOUGHT)
    response = await world.create(**ASKED)
    path = f"/v1/responses/{response['id']}"
    assert "encrypted_content" not in reasoning((await world.client.get(path)).json())
    again = (await world.client.get(path, params={"include[]": "reasoning.encrypted_content"})).json()
    assert await carried(world, reasoning(again)) == ["because"]
    # In the history it is text, and needs no key.
    await world.create(previous_response_id=response["id"])
    assert sent_reasoning(world) == ["because"]


async def test_what_was_sealed_wins_over_content_beside_it(world: World) -> None:
    world.upstream.script(lambda _: THOUGHT)
    item = reasoning(await world.create(store=False, **ASKED))
    item["content"] = [{"type": "reasoning_text", "text": "made up"}]
    assert await carried(world, item) == ["because"]


@pytest.mark.parametrize(
    "token",
    ["gAAAAABn", "", "\ud7ff", Sealing([new_key()]).of("").seal("reasoning", [{"text": "theirs"}])],
    ids=["cut", "empty", "not_ascii", "another_gateway's"],
)
async def test_what_can_t_be_opened_is_dropped(world: World, token: str) -> None:
    bare = {"type": "reasoning", "summary": [], "encrypted_content": token}
    assert await carried(world, bare) == []
    shown = bare | {"content": [{"type": "reasoning_text", "text": "shown"}]}
    assert await carried(world, shown) == ["shown"]


async def test_a_token_of_another_owner_or_kind_is_not_opened() -> None:
    sealing = Sealing([new_key()])
    token = sealing.of("alice").seal("reasoning", "x")
    assert sealing.of("alice").open("reasoning", token) == "x"
    assert sealing.of("bob").open("reasoning", token) is None
    assert sealing.of("alice").open("compaction", token) is None


async def test_the_model_server_s_own_encryption_is_replaced(world: World) -> None:
    own = Unknown(
        {
            "type": "reasoning",
            "summary": [],
            "encrypted_content": "theirs",
            "content": [{"type": "reasoning_text", "text": "because"}],
        }
    )
    world.upstream.script(lambda _: Script(output=(own, Text("yes"))))
    item = reasoning(await world.create(store=False, **ASKED))
    assert await carried(world, item) == ["because"]


async def test_the_model_server_is_not_asked_to_seal(world: World) -> None:
    await world.create(store=False, include=["reasoning.encrypted_content", "message.output_text.logprobs"])
    assert world.upstream.last.json["include"] == ["message.output_text.logprobs"]
    await world.create(store=False, **ASKED)
    assert "include" not in world.upstream.last.json


async def test_a_key_is_kept_over_a_restart(tmp_path: Path) -> None:
    db = f"sqlite://{tmp_path / 'state.db'}"
    async with open_world(THOUGHT, db_url=db) as world:
        item = reasoning(await world.create(store=False, **ASKED))
    async with open_world(db_url=db) as world:
        assert await carried(world, item) == ["because"]


async def test_a_key_can_be_replaced(tmp_path: Path) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    file = tmp_path / "keys"
    file.write_text(f"{old}\n")
    async with open_world(THOUGHT, seal_keys_file=str(file)) as world:
        item = reasoning(await world.create(store=False, **ASKED))
    file.write_text(f"# since today\n{new}\n\n{old}\n")
    async with open_world(THOUGHT, seal_keys_file=str(file)) as world:
        assert await carried(world, item) == ["because"]
        newer = reasoning(await world.create(store=False, **ASKED))
    file.write_text(f"{new}\n")
    async with open_world(seal_keys_file=str(file)) as world:
        assert await carried(world, newer) == ["because"]
        assert await carried(world, item) == ["because"], "its text was beside it"
        del item["content"]
        assert await carried(world, item) == []


@pytest.mark.parametrize("text", ["", "short\n", "# nothing\n", "x" * 44])
async def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match="seal_keys_file"):
        async with open_gateway(Config(db_url="sqlite://:memory:", seal_keys_file=str(file))):
            pass
    file.unlink()
    with pytest.raises(ConfigError, match="seal_keys_file can't be read"):
        async with open_gateway(Config(db_url="sqlite://:memory:", seal_keys_file=str(file))):
            pass


async def test_without_the_extra_include_goes_to_the_model_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "sealing", None)
    async with open_world(THOUGHT) as world:
        body = {"model": "tiny", "input": "hi", "store": False, **ASKED}
        answer = await world.post("/v1/responses", body)
        assert answer.status_code == 200
        assert json.loads(world.upstream.last.body) == body
    with pytest.raises(ConfigError, match=r"agentic-trio\[seal\]"):
        async with open_gateway(Config(db_url="sqlite://:memory:", seal_keys_file="keys")):
            pass
