"""The tables in PostgreSQL, and how a database is brought up to date.

Ids, names and texts are ``bytea``: PostgreSQL's ``text`` can't hold NUL, which JSON can. Nothing here is
PostgreSQL's alone, so that what speaks its protocol can hold the tables too: no advisory locks, no
procedures, no JSON operators, no sequences that anything depends on being without gaps.

``announced`` holds the turns under way and ``response`` those that have ended, so that all the churn is in
one small table and a row of ``response`` is never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors

from agentic_trio.store.postgres.connecting import Unusable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.store.postgres.connecting import Database

OLDEST_SERVER = 130000
"""The oldest version of PostgreSQL that is used, as the server reports it."""

MARK = "agentic_trio"
"""The table whose presence marks a schema as ours. Its row says the version, and is locked by a migration."""

NOW = "extract(epoch FROM now())::bigint"
"""Unix seconds, by the server's clock."""

FIGURES = """request_id bytea, route bytea, model bytea, code bytea, history_us bigint, head_us bigint,
            first_event_us bigint, upstream_us bigint, total_us bigint, commit_us bigint, input_tokens bigint,
            output_tokens bigint, cached_tokens bigint, retries bigint"""
"""The columns of a turn's figures, as version 1 has them."""

FIGURE_NAMES = tuple(column.split()[0] for column in FIGURES.split(","))

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """
        CREATE TABLE gateway (
            one boolean PRIMARY KEY DEFAULT true CHECK (one),
            holder bytea NOT NULL,
            beats bigint NOT NULL
        )
        """,
        "CREATE TABLE batch (id bytea PRIMARY KEY)",
        """
        CREATE TABLE thread (
            id bigint PRIMARY KEY,
            owner bytea NOT NULL,
            kind text NOT NULL CHECK (kind IN ('chain', 'conversation')),
            parent bigint,
            fork integer NOT NULL,
            head integer NOT NULL,
            living boolean NOT NULL DEFAULT true
        ) WITH (fillfactor = 70)
        """,
        "CREATE INDEX thread_parent ON thread (parent, living, fork) WHERE parent IS NOT NULL",
        """
        CREATE TABLE entry (
            thread bigint NOT NULL,
            position integer NOT NULL,
            item bytea NOT NULL,
            issued boolean NOT NULL,
            dropped integer,
            data bytea NOT NULL,
            PRIMARY KEY (thread, position)
        )
        """,
        # An entry of an index is at most a third of a page, and a client may send an id of any length.
        "CREATE INDEX entry_item ON entry (substr(item, 1, 64), thread, position)",
        """
        CREATE TABLE announced (
            owner bytea NOT NULL,
            id bytea NOT NULL,
            thread bigint,
            base integer,
            conversation bigint,
            status text NOT NULL,
            created_at bigint NOT NULL,
            open bytea,
            pending bytea NOT NULL,
            made bytea,
            body bytea NOT NULL,
            listed_model bytea,
            metadata bytea[] NOT NULL,
            fingerprint bytea,
            idempotency_key bytea,
            {figures},
            PRIMARY KEY (owner, id)
        )
        """,
        "CREATE INDEX announced_thread ON announced (thread)",
        """
        CREATE TABLE response (
            owner bytea NOT NULL,
            id bytea NOT NULL,
            thread bigint NOT NULL,
            base integer NOT NULL,
            first integer NOT NULL,
            last integer NOT NULL,
            conversation bigint,
            status text NOT NULL,
            created_at bigint NOT NULL,
            open bytea,
            body bytea NOT NULL,
            listed_model bytea,
            metadata bytea[] NOT NULL,
            fingerprint bytea,
            idempotency_key bytea,
            {figures},
            PRIMARY KEY (owner, id)
        )
        """,
        "CREATE INDEX response_owner ON response (owner, created_at, id)",
        "CREATE INDEX response_thread ON response (thread, last, first)",
        """
        CREATE VIEW turn AS
            SELECT owner, id, thread, base, first, last, conversation, status, created_at, open,
                NULL::bytea AS pending, body, listed_model, metadata, fingerprint, {names}
            FROM response
            UNION ALL
            SELECT owner, id, thread, base, NULL, NULL, conversation, status, created_at, open,
                pending, body, listed_model, metadata, fingerprint, {names}
            FROM announced
        """,
        """
        CREATE TABLE idempotency (
            owner bytea NOT NULL,
            key bytea NOT NULL,
            response bytea NOT NULL,
            PRIMARY KEY (owner, key)
        )
        """,
        """
        CREATE TABLE event (
            owner bytea NOT NULL,
            response bytea NOT NULL,
            created_at bigint NOT NULL,
            data bytea NOT NULL,
            PRIMARY KEY (owner, response)
        )
        """,
        "CREATE INDEX event_created ON event (created_at)",
        """
        CREATE TABLE conversation (
            owner bytea NOT NULL,
            id bytea NOT NULL,
            thread bigint NOT NULL UNIQUE,
            created_at bigint NOT NULL,
            used_at bigint NOT NULL DEFAULT extract(epoch FROM now())::bigint,
            open bytea,
            body bytea NOT NULL,
            metadata bytea[] NOT NULL,
            PRIMARY KEY (owner, id)
        ) WITH (fillfactor = 70)
        """,
        "CREATE INDEX conversation_used ON conversation (used_at)",
        "CREATE INDEX response_created ON response (created_at)",
        "CREATE INDEX response_conversation ON response (conversation) WHERE conversation IS NOT NULL",
        "CREATE INDEX conversation_owner ON conversation (owner, created_at, id)",
        """
        CREATE TABLE tombstone (
            id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
            thread bigint NOT NULL,
            position integer NOT NULL
        )
        """,
        "CREATE INDEX tombstone_thread ON tombstone (thread, position)",
        "CREATE TABLE approval (owner bytea NOT NULL, id bytea NOT NULL, PRIMARY KEY (owner, id))",
        "CREATE TABLE secret (name bytea PRIMARY KEY, value bytea NOT NULL)",
        "CREATE TABLE probe (id integer PRIMARY KEY, beats bigint NOT NULL)",
        "INSERT INTO probe VALUES (1, 0)",
    ),
)
"""The statements that lead from each version to the next."""

VERSION = len(MIGRATIONS)


def prepare(db: Database) -> None:
    """Create or migrate the tables. Of several starters one does, and the others wait for it.

    Raises:
        Unusable: the server is too old or read-only, or the schema is another program's, or newer.
        psycopg.Error: a statement failed.
    """
    if db.info.server_version < OLDEST_SERVER:
        found = db.info.server_version // 10_000
        raise Unusable(f"its server is PostgreSQL {found}, and {OLDEST_SERVER // 10_000} or newer is needed")
    if db.execute("SELECT current_setting('transaction_read_only')").fetchone() == ("on",):
        raise Unusable("it is read-only: is it a standby?")
    db.rollback()
    _make_mark(db)
    version = _locked_version(db)
    if version > VERSION:
        raise Unusable(f"it was written by a newer version (schema {version}, this one knows {VERSION})")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            db.execute(statement.format(figures=FIGURES, names=", ".join(FIGURE_NAMES)))
    db.execute(f"UPDATE {MARK} SET version = %(version)s", {"version": VERSION})
    db.commit()


def _make_mark(db: Database) -> None:
    """Create the version's table, if it isn't there. Two starters may both try."""
    exists = "SELECT to_regclass(%(name)s) IS NOT NULL"
    if db.execute(exists, {"name": MARK}).fetchone() == (True,):
        db.rollback()
        return
    for table in ("thread", "response", "conversation"):
        if db.execute(exists, {"name": table}).fetchone() == (True,):
            raise Unusable(f"it has a table {table!r} of another program: name another database or schema")
    try:
        db.execute(f"CREATE TABLE {MARK} (one boolean PRIMARY KEY CHECK (one), version integer NOT NULL)")
        db.execute(f"INSERT INTO {MARK} VALUES (true, 0)")
        db.commit()
    except (errors.UniqueViolation, errors.DuplicateTable, errors.DuplicateObject, errors.InternalError):
        # What the server says to the second of two depends on how far the first one is.
        db.rollback()


def _locked_version(db: Database) -> int:
    row = db.execute(f"SELECT version FROM {MARK} FOR UPDATE").fetchone()
    if row is None:
        raise Unusable(f"its table {MARK!r} is empty: it was damaged")
    version: int = row[0]
    return version
