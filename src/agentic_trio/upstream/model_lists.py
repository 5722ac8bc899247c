"""``/v1/models``: what one server lists, and what several list together."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import msgspec
import trio

from agentic_trio.errors import UpstreamError
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.upstream.answer import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    Call = AbstractAsyncContextManager[Answer]

Model = dict[str, Any]

MAX_LIST_BYTES = 4 * 1024 * 1024
"""How large a server's list of models may be."""


class OneChunk:
    """A body that is there already.

    Attributes:
        ended: whether it has been returned.
    """

    waits = False

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.ended = not body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self.ended:
            raise StopAsyncIteration
        self.ended = True
        return self._body

    async def follow(self, take: Callable[[bytes], bool]) -> None:
        """See ``Chunks.follow``. Cancellation: there is nothing to wait for."""
        async for chunk in self:
            take(chunk)


def models_in(body: bytes) -> list[Model] | None:
    """The models of a server's list; None if the body is no such list."""
    try:
        listed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    data = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(data, list):
        return None
    return [model for model in data if isinstance(model, dict) and isinstance(model.get("id"), str)]


@asynccontextmanager
async def list_of_all(calls: Sequence[Call], *, within: float) -> AsyncIterator[Answer]:
    """Ask several servers for their models; answer with all of them, each once, in the servers' order.

    If no server lists any, the answer is the first server's own.

    Args:
        calls: one for each server, not entered yet.
        within: seconds that a server has to answer; one that doesn't is left out.

    Raises:
        UpstreamError: no server lists any, and the first one failed.

    Cancellation: closes the connections at once.
    """
    said: list[tuple[Answer, bytes] | UpstreamError] = [_silent() for _ in calls]

    async def ask(number: int, call: Call) -> None:
        try:
            with trio.move_on_after(within):
                async with call as answer:
                    said[number] = (answer, await answer.body(MAX_LIST_BYTES))
        except UpstreamError as error:
            said[number] = error

    async with open_inner_nursery() as nursery:
        for number, call in enumerate(calls):
            nursery.start_soon(ask, number, call)
    known: dict[str, Model] = {}
    for each in said:
        if not isinstance(each, UpstreamError) and each[0].status == 200:
            for model in models_in(each[1]) or ():
                known.setdefault(model["id"], model)
    yield _union(known.values()) if known else _own(said[0])


def _union(models: Iterable[Model]) -> Answer:
    body = msgspec.json.encode({"object": "list", "data": list(models)})
    return Answer(200, [(b"content-type", b"application/json")], OneChunk(body))


def _own(said: tuple[Answer, bytes] | UpstreamError) -> Answer:
    if isinstance(said, UpstreamError):
        raise said
    answer, body = said
    return Answer(answer.status, answer.headers, OneChunk(body))


def _silent() -> UpstreamError:
    return UpstreamError("The model server did not answer in time.", status=504, code="upstream_timeout")
