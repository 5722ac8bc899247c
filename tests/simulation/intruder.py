"""Another owner, who has heard of every id and must find nothing behind it.

What it does is in a record of its own: the judge of what was promised to the others sees none of it, and
finds it out if anything of theirs has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from agentic_trio.context import ANYONE, Identity
from tests.simulation.client import MODEL, Client

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.simulation.record import Request

HEADER = "x-owner"
OWNER = "intruder"

BUSY = (408, 429, 500, 502, 503)
"""Statuses of a gateway that can't tell now."""


class ByHeader:
    """Finds out who a request comes from, as a program's own way in does: a header names another owner."""

    keyring = None

    async def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Identity:
        for name, value in headers:
            if name == HEADER.encode():
                return Identity(value.decode())
        return ANYONE

    def is_ours(self, authorization: bytes) -> bool:
        return False


class Intruder(Client):
    """Tries every id that the others have learnt."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.found: list[str] = []
        """What it found that is not its own."""

    async def try_all(self, rounds: int) -> None:
        for _ in range(rounds):
            await trio.sleep(self.random.choice((0.1, 0.5, 2.0)))
            await self._try_one()
        if self._end is not None:
            self._end.close()

    async def _try_one(self) -> None:
        known, random = self.known, self.random
        ways: list[tuple[str, str, Any]] = []
        for id in known.responses[-4:]:
            ways += [
                ("GET", f"/v1/responses/{id}", None),
                ("GET", f"/v1/responses/{id}?stream=true", None),
                ("GET", f"/v1/responses/{id}/input_items", None),
                ("POST", f"/v1/responses/{id}/cancel", None),
                ("DELETE", f"/v1/responses/{id}", None),
                ("POST", "/v1/responses", {"model": MODEL, "input": "x", "previous_response_id": id}),
            ]
        for id in known.conversations[-2:]:
            ways += [
                ("GET", f"/v1/conversations/{id}/items", None),
                ("POST", f"/v1/conversations/{id}/items", {"items": [{"role": "user", "content": "x"}]}),
                ("DELETE", f"/v1/conversations/{id}", None),
                ("POST", "/v1/responses", {"model": MODEL, "input": "x", "conversation": id}),
            ]
        for conversation, item in known.items[-3:]:
            reference = {"type": "item_reference", "id": item}
            ways += [
                ("DELETE", f"/v1/conversations/{conversation}/items/{item}", None),
                ("POST", "/v1/responses", {"model": MODEL, "input": [reference]}),
            ]
        if ways:
            method, target, body = random.choice(ways)
            number = len(self.record.requests)
            headers = {HEADER: OWNER, "x-request-id": f"intruder-{number}"}
            self._judge(await self.send(method, target, body, headers))

    def _judge(self, request: Request) -> None:
        # An unknown id in a body is the body's fault, one in a path is not there.
        expected = (400, 404) if request.target == "/v1/responses" else (404,)
        if request.whole and request.status not in (*expected, *BUSY):
            self.found.append(
                f"{request.method} {request.target}: {request.status} {request.content[:200]!r}"
            )

    def _learn(self, request: Request) -> None:
        """What it is told is nothing to the others."""
