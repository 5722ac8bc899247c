"""Requests as they came, and what a test asks about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httptools


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case; of a repeated one, the last."""
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def items(self) -> list[dict[str, Any]]:
        """``input`` as a list of items."""
        given = self.json["input"]
        return [{"role": "user", "content": given}] if isinstance(given, str) else given

    @property
    def state(self) -> list[str]:
        """What of this request asks the upstream to keep or find state. It should be nothing."""
        body = self.json
        named = [key for key in STATE_KEYS if body.get(key) is not None]
        if body.get("store") is not False:
            named.append("store")
        named += [
            "item_reference"
            for item in self.items
            if isinstance(item, dict) and item.get("type") == "item_reference"
        ]
        return named


STATE_KEYS = ("previous_response_id", "conversation", "conversation_id", "background")


def text_of(item: dict[str, Any]) -> str:
    """The text of a message or of a tool's output."""
    content = item.get("content", item.get("output", ""))
    if isinstance(content, list):
        return "".join(
            str(part.get("text", part.get("refusal", ""))) for part in content if isinstance(part, dict)
        )
    return content if isinstance(content, str) else ""


def last_text(items: list[dict[str, Any]]) -> str:
    """The text of the last item that is a user's message or a tool's output."""
    for item in reversed(items):
        if not isinstance(item, dict):
            continue
        if item.get("role") == "user" or str(item.get("type")).endswith("call_output"):
            return text_of(item)
    return ""


class RequestReader:
    """Parses the requests of one connection, without I/O."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._whole: list[Recorded] = []

    def feed(self, data: bytes) -> list[Recorded]:
        """The requests that these bytes complete. Raises httptools.HttpParserError."""
        self._whole = []
        self._parser.feed_data(data)
        return self._whole

    # httptools calls these.

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        target = self._target.decode("latin-1")
        self._whole.append(Recorded(method, target, self._headers, b"".join(self._parts)))
