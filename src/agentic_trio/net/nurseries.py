"""A nursery for context managers, which raises an error of their block as it is."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_inner_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that is an implementation detail of a context manager.

    Otherwise an error of the caller's own block would reach the caller in an exception group, though the
    caller opened no nursery. Errors of the tasks still come in a group.
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
        if error is None or group.exceptions != (error,):
            raise
    if error is not None:
        raise error
