"""The fake upstream: what it has seen, and which answer a request gets."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import trio

from .answers import Answer, plain
from .connection import Connection
from .encoding import encode
from .endpoints import RENDERERS, rendered
from .requests import Recorded, last_text
from .script import Script, default_output, directive
from .validation import Refused, validate_json, validate_response_request, vllm_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


MODEL = {"id": "tiny", "object": "model", "created": 1795392026, "owned_by": "vllm", "root": "tiny"}
MODEL |= {"parent": None, "max_model_len": 4096, "permission": []}


class FakeUpstream:
    """The server's state. Positions in ``requests`` and all counts are of the whole server."""

    def __init__(self, default: Script, *, record: bool = True, keep_alive: float = float("inf")) -> None:
        self.default = default
        self.record = record
        self.keep_alive = keep_alive
        """Seconds after which an idle connection is closed (uvicorn: 5)."""
        self.url = ""
        self.models = ["tiny"]
        self.healthy = True
        """Whether ``/health`` says so."""
        self.requests: list[Recorded] = []
        self.live = 0
        """Requests that are being answered now (by a model: not /v1/models, not refusals)."""
        self.aborted = 0
        """Requests whose client left before the end of the answer."""
        self.stalled = 0
        self.elsewhere: dict[str, tuple[int, bytes]] = {}
        """Requests that hang or stall now."""
        self.connections = 0
        """Connections accepted so far."""
        self._choose: Callable[[Recorded], Script | None] | None = None
        self.released = trio.Event()
        self._life = trio.CancelScope()
        self._waiters = trio.lowlevel.ParkingLot()
        self._cache: OrderedDict[tuple[str, bytes], Answer] = OrderedDict()

    # For tests.

    @property
    def last(self) -> Recorded:
        return self.requests[-1]

    def script(self, choose: Callable[[Recorded], Script | None] | Script | None) -> None:
        """Decide how requests are answered from now on (None from the function: as if there were none)."""
        if isinstance(choose, Script):
            always = choose
            self._choose = lambda _: always
        else:
            self._choose = choose

    def release(self) -> None:
        """Let everything that hangs or stalls go on."""
        self.released.set()
        self.released = trio.Event()

    async def wait_requests(self, count: int) -> None:
        """Wait until so many requests have come in all."""
        await self._wait(lambda: len(self.requests) >= count)

    async def wait_live(self, count: int) -> None:
        """Wait until exactly so many requests are being answered."""
        await self._wait(lambda: self.live == count)

    async def wait_aborted(self, count: int) -> None:
        """Wait until so many clients in all have left too early."""
        await self._wait(lambda: self.aborted >= count)

    async def wait_stalled(self, count: int) -> None:
        """Wait until so many requests hang or stall."""
        await self._wait(lambda: self.stalled >= count)

    def assert_stateless(self) -> None:
        """No request to /v1/responses asked this server for state."""
        for number, request in enumerate(self.requests):
            if (request.method, request.path) == ("POST", "/v1/responses"):
                assert not request.state, f"request {number} asks for state: {request.state}\n{request.json}"

    async def _wait(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._waiters.park()

    def changed(self) -> None:
        self._waiters.unpark_all()

    def kill(self) -> None:
        """The process dies: connections are cut, new ones refused."""
        self._life.cancel()

    # For connections.

    async def listen(self, port: int, task_status: trio.TaskStatus[None]) -> None:
        """Serve a port of loopback (0: any) until killed; ``url`` is set when this has started."""
        async with trio.open_nursery() as nursery:
            serve = functools.partial(trio.serve_tcp, self.serve, port, host="127.0.0.1")
            listeners = await nursery.start(serve)
            self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            self._life = nursery.cancel_scope
            task_status.started()

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection until it ends."""
        self.connections += 1
        async with stream:
            await Connection(self, stream).run()

    def answer(self, request: Recorded) -> Answer:
        """Choose and render the answer to a request."""
        if request.method != "POST" or request.path not in RENDERERS:
            return self._elsewhere(request)
        if self._choose and (script := self._choose(request)):
            return self._render(request, script)
        key = (request.path, request.body)
        if key not in self._cache:
            self._cache[key] = self._render(request, self.default)
            if len(self._cache) > 64:
                self._cache.popitem(last=False)
        return self._cache[key]

    def _elsewhere(self, request: Recorded) -> Answer:
        where = (request.method, request.path)
        if request.path in self.elsewhere:
            return plain(*self.elsewhere[request.path])
        if where == ("GET", "/v1/models"):
            return plain(200, encode({"object": "list", "data": [MODEL | {"id": id} for id in self.models]}))
        if where == ("GET", "/health"):
            return plain(200 if self.healthy else 503, b"")
        if where == ("GET", "/metrics"):
            running = f'vllm:num_requests_running{{model_name="tiny"}} {float(self.live)}\n'
            return plain(200, running.encode(), **{"content-type": "text/plain"})
        if where[1] in (*RENDERERS, "/v1/models", "/health"):
            return plain(405, b'{"detail":"Method Not Allowed"}')
        return plain(404, b'{"detail":"Not Found"}')

    def _render(self, request: Recorded, script: Script) -> Answer:
        try:
            if request.path == "/v1/responses":
                body, items = validate_response_request(request.body)
                script, text = directive(last_text(items), script)
                if not script.output:
                    script = script.varied(output=default_output(body, items, text))
            else:
                body = validate_json(request.body)
                script, _ = directive(last_text(body.get("messages") or []), script)
        except Refused as refusal:
            return plain(refusal.status, refusal.body)
        if script.status != 200 and script.body is None and script.raw is None:
            error = vllm_error(script.status, script.error, script.error_type, script.error_param)
            return plain(script.status, error, script, **script.headers)
        return rendered(RENDERERS[request.path], script, body)


@contextlib.asynccontextmanager
async def open_fake_upstream(
    default: Script | None = None,
    *,
    port: int = 0,
    record: bool = True,
    keep_alive: float = float("inf"),
    **script: Any,
) -> AsyncIterator[FakeUpstream]:
    """Serve a fake upstream on loopback; ``script`` are members of its default :class:`Script`.

    An exception of the block leaves as it is, not in a group.
    """
    upstream = FakeUpstream((default or Script()).varied(**script), record=record, keep_alive=keep_alive)
    failure = None
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.listen, port)
        try:
            yield upstream
        except (trio.Cancelled, GeneratorExit):
            raise
        except BaseException as error:  # pytest's outcomes among them
            failure = error
        nursery.cancel_scope.cancel()
    if failure:
        raise failure
