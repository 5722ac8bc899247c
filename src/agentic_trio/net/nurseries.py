"""A nursery for context managers: what its body raises comes out as it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_inner_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that is an implementation detail of a context manager.

    An error of the caller's own block would otherwise reach the caller inside an exception group, for
    a nursery that the caller has not opened. Errors of the tasks still come as a group.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as raised:
                error = raised
                raise
    except BaseExceptionGroup as group:
        # A cancelled nursery splits its group, so that a group of the caller's own is a copy in it.
        if error is None or (_leaves(group) != _leaves(error) and not _only_cancelled(group)):
            raise
    if error is not None:
        raise error


def _only_cancelled(group: BaseExceptionGroup) -> bool:
    """Whether the tasks were cancelled with the block, and nothing else is in the group."""
    return group.split(trio.Cancelled)[1] is None


def _leaves(error: BaseException) -> list[int]:
    """The identities of the errors in a group, however it is nested, or of one error."""
    if isinstance(error, BaseExceptionGroup):
        return [id for each in error.exceptions for id in _leaves(each)]
    return [id(error)]
