"""What was stored without an owner is given one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentic_trio.errors import ConfigError
from agentic_trio.store.contract import Conversation, Missing, PageQuery
from agentic_trio.store.ownership import assign_owner
from agentic_trio.store.sqlite import open_sqlite_store
from tests.store.records import NOTHING, data, ending, item, items

if TYPE_CHECKING:
    from pathlib import Path


async def test_all_that_had_no_owner_is_the_owner_s_alone(tmp_path: Path):
    path = str(tmp_path / "state.db")
    async with open_sqlite_store(path) as store:
        await store.create_conversation("", Conversation("conv_1", 1, b"{}"), items("x"), NOTHING)
        await store.end(ending("resp_a", None, [item("y")], owner=""))
        await store.end(ending("resp_b", None, [item("z")], owner="bob"))
        with pytest.raises(ConfigError, match="in use"):
            assign_owner(path, "alice")
    assert assign_owner(path, "alice") == {"responses": 1, "conversations": 1}
    assert assign_owner(path, "carol") == {"responses": 0, "conversations": 0}
    async with open_sqlite_store(path) as store:
        assert (await store.history("alice", conversation="conv_1")).items == data("x")
        assert (await store.history("alice", response="resp_a")).items == [item("y").data]
        # It can be continued, too.
        history = await store.history("alice", response="resp_a")
        await store.end(ending("resp_c", history.base, [item("w")], owner="alice"))
        for owner in ("", "carol"):
            with pytest.raises(Missing):
                await store.response(owner, "resp_a")
        assert (await store.response("bob", "resp_b")).status == "completed"
        found, _ = await store.list_responses("alice", PageQuery())
        assert {each.id for each in found} == {"resp_a", "resp_c"}


async def test_nothing_is_assigned_if_an_id_is_taken(tmp_path: Path):
    path = str(tmp_path / "state.db")
    async with open_sqlite_store(path) as store:
        for owner in ("", "alice"):
            await store.end(ending("resp_a", None, [item("y")], owner=owner))
        await store.end(ending("resp_b", None, [item("z")], owner=""))
    with pytest.raises(ConfigError, match="'alice' has an object with the same id"):
        assign_owner(path, "alice")
    async with open_sqlite_store(path) as store:
        assert (await store.response("", "resp_b")).status == "completed"


def test_a_file_that_is_none_is_made_into_one_without_anything(tmp_path: Path):
    with pytest.raises(ConfigError, match="directory"):
        assign_owner(str(tmp_path / "nowhere" / "state.db"), "alice")
