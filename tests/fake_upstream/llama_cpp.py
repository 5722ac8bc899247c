"""The events of an answer in llama.cpp's dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .encoding import CREATED, NONCE, encode
from .vllm import VLLM_ONLY, Rendering, without

if TYPE_CHECKING:
    from .script import Script


class LlamaCpp(Rendering):
    """llama.cpp: no numbers, no indices, three members at first, and all ends of items at the very end.

    Reasoning has no content parts; calls have no ``arguments.done`` (its ``server-task.cpp``).
    """

    _DROPPED = ("output_index", "content_index", "summary_index", "logprobs", "name")
    _UNSAID = ("response.function_call_arguments.done", "response.reasoning_text.done")
    _STARTED = ("content", "id", "role", "status", "type")
    _ENDED = ("type", "status", "id", "content", "role")

    def __init__(self, script: Script, body: dict[str, Any]) -> None:
        super().__init__(script, body)
        self.ends: list[tuple[str, dict[str, Any]]] = []

    def id(self, prefix: str) -> str:
        return f"{prefix}_{NONCE}{len(self.output):04x}gguf" + 12 * "0"

    def response_id(self) -> str:
        return f"resp_{NONCE}ffffgguf" + 12 * "0"

    def call_id(self) -> str:
        return self.id("call")

    def encode(self, kind: str, members: dict[str, Any]) -> bytes:
        kept = {key: members[key] for key in ("item_id",) if key in members}
        kept |= without(members, *self._DROPPED)
        return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind} | kept) + b"\n\n"

    def text_part(self, text: str, *, done: bool) -> dict[str, Any]:
        if not done:
            return {"type": "output_text", "text": ""}
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}

    def item(self, item: dict[str, Any]) -> dict[str, Any]:
        item = without(item, *VLLM_ONLY)
        if item["type"] == "reasoning":
            item |= {"content": item["content"] or [], "encrypted_content": ""}
            return item if item["status"] == "in_progress" else without(item, "status")
        order = self._STARTED if item.get("status") == "in_progress" else self._ENDED
        return {key: item[key] for key in order if key in item} | item

    def add(self, kind: str, /, **members: Any) -> None:
        if kind in self._UNSAID or members.get("part", {}).get("type") == "reasoning_text":
            return
        (self.ends if kind.endswith(".done") else self.events).append(self.encode(kind, members))

    def close(self) -> None:
        self.events += self.ends
        super().close()

    def envelope(self, status: str) -> dict[str, Any]:
        envelope: dict[str, Any] = {"id": self.response_id(), "object": "response"}
        if status == "in_progress":
            return envelope | {"status": status}
        return envelope | {
            "created_at": CREATED,
            "status": "completed" if status == "incomplete" else status,
            "model": self.body.get("model", "gemma-3-270m"),
            "output": self.output,
            "usage": self.usage(),
        }

    def final(self) -> dict[str, Any]:
        return self.envelope("completed") | self.script.response

    def usage(self) -> dict[str, Any]:
        usage = super().usage()
        details = {"cached_tokens": 0}
        return {key: usage[key] for key in ("input_tokens", "output_tokens", "total_tokens")} | {
            "input_tokens_details": details
        }
