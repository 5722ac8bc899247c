"""A model server that sends bytes, whatever HTTP is."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING

import trio

from tests.sockets import reset_on_close

from .requests import RequestReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE = 65536


@asynccontextmanager
async def open_raw_upstream(
    answer: bytes = b"", *, endless: bytes = b"", ends: str = "close"
) -> AsyncIterator[str]:
    """A server that reads a request and sends ``answer``, then ``endless`` until it is stopped.

    Args:
        ends: what it does then: ``close``, ``reset`` or ``stay``.
    """

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            reader = RequestReader()
            while not reader.feed(data := await stream.receive_some()):
                if not data:
                    return
            with suppress(trio.BrokenResourceError):
                for piece in chain([answer], repeat(endless * (PIECE // len(endless))) if endless else ()):
                    await stream.send_all(piece)
                if ends == "stay":
                    await stream.receive_some()
            if ends == "reset":
                reset_on_close(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
