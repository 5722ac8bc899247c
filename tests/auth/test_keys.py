"""Keys: what they look like, and who may use them for how long."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from typing import TYPE_CHECKING, Any

import pytest
import trio

from agentic_trio.auth.key_text import digest_of, is_key, make_key
from agentic_trio.auth.keyring import REFRESH_INTERVAL, STALE_AFTER, Keyring
from agentic_trio.context import Limits
from agentic_trio.errors import ConfigError, InvalidRequest, ServiceUnavailable
from agentic_trio.store.key_database import KeyDatabase, KeyRow, NoSuchKey, OwnerRow, Usage, open_keys
from tests.store.records import run_inline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = 1_800_000_000


def row(key: str, **members: Any) -> KeyRow:
    given = {"id": f"key_{digest_of(key).hex()[:8]}", "digest": digest_of(key), "created_at": NOW}
    return KeyRow(**(given | {"owner": "alice", "name": "", "scope": "write"} | members))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db.keys")


@pytest.fixture
def file(path: str) -> Iterator[KeyDatabase]:
    """The file as a command opens it."""
    database = open_keys(path)
    yield database
    database.close()


class Clock:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keyring(path: str, clock: Clock, autojump_clock: object) -> Iterator[Keyring]:
    """A gateway's view of the same file."""
    database = open_keys(path)
    yield Keyring(database, clock, run_inline)
    database.close()


async def refused(keyring: Keyring, key: str) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await keyring.identify(key)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert not key or key not in caught.value.message
    return caught.value


# --------------------------------------------------------------------------- the text


def test_a_key_is_a_prefix_256_random_bits_and_a_checksum():
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"agt_[0-9A-Za-z]{49}", key) for key in keys)
    assert all(is_key(key) for key in keys)


def test_a_text_with_another_checksum_is_no_key():
    key = make_key()
    for place in range(4, len(key)):
        other = "0" if key[place] != "0" else "1"
        assert not is_key(key[:place] + other + key[place + 1 :])
    for wrong in ("", "agt_", key[:-1], f"{key}0", f" {key}", f"{key}\n", key.replace("agt", "sk")):
        assert not is_key(wrong)


# --------------------------------------------------------------------------- the file


def test_the_file_is_private_and_holds_no_key(path: str, file: KeyDatabase):
    key = make_key()
    file.add(row(key))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with open(path, "rb") as raw:
        text = raw.read()
    assert key.encode() not in text
    assert digest_of(key) in text


def test_a_key_is_found_by_its_id_or_by_a_name_that_it_has_alone(file: KeyDatabase):
    one, two = row(make_key(), id="key_1", name="ci"), row(make_key(), id="key_2", name="ci")
    file.add(one)
    assert file.find("ci") == file.find("key_1") == one
    file.add(two)
    for name in ("ci", "other", "key_3"):
        with pytest.raises(NoSuchKey):
            file.find(name)
    file.revoke("key_1", NOW)
    assert file.find("ci") == two


def test_what_was_revoked_stays_revoked_since_then(file: KeyDatabase):
    file.add(row(make_key(), id="key_1"))
    file.revoke("key_1", NOW + 5)
    file.revoke("key_1", NOW + 9)
    assert file.find("key_1").revoked_at == NOW + 5


def test_usage_adds_up_and_old_days_are_forgotten(file: KeyDatabase):
    file.add_usage([Usage("alice", "key_1", 7, 10)], keep_from=7)
    file.add_usage([Usage("alice", "key_1", 7, 5), Usage("alice", "", 8, 1)], keep_from=7)
    assert file.usage(7) == [Usage("alice", "key_1", 7, 15)]
    file.add_usage([], keep_from=8)
    assert file.usage(7) == []


@pytest.mark.parametrize("text", [b"not a database at all", b"SQLite format 3\0" + bytes(100)])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(path: str, text: bytes):
    with open(path, "wb") as other:
        other.write(text)
    with pytest.raises(ConfigError, match=r"state\.db\.keys"):
        open_keys(path)
    with open(path, "rb") as other:
        assert other.read() == text


def test_another_program_s_database_is_refused(path: str):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(ConfigError, match="is not a file of keys"):
        open_keys(path)


# --------------------------------------------------------------------------- the ring


async def test_a_key_that_was_just_made_works_at_once(file: KeyDatabase, keyring: Keyring):
    key = make_key()
    await keyring.refresh()
    file.add(row(key, scope="read", upstream_key="sk-up", turns_at_once=3))
    identity = await keyring.identify(key)
    assert (identity.owner, identity.scope, identity.upstream_key) == ("alice", "read", "sk-up")
    assert identity.limits == Limits(turns_at_once=3)
    assert "sk-up" not in repr(identity)


async def test_a_known_key_is_found_without_a_checkpoint_or_the_file(
    file: KeyDatabase, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
):
    key = make_key()
    file.add(row(key))
    await keyring.refresh()
    monkeypatch.setattr(KeyDatabase, "changes", None)
    asking = keyring.identify(key)
    with pytest.raises(StopIteration):
        asking.send(None)


async def test_malformed_keys_cost_no_look_at_the_file(keyring: Keyring, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(KeyDatabase, "changes", None)
    for wrong in ("", "agt_", "agt_" + "0" * 49, "sk-something", make_key() + "x"):
        await refused(keyring, wrong)


async def test_many_unknown_keys_share_few_looks(keyring: Keyring, monkeypatch: pytest.MonkeyPatch):
    looks = 0
    changes = KeyDatabase.changes

    def counting(database: KeyDatabase, since: int) -> Any:
        nonlocal looks
        looks += 1
        return changes(database, since)

    monkeypatch.setattr(KeyDatabase, "changes", counting)
    await keyring.refresh()
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(refused, keyring, make_key())
    assert looks <= 3


async def test_a_revoked_an_expired_and_an_unknown_key_are_refused_alike(
    file: KeyDatabase, keyring: Keyring, clock: Clock
):
    revoked, expired, unknown = make_key(), make_key(), make_key()
    file.add(row(revoked, id="key_1"))
    file.add(row(expired, id="key_2", expires_at=NOW + 10))
    await keyring.identify(revoked)
    await keyring.identify(expired)
    file.revoke("key_1", NOW)
    clock.now += 10
    await keyring.refresh()
    bodies = {(await refused(keyring, key)).body() for key in (revoked, expired, unknown)}
    assert len(bodies) == 1


async def test_a_revocation_is_seen_within_the_interval(file: KeyDatabase, keyring: Keyring):
    key = make_key()
    file.add(row(key, id="key_1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keyring.run)
        await keyring.identify(key)
        file.revoke("key_1", NOW)
        await trio.sleep(2 * REFRESH_INTERVAL)
        await refused(keyring, key)
        nursery.cancel_scope.cancel()


async def test_a_rotated_key_is_good_for_its_grace(file: KeyDatabase, keyring: Keyring, clock: Clock):
    old, new = make_key(), make_key()
    file.add(row(old, id="key_1"))
    file.rotate("key_1", row(new, id="key_2"), until=NOW + 60, at=NOW)
    await keyring.identify(old)
    await keyring.identify(new)
    clock.now += 60
    await refused(keyring, old)
    await keyring.identify(new)


async def test_a_rotation_without_a_grace_ends_the_old_key(file: KeyDatabase, keyring: Keyring):
    old, new = make_key(), make_key()
    file.add(row(old, id="key_1"))
    file.rotate("key_1", row(new, id="key_2"), until=NOW, at=NOW)
    await refused(keyring, old)
    await keyring.identify(new)


async def test_nobody_is_let_in_once_revocations_can_t_be_read(
    path: str, file: KeyDatabase, keyring: Keyring, caplog: pytest.LogCaptureFixture
):
    key = make_key()
    file.add(row(key))
    await keyring.identify(key)
    os.rename(path, f"{path}.away")
    await trio.sleep(STALE_AFTER)
    for _ in range(3):
        with pytest.raises(ServiceUnavailable) as caught:
            await keyring.identify(key)
        assert caught.value.headers["retry-after"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    os.rename(f"{path}.away", path)
    await keyring.identify(key)


async def test_a_file_that_takes_the_other_s_place_is_what_counts(
    path: str, file: KeyDatabase, keyring: Keyring
):
    old, new = make_key(), make_key()
    file.add(row(old))
    await keyring.identify(old)
    other = open_keys(f"{path}.new")
    other.add(row(new))
    other.close()
    os.rename(f"{path}.new", path)
    await keyring.identify(new)
    await refused(keyring, old)


async def test_the_last_use_is_kept_to_the_hour_and_written_once(
    file: KeyDatabase, keyring: Keyring, clock: Clock
):
    key = make_key()
    file.add(row(key, id="key_1"))
    written = []
    note_use = KeyDatabase.note_use
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyDatabase, "note_use", lambda *given: (written.append(given), note_use(*given))[1])
        for _ in range(50):
            await keyring.identify(key)
            await keyring.write_uses()
            clock.now += 60
    assert file.find("key_1").last_used_at == NOW // 3600 * 3600 + 3600 * ((49 * 60 + NOW % 3600) // 3600)
    assert len(written) <= 2


async def test_owners_limits_are_read_with_the_keys(file: KeyDatabase, keyring: Keyring):
    file.set_owner(OwnerRow("alice", turns_at_once=2))
    await keyring.refresh()
    assert keyring.owner_limits == {"alice": Limits(turns_at_once=2)}


@pytest.mark.parametrize("keys", [10, 10_000])
async def test_thousands_of_keys_take_the_statements_of_ten(file: KeyDatabase, keyring: Keyring, keys: int):
    texts = [make_key() for _ in range(keys)]
    with file._change() as db:
        from agentic_trio.store import key_database

        db.executemany(key_database._ADD, [row(key, id=str(i))._asdict() for i, key in enumerate(texts)])
    await keyring.refresh()
    assert len(keyring) == keys
    statements: list[str] = []
    keyring._database._connection.set_trace_callback(statements.append)
    for key in texts[:100]:
        await keyring.identify(key)
    await keyring.write_uses()
    await keyring.refresh()
    used = min(keys, 100)
    # A look that finds nothing new, and a write of the hours, for as many keys as were used.
    assert len(statements) == 1 + 2 + used
