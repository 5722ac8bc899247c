"""Which item or part an upstream's event is about.

An event names its item by an id, by a number, by both or by neither, and servers are careless with all of
them: ids repeat, change between events, or are missing. The newest item that contradicts nothing in the
event is the one that is meant. Finding it costs a few look-ups in a dictionary, however many items there
are: searching would let an upstream that sends many items cost their square.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentic_trio.wire.dialect import JsonObject
    from agentic_trio.wire.output import OutputItem

_ANY: Final = object()
"""Stands in a key for a member that the event doesn't mention."""


class ItemLookup:
    """Finds items of an output by what an event says of them."""

    def __init__(self) -> None:
        self._newest: OutputItem | None = None
        self._by_key: dict[tuple[object, object, object], OutputItem] = {}
        self._at_index: dict[tuple[str | None, int | None], list[OutputItem]] = {}
        self._alike: dict[tuple[str, str | None, int | None], list[OutputItem]] = {}

    def add(self, item: OutputItem) -> None:
        self._newest = item
        type, id, index = item.added["type"], item.upstream_id, item.upstream_index
        for asked in (type, None):
            for asked_id in (id, _ANY):
                self._by_key[asked, asked_id, index] = self._by_key[asked, asked_id, _ANY] = item
            self._at_index.setdefault((asked, index), []).append(item)
        self._alike.setdefault((type, id, index), []).append(item)

    def find(self, type: str | None, id: str | None, index: int | None) -> OutputItem | None:
        """The newest item that fits what an event says of it, or else an open one with its number.

        Args:
            type: the type of items that such events are about; None if they are about any.
            id: the upstream's id, if the event has one.
            index: the upstream's number, if the event has one.
        """
        newest = self._newest
        if newest is not None and _fits(newest, type, id, index):
            return newest
        ids = (_ANY,) if id is None else (id, None)
        indices = (_ANY,) if index is None else (index, None)
        fitting = [self._by_key.get((type, one, other)) for one in ids for other in indices]
        found = max((item for item in fitting if item is not None), key=_index, default=None)
        return found or (None if index is None else self._open_at(type, index))

    def _open_at(self, type: str | None, index: int) -> OutputItem | None:
        items = self._at_index.get((type, index), [])
        while items and items[-1].final is not None:
            items.pop()
        return items[-1] if items else None

    def repeated(self, type: object, id: object, index: int | None) -> bool:
        """Whether an ``added`` event repeats one after which nothing has happened to its item."""
        if not isinstance(type, str) or not isinstance(id, str | None):
            return False
        alike = self._alike.get((type, id, index), [])
        while alike and not alike[-1].untouched:
            alike.pop()
        return bool(alike)


def _index(item: OutputItem) -> int:
    return item.index


def _fits(item: OutputItem, type: str | None, id: str | None, index: int | None) -> bool:
    return (
        type in (None, item.added["type"])
        and (id is None or item.upstream_id in (None, id))
        and (index is None or item.upstream_index in (None, index))
    )


class FinalLookup:
    """Finds the streamed items that those of the final output repeat, each of them once."""

    def __init__(self, items: Iterable[OutputItem]) -> None:
        self._queues: defaultdict[tuple[str, object, object], deque[OutputItem]] = defaultdict(deque)
        self._taken: set[int] = set()
        for item in items:
            type, id, index = item.added["type"], item.upstream_id, item.upstream_index
            for key in ((id, index), (id, _ANY), (_ANY, index), (_ANY, _ANY)):
                self._queues[type, *key].append(item)

    def match(self, output: Sequence[JsonObject]) -> list[OutputItem | None]:
        """The streamed item of each final one: by its id, by its place, or else by its type alone.

        Those that agree in both id and place are found first, so that none of them is taken for another
        where ids repeat. The type alone decides only where one of the two has no id.
        """
        names = [_name(item) for item in output]
        found = [
            None if id is None else self._next(self._queues[type, id, index])
            for index, (type, id) in enumerate(names)
        ]
        for index, (type, id) in enumerate(names):
            if found[index] is None:
                keys = ((id, _ANY), (_ANY, index), (None, _ANY)) if id else ((_ANY, index), (_ANY, _ANY))
                found[index] = self._first(type, keys)
        return found

    def _first(self, type: str, keys: Iterable[tuple[object, object]]) -> OutputItem | None:
        found = (self._next(self._queues[type, *key]) for key in keys)
        return next((item for item in found if item is not None), None)

    def _next(self, queue: deque[OutputItem]) -> OutputItem | None:
        while queue:
            item = queue.popleft()
            if item.index not in self._taken:
                self._taken.add(item.index)
                return item
        return None


def _name(item: JsonObject) -> tuple[str, str | None]:
    """The type and the id of an item of the final output, whatever it has there."""
    type, id = item.get("type"), item.get("id")
    return type if isinstance(type, str) else "message", id if isinstance(id, str) else None
