"""Why a request may be refused, and why a response may break off: one row for each kind of refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.client import seen_id

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from tests.simulation.judge import Judge
    from tests.simulation.record import Json, Request


def justified(judge: Judge, request: Request, error: Json) -> bool:
    """Whether something that a client or a fault has done explains this error."""
    row = next(row for row in ROWS if row.matches(request.status or 0, error))
    return row.cause(judge, request)


def may_break(judge: Judge, request: Request) -> bool:
    """Whether a response may end before it is whole."""
    # Connections are refused and reset around the end of a machine, and where a reader is too slow.
    if request.intent.get("slow") or judge.crashed(0, request.ended):
        return True
    # A stream that has begun is told its ending, before a machine stops.
    begun = request.status == 200 and not judge.store_failed_during(request)
    return judge.stopped(request.ended) and (not begun or request.relayed)


def deleted(judge: Judge, target: str, request: Request) -> bool:
    """Whether something may have been deleted before this request ended."""
    return any(
        each.began < (request.ended or 0) and each is not request and each.status in (None, 200, 503)
        for each in deletions(judge, target)
    )


def deletions(judge: Judge, target: str) -> list[Request]:
    """The requests that would delete something, alone or with what it belongs to."""
    conversation = f"{_made_in(judge, target)}?responses=true"
    return [
        each
        for each in judge.acts
        if each.method == "DELETE"
        and (each.path == target or target.startswith(f"{each.path}/") or each.target == conversation)
    ]


def _made_in(judge: Judge, target: str) -> str:
    """The conversation that a response was made in, as its URL; empty if it was made in none."""
    made = judge.made_by.get(target.rpartition("/")[2], [])
    named = {(each.body or {}).get("conversation") for each in made} - {None}
    return f"/v1/conversations/{named.pop()}" if named else ""


# The causes


def trouble(judge: Judge, request: Request) -> bool:
    if judge.store_failed_during(request) or judge.stopped(request.ended):
        return True
    if any(call.fault for call in judge.siblings(request)):
        return True
    # What is not stored belongs to the first who asks; one who repeats it meanwhile shares its end.
    if "idempotency-key" in request.headers and not (request.body or {}).get("store", True):
        return True
    return bool(judge.record.faults.get("model unreachable"))


def idle_as_it_stopped(judge: Judge, request: Request) -> bool:
    """Its first bytes came as its connection was closed for being idle."""
    return judge.stopped(request.ended)


def too_many(judge: Judge, request: Request) -> bool:
    """The gateway's own limits need no cause: the record doesn't tell how many requests ran."""
    return True


def model_refused(judge: Judge, request: Request) -> bool:
    """What the model server refuses is refused to the client, with its status."""
    return any(call.fault == "refuses" for call in judge.siblings(request))


def previous_missing(judge: Judge, request: Request) -> bool:
    return _response_missing(judge, (request.body or {})["previous_response_id"], request)


def previous_running(judge: Judge, request: Request) -> bool:
    return not _surely_ended(judge, (request.body or {})["previous_response_id"], request)


def conversation_locked(judge: Judge, request: Request) -> bool:
    conversation = _conversation_of(request)
    return any(
        _conversation_of(each) == conversation
        and each is not request
        and each.began < (request.ended or 0)
        and _may_be_at_work(judge, each, request.began)
        for each in judge.acts
    )


def key_in_use(judge: Judge, request: Request) -> bool:
    earlier = _earlier_with_key(judge, request)
    return any((each.ended or 0) >= request.began or not each.whole for each in earlier)


def key_reused(judge: Judge, request: Request) -> bool:
    return any(each.body != request.body for each in _earlier_with_key(judge, request))


def missing(judge: Judge, request: Request) -> bool:
    conversation = (request.body or {}).get("conversation")
    if conversation:
        return deleted(judge, f"/v1/conversations/{conversation}", request)
    if request.path.startswith("/v1/responses/"):
        return _response_missing(judge, _id_in(request), request)
    return deleted(judge, request.path.removesuffix("/items"), request)


def running(judge: Judge, request: Request) -> bool:
    return not _surely_ended(judge, _id_in(request), request)


def not_background(judge: Judge, request: Request) -> bool:
    return not (judge.made_by[_id_in(request)][0].body or {}).get("background")


def not_streamed(judge: Judge, request: Request) -> bool:
    id = _id_in(request)
    if request.method != "GET":
        return False
    if id in judge.made_by and not (judge.made_by[id][0].body or {}).get("stream"):
        return True
    # A crash takes the events with it, and so does a disk that would not have them.
    return judge.crashed(0, request.ended) or judge.store_failed()


@dataclass(frozen=True)
class Row:
    """The errors that it is about, by all that is given, and what must have caused them."""

    cause: Callable[[Judge, Request], bool]
    statuses: Container[int] = range(400, 600)
    code: str | None = None
    message: str = ""
    """How the error's message begins."""
    param: str | None = None

    def matches(self, status: int, error: Json) -> bool:
        return (
            status in self.statuses
            and self.code in (None, error["code"])
            and error["message"].startswith(self.message)
            and self.param in (None, error["param"])
        )


ROWS = (
    Row(trouble, statuses=range(500, 600)),
    Row(idle_as_it_stopped, statuses=(408,)),
    Row(too_many, statuses=(429,), code="rate_limit_exceeded"),
    Row(model_refused, statuses=(429,)),
    Row(previous_missing, code="previous_response_not_found"),
    Row(previous_running, code="previous_response_not_ended"),
    Row(conversation_locked, code="conversation_locked"),
    Row(key_in_use, code="idempotency_key_in_use"),
    Row(key_reused, code="idempotency_key_reused"),
    Row(missing, statuses=(404,)),
    Row(running, message="Cannot delete"),
    Row(not_background, message="Cannot cancel"),
    Row(not_streamed, param="stream"),
    Row(model_refused),
)
"""The first row that matches decides."""


# What the causes are made of


def _id_in(request: Request) -> str:
    parts = request.path.split("/")
    return parts[3] if len(parts) > 3 else ""


def _earlier_with_key(judge: Judge, request: Request) -> list[Request]:
    key = request.key
    return [
        each
        for each in judge.creates
        if each.key == key and each is not request and each.began < (request.ended or 0)
    ]


def _response_missing(judge: Judge, id: str, request: Request) -> bool:
    unstored = not (judge.made_by[id][0].body or {}).get("store", True)
    return unstored or deleted(judge, f"/v1/responses/{id}", request)


def _surely_ended(judge: Judge, id: str, request: Request) -> bool:
    return not judge.store_failed() and _seen_ended(judge, id, request.began)


def _seen_ended(judge: Judge, id: str, tick: int) -> bool:
    return any(each.ended and (each.request.ended or 0) < tick for each in judge.sightings.get(id, []))


def _conversation_of(request: Request) -> str | None:
    if request.path == "/v1/responses":
        found = (request.body or {}).get("conversation")
        return found if isinstance(found, str) else None
    if request.method in ("POST", "DELETE") and "/items" in request.path:
        return _id_in(request)
    if request.target.endswith("?responses=true"):
        return request.path.rpartition("/")[2]
    return None


def _may_be_at_work(judge: Judge, request: Request, tick: int) -> bool:
    """Whether what a request has begun may still go on."""
    id = seen_id(request)
    if judge.store_failed():
        return True
    if id is not None and _seen_ended(judge, id, tick):
        return False
    body = request.body or {}
    if request.whole and not (request.status == 200 and body.get("background")):
        return (request.ended or 0) >= tick
    return True
