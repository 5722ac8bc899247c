"""Bugs to put into the gateway, each of which the simulation has to find."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from agentic_trio.gateway import admission, locks, recording, registry, turn, unrecorded
from agentic_trio.gateway.responses import Responses
from agentic_trio.store import conversations as stored_conversations
from agentic_trio.store import files, sqlite, writer
from agentic_trio.store import responses as stored_turns
from agentic_trio.store.contract import ENDED
from agentic_trio.upstream import client, round_trip, transport
from agentic_trio.web import responses, scope, stream
from agentic_trio.wire import accumulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

Change = tuple[Any, str, Any]
MUTATIONS: dict[str, Callable[[], list[Change]]] = {}


def mutation(make: Callable[[], list[Change]]) -> Callable[[], list[Change]]:
    MUTATIONS[make.__name__] = make
    return make


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Put a bug into the gateway while the block lasts."""
    with ExitStack() as stack:
        for target, attribute, value in MUTATIONS[name]():
            stack.enter_context(patch.object(target, attribute, value))
        yield


async def _nothing(*args: Any, **kwargs: Any) -> Any:
    return None


@asynccontextmanager
async def _open_to_all(self: Any, owner: str, name: str) -> AsyncIterator[None]:
    yield


@mutation
def the_ending_leaves_before_its_commit() -> list[Change]:
    end = recording.Recording.end

    async def hasty(self: Any, response: Any, log: Any) -> Any:
        last, whole = self.last_events(response), log.whole()
        log.extend(last)
        with (
            patch.object(log, "extend", lambda events: None),
            patch.object(log, "whole", lambda: whole),
        ):
            return await end(self, response, log)

    return [(recording.Recording, "end", hasty)]


@mutation
def a_cancelled_turn_is_not_recorded() -> list[Change]:
    leaves = turn.Turn._leaves_a_row

    def forgetful(self: Any) -> bool:
        return leaves(self) and self._response.snapshot.status != "cancelled"

    return [(turn.Turn, "_leaves_a_row", forgetful)]


@mutation
def a_turn_is_recorded_twice() -> list[Change]:
    end = sqlite.SqliteStore.end

    async def twice(self: Any, ending: Any) -> None:
        await end(self, ending)
        await end(self, replace(ending, id=f"{ending.id}0"))

    return [(sqlite.SqliteStore, "end", twice)]


@mutation
def a_token_is_shared() -> list[Change]:
    forward = client.Upstream.forward

    def sharing(self: Any, method: Any, path: Any, query: Any, headers: Any, body: Any, context: Any) -> Any:
        first = self.__dict__.setdefault("_first", context)
        shared = replace(context, authorization=first.authorization)
        return forward(self, method, path, query, headers, body, shared)

    return [(client.Upstream, "forward", sharing)]


@mutation
def the_hold_is_ignored() -> list[Change]:
    return [(locks.Locks, "lock", _open_to_all)]


@mutation
def a_key_is_not_looked_up() -> list[Change]:
    async def never(*args: Any) -> None:
        return None

    return [(Responses, "repeated", never)]


@mutation
def a_key_is_everybody_s() -> list[Change]:
    return [(scope.RequestScope, "credentials", lambda self: [])]


@mutation
def a_resumed_stream_begins_late() -> list[Change]:
    init = stream.EventBody.__init__

    def late(self: Any, log: Any, position: int = 0, *rest: Any) -> None:
        init(self, log, position + bool(position), *rest)

    return [(stream.EventBody, "__init__", late)]


@mutation
def nothing_is_announced() -> list[Change]:
    return [(sqlite.SqliteStore, "announce", _nothing)]


@mutation
def a_restart_recovers_nothing() -> list[Change]:
    return [(sqlite.SqliteStore, "recover", _nothing)]


@mutation
def a_cancelled_call_stays_open() -> list[Change]:
    return [(module, "close_now", _nothing) for module in (round_trip, transport)]


@mutation
def a_failed_turn_enters_its_conversation() -> list[Change]:
    return [(stored_turns, "APPENDING", ENDED)]


@mutation
def an_input_is_lost() -> list[Change]:
    end = sqlite.SqliteStore.end

    async def lossy(self: Any, ending: Any) -> None:
        await end(self, replace(ending, input=()))

    return [(sqlite.SqliteStore, "end", lossy)]


@mutation
def a_history_lacks_its_end() -> list[Change]:
    history = sqlite.SqliteStore.history

    async def short(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = await history(self, *args, **kwargs)
        return replace(found, items=list(found.items)[:-1])

    return [(sqlite.SqliteStore, "history", short)]


@mutation
def what_is_not_stored_is_stored() -> list[Change]:
    return [(turn.Turn, "_leaves_a_row", lambda self: self._progress is turn.Call.ACCEPTED)]


@mutation
def an_ending_is_told_early() -> list[Change]:
    return [(turn.Turn, "snapshot", lambda self: self._response.response())]


@mutation
def a_commit_is_not_waited_for() -> list[Change]:
    async def hasty(self: Any, ending: Any) -> None:
        await self.writer._send.send(writer._Unit(lambda db: stored_turns.end(db, ending), True))

    return [(sqlite.SqliteStore, "end", hasty)]


@mutation
def what_the_disk_refused_is_forgotten() -> list[Change]:
    return [(unrecorded.Unrecorded, "keep", lambda self, ending: None)]


@mutation
def admission_is_not_given_back() -> list[Change]:
    return [(admission.Ticket, "close", lambda self: None)]


@mutation
def a_shutdown_ends_no_turn() -> list[Change]:
    return [(registry.Registry, "end_all", lambda self: None)]


@mutation
def a_deadline_is_ignored() -> list[Change]:
    call_upstream = turn.Turn._call_upstream

    async def endless(self: Any) -> None:
        services = self._services
        self._services = replace(services, config=replace(services.config, turn_timeout=1e6))
        await call_upstream(self)

    return [(turn.Turn, "_call_upstream", endless)]


@mutation
def a_client_that_left_is_not_noticed() -> list[Change]:
    """Turns are never cancelled by their request."""
    return [(responses, "outlives", lambda request: True)]


@mutation
def a_client_that_left_takes_its_turn_along() -> list[Change]:
    return [(responses, "outlives", lambda request: False)]


@mutation
def an_ended_stream_is_not_kept() -> list[Change]:
    end = sqlite.SqliteStore.end

    async def forgetful(self: Any, ending: Any) -> None:
        await end(self, replace(ending, events=()))

    return [(sqlite.SqliteStore, "end", forgetful)]


@mutation
def a_removed_file_is_written_to() -> list[Change]:
    return [(files.Identity, "check", lambda self: None)]


@mutation
def what_a_removed_file_holds_is_read() -> list[Change]:
    init = sqlite.Readers.__init__

    def trusting(self: Any, connections: Any, run_sync: Any, check: Any) -> None:
        init(self, connections, run_sync, lambda: None)

    return [(sqlite.Readers, "__init__", trusting)]


@mutation
def what_a_full_disk_refused_is_taken_for_written() -> list[Change]:
    transact = writer._transact

    def trusting(*args: Any) -> None:
        with suppress(sqlite3.OperationalError):
            transact(*args)

    return [(writer, "_transact", trusting)]


@mutation
def an_error_in_a_200_is_overlooked() -> list[Change]:
    return [(accumulator, "reports_error", lambda members: False)]


@mutation
def a_compressed_body_is_taken_as_it_is() -> list[Change]:
    async def as_it_is(body: bytes, encoding: str, take: Any) -> bytes:
        return body

    return [(scope, "decoded", as_it_is)]


# What the simulation has found, as it was.


@mutation
def a_cancelled_stream_is_not_kept() -> list[Change]:
    ending = recording.Recording._ending

    def without_events(self: Any, response: Any, log: Any, last: Any) -> Any:
        found = ending(self, response, log, last)
        return found if last else replace(found, events=())

    return [(recording.Recording, "_ending", without_events)]


@mutation
def a_refused_request_with_a_key_leaves_a_row() -> list[Change]:
    leaves = turn.Turn._leaves_a_row

    def with_row(self: Any) -> bool:
        return leaves(self) or (self.call.store and self._progress is turn.Call.ACCEPTED)

    return [(turn.Turn, "_leaves_a_row", with_row)]


@mutation
def a_deleted_response_comes_back() -> list[Change]:
    return [(unrecorded.Unrecorded, "settle", _nothing)]


@mutation
def a_success_is_told_from_memory() -> list[Change]:
    async def told(self: Any, owner: str, id: str) -> Any:
        return self._unrecorded.find(owner, id)

    return [(Responses, "_told", told)]


@mutation
def a_running_turn_is_found_without_its_owner() -> list[Change]:
    def find(self: Any, owner: str, id: str) -> Any:
        return self._running.get(id)

    return [(registry.Registry, "find", find)]


@mutation
def a_stored_response_is_found_without_its_owner() -> list[Change]:
    anyone = stored_turns._FIND.replace("owner = :owner", ":owner = :owner")
    return [(stored_turns, "_FIND", anyone)]


@mutation
def a_conversation_is_found_without_its_owner() -> list[Change]:
    anyone = stored_conversations._FIND.replace("conversation.owner = :owner", ":owner = :owner")
    return [(stored_conversations, "_FIND", anyone)]
