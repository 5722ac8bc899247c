"""Is a stream of events legal, as far as it goes? A short form of ``tests/oracles``, for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.record import Json

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


def check_stream(events: list[Json]) -> list[str]:
    """What is wrong with a stream that was read from its start."""
    wrong: list[str] = []
    items: dict[int, Json] = {}
    texts: dict[tuple[int, Any], str] = {}
    ended: list[int] = []
    id = events[0].get("response", {}).get("id")
    if events[0]["type"] != "response.created":
        wrong.append("it begins with response.created")
    for position, event in enumerate(events):
        kind = event["type"]
        if ended:
            wrong.append(f"{kind} follows the terminal event")
        if "response" in event and event["response"]["id"] != id:
            wrong.append(f"{kind} is about another response")
        index = event.get("output_index")
        if kind == "response.output_item.added":
            if index != len(items):
                wrong.append(f"item {index} is added as number {len(items)}")
            items[index] = event["item"]
        elif index is not None:
            wrong += _of_item(event, items, texts)
        if kind in TERMINAL:
            ended.append(position)
            wrong += _terminal(event["response"], items)
    return wrong


def _of_item(event: Json, items: dict[int, Json], texts: dict[tuple[int, Any], str]) -> list[str]:
    kind, index = event["type"], event["output_index"]
    item = items.get(index)
    if item is None:
        return [f"{kind} is about an item that was not added"]
    if kind == "response.output_item.done":
        same = event["item"]["id"] == item["id"]
        items[index] = event["item"]
        return [] if same else ["an item ends with another id"]
    if event.get("item_id") != item["id"]:
        return [f"{kind} names {event.get('item_id')}, not {item['id']}"]
    place = (index, event.get("content_index"))
    if kind.endswith(".delta"):
        texts[place] = texts.get(place, "") + event["delta"]
    elif kind.endswith("_text.done") and event["text"] != texts.get(place, ""):
        return [f"{kind} says {event['text']!r}, not {texts.get(place, '')!r}"]
    return []


def _terminal(response: Json, items: dict[int, Json]) -> list[str]:
    found = [item["id"] for item in response["output"]]
    added = [item["id"] for item in items.values()]
    return [] if found == added else [f"the output holds {found}, but {added} were added"]
