"""Clients: what they ask for, how they leave, what they try again, and all that they saw."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from tests.http_client import ResponseReader, request_bytes
from tests.simulation.record import Json, Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.simulation.record import Record
    from tests.simulation.streams import End

MODEL = "tiny"


@dataclass(frozen=True)
class Leave:
    """When a client closes its connection before its answer is whole."""

    how: str = ""
    count: int = 0
    seconds: float = 0.0


@dataclass
class Known:
    """What the clients have learnt, of which they tell one another."""

    responses: list[str] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)
    background: list[str] = field(default_factory=list)
    conversations: list[str] = field(default_factory=list)
    repeatable: list[str] = field(default_factory=list)
    items: list[tuple[str, str]] = field(default_factory=list)
    keyed: list[tuple[str, Json, dict[str, str]]] = field(default_factory=list)


class Client:
    """One client: one connection at a time."""

    def __init__(
        self, number: int, record: Record, random: Random, connect: Callable[[int], End], known: Known
    ) -> None:
        self.number = number
        self.record = record
        self.random = random
        self.known = known
        self.policy = "cancel"
        """What the gateway does with a turn whose client leaves, unless the request says otherwise."""
        self.pauses = 0.0
        """How likely it is that it reads slowly."""
        self.leaves = 0.0
        """How likely it is that it leaves early."""
        self._connect = connect
        self._end: End | None = None

    # ------------------------------------------------------------------ one request

    async def send(
        self,
        method: str,
        target: str,
        body: Json | None = None,
        headers: dict[str, str] | None = None,
        leave: Leave | None = None,
    ) -> Request:
        """Send a request and take its answer, or leave."""
        number = len(self.record.requests)
        request = Request(
            number=number,
            client=self.number,
            method=method,
            target=target,
            body=body,
            headers={
                "host": "gateway",
                "authorization": f"Bearer token-{number}",
                "x-request-id": f"req-{number}",
                **(headers or {}),
            },
            began=self.record.tick + 1,
            began_at=self.record.now(),
        )
        request.intent["policy"] = request.headers.get("x-on-disconnect", self.policy)
        self.record.requests.append(request)
        extra = {name: value for name, value in request.headers.items() if name in INTERESTING}
        self.record.note(f"client {self.number} -> req-{number} {method} {target} {body} {extra} {leave}")
        await self._exchange(request, leave or Leave())
        request.ended = self.record.tick + 1
        request.ended_at = self.record.now()
        shown = request.content[:2000].decode(errors="replace")
        state = "whole" if request.whole else "left" if request.left else "broken"
        self.record.note(f"client {self.number} <- req-{number} {request.status} {state} {shown}")
        self._learn(request)
        return request

    async def _exchange(self, request: Request, leave: Leave) -> None:
        try:
            end = await self._connected()
        except OSError:
            request.broken = True
            return
        answer = ResponseReader(request.method)
        async with trio.open_nursery() as nursery:
            if leave.how in ("checkpoints", "seconds"):
                nursery.start_soon(self._leave_later, request, end, leave, nursery.cancel_scope)
            try:
                await self._talk(request, end, answer, leave)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                request.broken = not request.left
            nursery.cancel_scope.cancel()
        request.status = answer.status if answer.head else None
        request.content, request.whole = answer.body, answer.whole
        request.kind = answer.headers.get("content-type", "")
        if not answer.whole or answer.headers.get("connection") == "close":
            end.close()
        if not end.closed:
            self._end = end

    async def _connected(self) -> End:
        end, self._end = self._end, None
        if end is not None and not end.is_readable() and not end.closed and self.random.random() < 0.7:
            return end
        if end is not None:
            end.close()
        await trio.lowlevel.checkpoint()
        return self._connect(self.random.choice((200, 65536, 65536)))

    def _leave(self, request: Request, end: End) -> None:
        if not request.left:
            request.left = True
            self.record.fault("client leaves")
            self.record.note(f"client {self.number} leaves req-{request.number}")
            if self.random.random() < 0.5:
                end.reset()
            else:
                end.close()

    async def _leave_later(self, request: Request, end: End, leave: Leave, scope: trio.CancelScope) -> None:
        for _ in range(leave.count):
            await trio.lowlevel.checkpoint()
        await trio.sleep(leave.seconds)
        self._leave(request, end)
        scope.cancel()

    def _wire(self, request: Request) -> bytes:
        if request.body is None:
            return request_bytes(request.method, request.target, request.headers, None)
        headers = request.headers | {"content-type": "application/json"}
        body = json.dumps(request.body).encode()
        if request.number % 7 == 3:
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body, mtime=0)
        return request_bytes(request.method, request.target, headers, body)

    async def _talk(self, request: Request, end: End, answer: ResponseReader, leave: Leave) -> None:
        wire = self._wire(request)
        if leave.how == "sending":
            await end.send_all(wire[: leave.count % len(wire)])
            self._leave(request, end)
            return
        if self.random.random() < 0.1:
            cut = self.random.randrange(len(wire))
            await end.send_all(wire[:cut])
            await trio.sleep(self.random.choice((0.0, 0.1)))
            wire = wire[cut:]
        await end.send_all(wire)
        request.sent = True
        slow = self.random.random() < self.pauses
        while not answer.whole:
            data = await end.receive_some()
            if not data:
                request.broken = True
                return
            answer.feed(data)
            if leave.how == "events" and answer.body.count(b"\n\n") > leave.count:
                self._leave(request, end)
                return
            if slow:
                self.record.fault("client reads slowly")
                request.intent["slow"] = True
                await trio.sleep(self.random.choice((0.1, 2.0, 25.0)))

    # ------------------------------------------------------------------ what it learns

    def _learn(self, request: Request) -> None:
        known, id = self.known, seen_id(request)
        if id is not None and request.method == "POST" and request.path == "/v1/responses":
            body = request.body or {}
            if id not in known.responses:
                known.responses.append(id)
                if body.get("stream"):
                    known.streamed.append(id)
                if body.get("background"):
                    known.background.append(id)
                if "idempotency-key" in request.headers:
                    known.repeatable.append(id)
        if request.ok and request.method == "POST" and request.path == "/v1/conversations":
            known.conversations.append(request.json["id"])
        if request.ok and request.path.endswith("/items") and request.kind == "application/json":
            conversation = request.path.split("/")[3]
            for item in request.json["data"]:
                if (conversation, item["id"]) not in known.items:
                    known.items.append((conversation, item["id"]))

    # ------------------------------------------------------------------ what it does

    async def run(self, requests: int) -> None:
        if self.number == 0 and self.random.random() < 0.7:
            await self._open_conversation()
        for _ in range(requests):
            await trio.sleep(self.random.choice((0.0, 0.0, 0.0, 0.3, 4.0)))
            await self._act()
        if self._end is not None:
            self._end.close()

    async def _act(self) -> None:
        known, random = self.known, self.random
        actions: list[tuple[int, Callable[[], Any]]] = [(10, self._create), (1, self._open_conversation)]
        if known.responses:
            actions += [(4, self._get), (1, self._delete), (2, self._cancel), (1, self._input_items)]
        if known.streamed:
            actions += [(3, self._resume)]
        if known.conversations:
            actions += [(3, self._add_items), (2, self._list_items)]
        if known.items:
            actions += [(1, self._delete_item)]
        if known.keyed:
            actions += [(3, self._repeat)]
        (action,) = random.choices([do for _, do in actions], [weight for weight, _ in actions])
        await action()

    def _some_leave(self) -> Leave | None:
        random = self.random
        if random.random() >= self.leaves:
            return None
        how = random.choice(("sending", "checkpoints", "checkpoints", "seconds", "events", "events"))
        count = random.randint(0, 700) if how == "sending" else random.randint(0, 60)
        if how == "events":
            count = random.randint(0, 12)
        if how == "seconds":
            count = 0
        return Leave(how, count, random.choice((0.0, 0.2, 1.0, 7.0)) if how == "seconds" else 0.0)

    def _message(self) -> Any:
        random, number = self.random, len(self.record.requests)
        if random.random() < 0.6:
            return f"c{number}i0"
        return [{"role": "user", "content": f"c{number}i{n}"} for n in range(random.randint(1, 2))]

    async def _create(self) -> None:
        random, known = self.random, self.known
        body: Json = {"model": MODEL, "input": self._message()}
        headers = {}
        if random.random() < 0.6:
            body["stream"] = True
        if random.random() < 0.2:
            body["background"] = True
        if random.random() < 0.12 and "background" not in body:
            body["store"] = False
        where = random.random()
        if where < 0.3 and known.responses:
            body["previous_response_id"] = random.choice(known.responses[-4:])
        elif where < 0.8 and known.conversations:
            body["conversation"] = random.choice(known.conversations[:2])
        if random.random() < 0.3:
            headers["x-on-disconnect"] = random.choice(("cancel", "finish"))
        if random.random() < 0.2:
            number = len(self.record.requests)
            headers["idempotency-key"] = f"key-{number}"
            headers["authorization"] = f"Bearer token-{number}"
        request = await self.send("POST", "/v1/responses", body, headers, self._some_leave())
        if "idempotency-key" in headers:
            known.keyed.append((headers["idempotency-key"], body, headers))
        await self._follow_up(request, body, headers)

    async def _follow_up(self, request: Request, body: Json, headers: dict[str, str]) -> None:
        id = seen_id(request)
        if id is not None and body.get("background") and body.get("store", True):
            await self._poll(id)
        if id is not None and body.get("stream") and request.whole and not tells_its_end(request):
            await self._poll(id)
        if self.random.random() < 0.4 or (request.whole and (request.status or 0) < 500):
            return
        if "idempotency-key" in headers:
            await self.send("POST", "/v1/responses", body, headers, self._some_leave())
        elif id is not None and body.get("stream"):
            after = len(whole_events(request.content)) - 1
            await self.send("GET", f"/v1/responses/{id}?stream=true&starting_after={after}")
        elif id is not None:
            await self.send("GET", f"/v1/responses/{id}")

    async def _poll(self, id: str) -> None:
        for _ in range(self.random.randint(0, 4)):
            await trio.sleep(self.random.choice((0.0, 0.0, 0.02, 0.5, 3.0)))
            found = await self.send("GET", f"/v1/responses/{id}")
            if found.ok and found.json["status"] not in ("queued", "in_progress"):
                return

    async def _repeat(self) -> None:
        key, body, headers = self.random.choice(self.known.keyed[-3:])
        if self.random.random() < 0.15:
            body = {**body, "input": self._message()}
        elif self.random.random() < 0.15:
            # Another client, who chose the same key.
            body = {**body, "input": self._message()}
            headers = {**headers, "authorization": f"Bearer token-{len(self.record.requests)}"}
        await self.send("POST", "/v1/responses", body, {**headers}, self._some_leave())
        assert key

    async def _open_conversation(self) -> None:
        items = [
            {"role": "user", "content": f"c{len(self.record.requests)}i{n}"}
            for n in range(self.random.randint(0, 2))
        ]
        await self.send("POST", "/v1/conversations", {"items": items}, leave=self._some_leave())

    async def _get(self) -> None:
        await self.send("GET", f"/v1/responses/{self.random.choice(self.known.responses[-5:])}")

    async def _delete(self) -> None:
        if self.random.random() < 0.2 and self.known.conversations:
            id = self.random.choice(self.known.conversations)
            query = "?responses=true" if self._may_take_responses_along(id) else ""
            await self.send("DELETE", f"/v1/conversations/{id}{query}", leave=self._some_leave())
            return
        # The repeat of a request whose response was deleted makes it again.
        ids = [id for id in self.known.responses if id not in self.known.repeatable]
        if not ids:
            return
        id = self.random.choice(ids)
        await self.send("DELETE", f"/v1/responses/{id}", leave=self._some_leave())

    def _may_take_responses_along(self, conversation: str) -> bool:
        """Now and then; not if one of them may be asked for again, which would make it again."""
        repeatable = any(body.get("conversation") == conversation for _, body, _ in self.known.keyed)
        return not repeatable and self.random.random() < 0.5

    async def _cancel(self) -> None:
        ids = self.known.background[-3:] or self.known.responses[-2:]
        id = self.random.choice(ids)
        await self.send("POST", f"/v1/responses/{id}/cancel", leave=self._some_leave())

    async def _input_items(self) -> None:
        id = self.random.choice(self.known.responses)
        await self.send("GET", f"/v1/responses/{id}/input_items?order=asc&limit=100")

    async def _resume(self) -> None:
        id = self.random.choice(self.known.streamed[-3:])
        after = self.random.choice(("", f"&starting_after={self.random.randint(0, 12)}"))
        await self.send("GET", f"/v1/responses/{id}?stream=true{after}", leave=self._some_leave())

    async def _add_items(self) -> None:
        id, number = self.random.choice(self.known.conversations[:2]), len(self.record.requests)
        items = [{"role": "user", "content": f"c{number}i{n}"} for n in range(self.random.randint(1, 3))]
        target = f"/v1/conversations/{id}/items"
        await self.send("POST", target, {"items": items}, leave=self._some_leave())

    async def _list_items(self) -> None:
        id = self.random.choice(self.known.conversations[:2])
        await self.send("GET", f"/v1/conversations/{id}/items?order=asc&limit=100")

    async def _delete_item(self) -> None:
        conversation, item = self.random.choice(self.known.items[-6:])
        target = f"/v1/conversations/{conversation}/items/{item}"
        await self.send("DELETE", target, leave=self._some_leave())


INTERESTING = ("x-on-disconnect", "idempotency-key")


def whole_events(content: bytes) -> list[bytes]:
    """The numbered events of a stream that came whole, as bytes; no comments, no ``[DONE]``."""
    blocks = content.split(b"\n\n")[:-1]
    return [block for block in blocks if block.startswith(b"event: ") and b'"sequence_number":' in block]


def tells_its_end(request: Request) -> bool:
    """Whether a stream has a terminal event."""
    return any(f"event: response.{name}\n".encode() in request.content for name in TERMINAL)


TERMINAL = ("completed", "incomplete", "failed")


def event_data(event: bytes) -> bytes:
    return event.split(b"\ndata: ", 1)[1]


def seen_id(request: Request) -> str | None:
    """The id of the response that an answer is about."""
    if request.status != 200 or request.relayed:
        return None
    if request.kind.startswith("text/event-stream"):
        events = whole_events(request.content)
        if not events:
            return None
        first = json.loads(event_data(events[0]))
        return first["response"]["id"] if "response" in first else None
    if not request.whole:
        return None
    found = request.json
    return found["id"] if found.get("object") == "response" and "status" in found else None
