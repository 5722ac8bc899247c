"""What every client was promised, worked out from the record of a run, and whether it was kept.

Plain Python, with nothing of the gateway in it: it knows the requests, what their clients saw of the
answers, and what the model server was asked and said.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tests.oracles import RuleBroken, check_error
from tests.simulation.client import event_data, seen_id, whole_events
from tests.simulation.conversation import Conversation
from tests.simulation.model_server import said, text_of
from tests.simulation.refusals import deleted, deletions, justified, may_break
from tests.simulation.stream import check_stream

if TYPE_CHECKING:
    from tests.simulation.record import Call, Json, Record, Request, Said

ENDED = ("completed", "incomplete", "failed", "cancelled")
PROMPT = 0.1
"""Virtual seconds in which the model server must be told that nobody wants its answer any more."""

LONGEST_HANG = 90.0
"""Virtual seconds for which one fault of the disk can be felt, by those that queue behind it."""

TERMINAL = tuple(b"event: response.%b\n" % name for name in (b"completed", b"incomplete", b"failed"))

LOST = "turn %s is lost"

EXPECTED_LOGS = (
    "the store failed",
    "the store can't",
    "the store still can't",
    "turn %s could not be recorded",
    "turn %s was not recorded in time",
    "turn %s could not be withdrawn",
)


@dataclass(frozen=True)
class Violation:
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass(frozen=True)
class Sighting:
    """A Response object that a client saw."""

    request: Request
    id: str
    status: str
    data: bytes

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def parse_response(data: bytes) -> Json:
    found: Json = json.loads(data)
    return found


class Judge:
    """Checks one record; ``violations`` is what it found."""

    def __init__(self, record: Record, looked_from: int | None, turn_timeout: float) -> None:
        self.record = record
        self.violations: list[Violation] = []
        self.turns = 0
        self._done: list[tuple[str, str, dict[int, bytes]]] = []
        everything = record.requests
        self.acts = everything[:looked_from]
        self.looks = everything[looked_from:] if looked_from is not None else []
        self.turn_timeout = turn_timeout
        self.by_id = {request.id: request for request in everything}

    def found(self, rule: str, detail: str) -> None:
        self.violations.append(Violation(rule, detail))

    def require(self, held: object, rule: str, detail: str) -> None:
        if not held:
            self.found(rule, detail)

    def judge(self, left_over: dict[str, int], tables: dict[str, list[bytes]], logged: list[str]) -> None:
        self._calls()
        self._errors()
        self._streams()
        for id in self.made_by:
            self._response(id)
        self._conversations()
        self._keys()
        self._tables(tables)
        held = {name: count for name, count in left_over.items() if count}
        self.require(not held, "nothing is held in the end", str(held))
        for message in logged:
            # A turn that the store refuses is logged without a cause: the store has logged that.
            cause = "StoreError" in message or message.endswith(" None")
            known = message.startswith(EXPECTED_LOGS) and cause
            known = known or message.startswith(EXPECTED_LOGS[2])
            # While a store fails or hangs, a process that stops can't record what runs.
            known = known or (
                message.startswith(LOST)
                and any(each.startswith(("store", "database")) for each in self.record.faults)
            )
            self.require(known, "nothing unexpected is logged", message)

    # ------------------------------------------------------------------ the facts

    @cached_property
    def creates(self) -> list[Request]:
        return [each for each in self.acts if each.method == "POST" and each.path == "/v1/responses"]

    @cached_property
    def made_by(self) -> dict[str, list[Request]]:
        """Response id -> the requests that were answered with it."""
        found: dict[str, list[Request]] = {}
        for request in self.creates:
            id = seen_id(request)
            if id is not None:
                found.setdefault(id, []).append(request)
        return found

    @cached_property
    def calls_of(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = {}
        for call in self.record.calls:
            found.setdefault(call.request, []).append(call)
        return found

    @cached_property
    def sightings(self) -> dict[str, list[Sighting]]:
        found: dict[str, list[Sighting]] = {}
        for request in self.record.requests:
            for sighting in sightings_of(request):
                found.setdefault(sighting.id, []).append(sighting)
        return found

    @cached_property
    def look_at(self) -> dict[str, Request]:
        """Target -> the request that read it when everything was over."""
        return {request.target: request for request in self.looks}

    def requests_for(self, target: str, method: str = "GET") -> list[Request]:
        return [each for each in self.acts if each.method == method and each.target == target]

    def calls_for(self, id: str) -> list[Call]:
        """The calls of a response, by any of the requests that were answered with it."""
        return [call for request in self.made_by[id] for call in self.siblings(request)]

    def siblings(self, request: Request) -> list[Call]:
        """The calls of a request, and of its repeats: whichever came first has made the call."""
        key = request.key
        if key is None:
            return self.calls_of.get(request.id, [])
        return [
            call
            for each in self.creates
            if each.key == key and each.body == request.body
            for call in self.calls_of.get(each.id, [])
        ]

    def origin(self, id: str) -> Request:
        """The request that asked for a response first: it may have been left unanswered."""
        request = self.made_by[id][0]
        key = request.key
        if key is None:
            return request
        return next(each for each in self.creates if each.key == key)

    def crashed(self, first: int, last: int | None) -> bool:
        return any(first <= tick and (last is None or tick <= last) for tick in self.record.crashes)

    def stopped(self, last: int | None = None) -> bool:
        """Whether a machine was told to stop, as long as there was anything to do."""
        last = self.record.healed if last is None else last
        return any(last is None or tick <= last for tick in self.record.stops)

    def store_failed(self, first: int = 0) -> bool:
        return any(first <= tick for tick, _ in self.record.store_faults)

    def store_failed_during(self, request: Request) -> bool:
        """Whether the disk was in trouble while a request went on, or hung before and may still hang."""
        last = request.ended_at or 0.0
        return any(at <= last and at + LONGEST_HANG >= request.began_at for _, at in self.record.store_faults)

    # ------------------------------------------------------------------ the model server

    def _calls(self) -> None:
        for call in self.record.calls:
            request = self.by_id.get(call.request)
            where = f"call {call.number} of {call.request}"
            if request is None or request not in self.creates:
                self.found("each call belongs to a request", where)
                continue
            token = request.headers["authorization"]
            self.require(call.authorization == token, "a token stays in its request", where)
            self.require(call.closed is not None, "a call ends with its owner", f"{where} is open")
            self._lifetime(call, request, where)
            self._input(call, request, where)
            stateless = call.body.get("store") is False and "previous_response_id" not in call.body
            stateless = stateless or not (request.body or {}).get("store", True)
            self.require(stateless, "the model server is asked for no state", where)

    def _lifetime(self, call: Call, request: Request, where: str) -> None:
        body = request.body or {}
        owned = not body.get("background") and request.key is None
        keeps = request.intent["policy"] == "finish" and body.get("store", True)
        if owned and not keeps and request.left and call.closed_at is not None:
            late = call.closed_at - (request.ended_at or 0.0)
            self.require(late <= PROMPT, "a call ends with its client", f"{where}: {late} s late")
        if call.closed_at is not None and not request.relayed:
            length = call.closed_at - call.opened_at
            self.require(length <= self.turn_timeout + 2, "a call ends in time", f"{where}: {length}")

    def _input(self, call: Call, request: Request, where: str) -> None:
        body = request.body or {}
        own = said(body["input"])
        self.require(call.input[-len(own) :] == own, "the input comes last", f"{where}: {call.input}")
        history = call.input[: -len(own)]
        if body.get("previous_response_id"):
            wanted = self.context(body["previous_response_id"])
            self.require(
                wanted is None or history == wanted,
                "a turn continues what it names",
                f"{where}: {history}, not {wanted}",
            )
        elif not body.get("conversation"):
            self.require(not history, "a turn that names no state has no history", f"{where}: {history}")

    def context(self, id: str) -> list[Said] | None:
        """What a turn that continues a response begins with; None if nobody has seen enough to tell."""
        if id not in self.made_by:
            return None
        request = self.made_by[id][0]
        output = self.output(id)
        if output is None:
            return None
        calls = self.calls_for(id)
        if calls:
            return [*calls[-1].input, *output]
        body = request.body or {}
        if body.get("conversation"):
            return None
        before: list[Said] | None = []
        if body.get("previous_response_id"):
            before = self.context(body["previous_response_id"])
        return None if before is None else [*before, *said(body["input"]), *output]

    def output(self, id: str) -> list[Said] | None:
        """What a response adds to a history, going by how it was seen to end."""
        ends = [each for each in self.sightings.get(id, []) if each.ended]
        if not ends:
            return None
        items = parse_response(ends[-1].data)["output"]
        return [(each.get("role") or each["type"], text_of(each)) for each in items if text_of(each)]

    # ------------------------------------------------------------------ refusals and breaks

    def _errors(self) -> None:
        for request in self.record.requests:
            where = f"req-{request.number} {request.method} {request.target}: {request.status}"
            if request.relayed:
                self._relayed(request, where)
            elif request.whole and request.status != 200:
                try:
                    error = check_error(request.status or 0, request.content)
                except (RuleBroken, ValueError) as broken:
                    self.found("an error has OpenAI's form", f"{where} {broken}")
                    continue
                self._words(request, str(error["message"]), where)
                if not justified(self, request, error):
                    self.found("nothing is refused without a cause", f"{where} {error}")
            elif request.broken and not request.left and not may_break(self, request):
                self.found("no answer is cut without a cause", where)
            self._duration(request, where)

    def _words(self, request: Request, message: str, where: str) -> None:
        """What the model server complains of is what its client is told, if nothing else went wrong."""
        calls = self.siblings(request)
        if calls and calls[-1].complaint and not self.store_failed() and not self._interrupted():
            told = calls[-1].complaint in message
            self.require(told, "an error with status 200 keeps its words", f"{where}: {message}")

    def _interrupted(self) -> bool:
        return bool(self.record.crashes) or self.stopped()

    def _relayed(self, request: Request, where: str) -> None:
        """What needs no state comes back as the model server said it, and breaks off when that does."""
        calls = self.calls_of.get(request.id, [])
        if request.status == 200 and calls:
            self.require(calls[0].sent.startswith(request.content), "a relay changes nothing", where)
            if request.whole and calls[0].fault not in ("cuts", "stalls"):
                self.require(calls[0].sent == request.content, "a relay is whole", where)

    def _duration(self, request: Request, where: str) -> None:
        if request.ended_at is not None and not request.intent.get("slow"):
            length = request.ended_at - request.began_at
            self.require(length < 300, "every request ends", f"{where} took {length} s")

    # ------------------------------------------------------------------ responses

    def _response(self, id: str) -> None:
        self.turns += 1
        request = self.made_by[id][0]
        body = request.body or {}
        final = self.look_at[f"/v1/responses/{id}"]
        gone = deleted(self, f"/v1/responses/{id}", final)
        sure = any(
            each.ok and (each.path == f"/v1/responses/{id}" or (request.ended or each.began) < each.began)
            for each in deletions(self, f"/v1/responses/{id}")
        )
        if not body.get("store", True):
            self.require(final.status == 404, "what is not stored is not there", f"{id} {final.status}")
            return
        if sure:
            self.require(final.status == 404, "what is deleted is gone", f"{id} {final.status}")
            return
        if final.status == 404 and gone:
            return
        where = f"{id} of req-{request.number}"
        if not final.ok:
            self.found("every id that was seen can be fetched", f"{where}: {final.status}")
            return
        response = parse_response(final.content)
        self.require(response["status"] in ENDED, "every turn has ended", f"{where}: {response['status']}")
        self._agree(id, final, where)
        self._truth(id, response, where)
        self._given(id, where)

    def _agree(self, id: str, final: Request, where: str) -> None:
        since = None
        for sighting in self.sightings.get(id, []):
            seen = f"{where} seen by req-{sighting.request.number}"
            if sighting.ended:
                since = min(since or 1 << 60, sighting.request.ended or 0)
                if sighting.data != final.content and not self._may_forget(sighting, final):
                    self.found("an ending stays as it was seen", f"{seen}: {sighting.data!r}")
            elif since is not None and sighting.request.began > since:
                self.found("an ending stays", f"{seen}: {sighting.status}")

    def _may_forget(self, sighting: Sighting, final: Request) -> bool:
        """A disk that refuses an ending, then a crash or a stop that can't wait for the disk: the turn has
        failed, for another reason."""
        both = sighting.status == "failed" == final.json["status"]
        return both and self.store_failed() and (bool(self.record.crashes) or self.stopped())

    def _truth(self, id: str, response: Json, where: str) -> None:
        status, calls = response["status"], self.calls_for(id)
        text = "".join(text for role, text in self.output(id) or [] if role == "assistant")
        shown = f"{where}: {status} {text!r} of {[(c.number, c.ending, c.fault, c.said) for c in calls]}"
        if status in ("completed", "incomplete"):
            held = any(call.ending == status and call.text == text for call in calls)
            self.require(held, "a whole answer is the model's", shown)
            return
        held = not text or any(call.said.startswith(text) for call in calls)
        self.require(held, "part of an answer is the model's", shown)
        if status == "failed":
            self._words(self.made_by[id][0], response["error"]["message"], where)
        cause = self._failed(id, calls) if status == "failed" else self._cancelled(id, calls)
        self.require(cause, f"nothing is {status} without a cause", shown)

    def _failed(self, id: str, calls: list[Call]) -> bool:
        return (
            any(call.fault for call in calls)
            or self.crashed(self.origin(id).began, None)
            or self.store_failed(self.origin(id).began)
            or bool(self.record.faults.get("model unreachable"))
        )

    def _cancelled(self, id: str, calls: list[Call]) -> bool:
        requests = self.made_by[id]
        body = requests[0].body or {}
        told = bool(self.requests_for(f"/v1/responses/{id}/cancel", "POST"))
        owned = not body.get("background") and requests[0].key is None
        left = owned and any(each.left or each.broken for each in requests)
        left = left and requests[0].intent["policy"] == "cancel"
        since = self.origin(id).began_at
        late = any((call.closed_at or 0.0) - since >= self.turn_timeout - 1 for call in calls)
        return (told and bool(body.get("background"))) or left or late or self.stopped()

    def _given(self, id: str, where: str) -> None:
        """What the gateway says the model was given is what the model was given."""
        listed = self.look_at[f"/v1/responses/{id}/input_items?order=asc&limit=100"]
        calls = self.calls_for(id)
        if listed.ok and calls:
            found = said(listed.json["data"])
            self.require(found == calls[-1].input, "input_items is what the model was given", where)

    # ------------------------------------------------------------------ streams

    def _streams(self) -> None:
        logs: dict[str, dict[int, bytes]] = {}
        for request in self.record.requests:
            streamed = request.kind.startswith("text/event-stream") and not request.relayed
            if request.status == 200 and streamed:
                self._stream(request, logs)
        for where, id, log in self._done:
            self.require(self._ends_well(id, log), "a whole stream tells its ending", where)
        for id, requests in self.made_by.items():
            replay = self.look_at[f"/v1/responses/{id}?stream=true"]
            if (requests[0].body or {}).get("stream") and replay.ok:
                log = logs.get(id, {})
                count = len(whole_events(replay.content))
                self.require(
                    max(log, default=-1) < count, "a replay holds all that was sent", f"{id}: {count} events"
                )
                body = requests[0].body or {}
                wanted = not deleted(self, f"/v1/responses/{id}", replay) and body.get("store", True)
                self.require(replay.whole or not wanted, "a replay is whole", id)

    def _stream(self, request: Request, logs: dict[str, dict[int, bytes]]) -> None:
        where = f"req-{request.number} {request.target}"
        events = whole_events(request.content)
        after = re.search(r"starting_after=(-?\d+)", request.target)
        first = int(after[1]) + 1 if after else 0
        id = seen_id(request) if request.method == "POST" else request.path.split("/")[3]
        if id is None:
            return
        stored = request.method == "GET" or (request.body or {}).get("store", True)
        log = logs.setdefault(id if stored and not self._retold(id, request) else request.id, {})
        for number, event in enumerate(events, first):
            self.require(
                json.loads(event_data(event))["sequence_number"] == number,
                "events are numbered one by one",
                f"{where}: {event[:200]!r} should be {number}",
            )
            self.require(
                log.setdefault(number, event) == event,
                "a stream that is read again is the same",
                f"{where}: {event[:200]!r} was {log[number][:200]!r}",
            )
        done = request.content.endswith(b"data: [DONE]\n\n")
        self.require(done or not request.whole, "a whole stream says so", where)
        if first == 0 and events:
            for rule in check_stream([json.loads(event_data(each)) for each in events]):
                self.found("a stream is legal", f"{where}: {rule}")
        if done:
            self._done.append((where, id, log))

    def _retold(self, id: str, request: Request) -> bool:
        """Whether a repeat's stream is made from the response, since its own events were not kept."""
        kept = self.look_at[f"/v1/responses/{id}?stream=true"].ok
        return request.method == "POST" and request is not self.made_by[id][0] and not kept

    def _ends_well(self, id: str, log: dict[int, bytes]) -> bool:
        last = log[max(log)] if log else b""
        if last.startswith(
            (b"event: response.completed", b"event: response.incomplete", b"event: response.fai")
        ):
            return True
        # OpenAI has no event for a cancelled response: its stream just ends.
        return self.store_failed() or self._final_status(id) in ("cancelled", None)

    def _final_status(self, id: str) -> str | None:
        final = self.look_at.get(f"/v1/responses/{id}")
        return final.json["status"] if final is not None and final.ok else None

    # ------------------------------------------------------------------ conversations, keys, tables

    def _conversations(self) -> None:
        for request in self.acts:
            if request.method == "POST" and request.path == "/v1/conversations" and request.ok:
                Conversation(self, request).check()

    def _keys(self) -> None:
        keys: dict[tuple[str, str], list[Request]] = {}
        for request in self.creates:
            key = request.key
            if key is not None:
                keys.setdefault(key, []).append(request)
        for key, requests in keys.items():
            answered = [each for each in requests if seen_id(each) is not None]
            stored = [each for each in answered if (each.body or {}).get("store", True)]
            self.require(len({seen_id(each) for each in stored}) <= 1, "one key, one response", str(key))
            bodies = {json.dumps(each.body) for each in stored}
            self.require(len(bodies) <= 1, "one key, one request", str(key))
            if not (requests[0].body or {}).get("store", True):
                continue
            calls = {call.number: call for each in requests for call in self.calls_of.get(each.id, [])}
            spoilt = sum(bool(call.fault) for call in calls.values())
            spoilt += len(self.record.crashes) + len(self.record.store_faults) + len(self.record.stops)
            self.require(len(calls) <= 1 + spoilt, "one key, one inference", f"{key}: calls {list(calls)}")

    def _tables(self, tables: dict[str, list[bytes]]) -> None:
        self.require(not tables["pending"], "every turn has ended on disk", str(tables["pending"]))
        texts = Counter(text_of(json.loads(entry)) for entry in tables["entries"])
        for text, count in texts.items():
            self.require(count == 1 or not text, "nothing is recorded twice", f"{text!r}: {count} times")
        for request in self.creates:
            if not (request.body or {}).get("store", True):
                forbidden = {text for _, text in said((request.body or {})["input"])}
                forbidden |= {call.text for call in self.calls_of.get(request.id, [])}
                kept = forbidden & texts.keys()
                self.require(not kept, "what is not stored leaves nothing", f"req-{request.number}: {kept}")

    def machines(self, machines: list[tuple[int, bool, int, float, float]]) -> None:
        """Each machine that was stopped: it ends in time, and no call outlives it."""
        for number, dead, ended, stopped_at, over_at in machines:
            for call in self.record.calls:
                if not dead and ended and call.machine == number:
                    alive = call.closed is None or call.closed > ended
                    self.require(not alive, "no call outlives the gateway", f"call {call.number}")
            if stopped_at and not dead:
                bound = 5.0 + 1.0 + 2.0 + (90.0 if self.record.store_faults else 0.0)
                took = over_at - stopped_at
                self.require(took <= bound, "a shutdown ends in time", f"machine {number} took {took} s")


def sightings_of(request: Request) -> list[Sighting]:
    """The Response objects in an answer that tell a status of their own."""
    if request.status != 200 or request.relayed:
        return []
    if request.kind.startswith("text/event-stream"):
        return [
            found
            for event in whole_events(request.content)
            if (found := _of_event(request, event)) is not None
        ]
    if not request.whole or not request.content.startswith(b'{"id":"resp_'):
        return []
    response = parse_response(request.content)
    if response.get("object") != "response" or "status" not in response:
        return []
    return [Sighting(request, response["id"], response["status"], request.content)]


def _of_event(request: Request, event: bytes) -> Sighting | None:
    name = event[len(b"event: ") :].partition(b"\n")[0]
    if name not in (b"response.completed", b"response.incomplete", b"response.failed"):
        return None
    data = event_data(event)
    response = data[data.index(b'"response":') + len(b'"response":') : -1]
    parsed = parse_response(response)
    return Sighting(request, parsed["id"], parsed["status"], response)
