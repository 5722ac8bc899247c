"""Bugs to put into the turns whose tools run here, each of which their simulation has to find."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from agentic_trio.gateway import recording, rounds, turn
from agentic_trio.store import recovery, sqlite
from agentic_trio.wire import approvals, hosted_events, tool_rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Change = tuple[Any, str, Any]
TOOL_MUTATIONS: dict[str, Callable[[], list[Change]]] = {}


def mutation(make: Callable[[], list[Change]]) -> Callable[[], list[Change]]:
    TOOL_MUTATIONS[make.__name__] = make
    return make


@contextmanager
def mutated_tools(name: str) -> Iterator[None]:
    """Put a bug into the gateway while the block lasts."""
    with ExitStack() as stack:
        for target, attribute, value in TOOL_MUTATIONS[name]():
            stack.enter_context(patch.object(target, attribute, value))
        yield


async def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


@mutation
def calls_are_sent_without_a_mark() -> list[Change]:
    return [(recording.Recording, "mark", _nothing)]


@mutation
def calls_are_sent_before_their_mark() -> list[Change]:
    """The order is what counts: a crash between the two is enough."""
    mark, make = rounds.ToolTurn._mark, rounds.ToolTurn._make

    async def late(self: Any, calls: Any) -> None:
        await make(self, calls)
        await mark(self)

    return [(rounds.ToolTurn, "_mark", _nothing), (rounds.ToolTurn, "_make", late)]


@mutation
def the_mark_does_not_say_what_was_made() -> list[Change]:
    return [(tool_rounds.RoundsAccumulator, "marked", lambda self: iter(()))]


@mutation
def a_crash_forgets_what_was_made() -> list[Change]:
    return [(recovery, "load_made", lambda text: [])]


@mutation
def an_approval_is_not_spent() -> list[Change]:
    approved = approvals.approved_calls
    return [
        (sqlite.SqliteStore, "spend", _nothing),
        (rounds, "approved_calls", lambda history, items: approved([], [*history, *items])),
    ]


@mutation
def an_approval_is_spent_after_its_call() -> list[Change]:
    make, spend = rounds.ToolTurn._make, sqlite.SqliteStore.spend

    async def later(self: Any, calls: Any) -> None:
        await make(self, calls)
        approved = [
            call.item.added["approval_request_id"] for call in calls if call.target.kind == "mcp_call"
        ]
        if spent := [id for id in approved if id]:
            await spend(self._services.store, self.owner, spent)

    return [(sqlite.SqliteStore, "spend", _nothing), (rounds.ToolTurn, "_make", later)]


@mutation
def a_failed_turn_with_a_key_forgets_its_calls() -> list[Change]:
    leaves = turn.Turn._leaves_a_row

    def forgetful(self: Any) -> bool:
        with patch.object(self.recording, "marked", False):
            return leaves(self)

    return [(turn.Turn, "_leaves_a_row", forgetful)]


@mutation
def an_interrupted_call_is_said_not_to_have_run() -> list[Change]:
    interrupted = hosted_events.HostedCall.interrupted
    return [(hosted_events.HostedCall, "interrupted", lambda self, *, sent: interrupted(self, sent=False))]


@mutation
def a_call_that_failed_is_made_again() -> list[Change]:
    outcome = rounds.ToolTurn._outcome

    async def stubborn(self: Any, call: Any) -> Any:
        found = await outcome(self, call)
        return found if found.error is None else await outcome(self, call)

    return [(rounds.ToolTurn, "_outcome", stubborn)]
