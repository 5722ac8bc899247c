"""Messages of the Responses API over a WebSocket: what clients send, and a turn's events as they are sent.

A client sends ``response.create`` with the members of a request. It may name a lane (``stream_id``): the
responses of one lane are made one after the other, those of different lanes side by side. Events are those
of a stream, one a message, with their lane's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentic_trio.errors import GatewayError, InvalidRequest
from agentic_trio.wire import checks
from agentic_trio.wire.bodies import decode_value, members_of
from agentic_trio.wire.dialect import decode_object, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentic_trio.wire.bodies import Members
    from agentic_trio.wire.dialect import JsonObject

CREATE = "response.create"
STEER = "response.steer"

MAX_LANE_NAME = 256
"""How long a ``stream_id`` may be, in characters."""

_OWN = frozenset({"type", "stream_id", "generate", "stream"})
"""The members of a message that are no members of a request, or are decided here."""

_lane_name = checks.string(MAX_LANE_NAME)


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """A client's message.

    Attributes:
        type: ``response.create`` or ``response.steer``.
        lane: its ``stream_id``.
        members: the JSON text of its other members, nulls included.
    """

    type: str
    lane: str | None
    members: Members

    @property
    def generates(self) -> bool:
        """Whether the model is asked. Otherwise the response only is a place to go on from."""
        return self._value("generate") is not False

    @property
    def previous_response_id(self) -> str | None:
        """The response that it continues, if the member is valid."""
        previous = self._value("previous_response_id")
        return previous if isinstance(previous, str) else None

    def _value(self, name: str) -> Any:
        text = self.members.get(name)
        return None if text is None else decode_value(text)

    def body(self) -> bytes:
        """Return the request as the body of a POST would have it, streamed."""
        members = [
            b"%b:%b," % (encode(name), value) for name, value in self.members.items() if name not in _OWN
        ]
        return b'{%b"stream":true}' % b"".join(members)


def lane_in(members: Members) -> str | None:
    """Return the lane that a message names, if it names one."""
    value = decode_value(members.get("stream_id", b"null"))
    if value is not None:
        _lane_name(value, "stream_id")
    return value if isinstance(value, str) else None


def parse_message(members: Members) -> ClientMessage:
    """Check a message's own members.

    Args:
        members: as :func:`members_of` returns them, nulls included.

    Raises:
        InvalidRequest: it is of a type that clients don't send, or a member is of the wrong type.
    """
    type = decode_value(members.get("type", b"null"))
    if type is None:
        raise checks.missing("type")
    if not isinstance(type, str):
        raise checks.invalid_type("type", "a string", type)
    if type not in (CREATE, STEER):
        raise checks.invalid_value("type", type, (CREATE, STEER))
    generate = decode_value(members.get("generate", b"null"))
    if generate is not None:
        checks.boolean(generate, "generate")
    return ClientMessage(type, lane_in(members), members)


def read_members(data: bytes) -> Members:
    """Return a message's members as JSON text. Raises InvalidRequest: it is no JSON object."""
    return members_of(data, nulls=True)


_ERROR = b'{"type":"error"'


def messages_of(events: Iterable[bytes], lane: str | None) -> list[bytes]:
    """Return a stream's events as messages: their JSON alone, with the lane's name.

    Args:
        events: as a stream has them, each with its name and its data on one line each.
        lane: the lane's name, if it has one.
    """
    suffix = b"" if lane is None else b',"stream_id":%b}' % encode(lane)
    messages = []
    for event in events:
        data = event[event.index(b"\ndata: ") + 7 : -2]
        if data.startswith(_ERROR):
            data = _nested(data)
        messages.append(data[:-1] + suffix if suffix else data)
    return messages


def _nested(data: bytes) -> bytes:
    """An ``error`` event as sockets have it: its members in ``error``, with a type."""
    event = decode_object(data)
    error = {name: event.get(name) for name in ("message", "param", "code")}
    kept = {name: event[name] for name in ("sequence_number",) if name in event}
    return encode({"type": "error", **kept, "error": {"type": "server_error", **error}})


def error_message(error: GatewayError, lane: str | None) -> bytes:
    """Return the message that refuses a request: what a response's status, headers and body would say."""
    members = error.members()
    if error.headers:
        members["headers"] = error.headers
    message: JsonObject = {"type": "error", "status": error.status, "error": members}
    return encode(message if lane is None else message | {"stream_id": lane})


def steer_refused(message: ClientMessage) -> bytes:
    """Return the message that refuses to steer a response that is under way, and gives the input back."""
    input = message.members.get("input")
    refused: JsonObject = {
        "type": "response.steer.failed",
        "sequence_number": 0,
        "error": {
            "type": "invalid_request_error",
            "code": "steering_not_supported",
            "message": "A response that is under way can't be steered here.",
        },
        "steer": {
            "input": "" if input is None else decode_value(input),
            "previous_response_id": message.previous_response_id or "",
        },
    }
    return encode(refused if message.lane is None else refused | {"stream_id": message.lane})


def limit_reached(message: str, code: str) -> InvalidRequest:
    """Return the refusal of what is beyond a bound of the socket."""
    return InvalidRequest(message, code=code, status=429, type="rate_limit_exceeded")
