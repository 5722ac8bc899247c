"""From what a request names to what the model is given: history, then input."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agentic_trio.gateway.items import linked_items, resolved
from agentic_trio.gateway.store_errors import HistoryErrors
from agentic_trio.store.contract import History
from agentic_trio.wire.create_response import nothing_to_answer
from agentic_trio.wire.dialect import decode_object
from agentic_trio.wire.items import InputItem, decode_kind, pair_calls, refuse_dangling
from agentic_trio.wire.sealed_items import REASONING, opened_reasoning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentic_trio.gateway.admission import Ticket
    from agentic_trio.gateway.services import Services
    from agentic_trio.wire.create_response import CreateResponse


@dataclass(frozen=True, slots=True)
class Context:
    """What a turn continues, and what it adds.

    Attributes:
        history: the items before it, and where they end.
        input: the turn's own items, references resolved.
        open_calls: the calls that still wait for an output after the input.
    """

    history: History = field(default_factory=History)
    input: Sequence[InputItem] = ()
    open_calls: frozenset[str] = frozenset()

    def items(self) -> list[bytes]:
        """The JSON text of every item that the model is given, oldest first."""
        return [*self.history.items, *(item.data for item in self.input)]


async def rehydrate(
    call: CreateResponse,
    owner: str,
    services: Services,
    ticket: Ticket,
    *,
    local: History | None = None,
    answered: bool = True,
) -> Context:
    """Read the history that a request names, and settle its references and open calls.

    Args:
        call: the request.
        owner: whose it is.
        services: has the store.
        ticket: the history's bytes are reserved on it.
        local: the history of ``previous_response_id``, if that isn't stored.
        answered: whether the model is to answer, so that every call must have its output.

    Raises:
        InvalidRequest: the history can't be continued, or the input doesn't fit it.
        NotFound: a reference refers to nothing, or the conversation is gone.
        TooManyRequests: there is no memory for the history.
        ServiceUnavailable: the store can't be read.

    Cancellation: nothing has happened.
    """
    history = local or History()
    if local is not None:
        ticket.reserve(sum(map(len, history.items)))
    elif call.previous_response_id is not None or call.conversation is not None:
        history = await _read_history(call, owner, services)
        ticket.reserve(sum(map(len, history.items)))
    items = _opened(await _resolved(call, owner, services), owner, services)
    if not items and not history.items:
        raise nothing_to_answer()
    open_calls = pair_calls(history.open_calls, items, history.items)
    if answered:
        refuse_dangling(open_calls, items)
    if local is not None and call.store:
        # Nothing of it is on disk, so it becomes this turn's own.
        return Context(input=[*map(_unstored, history.items), *items], open_calls=open_calls)
    return Context(history, items, open_calls)


def _unstored(data: bytes) -> InputItem:
    """An item of a history that isn't stored. Whoever made its id, it refers to nothing here."""
    kind = decode_kind(data)
    return InputItem(decode_object(data)["id"], kind.type, data, named=True, call_id=kind.call_id)


async def _read_history(call: CreateResponse, owner: str, services: Services) -> History:
    previous = call.previous_response_id
    with HistoryErrors():
        if previous is not None:
            await services.unrecorded.settle(owner, previous)
        return await services.store.history(owner, response=previous, conversation=call.conversation)


def _opened(items: list[InputItem], owner: str, services: Services) -> list[InputItem]:
    """The input, with the reasoning opened that the client has carried."""
    seal = services.seal_of(owner)
    return [
        replace(item, data=opened_reasoning(item.data, seal)) if item.type == REASONING else item
        for item in items
    ]


async def _resolved(call: CreateResponse, owner: str, services: Services) -> list[InputItem]:
    """The input, with references replaced by what they refer to.

    In a conversation every id that we issued is a reference. Elsewhere only an ``item_reference`` is: an
    item that a client replays there goes to the model as the client sent it.
    """
    if call.conversation is not None:
        return await linked_items(
            services.store, owner, call.input, conversation=call.conversation, param="input"
        )
    references = [item.id for item in call.input if item.type == "item_reference"]
    if not references:
        return list(call.input)
    found = await services.store.find_items(owner, references)
    return [resolved(item, found, "input") if item.type == "item_reference" else item for item in call.input]
