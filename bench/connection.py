#!/usr/bin/env python3
"""Compare this project's HTTP/1.1 connection with hypercorn's own, on the same apps and the same requests.

    python -m bench.connection

Two servers run side by side: ``agentic_trio.server`` and ``hypercorn.trio``. Each serves a plain ASGI app and
a Quart-Trio app that do the same: echo a JSON body of 1 KB, and stream 208 events, one send for each. No
gateway is involved. What is compared is the CPU of the servers' processes, in interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_stock
from quart import Response, request
from quart_trio import QuartTrio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agentic_trio.server.asgi_server import serve_asgi
from agentic_trio.server.limits import ConnectionLimits
from bench.checks import EVENTS, Asker, Wrong
from bench.comparison import Row, interleaved, rendered
from bench.processes import ROOT, free_port, running
from bench.progress import Progress
from bench.works import Subject, measured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.client import Client, Reply
    from bench.processes import Server
    from bench.works import Cost

OURS, STOCK = "agentic-trio", "hypercorn"
BODY = json.dumps({"model": "tiny", "input": "x" * 980}).encode()
EVENT = b"event: response.output_text.delta\ndata: " + json.dumps({"delta": "x" * 160}).encode() + b"\n\n"
JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream")


# --------------------------------------------------------------------------- the apps


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """``POST /echo`` and ``GET /events``, as ASGI messages. hypercorn insists on a lifespan."""
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    if scope["path"] == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [EVENT_STREAM]})
        for number in range(EVENTS):
            await send({"type": "http.response.body", "body": EVENT, "more_body": number < EVENTS - 1})
        return
    body = b""
    more = scope["method"] == "POST"
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    headers = [JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def quart_app() -> QuartTrio:
    """The same as a Quart-Trio app."""
    app = QuartTrio("bench")

    @app.post("/echo")
    async def echo() -> Response:
        return Response(await request.get_data(), content_type="application/json")

    @app.get("/events")
    async def events() -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(EVENTS):
                yield EVENT

        return Response(chunks(), content_type="text/event-stream")

    @app.get("/health")
    async def health() -> Response:
        return Response(b"{}", content_type="application/json")

    return app


async def serve(server: str, app: str, port: int) -> None:
    """Serve one of the apps with one of the servers until the process is ended."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.keep_alive_max_requests = 1_000_000
    config.keep_alive_timeout = 75
    config.errorlog = None
    served: Any = plain if app == "asgi" else quart_app()
    if server == OURS:
        await serve_asgi(served, config, limits=ConnectionLimits())
    else:
        await serve_stock(served, config)


# --------------------------------------------------------------------------- the works


async def echo(subject: Subject, *, clients: int, requests: int) -> Cost:
    """POST 1 KB of JSON and get it back, on connections that are kept alive."""

    async def exchange(client: Client) -> Reply:
        reply = await client.post("/echo", BODY)
        if reply.status != 200 or reply.body != BODY:
            raise Wrong(f"status {reply.status}, {len(reply.body)} bytes")
        return reply

    return await measured(subject, clients, requests, exchange)


async def events(subject: Subject, *, clients: int, requests: int) -> Cost:
    """Read a stream; the CPU is that of one event."""

    async def exchange(client: Client) -> Reply:
        reply = await client.get("/events")
        if reply.status != 200 or reply.body != EVENT * EVENTS:
            raise Wrong(f"status {reply.status}, {len(reply.body)} bytes")
        return reply

    return await measured(subject, clients, requests, exchange, units=EVENTS)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done in one round, and how many rounds there are."""

    rounds: int
    requests: int
    streams: int


FULL = Size(7, 2000, 64)
TINY = Size(1, 16, 2)


async def compare(size: Size, directory: Path) -> list[Row]:
    """Run both works on both apps of both servers."""
    rows: list[Row] = []
    progress = Progress(size.rounds * 8)
    for app, called in (("asgi", "plain ASGI app"), ("quart", "Quart-Trio app")):
        with ExitStack() as stack:
            subjects = [await started(stack, server, app, directory) for server in (OURS, STOCK)]
            works = (
                (f"{called}, POST of 1 KB", "us a request", partial(echo, requests=size.requests)),
                (f"{called}, {EVENTS} events", "us an event", partial(events, requests=size.streams)),
            )
            for name, unit, work in works:
                row = Row(name, unit)
                rows.append(
                    await interleaved(row, subjects, size.rounds, partial(work, clients=16), progress)
                )
    progress.end()
    return rows


async def started(stack: ExitStack, server: str, app: str, directory: Path) -> Subject:
    """A server process that answers."""
    port = free_port()
    command = [sys.executable, "-m", "bench.connection", "--serve", server, "--app", app, "--port", str(port)]
    # The process runs in a directory of its own, and must import what this one does.
    path = {"PYTHONPATH": ":".join([str(ROOT), *sys.path])}
    found: Server = stack.enter_context(running(server, command, port, directory, environment=path))
    await found.wait_ready()
    return Subject(found, Asker("tiny"))


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(description="Compare two servers' HTTP/1.1 connections.")
    top.add_argument("--tiny", action="store_true", help="hardly anything: to see that it works")
    top.add_argument("--json", type=Path, help="where the values go")
    top.add_argument("--serve", choices=(OURS, STOCK), help=argparse.SUPPRESS)
    top.add_argument("--app", choices=("asgi", "quart"), help=argparse.SUPPRESS)
    top.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison, or be one of its servers; returns the exit code."""
    options = parser().parse_args(arguments)
    if options.serve:
        trio.run(serve, options.serve, options.app, options.port)
        return 0
    with tempfile.TemporaryDirectory(prefix="agentic-trio-bench-") as directory:
        rows = trio.run(compare, TINY if options.tiny else FULL, Path(directory))
    print(rendered(rows, [OURS, STOCK]))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
