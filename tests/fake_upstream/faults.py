"""Where a script makes the server misbehave, and how the connection then ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio

from tests.sockets import reset_on_close

from .answers import chunk

if TYPE_CHECKING:
    from .script import Script


class Cut(Exception):
    """The script ends the connection here."""


def stop_of(script: Script) -> int | None:
    """After how many events the fault comes; None if the script has none."""
    given = (script.stall_after, script.cut_after, script.reset_after, script.endless_after)
    return next((after for after in given if after is not None), None)


def parted(events: list[bytes], stop: int | None, extra: int) -> tuple[list[bytes], list[bytes]]:
    """The events before a fault, with ``extra`` bytes of the next one, and what is left."""
    if stop is None:
        return events, []
    first, rest = events[:stop], events[stop:]
    if extra and rest:
        first, rest = [*first, rest[0][:extra]], [rest[0][extra:], *rest[1:]]
    return first, rest


async def end_badly(stream: trio.abc.HalfCloseableStream, script: Script) -> NoReturn:
    """Send a line without an end, or leave in the middle of the body. Raises Cut."""
    if script.endless_after is not None:
        await stream.send_all(chunk(b"data: "))
        while True:
            await stream.send_all(chunk(b"x" * 65536))
    if script.reset_after is not None and isinstance(stream, trio.SocketStream):
        reset_on_close(stream)
    raise Cut
