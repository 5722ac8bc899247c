"""A model server whose every choice is drawn from the run's seed, and which records what it said.

It is not ``tests.fake_upstream``, whose answers a test chooses and whose connections are sockets: here the
judge must know, word for word and at each tick, what had left the server when something broke. Requests
are parsed and chunks are framed by the same code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from tests.fake_upstream import RequestReader
from tests.fake_upstream.answers import chunk
from tests.simulation.record import Call, Json, Said

if TYPE_CHECKING:
    from random import Random

    from tests.fake_upstream import Recorded
    from tests.simulation.record import Record
    from tests.simulation.streams import End

FAULTS = (
    "refuses",
    "hangs",
    "stalls",
    "cuts",
    "garbage",
    "wrong type",
    "no ending",
    "fails",
    "slow",
)
"""One half of the garbage is an error that comes with status 200."""

ERROR = "error in a 200"


@dataclass(frozen=True)
class Script:
    """How one call is answered: so many words, so fast, and what goes wrong behind so many events."""

    words: int = 3
    reasons: bool = False
    interval: float = 0.0
    fault: str = ""
    after: int = 0
    status: int = 503
    retry_after: str = ""
    cut_short: bool = False
    """It ends as ``incomplete``."""
    numbered: bool = True


def said(items: Any) -> list[Said]:
    """Role and text of each item of an input."""
    if isinstance(items, str):
        return [("user", items)]
    return [(item.get("role") or item["type"], text_of(item)) for item in items]


def text_of(item: Json) -> str:
    parts = item.get("content") or item.get("output") or item.get("arguments") or ""
    if isinstance(parts, str):
        return parts
    return "".join(part.get("text", "") for part in parts)


class ModelServer:
    """Answers every call by the script that ``choose`` gives it."""

    def __init__(self, record: Record, random: Random, faulty: float) -> None:
        self.record = record
        self.random = random
        self.faulty = faulty

    def choose(self) -> Script:
        random = self.random
        fault = random.choice(FAULTS) if random.random() < self.faulty else ""
        if fault == "garbage" and len(self.record.calls) % 2:
            fault = ERROR
        return Script(
            words=random.randint(1, 6),
            reasons=random.random() < 0.15,
            interval=random.choice((0.0, 0.0, 0.01, 0.5, 3.0)) if fault != "slow" else 9.0,
            fault=fault,
            after=random.randint(0, 9),
            status=random.choice((400, 429, 500, 503)),
            retry_after=random.choice(("", "1")),
            cut_short=random.random() < 0.1,
            numbered=random.random() < 0.7,
        )

    async def serve(self, end: End, machine: int) -> None:
        """One connection of the gateway's."""
        reader = RequestReader()
        try:
            while data := await end.receive_some():
                for request in reader.feed(data):
                    if end.is_over or not await self._answer(end, machine, request):
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            end.close()

    async def _answer(self, end: End, machine: int, request: Recorded) -> bool:
        record, script, headers, body = self.record, self.choose(), request.headers, request.json
        call = Call(
            number=len(record.calls),
            request=headers.get("x-request-id", ""),
            authorization=headers.get("authorization", ""),
            input=said(body["input"]),
            body=body,
            streamed=bool(body.get("stream")),
            machine=machine,
            opened=record.tick + 1,
            opened_at=record.now(),
            fault=script.fault,
        )
        record.calls.append(call)
        record.note(f"model <- call {call.number} for {call.request}: {call.input} {script}")
        if script.fault:
            record.fault(f"model {script.fault}")
        end.on_gone = lambda: _close(record, call, "closed by the gateway")
        try:
            whole = await Play(record, call, script, end).run()
        finally:
            _close(record, call, "over")
        return whole


def _close(record: Record, call: Call, why: str) -> None:
    if call.closed is None:
        call.closed = record.tick + 1
        call.closed_at = record.now()
        record.note(f"model -- call {call.number} {why}")


class Play:
    """One call, answered."""

    def __init__(self, record: Record, call: Call, script: Script, end: End) -> None:
        self.record = record
        self.call = call
        self.script = script
        self.end = end
        self.words = [f"m{call.number}w{n} " for n in range(script.words)]
        call.text = "".join(self.words)

    async def run(self) -> bool:
        """Answer; whether the connection can be used again."""
        script = self.script
        if script.fault == "hangs":
            await trio.sleep_forever()
        if script.fault == "refuses":
            await self._refuse()
            return True
        if self.call.streamed:
            return await self._stream()
        return await self._json()

    async def _send(self, status: str, headers: Json, body: bytes) -> None:
        self.call.sent += body
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
        await self.end.send_all("\r\n".join([*lines, "", ""]).encode() + body)

    async def _chunk(self, piece: bytes) -> None:
        self.call.sent += piece
        await self.end.send_all(chunk(piece))

    async def _refuse(self) -> None:
        error = {"message": f"m{self.call.number} refuses", "type": "x", "param": None, "code": 1}
        body = json.dumps({"error": error}).encode()
        headers: Json = {"content-type": "application/json", "content-length": len(body)}
        if self.script.retry_after:
            headers["retry-after"] = self.script.retry_after
        await self._send(f"{self.script.status} No", headers, body)

    async def _json(self) -> bool:
        script, call = self.script, self.call
        await trio.sleep(script.interval * script.words)
        status = "failed" if script.fault == "fails" else "incomplete" if script.cut_short else "completed"
        body = json.dumps(self.response(status, self.items("completed"))).encode()
        if script.fault in ("garbage", "no ending", "wrong type"):
            body = b"<html>no</html>"
        if script.fault == ERROR:
            body = json.dumps(self._complain()).encode()
        headers = {"content-type": "application/json", "content-length": len(body)}
        if script.fault in ("cuts", "stalls"):
            await self._send("200 OK", headers, body[: len(body) // 2])
            if script.fault == "stalls":
                await trio.sleep_forever()
            return False
        good = script.fault in ("", "slow", "fails")
        # Once it is on its way the gateway may have it, so it has been said.
        call.said = call.text if good else ""
        call.ending = status if good else ""
        await self._send("200 OK", headers, body)
        return True

    async def _stream(self) -> bool:
        script, call = self.script, self.call
        kind = "text/plain" if script.fault == "wrong type" else "text/event-stream"
        await self._send("200 OK", {"content-type": kind, "transfer-encoding": "chunked"}, b"")
        for number, (name, members, text) in enumerate(self.events()):
            if script.interval:
                await trio.sleep(script.interval)
            if number >= script.after and script.fault in ("cuts", "stalls", "garbage", "fails", ERROR):
                return await self._misbehave()
            if name == "response.completed":
                if script.fault == "no ending":
                    break
                call.ending = "incomplete" if script.cut_short else "completed"
                name = f"response.{call.ending}"
            call.said += text
            await self._chunk(self.encode(name, number, members))
        await self.end.send_all(b"0\r\n\r\n")
        return True

    async def _misbehave(self) -> bool:
        fault = self.script.fault
        if fault == "stalls":
            await trio.sleep_forever()
        if fault == "cuts":
            return False
        if fault == "garbage":
            await self._chunk(b"event: response.output_text.delta\ndata: {nonsense\n\n")
        elif fault == ERROR:
            await self._chunk(b"data: %b\n\n" % json.dumps(self._complain()).encode())
        else:
            failed = {"response": self.response("failed", []) | {"error": {"message": "m", "code": "x"}}}
            await self._chunk(self.encode("response.failed", 99, failed))
        await self.end.send_all(b"0\r\n\r\n")
        return True

    def _complain(self) -> Json:
        self.call.complaint = f"m{self.call.number} is too hot"
        return {"error": {"message": self.call.complaint, "code": "overheated"}}

    def encode(self, name: str, number: int, members: Json) -> bytes:
        wrong = 0 if self.script.numbered else 1000
        data = json.dumps({"type": name, "sequence_number": number + wrong} | members)
        return f"event: {name}\ndata: {data}\n\n".encode()

    def response(self, status: str, output: list[Json]) -> Json:
        usage: Json = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        return {
            "id": f"resp_m{self.call.number}",
            "object": "response",
            "created_at": 1,
            "model": "tiny",
            "status": status,
            "output": output,
            "usage": usage if status in ("completed", "incomplete") else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": {"message": "m", "code": "x"} if status == "failed" else None,
        }

    def items(self, status: str) -> list[Json]:
        number = self.call.number
        content = [{"type": "output_text", "text": self.call.text, "annotations": [], "logprobs": []}]
        found: list[Json] = []
        if self.script.reasons:
            content_ = [{"type": "reasoning_text", "text": f"m{number}r"}]
            found.append({"type": "reasoning", "id": f"rs_m{number}", "summary": [], "content": content_})
        message = {"type": "message", "id": f"msg_m{number}", "role": "assistant"}
        return [*found, {**message, "status": status, "content": content}]

    def events(self) -> list[tuple[str, Json, str]]:
        """Name, members, and the text that each event adds."""
        found: list[tuple[str, Json, str]] = []

        def add(name: str, members: Json, text: str = "") -> None:
            found.append((f"response.{name}", members, text))

        add("created", {"response": self.response("in_progress", [])})
        add("in_progress", {"response": self.response("in_progress", [])})
        for index, item in enumerate(self.items("completed")):
            where = {"item_id": item["id"], "output_index": index, "content_index": 0}
            add("output_item.added", {"output_index": index, "item": _begun(item)})
            part = item["content"][0]
            family = part["type"]
            add("content_part.added", {**where, "part": {**part, "text": ""}})
            pieces = self.words if family == "output_text" else [part["text"]]
            extra = {"logprobs": []} if family == "output_text" else {}
            for piece in pieces:
                text = piece if family == "output_text" else ""
                add(f"{family}.delta", {**where, "delta": piece, **extra}, text)
            add(f"{family}.done", {**where, "text": part["text"], **extra})
            add("content_part.done", {**where, "part": part})
            add("output_item.done", {"output_index": index, "item": item})
        status = "incomplete" if self.script.cut_short else "completed"
        add("completed", {"response": self.response(status, self.items("completed"))})
        return found


def _begun(item: Json) -> Json:
    begun = {**item, "content": []}
    return begun if item["type"] == "reasoning" else {**begun, "status": "in_progress"}
