"""What operators do to a database: the same in a gateway that runs as in a command without one."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from agentic_trio.errors import GatewayError
from agentic_trio.gateway.control import CommandError
from agentic_trio.store import schema
from agentic_trio.store.backup import backups_of
from agentic_trio.store.contract import SWEEP_LIMIT, Criteria, Erased, Selection
from agentic_trio.store.sqlite import open_sqlite_store
from agentic_trio.wire.dialect import decode_object
from agentic_trio.wire.responses import crashed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentic_trio.gateway.control import Command, JsonObject, Progress
    from agentic_trio.gateway.registry import Registry
    from agentic_trio.gateway.turn import Turn
    from agentic_trio.gateway.unrecorded import Unrecorded
    from agentic_trio.store.contract import Store

ROUNDS = 10
"""How often an erasure looks for what has come up meanwhile, such as a turn that was about to end."""

REWRITTEN_LIVE = 1024 * 1024 * 1024
"""How large a database may be that is written anew while a gateway runs, unless that is asked for. The writes
of turns wait for it."""


class Maintenance:
    """The commands for one database.

    Args:
        path: the database's file.
        store: what is open there.
        turns: those that run; None without a gateway.
        unrecorded: endings that the store has not taken yet; None without a gateway.
    """

    def __init__(
        self,
        path: str,
        store: Store,
        *,
        turns: Registry | None = None,
        unrecorded: Unrecorded | None = None,
    ) -> None:
        self._path = path
        self._store = store
        self._turns = turns
        self._unrecorded = unrecorded
        # Where an erasure that was cancelled, or failed, has left items that nothing reaches.
        self._begun: dict[int, int] = {}

    @property
    def commands(self) -> Mapping[str, Command]:
        """Name -> what carries it out."""
        return {"erase": self.erase, "prune": self.prune, "assign_owner": self.assign_owner}

    async def erase(self, arguments: JsonObject, progress: Progress) -> JsonObject:
        """Erase what the arguments select, with its traces in the files.

        Args:
            arguments: ``owner``, ``conversation``, ``metadata`` (a key and a value), of which one must be
                given and all must hold; ``dry_run`` only counts; ``rewrite`` says whether the file is
                written anew, whatever its size.
            progress: called with the rows that are gone, and with all of them.

        Raises:
            CommandError: the store doesn't take what turns leave behind.

        Cancellation: part of it is erased, and doing it again erases the rest.
        """
        criteria = _criteria(arguments)
        if arguments.get("dry_run"):
            selection = await self._store.select(criteria)
            return self._report(selection.erased, dry_run=True)
        await self._store.purge(Selection(cuts=self._begun.copy()))
        erased = await self._purge(criteria, progress)
        self._begun.clear()
        if self._turns is None:
            # Nothing runs, so nothing continues what was deleted before.
            await self._sweep()
        report = self._report(erased)
        report["traces"] = await self._remove_traces(arguments.get("rewrite"))
        return report

    async def prune(self, arguments: JsonObject, progress: Progress) -> JsonObject:
        """Delete what is old, and make the file smaller.

        Args:
            arguments: ``before``, a Unix time, deletes the responses that were created and the conversations
                that were last used before it; ``streams_before`` the streams of older responses; ``rewrite``
                is as for ``erase``.
            progress: called with the rows that are gone, which is all that is known of them.

        Cancellation: part of it is done.
        """
        before = self._size_of_files()
        deleted = streams = 0
        if arguments.get("streams_before") is not None:
            streams = await self._store.prune_events(int(arguments["streams_before"]))
        if arguments.get("before") is not None:
            while count := await self._store.expire(int(arguments["before"])):
                deleted += count
                progress(deleted, deleted)
        # A gateway that runs sweeps when the turns are over that may continue what was deleted.
        if self._turns is None:
            await self._sweep()
        traces = await self._remove_traces(arguments.get("rewrite"))
        return {
            "deleted": deleted,
            "streams": streams,
            "swept": self._turns is None,
            "size_before": before,
            "size": self._size_of_files(),
            "traces": traces,
        }

    async def _sweep(self) -> None:
        mark = await self._store.deletions()
        while await self._store.sweep(mark) >= SWEEP_LIMIT:
            pass

    def _size_of_files(self) -> int:
        names = (schema.resolve(self._path) + suffix for suffix in ("", "-wal"))
        return sum(os.path.getsize(name) for name in names if os.path.exists(name))

    async def assign_owner(self, arguments: JsonObject, progress: Progress) -> JsonObject:
        """Give all that one owner has to another.

        Args:
            arguments: ``owner``, and ``from``, whose it was.
            progress: called with the threads that are done, and all of them.

        Raises:
            CommandError: a turn of the former owner runs: its end would not find its history.

        Cancellation: part of it is done, and doing it again does the rest.
        """
        former, owner = arguments["from"], arguments["owner"]
        if self._turns is not None and any(turn.owner == former for turn in self._turns.running()):
            raise CommandError("turns of that owner are running: try again when they have ended")
        await self._settle()
        counts = await self._store.assign_owner(former, owner, progress)
        return {"from": former, "owner": owner, "responses": counts[0], "conversations": counts[1]}

    async def _purge(self, criteria: Criteria, progress: Progress) -> Erased:
        """Erase until nothing is selected; returns how much there was."""
        erased, selection = Erased(), Selection()
        for _ in range(ROUNDS):
            await self._end_turns(criteria, selection)
            found = await self._store.select(criteria, selection)
            if not found.responses and not found.conversations and not found.erased.items:
                return erased
            selection = _both(selection, found)
            self._begun |= selection.cuts
            await self._end_turns(criteria, selection)
            await self._purge_once(found, erased, progress)
            erased = _sum(erased, found.erased)
        raise CommandError("what was to be erased goes on being written: stop who writes it, and try again")

    async def _purge_once(self, found: Selection, erased: Erased, progress: Progress) -> None:
        before, done = _rows(erased), 0
        whole = before + _rows(found.erased)

        def note(rows: int) -> None:
            nonlocal done
            done += rows
            progress(min(before + done, whole), whole)

        await self._store.purge(found, note)

    async def _end_turns(self, criteria: Criteria, selection: Selection) -> None:
        """End the turns that would bring back what is erased, and see them recorded."""
        if self._turns is not None:
            affected = [turn for turn in self._turns.running() if _continues(turn, criteria, selection)]
            for turn in affected:
                turn.cancel(_erased())
            await self._turns.wait_ended(affected)
        await self._settle()

    async def _settle(self) -> None:
        """See what turns have left behind recorded. Raises CommandError."""
        if self._unrecorded is not None:
            await self._unrecorded.flush()
            if self._unrecorded.waiting:
                raise CommandError("the database doesn't take what turns leave behind: see the gateway's log")

    async def _remove_traces(self, rewrite: bool | None) -> str | None:
        """Leave no trace in the database's files; returns what is left to do, or None."""
        size = await self._store.size()
        if rewrite is False or (rewrite is None and self._turns is not None and size > REWRITTEN_LIVE):
            return (
                f"The file has {size >> 20} MiB and was not written anew, for which turns would have waited. "
                "A few rows may have left copies in its free bytes. To remove them, repeat the command with "
                "--rewrite, or while no gateway runs."
            )
        if not await self._store.compact():
            return "A reader, such as a backup, needs the log, which has traces until it ends."
        return None

    def _report(self, erased: Erased, **members: Any) -> JsonObject:
        held = [] if not _rows(erased) else backups_of(self._path)
        return asdict(erased) | {"backups": held} | members


async def run_alone(path: str, command: str, arguments: JsonObject, progress: Progress) -> JsonObject:
    """Carry out a command on a database that no gateway has open.

    Raises:
        CommandError: the command can't be carried out.
        ConfigError: there is no such database, or it can't be used.

    Cancellation: as for the command.
    """
    schema.check_exists(path)
    async with open_sqlite_store(path) as store:
        # No gateway runs, so what was under way is dead.
        await store.recover(crashed)
        return await Maintenance(path, store).commands[command](arguments, progress)


def _criteria(arguments: JsonObject) -> Criteria:
    metadata = arguments.get("metadata")
    criteria = Criteria(
        owner=arguments.get("owner"),
        conversation=arguments.get("conversation"),
        metadata=None if metadata is None else (metadata[0], metadata[1]),
    )
    if criteria == Criteria():
        raise CommandError("say what is to be erased: an owner, a conversation or metadata")
    return criteria


def _continues(turn: Turn, criteria: Criteria, selection: Selection) -> bool:
    """Whether a turn that runs belongs to what is erased, or has it in its history or its input."""
    if criteria.conversation is None and criteria.metadata is None:
        return turn.owner == criteria.owner
    call, context = turn.call, turn.recording.context
    named = {call.conversation, call.previous_response_id, turn.id}
    if any((turn.owner, name) in selection.names for name in named if name is not None):
        return True
    if _is_named(turn, criteria):
        return True
    base = context.history.base
    if base is not None and base.position >= selection.cuts.get(base.thread, base.position + 1):
        return True
    return any((turn.owner, item.id) in selection.items for item in context.input)


def _is_named(turn: Turn, criteria: Criteria) -> bool:
    """Whether the criteria will select a turn once it is recorded."""
    if criteria.owner not in (None, turn.owner) or criteria.conversation not in (
        None,
        turn.call.conversation,
    ):
        return False
    if criteria.metadata is None:
        return True
    name, value = criteria.metadata
    metadata: dict[str, str] = decode_object(b"{%b}" % turn.call.echo()).get("metadata") or {}
    return metadata.get(name) == value


def _both(first: Selection, second: Selection) -> Selection:
    """What is in either of them, as far as that matters to turns and to later selections."""
    cuts = dict(first.cuts)
    for thread, position in second.cuts.items():
        cuts[thread] = min(position, cuts.get(thread, position))
    return replace(second, cuts=cuts, names=first.names | second.names, items=first.items | second.items)


def _sum(first: Erased, second: Erased) -> Erased:
    counts = asdict(second)
    return Erased(**{name: count + counts[name] for name, count in asdict(first).items()})


def _rows(erased: Erased) -> int:
    return erased.responses + erased.conversations + erased.items


def _erased() -> GatewayError:
    return GatewayError("The response was erased by the operator.", status=409, code="erased")
