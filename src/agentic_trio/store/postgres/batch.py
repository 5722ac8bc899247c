"""A batch of turns: look up and lock, decide in Python, write. Two round trips, however many turns there are.

The decisions are those of ``store/responses.py``. Each is taken on what the rows say, with the changes of the
turns before it in the batch.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from secrets import randbits
from time import time
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.store.contract import (
    APPENDING,
    Announcement,
    Ending,
    Item,
    KeyInUse,
    Missing,
    Place,
    StoreError,
)
from agentic_trio.store.postgres.connecting import raw, text
from agentic_trio.store.postgres.tables import FIGURE_NAMES, FIGURES, NOW
from agentic_trio.store.responses import dump_items, dump_made
from agentic_trio.store.threads import CHAIN, CONVERSATION, checked, dump_calls
from agentic_trio.telemetry.figures import stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import psycopg

    from agentic_trio.store.postgres.connecting import Database

Turn = Announcement | Ending
Name = tuple[bytes, bytes]
"""An owner and an id, or an owner and an idempotency key."""

_EPOCH_2020 = 1_577_836_800


def new_thread_id() -> int:
    """63 bits: milliseconds, and 22 random ones. Two that are equal are a unique violation, and a retry."""
    return int((time() - _EPOCH_2020) * 1000) << 22 | randbits(22)


@dataclass(slots=True)
class _Thread:
    """A row of ``thread``, with what the batch has made of it."""

    owner: bytes
    kind: str
    head: int
    living: bool
    grown: bool = False


@dataclass(slots=True)
class Facts:
    """What the database says of a batch, kept up to date with what the batch decides."""

    threads: dict[int, _Thread]
    conversations: dict[Name, int]
    ended: set[Name]
    keys: dict[Name, bytes]
    figures: dict[Name, tuple[Any, ...]]


@dataclass(slots=True)
class Writes:
    """The rows that a batch writes, by table.

    Attributes:
        revived: threads that a turn continues although nothing living ended in them.
    """

    threads: list[tuple[Any, ...]] = field(default_factory=list)
    entries: list[tuple[Any, ...]] = field(default_factory=list)
    announced: dict[Name, tuple[Any, ...]] = field(default_factory=dict)
    responses: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    keys: list[tuple[Any, ...]] = field(default_factory=list)
    open: dict[int, bytes | None] = field(default_factory=dict)
    revived: set[int] = field(default_factory=set)


_CONVERSATIONS = """
    SELECT owner, id, thread FROM conversation
    WHERE (owner, id) IN (SELECT * FROM unnest(%(owners)s::bytea[], %(ids)s::bytea[]))
    ORDER BY owner, id FOR UPDATE
"""
_THREADS = """
    SELECT id, owner, kind, head, living FROM thread WHERE id = ANY(%(ids)s::bigint[]) ORDER BY id FOR UPDATE
"""
_ENDED = """
    SELECT owner, id FROM response
    WHERE (owner, id) IN (SELECT * FROM unnest(%(owners)s::bytea[], %(ids)s::bytea[]))
"""
_FIGURES = f"""
    SELECT owner, id, {", ".join(FIGURE_NAMES)} FROM announced
    WHERE (owner, id) IN (SELECT * FROM unnest(%(owners)s::bytea[], %(ids)s::bytea[]))
"""
_KEYS = """
    SELECT owner, key, response FROM idempotency
    WHERE (owner, key) IN (SELECT * FROM unnest(%(owners)s::bytea[], %(ids)s::bytea[]))
"""


def look_up(db: Database, turns: Sequence[Turn]) -> Facts:
    """Read and lock what a batch depends on, in the order of the keys, so that no two batches deadlock."""
    named = [(turn.owner, turn.conversation) for turn in turns if turn.conversation is not None]
    bases = sorted({turn.base.thread for turn in turns if turn.base is not None})
    given = [(raw(turn.owner), turn.key) for turn in turns if turn.key is not None]
    talks = db.execute(_CONVERSATIONS, _columns(named)) if named else None
    threads = db.execute(_THREADS, {"ids": bases}) if bases else None
    keyed = {"owners": [owner for owner, _ in given], "ids": [key for _, key in given]}
    keys = db.execute(_KEYS, keyed) if given else None
    # An ending without figures leaves those of its announcement.
    without = [(turn.owner, turn.id) for turn in turns if isinstance(turn, Ending) and turn.figures is None]
    figures = db.execute(_FIGURES, _columns(without)) if without else None
    ended = db.execute(_ENDED, _columns((turn.owner, turn.id) for turn in turns))
    return Facts(
        ended={(owner, id) for owner, id in ended.fetchall()},
        conversations={(owner, id): thread for owner, id, thread in _rows(talks)},
        threads={id: _Thread(*rest) for id, *rest in _rows(threads)},
        keys={(owner, key): response for owner, key, response in _rows(keys)},
        figures={(owner, id): tuple(rest) for owner, id, *rest in _rows(figures)},
    )


def _rows(asked: psycopg.Cursor[tuple[Any, ...]] | None) -> list[tuple[Any, ...]]:
    return [] if asked is None else asked.fetchall()


def _columns(names: Iterable[tuple[str, str]]) -> dict[str, list[bytes]]:
    pairs = [(raw(owner), raw(id)) for owner, id in names]
    return {"owners": [owner for owner, _ in pairs], "ids": [id for _, id in pairs]}


def announce(facts: Facts, writes: Writes, turn: Announcement) -> None:
    """See ``Store.announce``. Raises KeyInUse, Missing."""
    name = (raw(turn.owner), raw(turn.id))
    conversation = None
    if turn.conversation is not None:
        conversation = facts.conversations.get((name[0], raw(turn.conversation)))
        if conversation is None:
            raise Missing("conversation", turn.conversation)
    holder = _other_holder(facts, turn, name)
    if holder is not None:
        raise KeyInUse(text(holder))
    if name in facts.ended:
        return
    _claim_key(facts, writes, turn, name)
    base = turn.base
    if base is not None:
        _revive(facts, writes, base.thread)
    place = (base.thread, base.position) if base else (None, None)
    begun = (dump_items(turn.input), dump_made(turn.output))
    writes.announced[name] = (
        *name,
        *place,
        conversation,
        *begun,
        *_described(turn),
        turn.key,
        *_figures(turn),
    )


def end(facts: Facts, writes: Writes, turn: Ending) -> None:
    """See ``Store.end``. Raises ThreadFull; StoreError if the history is gone."""
    name = (raw(turn.owner), raw(turn.id))
    if name in facts.ended:
        return
    conversation = None
    if turn.conversation is not None:
        conversation = facts.conversations.get((name[0], raw(turn.conversation)))
    items = [*turn.input, *turn.output]
    if turn.base is not None and _may_append(facts, writes, turn, turn.base, conversation):
        head = _append(facts, writes, turn.base, items)
        if conversation is not None:
            writes.open[conversation] = _calls(turn.open_calls)
    else:
        head = _fork(writes, name[0], turn.base, items)
    facts.ended.add(name)
    writes.announced.pop(name, None)
    key = None
    if _other_holder(facts, turn, name) is None:
        key = turn.key
        _claim_key(facts, writes, turn, name)
    first = head.position - len(turn.output) + 1
    figures = _figures(turn) if turn.figures is not None else facts.figures.get(name, _figures(turn))
    places = (head.thread, first - len(turn.input) - 1, first, head.position, conversation)
    writes.responses.append((*name, *places, *_described(turn), key, *figures))
    if turn.events:
        data = zlib.compress(b"".join(turn.events), 1)
        writes.events.append((*name, turn.created_at, data))


def _other_holder(facts: Facts, turn: Turn, name: Name) -> bytes | None:
    """The id of another response that has this turn's key."""
    holder = None if turn.key is None else facts.keys.get((name[0], turn.key))
    return None if holder == name[1] else holder


def _claim_key(facts: Facts, writes: Writes, turn: Turn, name: Name) -> None:
    if turn.key is not None and (name[0], turn.key) not in facts.keys:
        facts.keys[name[0], turn.key] = name[1]
        writes.keys.append((name[0], turn.key, name[1]))


def _may_append(facts: Facts, writes: Writes, turn: Ending, base: Place, conversation: int | None) -> bool:
    thread = facts.threads.get(base.thread)
    if thread is None or thread.owner != raw(turn.owner) or base.position > thread.head:
        raise StoreError("the history that this turn continues is gone")
    _revive(facts, writes, base.thread)
    if turn.status not in APPENDING or base.position != thread.head:
        return False
    return base.thread == conversation if thread.kind == CONVERSATION else turn.conversation is None


def _revive(facts: Facts, writes: Writes, id: int) -> None:
    thread = facts.threads.get(id)
    if thread is not None and not thread.living:
        writes.revived.add(id)


def _append(facts: Facts, writes: Writes, base: Place, items: Sequence[Item]) -> Place:
    head = Place(base.thread, checked(base.position + len(items)))
    thread = facts.threads[base.thread]
    thread.head, thread.grown = head.position, True
    writes.entries += entries(base, items)
    return head


def _fork(writes: Writes, owner: bytes, base: Place | None, items: Sequence[Item]) -> Place:
    fork = base.position if base else 0
    head = Place(new_thread_id(), checked(fork + len(items)))
    writes.threads.append((head.thread, owner, CHAIN, base.thread if base else None, fork, head.position))
    writes.entries += entries(Place(head.thread, fork), items)
    return head


def entries(after: Place, items: Sequence[Item]) -> list[tuple[Any, ...]]:
    """The rows of items that come after a place."""
    return [
        # Dropped at its own position, an entry is in no history, not even one that ends there.
        (after.thread, position, raw(item.id), item.issued, position if item.partial else None, item.data)
        for position, item in enumerate(items, after.position + 1)
    ]


def _calls(calls: Iterable[str]) -> bytes | None:
    dumped = dump_calls(calls)
    return None if dumped is None else dumped.encode()


class _Listed(msgspec.Struct, gc=False):
    """The members of a body by which lists are filtered."""

    model: Any = None
    metadata: Any = None


_decode_listed = msgspec.json.Decoder(_Listed).decode


def _described(turn: Turn) -> tuple[Any, ...]:
    """The columns that announcement and ending have in common."""
    try:
        listed = _decode_listed(turn.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        listed = _Listed()
    model = raw(listed.model) if isinstance(listed.model, str) else None
    return (
        turn.status,
        turn.created_at,
        _calls(turn.open_calls),
        turn.body,
        model,
        array_of(pairs_of(listed.metadata)),
        turn.fingerprint,
    )


def _figures(turn: Turn) -> tuple[Any, ...]:
    known: dict[str, Any] = {} if turn.figures is None else stored(turn.figures)
    found = (known.get(name) for name in FIGURE_NAMES)
    return tuple(raw(value) if isinstance(value, str) else value for value in found)


def pairs_of(metadata: Any) -> list[bytes]:
    """Each pair of an object as one value, in which key and value can't run into each other."""
    if not isinstance(metadata, dict):
        return []
    return [msgspec.json.encode(pair) for pair in metadata.items()]


def array_of(values: Sequence[bytes]) -> str:
    """An array of ``bytea`` as PostgreSQL writes one. ``unnest`` takes no arrays of arrays of any length."""
    return "{" + ",".join(f'"\\\\x{value.hex()}"' for value in values) + "}"


def _insert(table: str, columns: str, *, then: str = "") -> tuple[str, int]:
    """A statement that inserts rows, whose columns are given as arrays, and how many columns those are."""
    fields = [field.split() for field in columns.split(", ")]
    names = ", ".join(name for name, _ in fields)
    casts = ", ".join("%s::text[]" if kind == "bytea[]" else f"%s::{kind}[]" for _, kind in fields)
    values = ", ".join(f"{name}::bytea[]" if kind == "bytea[]" else name for name, kind in fields)
    statement = (
        f"INSERT INTO {table} ({names}) SELECT {values} FROM unnest({casts}) AS given ({names}) {then}"
    )
    return statement, len(fields)


_COMMON = (
    "status text, created_at bigint, open bytea, body bytea, listed_model bytea, metadata bytea[],"
    f" fingerprint bytea, idempotency_key bytea, {' '.join(FIGURES.split())}"
)
_ANNOUNCING = (
    "owner bytea, id bytea, thread bigint, base integer, conversation bigint, pending bytea,"
    " made bytea, " + _COMMON
)
_REPLACED = ", ".join(field.split()[0] for field in _ANNOUNCING.split(", ")[2:])
_REPLACING = ", ".join(f"excluded.{name}" for name in _REPLACED.split(", "))
_THREAD = _insert("thread", "id bigint, owner bytea, kind text, parent bigint, fork integer, head integer")
ENTRY = _insert(
    "entry",
    "thread bigint, position integer, item bytea, issued boolean, dropped integer, data bytea",
)
_ANNOUNCED = _insert(
    "announced",
    _ANNOUNCING,
    then=f"ON CONFLICT (owner, id) DO UPDATE SET ({_REPLACED}) = ({_REPLACING})",
)
_RESPONSE = _insert(
    "response",
    "owner bytea, id bytea, thread bigint, base integer, first integer, last integer, conversation bigint,"
    f" {_COMMON}",
)
_EVENT = _insert("event", "owner bytea, response bytea, created_at bigint, data bytea")
_KEY = _insert("idempotency", "owner bytea, key bytea, response bytea")
_GROW = """
    UPDATE thread SET head = given.head
    FROM unnest(%s::bigint[], %s::integer[]) AS given (id, head) WHERE thread.id = given.id
"""
_OPEN = f"""
    UPDATE conversation SET open = given.open, used_at = {NOW}
    FROM unnest(%s::bigint[], %s::bytea[]) AS given (thread, open) WHERE conversation.thread = given.thread
"""
_FORGET = """
    DELETE FROM announced WHERE (owner, id) IN (SELECT * FROM unnest(%s::bytea[], %s::bytea[]))
"""


def write(db: Database, facts: Facts, writes: Writes) -> None:
    """Write what was decided, a statement a table."""
    insert(db, _THREAD, writes.threads)
    grown = [(id, thread.head) for id, thread in facts.threads.items() if thread.grown]
    _change(db, _GROW, grown)
    insert(db, ENTRY, writes.entries)
    insert(db, _RESPONSE, writes.responses)
    insert(db, _EVENT, writes.events)
    insert(db, _KEY, writes.keys)
    _change(db, _OPEN, list(writes.open.items()))
    insert(db, _ANNOUNCED, list(writes.announced.values()))
    _change(db, _FORGET, [row[:2] for row in writes.responses])


def insert(db: Database, statement: tuple[str, int], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows with one statement, if there are any."""
    assert all(len(row) == statement[1] for row in rows)
    _change(db, statement[0], rows)


def _change(db: Database, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        db.execute(statement, [list(column) for column in zip(*rows, strict=True)])
