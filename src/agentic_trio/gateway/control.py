"""A socket beside the database, on which commands reach the gateway that has it open.

A database has one process. A command that changes it while a gateway runs is therefore carried out by the
gateway. Only the gateway's user may connect: the socket has the mode of the database's files.

The client sends a line of JSON, ``{"command": ..., "arguments": {...}}``, and reads lines: any number of
``{"progress": [done, all]}``, then ``{"result": {...}}`` or ``{"error": "..."}``. Its leaving cancels the
command.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from agentic_trio.errors import GatewayError
from agentic_trio.net.nurseries import open_inner_nursery
from agentic_trio.store import schema
from agentic_trio.store.contract import StoreError
from agentic_trio.store.files import CONTROL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    JsonObject = dict[str, Any]
    Progress = Callable[[int, int], None]
    Command = Callable[[JsonObject, Progress], Awaitable[JsonObject]]

logger = logging.getLogger(__name__)

MAX_REQUEST = 64 * 1024
"""Bytes of a request."""

MAX_CLIENTS = 8
"""Commands at once; further ones wait."""

REQUEST_TIMEOUT = 10.0
"""Seconds that a client has to send its request, and to take each line of the answer."""

_LONGEST_ADDRESS = 100
"""Bytes. The kernel takes 107 on Linux and 103 on macOS."""


_CLIENT_LEFT = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class CommandError(Exception):
    """A command can't be carried out. One line that says why."""


class Request(msgspec.Struct):
    """What a client wants."""

    command: str
    arguments: dict[str, Any] = {}


_request = msgspec.json.Decoder(Request)


@contextmanager
def address_of(database: str) -> Iterator[str]:
    """The address of the control socket of a database, to be used inside of the block.

    A path may be longer than an address. On Linux the kernel has a short name for its directory.
    """
    path = schema.resolve(database) + CONTROL
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS or sys.platform != "linux":
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


@asynccontextmanager
async def open_control(database: str, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    """Take commands beside a database, which this process has locked, while the block lasts.

    A socket that can't be made is a warning: the gateway does without.

    Cancellation: commands that run are cancelled.
    """
    listener = None if database == schema.MEMORY else _listen(database)
    if listener is None:
        yield
        return
    try:
        async with open_inner_nursery() as nursery:
            handler = _Handler(commands, trio.CapacityLimiter(MAX_CLIENTS))
            nursery.start_soon(trio.serve_listeners, handler, [listener])
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
    finally:
        with suppress(OSError):
            os.unlink(schema.resolve(database) + CONTROL)


def _listen(database: str) -> trio.SocketListener | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with address_of(database) as address:
            with suppress(FileNotFoundError):
                os.unlink(address)
            # From the start nobody else may connect.
            umask = os.umask(0o177)
            try:
                sock.bind(address)
            finally:
                os.umask(umask)
        sock.listen(MAX_CLIENTS)
    except OSError as error:
        sock.close()
        reason = error.strerror or error
        logger.warning("commands can't reach this gateway: %s%s: %s", database, CONTROL, reason)
        return None
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


@dataclass(frozen=True)
class _Handler:
    """Serves one connection, and keeps its failures from the gateway."""

    commands: Mapping[str, Command]
    clients: trio.CapacityLimiter

    async def __call__(self, stream: trio.SocketStream) -> None:
        try:
            async with self.clients:
                await self._serve(stream)
        except* _CLIENT_LEFT:
            pass
        except* Exception:
            logger.exception("a command's connection failed")

    async def _serve(self, stream: trio.SocketStream) -> None:
        line = await _read_line(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_end, stream, nursery.cancel_scope)
            await _Answer(stream, self.commands).run(line)
            nursery.cancel_scope.cancel()


async def _read_line(stream: trio.SocketStream) -> bytes:
    line = b""
    with trio.fail_after(REQUEST_TIMEOUT):
        while not line.endswith(b"\n") and len(line) < MAX_REQUEST:
            part = await stream.receive_some(MAX_REQUEST)
            if not part:
                break
            line += part
    return line


async def _cancel_at_end(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel the command when its client leaves."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(MAX_REQUEST):
            pass
    scope.cancel()


class _Answer:
    """Carries out one request and sends what it leads to."""

    def __init__(self, stream: trio.SocketStream, commands: Mapping[str, Command]) -> None:
        self._stream = stream
        self._commands = commands
        self._progress: tuple[int, int] | None = None
        self._news = trio.Event()
        self._over = False

    async def run(self, line: bytes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_progress)
            answer = await self._carry_out(line)
            self._over = True
            self._news.set()
        await self._send(answer)

    async def _carry_out(self, line: bytes) -> JsonObject:
        try:
            request = _request.decode(line)
        except msgspec.DecodeError:
            return {"error": "the request is not a line of JSON that names a command"}
        command = self._commands.get(request.command)
        if command is None:
            return {"error": f"the gateway that runs has no command {request.command!r}: is it older?"}
        try:
            return {"result": await command(request.arguments, self._note_progress)}
        except CommandError as error:
            return {"error": str(error)}
        except (GatewayError, StoreError) as error:
            return {"error": f"the store failed: {error}"}
        except Exception:
            logger.exception("the command %s failed", request.command)
            return {"error": "the command failed: the gateway's log says why"}

    def _note_progress(self, done: int, whole: int) -> None:
        self._progress = done, whole
        self._news.set()

    async def _send_progress(self) -> None:
        """Send the latest progress; what is new while a line is on its way replaces what was."""
        while not self._over:
            await self._news.wait()
            self._news = trio.Event()
            if self._progress is not None:
                await self._send({"progress": self._progress})

    async def _send(self, message: JsonObject) -> None:
        with trio.fail_after(REQUEST_TIMEOUT):
            await self._stream.send_all(msgspec.json.encode(message) + b"\n")
