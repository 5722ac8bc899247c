"""What happened in a run, as the clients and the model server saw it. Nothing of the gateway is named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Said = tuple[str, str]
"""Role (or type) and text of an item."""


@dataclass(eq=False)
class Request:
    """One request, and what its client saw of the answer. Ticks order all that happened."""

    number: int
    client: int
    method: str
    target: str
    body: Json | None
    headers: dict[str, str]
    began: int
    began_at: float
    ended: int | None = None
    ended_at: float | None = None
    sent: bool = False
    status: int | None = None
    kind: str = ""
    content: bytes = b""
    whole: bool = False
    left: bool = False
    """The client closed the connection before the answer was whole."""
    broken: bool = False
    """The connection broke under the client."""
    machine: int = -1
    intent: Json = field(default_factory=dict)
    """What the client meant by it, for the judge."""

    @property
    def id(self) -> str:
        return f"req-{self.number}"

    @property
    def key(self) -> tuple[str, str] | None:
        """Its idempotency key, and the credentials that the key belongs to."""
        key = self.headers.get("idempotency-key")
        return None if key is None else (key, self.headers["authorization"])

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def relayed(self) -> bool:
        """Whether it has nothing to do with state: it goes to the model server as it is."""
        body = self.body or {}
        named = body.get("previous_response_id") or body.get("conversation")
        return self.path == "/v1/responses" and body.get("store") is False and not named

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.whole


@dataclass(eq=False)
class Call:
    """One request at the model server, and what it answered."""

    number: int
    request: str
    authorization: str
    input: list[Said]
    body: Json
    streamed: bool
    machine: int
    opened: int
    opened_at: float
    fault: str = ""
    """What the model server did wrong, if it did."""
    text: str = ""
    """What it would say in all."""
    said: str = ""
    """What it has said so far."""
    sent: bytes = b""
    """The answer's body, as far as it was sent."""
    ending: str = ""
    """The terminal status, once it was sent in full."""
    complaint: str = ""
    """The words of the error that it sent with status 200."""
    closed: int | None = None
    closed_at: float | None = None


class Record:
    """The transcript of a run. Every entry is one tick of its clock."""

    def __init__(self, now: Any) -> None:
        self.now = now
        self.entries: list[tuple[float, str]] = []
        self.requests: list[Request] = []
        self.calls: list[Call] = []
        self.faults: dict[str, int] = {}
        self.store_faults: list[tuple[int, float]] = []
        """Tick and time of each."""
        self.crashes: list[int] = []
        self.stops: list[int] = []
        self.healed: int | None = None
        """From which tick on nothing fails any more."""
        self.at_tick: dict[int, Any] = {}

    @property
    def tick(self) -> int:
        return len(self.entries)

    def note(self, text: str) -> int:
        """Add an entry; answers its tick. What was to happen at this tick happens now."""
        self.entries.append((self.now(), text))
        tick = len(self.entries)
        then = self.at_tick.pop(tick, None)
        if then is not None:
            then()
        return tick

    def fault(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.note(f"FAULT {kind}")

    def digest(self) -> str:
        whole = hashlib.sha256()
        for at, text in self.entries:
            whole.update(f"{at:.9f} {text}\n".encode())
        return whole.hexdigest()

    def shown(self) -> str:
        return "\n".join(f"{n:5d} {at:10.4f} {text}" for n, (at, text) in enumerate(self.entries, 1))
