"""The life of a response that the upstream makes in several answers, with calls of tools between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentic_trio.errors import UpstreamError
from agentic_trio.wire import sse
from agentic_trio.wire.accumulator import MAX_OUTPUT_BYTES, Accumulator, whole_output
from agentic_trio.wire.dialect import JsonObject, encode, normal_usage, summed_usage
from agentic_trio.wire.hosted_events import HostedEvents
from agentic_trio.wire.mending import decode_upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentic_trio.wire.hosted_events import HostedCall
    from agentic_trio.wire.hosting import Hosted, Target
    from agentic_trio.wire.ids import MintId
    from agentic_trio.wire.output import OutputItem
    from agentic_trio.wire.responses import Snapshot
    from agentic_trio.wire.sealing import Seal


class RoundsAccumulator(Accumulator):
    """Follows the upstream's answers in turn. Sans-io.

    An answer that completed and has left calls is a round: ``followed`` is set, and ``ended`` is not. Then
    the calls are settled, and the response is concluded or the next round begins. Any other answer ends
    the response.
    """

    _output: HostedEvents

    def __init__(
        self, snapshot: Snapshot, mint: MintId, now: Callable[[], float], seal: Seal | None = None
    ) -> None:
        super().__init__(snapshot, mint, now, seal)
        self._lists: list[tuple[str, list[JsonObject]]] = []
        self._usage: JsonObject | None = None
        self._answer: JsonObject = {}

    def _events_of(self, mint: MintId, seal: Seal | None) -> HostedEvents:
        return HostedEvents(mint, MAX_OUTPUT_BYTES, seal)

    @property
    def calls(self) -> list[HostedCall]:
        """The calls that have no result yet."""
        return list(self._output.calls)

    @property
    def waits_for_client(self) -> bool:
        """Whether the last round holds a call that the client runs, or a question to it."""
        return self._output.waits_for_client()

    @property
    def generated(self) -> int:
        """How many tokens the rounds that are over have taken, as far as the upstream says."""
        count: int = (self._usage or {}).get("output_tokens", 0)
        return count

    def host(
        self, hosted: Hosted, lists: list[tuple[str, list[JsonObject]]], *, shows_sources: bool = False
    ) -> None:
        """Say what is run here, before the first round.

        Args:
            hosted: the functions.
            lists: the label and tools of each server that was asked, to be told when the stream begins.
            shows_sources: whether the client is shown the addresses that a search has found.
        """
        self._output.hosted = hosted
        self._output.shows_sources = shows_sources
        self._lists = lists

    def begin(self) -> list[bytes]:
        return [*super().begin(), *self.tell_lists()]

    def tell_lists(self) -> list[bytes]:
        """Return the events of the lists that haven't been told."""
        out = self._output
        for label, tools in self._lists:
            empty: JsonObject = {"type": "mcp_list_tools", "server_label": label, "tools": []}
            item = out.add_own(empty, "mcp_list_tools.in_progress", "mcp_list_tools.completed")
            out.close_own(item, {**item.added, "tools": tools})
        self._lists = []
        return out.take_sent()

    def add_approved(self, target: Target, arguments: str, approval: str) -> list[bytes]:
        """Add a call that the client approved, and return its first events."""
        self._output.add_call(target, arguments, approval)
        return self._output.take_sent()

    def settle(
        self, call: HostedCall, output: str | None = None, error: JsonObject | None = None
    ) -> list[bytes]:
        """Give a call its result, and return the events that tell it."""
        self._output.settle(call, output, error)
        return self._output.take_sent()

    def next_round(self) -> None:
        """The calls are settled, and the upstream is asked again."""
        self.followed = False
        self._decoder = sse.Decoder()
        self._output.next_round()

    def conclude(self) -> None:
        """The calls of the last round are settled, and there is no other: the response is complete."""
        super()._conclude("response.completed", self._answer)
        self.snapshot.usage = self._usage

    def stop(self, reason: str) -> None:
        """The response ends between two rounds, as incomplete."""
        answer = {**self._answer, "status": "incomplete", "incomplete_details": {"reason": reason}}
        super()._conclude("response.incomplete", answer)
        self.snapshot.usage = self._usage

    def marked(self) -> Iterator[tuple[OutputItem, bytes]]:
        """Each item, and what it is if the process dies while the calls are under way."""
        calls = {id(call.item): call for call in self._output.calls}
        for item in self.items:
            call = calls.get(id(item))
            if call is not None:
                yield item, encode(call.interrupted(sent=True))
            elif item.final is not None:
                yield item, item.stored

    def receive_json(self, body: bytes) -> None:
        try:
            answer = decode_upstream(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamError("The model server sent something that is not a response.") from None
        output = whole_output(answer)
        self._output.finish(output, whole=self._ending("response.completed", answer) == "completed")
        self._output.take_sent()
        self._conclude("response.completed", answer)

    def _conclude(self, type: str, answer: JsonObject) -> None:
        self._usage = summed_usage(self._usage, normal_usage(answer.get("usage")))
        if self._output.calls and self._ending(type, answer) == "completed":
            self.followed = True
            self._answer = {**answer, "output": None}
            return
        if self._ending(type, answer) != "failed":
            self._output.abandon()
        super()._conclude(type, answer)
        self.snapshot.usage = self._usage
