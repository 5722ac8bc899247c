"""A gateway before a fake upstream in a thread of their own, for clients that know nothing of Trio."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from agentic_trio import Config, open_gateway, serve
from agentic_trio.net.nurseries import open_inner_nursery
from tests.fake_upstream import FakeUpstream, Recorded, Script, open_fake_upstream, text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

Json = dict[str, Any]

MODEL = "tiny"


@dataclass
class Served:
    """A running gateway as its clients see it, and what reached the model server behind it."""

    url: str
    """Its base, ``/v1`` included."""
    upstream: FakeUpstream
    token: trio.lowlevel.TrioToken

    @property
    def requests(self) -> list[Recorded]:
        """The requests for responses that the model server got, oldest first."""
        return [request for request in self.upstream.requests if request.path == "/v1/responses"]

    @property
    def said(self) -> list[tuple[str, str]]:
        """Kind and text of each item that the model was given last."""
        return said(self.requests[-1].items)

    def answers(self, *scripts: Script) -> None:
        """Answer the next requests by these scripts in turn; those that follow, by the default."""
        left = list(scripts)
        self.upstream.script(lambda _: left.pop(0) if left else None)

    def wait(self, reached: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Wait for something of the fake upstream, e.g. ``wait(upstream.wait_stalled, 1)``."""

        async def bounded() -> None:
            with trio.fail_after(10):
                await reached(*arguments)

        trio.from_thread.run(bounded, trio_token=self.token)

    def release(self) -> None:
        """Let everything that hangs or stalls at the fake upstream go on."""
        trio.from_thread.run_sync(self.upstream.release, trio_token=self.token)

    def forget(self) -> None:
        """Begin anew: no requests were made, and answers are the default ones."""
        self.upstream.script(None)
        self.upstream.requests.clear()


def said(items: list[Json]) -> list[tuple[str, str]]:
    """Kind and text of items: a message's kind is its role."""
    return [(item.get("role", item.get("type")), text_of(item)) for item in items]


@contextmanager
def serve_in_thread(**config: Any) -> Iterator[Served]:
    """Serve until the block is left. What the thread fails with is raised here."""
    started: queue.Queue[Served | BaseException] = queue.Queue()
    stop = trio.Event()

    async def run() -> None:
        settings = {"db_url": "sqlite://:memory:", "port": 0, "graceful_timeout": 0.0} | config
        async with (
            open_fake_upstream() as upstream,
            open_gateway(Config(llm_api_base=upstream.url, **settings)) as gateway,
            open_inner_nursery() as nursery,
        ):
            (url,) = await nursery.start(partial(serve, gateway))
            started.put(Served(f"{url}/v1", upstream, trio.lowlevel.current_trio_token()))
            await stop.wait()
            nursery.cancel_scope.cancel()

    def work() -> None:
        try:
            trio.run(run)
        except BaseException as error:
            started.put(error)

    thread = threading.Thread(target=work, name="gateway", daemon=True)
    thread.start()
    served = started.get(timeout=30)
    if isinstance(served, BaseException):
        raise served
    try:
        yield served
    finally:
        served.token.run_sync_soon(stop.set)
        thread.join(30)
        if not started.empty():
            failure = started.get()
            assert isinstance(failure, BaseException)
            raise failure
