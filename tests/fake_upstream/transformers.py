"""The events of an answer in the dialect of ``transformers serve``."""

from __future__ import annotations

from typing import Any

from .encoding import CREATED, NONCE
from .vllm import VLLM_ONLY, Rendering, without


class Transformers(Rendering):
    """transformers serve: ``data:`` lines only, begins ``queued``, one UUID for a response and its items."""

    def id(self, prefix: str) -> str:
        return f"{prefix}_71eafe46-774c-4f3f-88e6-{NONCE}"

    def response_id(self) -> str:
        return self.id("resp")

    def encode(self, kind: str, members: dict[str, Any]) -> bytes:
        members.pop("name", None)
        return super().encode(kind, members).partition(b"\n")[2]

    def text_part(self, text: str, *, done: bool) -> dict[str, Any]:
        return {"annotations": [], "text": text, "type": "output_text"}

    def item(self, item: dict[str, Any]) -> dict[str, Any]:
        kept = without(item, *VLLM_ONLY)
        if item["type"] == "message" and item["status"] == "completed":
            kept["annotations"] = []
        return kept

    def open(self) -> None:
        self.add("response.created", response=self.envelope("queued"))
        self.add("response.in_progress", response=self.envelope("in_progress"))

    def envelope(self, status: str) -> dict[str, Any]:
        envelope = {
            "id": self.response_id(),
            "created_at": CREATED + 0.1479762,
            "model": f"{self.body.get('model', 'tiny')}@main",
            "object": "response",
            "output": [] if status in ("queued", "in_progress") else self.output,
            "parallel_tool_calls": False,
            "tool_choice": "auto",
            "tools": [],
            "status": "completed" if status == "incomplete" else status,
        }
        return envelope | ({"usage": self.usage()} if envelope["output"] else {})

    def usage(self) -> dict[str, Any]:
        usage = super().usage()
        return usage | {
            "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
