"""The events of an output whose tools are run here, and which the upstream makes in several answers.

To the model each tool is a function. A call of one is told as the item that OpenAI's clients know:

- an ``mcp_call``, whose arguments stream as they come, and whose end waits for its result;
- an ``mcp_approval_request``, if a client must approve it first. It is told once its arguments are whole;
- a ``web_search_call``. It is told once its query is known, and its end waits for its result.

Each answer of the upstream is a *round*. Its ids and numbers begin anew, so that events are looked up among
the items of their own round. Our ids and numbers are the response's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.errors import UpstreamError
from agentic_trio.wire.dialect import JsonObject, decode_object
from agentic_trio.wire.hosting import Target
from agentic_trio.wire.ids import item_prefix
from agentic_trio.wire.output import ARGUMENTS, MCP_ARGUMENTS, OutputItem
from agentic_trio.wire.output_events import DELTA_COST, MAX_OUTPUT_ITEMS, OutputEvents
from agentic_trio.wire.output_lookup import FinalLookup, ItemLookup
from agentic_trio.wire.reconciliation import Unclaimed
from agentic_trio.wire.rendering import error_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentic_trio.wire import sse
    from agentic_trio.wire.hosting import Hosted
    from agentic_trio.wire.ids import MintId
    from agentic_trio.wire.output import Event, Family, Text
    from agentic_trio.wire.sealing import Seal

MAY_HAVE_RUN = "The call was interrupted: the tool may have run."
NOT_RUN = "The call was not made: the response ended before it."


HELD = str(b"held", "ascii")
"""The type that stands in a final output for a call that was held, which is none of the items that were
streamed. It is told by its identity: an upstream's own item of this type is another string."""


class HostedCall:
    """A call that is run here, from when its arguments are whole.

    Attributes:
        item: its item. It is open until the call has a result.
        target: what is called.
        arguments: as the model wrote them.
        sent: whether it may have left for its server.
    """

    __slots__ = ("arguments", "item", "sent", "target")

    def __init__(self, item: OutputItem, target: Target, arguments: str) -> None:
        self.item = item
        self.target = target
        self.arguments = arguments
        self.sent = False

    def ended(self, status: str, *, output: str | None = None, error: JsonObject | None = None) -> JsonObject:
        """The whole item, once the call has ended."""
        item = {**self.item.added, "status": status}
        if self.target.kind == "web_search_call":
            # OpenAI's item has no place for an error. The model is shown what was found, or why nothing was.
            found = output if error is None else f"Error: {error_text(error)}"
            return item if found is None else {**item, "results": found}
        return {**item, "arguments": self.arguments, "output": output, "error": error}

    @property
    def query(self) -> str:
        """What a search is for."""
        return search_query(self.arguments)

    def interrupted(self, *, sent: bool) -> JsonObject:
        """The whole item, if the response ends before the call has a result."""
        return self.ended("incomplete", error=protocol_error(MAY_HAVE_RUN if sent else NOT_RUN))


class HostedEvents(OutputEvents):
    """Follows the items of several answers, some of which are calls that are run here. Sans-io.

    Attributes:
        hosted: what is run here; None until that is known.
        calls: the calls of this round that have no result yet.
        shows_sources: whether the client asked for the addresses that a search has found.
    """

    def __init__(self, mint: MintId, limit: int, seal: Seal | None = None) -> None:
        super().__init__(mint, limit, seal)
        self.hosted: Hosted | None = None
        self.calls: list[HostedCall] = []
        self.shows_sources = False
        self._first = 0
        # Calls that aren't told yet: they are in no list of items.
        self._held: list[OutputItem] = []
        self._held_lookup = ItemLookup()
        self._finals: list[OutputItem | None] = []

    def next_round(self) -> None:
        """The next answer of the upstream begins."""
        self._first = len(self.items)
        self._lookup, self._unclaimed = ItemLookup(), Unclaimed()
        self._last = ((), None)
        self._held, self._held_lookup = [], ItemLookup()

    def waits_for_client(self) -> bool:
        """Whether the round holds a call that the client runs, or a question to it."""
        return any(_is_for_client(item.added["type"]) for item in self._current())

    def add_own(self, item: JsonObject, *events: str) -> OutputItem:
        """Add an item of our own making, and send events about it. ``close_own`` ends it.

        Args:
            item: as it is added, without an id.
            events: the names of the events, less ``response.``.
        """
        if len(self.items) >= MAX_OUTPUT_ITEMS:
            raise UpstreamError("The model server sent too many items.")
        id = self._mint(item_prefix(item["type"]))
        new = OutputItem(len(self.items), id, {"id": id, **item})
        self.items.append(new)
        self._send("response.output_item.added", {"output_index": new.index, "item": new.added})
        for name in events:
            self.send_about(new, name)
        return new

    def send_about(self, item: OutputItem, name: str, **members: Any) -> None:
        """Send an event about an item. ``name`` is its name, less ``response.``."""
        self._send(f"response.{name}", {"output_index": item.index, "item_id": item.id, **members})

    def close_own(self, item: OutputItem, final: JsonObject) -> None:
        """End an item as it is told at last."""
        item.finish(final)
        self._send("response.output_item.done", {"output_index": item.index, "item": final})

    def add_call(self, target: Target, arguments: str, approval: str | None) -> HostedCall:
        """Add a call that no model made in this response: one that was approved."""
        item = self.add_own(_mcp_call(target, approval), "mcp_call.in_progress")
        self.send_about(item, "mcp_call_arguments.delta", delta=arguments)
        self.send_about(item, "mcp_call_arguments.done", arguments=arguments)
        call = HostedCall(item, target, arguments)
        self.calls.append(call)
        return call

    def settle(self, call: HostedCall, output: str | None, error: JsonObject | None) -> None:
        """A call has its result, or failed. ``error`` has one of the three types that OpenAI has."""
        self.calls.remove(call)
        status = "completed" if error is None else "failed"
        if call.target.kind == "mcp_call":
            self.send_about(call.item, f"mcp_call.{status}")
        else:
            self.send_about(call.item, "web_search_call.completed")
        final = call.ended(status, output=output, error=error)
        if call.target.kind == "web_search_call" and self.shows_sources and output is not None:
            final["action"] = {**final["action"], "sources": search_sources(output)}
        self.close_own(call.item, final)

    def abandon(self) -> None:
        """The response ends with calls that were never made: no history holds them."""
        for call in self.calls:
            call.item.cut = True
            self.close_own(call.item, call.interrupted(sent=False))
        self.calls = []

    def cut_off(self) -> None:
        for call in self.calls:
            call.item.cut = not call.sent
            call.item.finish(call.interrupted(sent=call.sent))
        self.calls = []
        super().cut_off()

    def _current(self) -> Sequence[OutputItem]:
        return self.items[self._first :]

    def delta(
        self, family: Family, event: Event, block: sse.Block, members: JsonObject | None = None
    ) -> None:
        if family is ARGUMENTS:
            text = self._held_text(event)
            if text is not None:
                self._grow_held(text, event.delta)
                return
            family = self._told_family(event)
        super().delta(family, event, block, members)

    def _grow_held(self, text: Text, delta: object) -> None:
        if isinstance(delta, str):
            text.pieces.append(delta)
            self.left -= len(delta) + DELTA_COST

    def _text_done(self, family: Family, event: Event, members: JsonObject) -> None:
        if family is ARGUMENTS:
            text = self._held_text(event)
            if text is not None:
                if isinstance(members.get("arguments"), str):
                    text.pieces = [members["arguments"]]
                return
            family = self._told_family(event)
            if family is MCP_ARGUMENTS:
                # Some servers repeat the function's name, which is not the tool's.
                members = {"arguments": members.get("arguments")}
        super()._text_done(family, event, members)

    def _held_text(self, event: Event) -> Text | None:
        held = self._held_lookup.find(ARGUMENTS.item, event.item_id, event.output_index)
        return None if held is None else held.own

    def _told_family(self, event: Event) -> Family:
        item = self._lookup.find(MCP_ARGUMENTS.item, event.item_id, event.output_index)
        return ARGUMENTS if item is None else MCP_ARGUMENTS

    def _item_added(self, event: Event, item: JsonObject) -> None:
        if item.get("type") == "function_call" and not item.get("name"):
            # Whose function it is can't be known yet. The event that ends it has the whole of it.
            return
        if self._is_held(item):
            self._hold(item, event.output_index)
        else:
            super()._item_added(event, self._told(item))

    def _item_done(self, event: Event, item: JsonObject) -> None:
        if not self._is_held(item):
            super()._item_done(event, self._told(item))
            return
        id = item.get("id")
        held = self._held_lookup.find(ARGUMENTS.item, id if isinstance(id, str) else None, event.output_index)
        self._tell_held(held or self._hold(item, event.output_index), item, whole=True)

    def finish(self, output: Iterable[object], *, whole: bool) -> None:
        """Close every item of the round, and tell the calls that were held."""
        items = [item for item in output if isinstance(item, dict)]
        # The others keep their places: a call may be told by its place alone.
        calls = [item if self._is_held(item) else {} for item in items]
        self._finals = FinalLookup(self._held).match(calls)
        told = zip(items, calls, strict=True)
        super().finish(
            [{"type": HELD, "call": call} if call else self._told(item) for item, call in told], whole=whole
        )
        for held in self._held:
            self._tell_held(held, {"status": "in_progress"}, whole=whole)

    def _finish_final(self, known: OutputItem | None, final: JsonObject, index: int, *, whole: bool) -> None:
        if final.get("type") is HELD:
            call = final["call"]
            self._tell_held(self._finals[index] or self._hold(call, index), call, whole=whole)
        else:
            super()._finish_final(known, final, index, whole=whole)

    def _target(self, item: JsonObject) -> Target | None:
        """What an item of the upstream's calls here; None for any other item."""
        is_call = item.get("type") == "function_call" and self.hosted is not None
        return self.hosted.find(item.get("name")) if is_call and self.hosted is not None else None

    def _is_held(self, item: JsonObject) -> bool:
        target = self._target(item)
        return target is not None and (target.asks or target.kind != "mcp_call")

    def _hold(self, item: JsonObject, upstream_index: int | None) -> OutputItem:
        if len(self.items) + len(self._held) >= MAX_OUTPUT_ITEMS:
            raise UpstreamError("The model server sent too many items.")
        id = item.get("id")
        added = {"type": "function_call", "name": item["name"]}
        held = OutputItem(len(self._held), "", added, id if isinstance(id, str) else None, upstream_index)
        self._held.append(held)
        self._held_lookup.add(held)
        return held

    def _tell_held(self, held: OutputItem, item: JsonObject, *, whole: bool) -> None:
        """Tell a call whose arguments are whole, once; one that was cut off is never told."""
        target = self._target(held.added)
        if held.final is not None or held.own is None or target is None:
            return
        held.finish({})
        if item.get("status") == "in_progress" and not whole:
            return
        given = item.get("arguments")
        arguments = given if isinstance(given, str) and given else held.own.value()
        if target.asks:
            asked = {"type": "mcp_approval_request", **_called(target), "arguments": arguments}
            request = self.add_own(asked)
            self.close_own(request, request.added)
        else:
            self.calls.append(HostedCall(self._add_search(arguments), target, arguments))

    def _add_search(self, arguments: str) -> OutputItem:
        action = {"type": "search", "query": search_query(arguments)}
        item = {"type": "web_search_call", "status": "in_progress", "action": action}
        return self.add_own(item, "web_search_call.in_progress", "web_search_call.searching")

    def _told(self, item: JsonObject) -> JsonObject:
        """An item of the upstream's, as clients see it."""
        target = self._target(item)
        if target is None or self._is_held(item):
            return item
        kept: JsonObject = {name: item[name] for name in ("id", "arguments", "status") if name in item}
        return {**_mcp_call(target, None), **kept}

    def _add(self, item: JsonObject, upstream_index: int | None) -> OutputItem:
        new = super()._add(item, upstream_index)
        if new.added["type"] == "mcp_call":
            self.send_about(new, "mcp_call.in_progress")
        return new

    def _close_item(self, item: OutputItem, final: JsonObject) -> None:
        if any(call.item is item for call in self.calls):
            # Its result ends it.
            return
        if final["type"] != "mcp_call" or item.own is None:
            super()._close_item(item, final)
        elif item.cut or final.get("status") == "incomplete":
            item.cut = True
            super()._close_item(item, {**final, "status": "incomplete"})
        else:
            if not item.own.complete:
                self._complete(item.own, final.get("arguments"), {})
            self.calls.append(HostedCall(item, self._target_of(item), item.own.value()))

    def _target_of(self, item: OutputItem) -> Target:
        label, tool = item.added["server_label"], item.added["name"]
        known = self.hosted.target(label, tool) if self.hosted is not None else None
        return known or Target("mcp_call", label, tool, known=False)


def _called(target: Target) -> JsonObject:
    return {"server_label": target.label, "name": target.tool}


def _mcp_call(target: Target, approval: str | None) -> JsonObject:
    """An ``mcp_call`` as it is added. Strict clients require each of these members."""
    return {
        "type": "mcp_call",
        "approval_request_id": approval,
        "arguments": "",
        "error": None,
        **_called(target),
        "output": None,
        "status": "in_progress",
    }


def _is_for_client(type: str) -> bool:
    """Whether an item of this type is a call that the client runs, or a question to it."""
    return type == "mcp_approval_request" or (type.endswith("_call") and type not in RUN_HERE)


RUN_HERE = frozenset({"mcp_call", "web_search_call"})
"""The types of items that calls of tools make that are run here."""


def search_query(arguments: str) -> str:
    """The query in the arguments of a search; the arguments themselves if it can't be found there."""
    try:
        query = decode_object(arguments.encode()).get("query")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        query = None
    return query if isinstance(query, str) else arguments


MAX_SOURCES = 100
"""How many addresses of one search are shown."""

_ADDRESS = re.compile(r"https?://[^\s<>\"'()\[\]{}|\\^`]+")


def search_sources(found: str) -> list[JsonObject]:
    """Return the addresses in what a search has found, each once, as ``action.sources`` has them."""
    addresses = dict.fromkeys(each[0].rstrip(".,;:!?") for each in _ADDRESS.finditer(found))
    return [{"type": "url", "url": address} for address in list(addresses)[:MAX_SOURCES]]


def protocol_error(message: str, code: int = -32603) -> JsonObject:
    """The error of a call that its server didn't answer, or whose request was wrong (JSON-RPC's codes)."""
    return {"type": "mcp_protocol_error", "code": code, "message": message}


def tool_error(message: str) -> JsonObject:
    """The error of a call that a tool, or a bound of ours, refused."""
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": message}]}
