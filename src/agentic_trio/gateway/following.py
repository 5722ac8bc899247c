"""A response that a program has begun or follows: its id, its events, its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

from agentic_trio.gateway.log import EventLog, TurnEvents
from agentic_trio.gateway.responses import not_streamed
from agentic_trio.wire.dialect import decode_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentic_trio.gateway.responses import Responses
    from agentic_trio.gateway.turn import Turn
    from agentic_trio.types import Response, ResponseStreamEvent


class ResponseEvents:
    """An iterator over a response's events, which ends with the response.

    It owns nothing, so it may be dropped at any event and begun again with ``after``. A program that reads
    too slowly for the log gets :class:`~agentic_trio.FellBehind`.

    Cancellation: no event is lost; the next step returns it.
    """

    def __init__(self, find: Callable[[], Awaitable[EventLog]], after: int | None) -> None:
        self._find = find
        self._after = -1 if after is None else after
        self._events: TurnEvents | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ResponseStreamEvent:
        if self._events is None:
            self._events = TurnEvents(await self._find(), max(self._after + 1, 0))
        return cast("ResponseStreamEvent", await anext(self._events))


class OpenResponse:
    """A response whose request has been taken.

    Attributes:
        id: the response's, which may be kept at once: if the response is stored, :meth:`get_response` finds
            it from ``accepted`` on, and if it is cancelled before that, once it has been recorded.
    """

    def __init__(self, responses: Responses, owner: str, id: str, turn: Turn | None) -> None:
        self.id = id
        self._responses = responses
        self._owner = owner
        self._turn = turn

    async def accepted(self) -> None:
        """Wait until the model server, or the background queue, has taken the request.

        Raises:
            GatewayError: it was refused, so there is no response.

        Cancellation: stops waiting.
        """
        if self._turn is not None and not (self._turn.call.background or self._turn.call.stream):
            await self._turn.wait_ended()
            self._turn.result()
        elif self._turn is not None:
            await self._turn.wait_head()

    def events(self, *, after: int | None = None) -> ResponseEvents:
        """The events of a request with ``stream``, from the first on, or after this ``sequence_number``.

        Each call returns an iterator of its own.

        Raises:
            GatewayError: raised by the first step: the request was refused, or has no ``stream``.
        """
        return ResponseEvents(self._log, after)

    async def _log(self) -> EventLog:
        if self._turn is None:
            return await self._responses.repeated_stream(self._owner, self.id)
        if not self._turn.call.stream:
            raise not_streamed()
        await self._turn.wait_head()
        return self._turn.log

    async def result(self) -> Response:
        """Wait until the response has ended, and return it.

        Raises:
            GatewayError: there is none, since the request was refused.

        Cancellation: stops waiting; the turn goes on until the block is left.
        """
        if self._turn is None:
            return await self._read()
        await self._turn.wait_ended()
        return cast("Response", decode_object(self._turn.result()))

    async def queued(self) -> Response:
        """The response as a background request gets it: ``queued``. Cancellation: stops waiting."""
        if self._turn is None:
            return await self._read()
        await self._turn.wait_head()
        return cast("Response", decode_object(self._turn.queued()))

    async def _read(self) -> Response:
        return cast("Response", decode_object(await self._responses.read(self._owner, self.id)))

    def cancel(self) -> None:
        """Tell the turn to end; ``result`` then returns how it did. Nothing happens if it has ended."""
        if self._turn is not None:
            self._turn.cancel()
