"""``agentic-trio keys``: who may call, and as whom."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentic_trio.auth.key_text import digest_of, make_key
from agentic_trio.auth.keyring import DAY
from agentic_trio.minting import mint_id
from agentic_trio.store.contract import StoreError
from agentic_trio.store.key_database import KeyRow, NoSuchKey, OwnerRow, open_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentic_trio.config import Config
    from agentic_trio.store.key_database import KeyDatabase


def create(config: Config, *, as_json: bool, **members: Any) -> None:
    """Make a key and print it, alone or with what is known of it. It is shown at no other time.

    Args:
        config: says where keys are kept.
        as_json: whether what is known is printed, too.
        members: of ``KeyRow``.
    """
    key = make_key()
    row = KeyRow(id=mint_id("key"), digest=digest_of(key), created_at=int(time.time()), **members)
    with _opened(config) as database:
        database.add(row)
    _show_new(row, key, as_json=as_json)


def show(config: Config, owner: str | None, *, as_json: bool) -> None:
    """Print what is known of all keys, or of one owner's."""
    with _opened(config) as database:
        rows = database.keys(owner)
    now = int(time.time())
    if as_json:
        _print_json([_described(row, now) for row in rows])
        return
    table = []
    for row in rows:
        ends, used = _day(row.expires_at), _day(row.last_used_at)
        table.append((row.id, row.owner, row.name, row.scope, _state(row, now), ends, used))
    _print_table(("ID", "OWNER", "NAME", "SCOPE", "STATE", "EXPIRES", "LAST USED"), table)


def revoke(config: Config, id: str, *, as_json: bool) -> None:
    """Let a key be worth nothing: within some seconds, on every gateway that uses the file."""
    with _opened(config) as database:
        known = database.find(id)
        database.revoke(known.id, int(time.time()))
        row = database.find(known.id)
    if as_json:
        _print_json(_described(row, int(time.time())))
    else:
        click.echo(f"{row.id} ({row.owner}, {row.name or 'without a name'}) is revoked", err=True)


def rotate(config: Config, id: str, grace: int, *, as_json: bool) -> None:
    """Make a key in another's place, for as long as that was made for, and print it.

    The old one is worth nothing from now on, or after ``grace`` seconds.
    """
    now = int(time.time())
    key = make_key()
    with _opened(config) as database:
        old = database.find(id)
        if _state(old, now) != "active":
            raise click.ClickException(f"{old.id} is {_state(old, now)}: create a new key")
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        new = old._replace(
            id=mint_id("key"),
            digest=digest_of(key),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
            last_used_at=None,
        )
        database.rotate(old.id, new, until=now + grace, at=now)
    _show_new(new, key, as_json=as_json)


def set_owner(config: Config, owner: str, limits: tuple[int | None, ...], *, as_json: bool) -> None:
    """Set what an owner may use."""
    row = OwnerRow(owner, *limits)
    with _opened(config) as database:
        database.set_owner(row)
    if as_json:
        _print_json(row._asdict())
    else:
        shown = [f"{name} {value}" for name, value in row._asdict().items() if name != "name" and value]
        click.echo(f"{owner}: {', '.join(shown) or 'as the settings say'}", err=True)


def show_owners(config: Config, *, as_json: bool) -> None:
    """Print what owners may use, and the tokens that they have used today."""
    with _opened(config) as database:
        rows = {row.name: row for row in database.owners()}
        used: Counter[str] = Counter()
        for each in database.usage(int(time.time()) // DAY):
            used[each.owner] += each.tokens
    found = [
        {**rows.get(name, OwnerRow(name))._asdict(), "tokens_today": used[name]}
        for name in sorted({*rows, *used})
    ]
    if as_json:
        _print_json(found)
        return
    _print_table(
        ("OWNER", "TURNS/MINUTE", "TURNS AT ONCE", "TOKENS/DAY", "TOKENS TODAY"),
        [tuple("-" if value is None else str(value) for value in each.values()) for each in found],
    )


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def read_upstream_key(path: str) -> str:
    """The key for the model server that a file holds. Raises ClickException."""
    try:
        text = Path(path).read_text("ascii").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise click.ClickException(f"{path} can't be read: {error.strerror}") from error
    except ValueError:
        text = ""
    if not text or not text.isprintable() or text != text.strip():
        raise click.ClickException(f"{path} must hold one line that an HTTP header can carry")
    return text


@contextmanager
def _opened(config: Config) -> Iterator[KeyDatabase]:
    """The file of keys. What goes wrong with it, and a key that isn't there, is said in one line."""
    try:
        with closing(open_keys(config.keys_path)) as database:
            yield database
    except StoreError as error:
        raise click.ClickException(f"the keys can't be read or written: {error}") from error
    except NoSuchKey as error:
        raise click.ClickException(f"no key has this id, or alone this name: {error}") from error


def _show_new(row: KeyRow, key: str, *, as_json: bool) -> None:
    if as_json:
        _print_json({**_described(row, row.created_at), "key": key})
        return
    click.echo(key)
    click.echo(f"{row.id} is {row.owner}'s; the key is shown only now", err=True)


def _described(row: KeyRow, now: int) -> dict[str, Any]:
    """What may be shown of a key: neither the key, nor its digest, nor the model server's key."""
    return {
        "id": row.id,
        "owner": row.owner,
        "name": row.name,
        "scope": row.scope,
        "state": _state(row, now),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
        "upstream_key": _upstream_key(row),
        "turns_per_minute": row.turns_per_minute,
        "turns_at_once": row.turns_at_once,
        "tokens_per_day": row.tokens_per_day,
    }


def _upstream_key(row: KeyRow) -> str:
    if row.upstream_key is not None:
        return "stored"
    return "client" if row.brings_upstream_key else "configured"


def _state(row: KeyRow, now: int) -> str:
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "active"


def _day(moment: int | None) -> str:
    return "-" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%MZ")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
