"""Whatever the upstream sends, the client sees a legal stream, and its end holds what it was told."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentic_trio.errors import TurnTimeout, UpstreamError
from agentic_trio.wire import sse
from tests.fake_upstream import (
    Call,
    CustomCall,
    Reasoning,
    Refusal,
    Script,
    Text,
    render_response,
)
from tests.oracles import check_event_stream, check_item, check_response, parse_sse
from tests.playbook import REQUEST, Playbook, event, new_response, terminal

if TYPE_CHECKING:
    from agentic_trio.wire.accumulator import Accumulator

Json = dict[str, Any]

DATA = Path(__file__).parents[1] / "data"
RECORDINGS = {
    "vllm.responses.sse": "response.incomplete",
    "vllm.responses_tools.sse": "response.incomplete",
    "vllm.tool_strict.sse": "response.completed",
    "vllm_reasoning.0.sse": "response.completed",
    "vllm_reasoning.1.sse": "response.completed",
    "vllm_sigterm.sse": "response.completed",
    "vllm_engine_killed.sse": "response.failed",
    "llama_cpp.responses.sse": "response.completed",
    "transformers.responses.sse": "response.completed",
}
"""Recording -> how it ends for the client."""


def streamed(chunks: list[bytes], response: Accumulator | None = None) -> bytes:
    """What the client is sent when the upstream sends this."""
    response = response or new_response()
    told = response.begin()
    for chunk in chunks:
        told += response.receive(chunk)
    told += response.end_of_stream()
    told += response.terminal_events()
    return b"".join(told) + sse.DONE


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[start:end] for start, end in itertools.pairwise(ends)]


CUTS = st.lists(st.integers(0, 10**6), max_size=40)


def deltas(events: list[Json]) -> dict[tuple[Any, ...], str]:
    """The texts that the deltas of a stream make, by their place."""
    texts: dict[tuple[Any, ...], str] = {}
    for each in events:
        if each["type"].endswith(".delta"):
            place = (each["output_index"], each.get("content_index"), each.get("summary_index"))
            texts[place] = texts.get(place, "") + each["delta"]
    return texts


def final_texts(output: list[Json]) -> dict[tuple[Any, ...], str]:
    """The texts that the items of an output hold, by their place."""
    texts: dict[tuple[Any, ...], str] = {}
    for index, item in enumerate(output):
        for number, part in enumerate(item.get("content") or []):
            texts[index, number, None] = part.get("text", part.get("refusal"))
        for number, part in enumerate(item.get("summary") or []):
            texts[index, None, number] = part["text"]
        for key in ("arguments", "input"):
            if key in item:
                texts[index, None, None] = item[key]
    return {place: text for place, text in texts.items() if text}


# --------------------------------------------------------------------------- recordings


@pytest.mark.parametrize("name", RECORDINGS)
@settings(max_examples=15)
@given(places=CUTS)
def test_a_recording_becomes_the_same_stream_however_it_is_cut(name: str, places: list[int]) -> None:
    whole = (DATA / name).read_bytes()
    assert streamed(cut(whole, places)) == streamed([whole])


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_becomes_a_legal_stream(name: str) -> None:
    check_event_stream(streamed([(DATA / name).read_bytes()]), REQUEST, ending=RECORDINGS[name])


@pytest.mark.parametrize("name", RECORDINGS)
def test_the_deltas_of_a_recording_make_the_texts_of_the_terminal_event(name: str) -> None:
    events, _ = parse_sse(streamed([(DATA / name).read_bytes()]))
    assert deltas(events) == final_texts(events[-1]["response"]["output"])


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name != "vllm_engine_killed.sse"])
def test_the_texts_of_a_recording_are_the_upstreams(name: str) -> None:
    datas = [block.data for block in sse.Decoder().feed((DATA / name).read_bytes())]
    upstream = json.loads(next(data for data in reversed(datas) if data != b"[DONE]"))
    events, _ = parse_sse(streamed([(DATA / name).read_bytes()]))
    output = events[-1]["response"]["output"]
    assert final_texts(output) == final_texts(upstream["response"]["output"])


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_is_stored_of_a_recording_is_what_its_terminal_event_holds(name: str) -> None:
    response = new_response()
    events, _ = parse_sse(streamed([(DATA / name).read_bytes()], response))
    assert json.loads(response.response()) == events[-1]["response"]
    stored = {
        **json.loads(response.snapshot.body()),
        "output": [json.loads(each) for each in response.output()],
    }
    assert stored == events[-1]["response"]


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_is_stored_of_a_recording_has_ids_of_our_own(name: str) -> None:
    recording = (DATA / name).read_bytes()
    response = new_response()
    streamed([recording], response)
    assert not [item.id for item in response.items if item.id.encode() in recording]


def test_a_stream_that_is_cancelled_without_a_reason_just_ends() -> None:
    response = new_response()
    response.begin()
    response.cancel()
    assert response.terminal_events() == []


def test_a_stream_that_is_cancelled_for_a_reason_ends_with_it_and_the_response() -> None:
    response = new_response()
    response.begin()
    response.cancel(TurnTimeout("It took too long."))
    error, last = parse_sse(b"".join(response.terminal_events()))[0]
    assert (error["type"], error["code"], error["message"]) == ("error", "turn_timeout", "It took too long.")
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")


def test_a_recording_of_another_api_is_a_failure() -> None:
    raw = streamed([(DATA / "vllm.chat.sse").read_bytes()])
    assert len(check_event_stream(raw, REQUEST, ending="response.failed")) == 4


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("vllm.responses.json", "completed"),
        ("llama_cpp.responses.json", "completed"),
    ],
)
def test_a_recorded_whole_answer_becomes_a_legal_response(name: str, status: str) -> None:
    response = new_response()
    response.receive_json((DATA / name).read_bytes())
    check_response(response.response(), REQUEST)


# --------------------------------------------------------------------------- dialects


OUTPUT = (
    Reasoning(("Let ", "me ", "think."), summary=("Thinking.",)),
    Text(("Hé", "llo ", "🌍.")),
    Call("now", ('{"zone"', ': "UTC"}')),
    CustomCall("shell", ("ls", " -l")),
    Refusal(("I ", "won't.")),
)
TEXT_OF_OUTPUT = {
    (0, 0, None): "Let me think.",
    (0, None, 0): "Thinking.",
    (1, 0, None): "Héllo 🌍.",
    (2, None, None): '{"zone": "UTC"}',
    (3, None, None): "ls -l",
    (4, 0, None): "I won't.",
}


def rendered(script: Script) -> list[Json]:
    """The events that a fake upstream sends."""
    body = {**REQUEST, "tools": [{"type": "function", "name": "now", "parameters": {}}]}
    raw = b"".join(render_response(script, body, stream=True))
    return [json.loads(block.data) for block in sse.Decoder().feed(raw) if block.data != b"[DONE]"]


def encoded(events: list[Json]) -> bytes:
    return b"".join(event(each["type"], **{k: v for k, v in each.items() if k != "type"}) for each in events)


@pytest.mark.parametrize("dialect", ["vllm", "llama_cpp", "transformers"])
@pytest.mark.parametrize("ids", ["fresh", "repeated"])
def test_every_dialect_becomes_the_same_output(dialect: Any, ids: Any) -> None:
    raw = streamed([encoded(rendered(Script(dialect=dialect, output=OUTPUT, ids=ids)))])
    # llama.cpp tells only at the end that its items are done.
    events = check_event_stream(raw, REQUEST, ending="response.completed", interleaved=dialect == "llama_cpp")
    assert final_texts(events[-1]["response"]["output"]) == TEXT_OF_OUTPUT


BASE = rendered(Script(output=OUTPUT))


@pytest.mark.parametrize("stop", range(len(BASE)))
def test_failing_after_any_event_leaves_a_legal_stream_with_what_had_arrived(stop: int) -> None:
    response = new_response()
    told = [*response.begin(), *response.receive(encoded(BASE[:stop]))]
    response.fail(UpstreamError("It broke."))
    raw = b"".join(told + response.terminal_events()) + sse.DONE
    events = check_event_stream(raw, REQUEST, ending="response.failed")
    assert deltas(events) == final_texts(events[-1]["response"]["output"])


@pytest.mark.parametrize("stop", range(len(BASE)))
def test_cancelling_after_any_event_keeps_what_had_arrived(stop: int) -> None:
    response = new_response()
    told = [*response.begin(), *response.receive(encoded(BASE[:stop]))]
    response.cancel()
    events = check_event_stream(b"".join(told), REQUEST, cut=True)
    recorded = json.loads(response.response())
    assert (recorded["status"], recorded["completed_at"]) == ("cancelled", None)
    assert deltas(events) == final_texts(recorded["output"])
    for item in recorded["output"]:
        check_item(item)


@pytest.mark.parametrize("stop", range(len(BASE)))
def test_an_upstream_that_stops_after_any_event_has_failed(stop: int) -> None:
    events = check_event_stream(streamed([encoded(BASE[:stop])]), REQUEST, ending="response.failed")
    assert deltas(events) == final_texts(events[-1]["response"]["output"])


DROPPABLE = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_summary_part.added",
    "response.content_part.done",
    "response.reasoning_summary_part.done",
    "response.output_item.done",
    *sorted({each["type"] for each in BASE if each["type"].endswith((".done", ".delta"))}),
]
STRIPPABLE = ["sequence_number", "output_index", "content_index", "summary_index", "logprobs"]


@dataclass(frozen=True)
class Carelessness:
    """How an upstream tells an answer badly.

    Attributes:
        dropped: the kinds of events that it never sends.
        missing: the members that it leaves out, or sets to null.
        repeated: the kinds of events that it sends twice.
        one_id: it gives all items the same id.
    """

    dropped: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    null: bool = False
    repeated: frozenset[str] = frozenset()
    one_id: bool = False

    def tell(self, events: list[Json]) -> bytes:
        told = []
        for each in events:
            if each["type"] in self.dropped:
                continue
            bare = {key: value for key, value in each.items() if key not in self.missing}
            if self.null:
                bare |= dict.fromkeys(self.missing & each.keys())
            told.append(with_ids(bare) if self.one_id else bare)
            if each["type"] in self.repeated:
                told.append(told[-1])
        return encoded(told)


CARELESSNESS = st.builds(
    Carelessness,
    dropped=st.frozensets(st.sampled_from(DROPPABLE)),
    missing=st.frozensets(st.sampled_from(STRIPPABLE)),
    null=st.booleans(),
    repeated=st.frozensets(st.sampled_from([kind for kind in DROPPABLE if not kind.endswith(".delta")])),
    one_id=st.booleans(),
)


def with_ids(told: Json) -> Json:
    """An event of an upstream that gives all of its items the same id."""
    told = dict(told)
    if "item_id" in told:
        told["item_id"] = "same"
    if "item" in told:
        told["item"] = {**told["item"], "id": "same"}
    if "response" in told:
        items = told["response"].get("output") or []
        told["response"] = {**told["response"], "output": [{**item, "id": "same"} for item in items]}
    return told


@settings(max_examples=60)
@given(how=CARELESSNESS, places=CUTS)
def test_a_carelessly_told_answer_becomes_a_legal_stream(how: Carelessness, places: list[int]) -> None:
    raw = streamed(cut(how.tell(BASE), places))
    told = check_event_stream(raw, REQUEST, ending="response.completed", interleaved=True)
    output = told[-1]["response"]["output"]
    assert deltas(told) == final_texts(output)
    assert sorted(final_texts(output).values()) == sorted(TEXT_OF_OUTPUT.values())


MANY = (
    Text(("A1 ", "a2")),
    Refusal(("No", "pe")),
    Text(("B1 ", "b2")),
    Call("now", ('{"a"', ":1}")),
    Call("now", ('{"b"', ":2}")),
    Reasoning(("hm", " hm"), summary=("S",)),
    Reasoning(("more",), summary=("T",)),
    Text(("C",)),
)
MANY_OF_A_KIND = rendered(Script(output=MANY))


@settings(max_examples=60)
@given(how=CARELESSNESS, places=CUTS)
def test_items_of_one_kind_become_a_legal_stream_however_carelessly_they_are_told_apart(
    how: Carelessness, places: list[int]
) -> None:
    raw = streamed(cut(how.tell(MANY_OF_A_KIND), places))
    told = check_event_stream(raw, REQUEST, ending="response.completed", interleaved=True)
    assert deltas(told) == final_texts(told[-1]["response"]["output"])


# --------------------------------------------------------------------------- one deviation a test


def message(text: str, **members: Any) -> Json:
    part = {"type": "output_text", "text": text}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part], **members}


def call(arguments: str, **members: Any) -> Json:
    return {"type": "function_call", "name": "now", "call_id": "call_1", "arguments": arguments, **members}


def test_a_delta_for_which_nothing_was_added_adds_its_item_and_part() -> None:
    play = Playbook()
    (
        play
        >> event("response.output_text.delta", delta="hi")
        << [
            "output_item.added 0 message in_progress",
            "content_part.added 0.0 output_text ''",
            "output_text.delta 0.0 'hi'",
        ]
        >> event("response.output_text.delta", delta="!")
        << [
            "output_text.delta 0.0 '!'",
        ]
        >> terminal()
        << [
            "output_text.done 0.0 'hi!'",
            "content_part.done 0.0 output_text 'hi!'",
            "output_item.done 0 message completed",
        ]
    )
    play.ends("response.completed")


def test_an_output_that_was_never_streamed_is_told_before_the_terminal_event() -> None:
    play = Playbook()
    (
        play
        >> terminal(message("hi"), call("{}"))
        << [
            "output_item.added 0 message in_progress",
            "content_part.added 0.0 output_text ''",
            "output_text.delta 0.0 'hi'",
            "output_text.done 0.0 'hi'",
            "content_part.done 0.0 output_text 'hi'",
            "output_item.done 0 message completed",
            "output_item.added 1 function_call in_progress ''",
            "function_call_arguments.delta 1 '{}'",
            "function_call_arguments.done 1 '{}'",
            "output_item.done 1 function_call completed '{}'",
        ]
    )
    play.ends("response.completed")


def test_a_call_is_not_told_before_its_name_is_known() -> None:
    play = Playbook()
    play >> event("response.function_call_arguments.delta", item_id="a", delta="{") << []
    (
        play
        >> event("response.output_item.done", item=call("{}", id="a"))
        << [
            "output_item.added 0 function_call in_progress ''",
            "function_call_arguments.delta 0 '{}'",
            "function_call_arguments.done 0 '{}'",
            "output_item.done 0 function_call completed '{}'",
        ]
    )
    play >> terminal(call("{}", id="a"))
    play.ends("response.completed")


def test_the_end_of_a_text_that_no_delta_brought_comes_as_one() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", delta="hel")
    (
        play
        << [
            "output_item.added 0 message in_progress",
            "content_part.added 0.0 output_text ''",
            "output_text.delta 0.0 'hel'",
        ]
        >> event("response.output_text.done", text="hello")
        << [
            "output_text.delta 0.0 'lo'",
            "output_text.done 0.0 'hello'",
        ]
    )
    play >> terminal(message("hello"))
    play.ends("response.completed")


def test_a_delta_after_the_end_of_its_text_is_dropped() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", output_index=0, content_index=0, delta="hi")
    play >> event("response.output_text.done", output_index=0, content_index=0, text="hi")
    play >> event("response.output_text.delta", output_index=0, content_index=0, delta="late")
    play >> terminal(message("hi"))
    events = play.ends("response.completed")
    assert deltas(events) == {(0, 0, None): "hi"}


def test_a_content_index_with_gaps_still_means_one_part() -> None:
    play = Playbook()
    for piece in ("a", "b"):
        play >> event("response.output_text.delta", output_index=0, content_index=5, delta=piece)
    play >> terminal(message("ab"))
    assert deltas(play.ends("response.completed")) == {(0, 0, None): "ab"}


def test_an_output_index_with_gaps_is_counted_from_zero() -> None:
    play = Playbook()
    for index, text in ((3, "a"), (9, "b")):
        play >> event("response.output_text.delta", output_index=index, item_id=f"m{index}", delta=text)
        play >> event("response.output_item.done", output_index=index, item=message(text, id=f"m{index}"))
    play >> terminal(message("a", id="m3"), message("b", id="m9"))
    assert deltas(play.ends("response.completed")) == {(0, 0, None): "a", (1, 0, None): "b"}


def test_items_with_the_same_id_are_kept_apart_by_their_index() -> None:
    play = Playbook()
    for index, text in enumerate("ab"):
        play >> event("response.output_text.delta", output_index=index, item_id="same", delta=text)
    play >> terminal(message("a", id="same"), message("b", id="same"))
    events = play.ends("response.completed", interleaved=True)
    assert deltas(events) == {(0, 0, None): "a", (1, 0, None): "b"}


def test_items_with_the_same_id_and_no_index_are_kept_apart_by_their_ends() -> None:
    play = Playbook()
    for text in "ab":
        play >> event("response.output_item.added", item=message("", id="same"))
        play >> event("response.output_text.delta", item_id="same", delta=text)
        play >> event("response.output_item.done", item=message(text, id="same"))
    play >> terminal(message("a", id="same"), message("b", id="same"))
    assert deltas(play.ends("response.completed")) == {(0, 0, None): "a", (1, 0, None): "b"}


def test_interleaved_items_keep_their_own_texts() -> None:
    play = Playbook()
    for piece in ("1", "2"):
        for index in (0, 1):
            play >> event("response.output_text.delta", output_index=index, item_id=f"m{index}", delta=piece)
    play >> terminal(message("12", id="m0"), message("12", id="m1"))
    events = play.ends("response.completed", interleaved=True)
    assert deltas(events) == {(0, 0, None): "12", (1, 0, None): "12"}


def test_messages_that_only_the_final_output_tells_apart_are_told_once() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", item_id="m", delta="Hello.")
    play >> event("response.refusal.delta", item_id="m", delta="I won't.")
    play >> event("response.output_text.delta", item_id="m", delta="Bye.")
    refusal = {**message("", id="m"), "content": [{"type": "refusal", "refusal": "I won't."}]}
    play >> terminal(message("Hello.", id="m"), refusal, message("Bye.", id="m"), message("New.", id="m"))
    events = play.ends("response.completed", interleaved=True)
    assert final_texts(events[-1]["response"]["output"]) == {
        (0, 0, None): "Hello.",
        (0, 1, None): "I won't.",
        (0, 2, None): "Bye.",
        (1, 0, None): "New.",
    }


def test_texts_that_only_the_final_output_tells_apart_are_told_once() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", item_id="m", delta="Hello.")
    play >> event("response.output_text.delta", item_id="m", delta="Bye.")
    play >> terminal(message("Hello.", id="m"), message("Bye.", id="m"))
    events = play.ends("response.completed", interleaved=True)
    assert final_texts(events[-1]["response"]["output"]) == {(0, 0, None): "Hello.Bye."}


def test_a_text_that_its_last_word_contradicts_stays_as_it_was_read() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", item_id="m", delta="Hello.")
    play >> event("response.output_text.done", item_id="m", text="Good day.")
    play >> terminal(message("Good day.", id="m"))
    events = play.ends("response.completed", interleaved=True)
    assert final_texts(events[-1]["response"]["output"]) == {(0, 0, None): "Hello."}


def test_items_with_the_same_id_are_found_by_their_places_in_the_final_output() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", item_id="m", output_index=0, delta="one")
    play >> event("response.output_text.delta", item_id="m", output_index=2, delta="three")
    play >> terminal(message("one", id="m"), message("two", id="m"), message("three", id="m"))
    events = play.ends("response.completed", interleaved=True)
    texts = final_texts(events[-1]["response"]["output"])
    assert texts == {(0, 0, None): "one", (1, 0, None): "three", (2, 0, None): "two"}


def test_an_item_whose_id_changes_between_its_events_is_one_item() -> None:
    play = Playbook()
    play >> event("response.output_item.added", output_index=0, item=message("", id="first"))
    play >> event("response.output_text.delta", output_index=0, item_id="second", delta="hi")
    play >> terminal(message("hi", id="third"))
    assert deltas(play.ends("response.completed")) == {(0, 0, None): "hi"}


def test_an_added_event_that_comes_twice_adds_one_item() -> None:
    play = Playbook()
    added = event("response.output_item.added", output_index=0, item=message("", id="m"))
    play >> added << ["output_item.added 0 message in_progress"]
    play >> added << []


def test_an_output_in_another_order_than_it_was_streamed_stays_as_it_was_streamed() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", item_id="m", delta="hi")
    reasoning = {"type": "reasoning", "id": "r", "content": [{"type": "reasoning_text", "text": "hm"}]}
    play >> terminal(reasoning, message("hi", id="m"))
    events = play.ends("response.completed", interleaved=True)
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "reasoning"]


def test_a_call_that_turns_out_to_be_a_message_stays_in_the_output_as_incomplete() -> None:
    play = Playbook()
    play >> event("response.output_item.added", output_index=0, item=call("", id="f"))
    play >> event("response.function_call_arguments.delta", output_index=0, item_id="f", delta='{"a')
    play >> terminal(message('<tool_call>{"a', id="m"), status="incomplete")
    events = play.ends("response.incomplete", interleaved=True)
    output = events[-1]["response"]["output"]
    assert [(item["type"], item["status"]) for item in output] == [
        ("function_call", "incomplete"),
        ("message", "completed"),
    ]


def test_null_members_of_items_are_left_out() -> None:
    play = Playbook()
    play >> terminal(call("{}", id="f", namespace=None, status=None, caller=None))
    [item] = play.ends("response.completed")[-1]["response"]["output"]
    assert item == {
        "id": item["id"],
        "type": "function_call",
        "name": "now",
        "call_id": "call_1",
        "arguments": "{}",
        "status": "completed",
    }


def test_unknown_members_of_items_stay() -> None:
    play = Playbook()
    play >> terminal(message("hi", big=2**70, nested={"a": [1.5, "é"]}))
    [item] = play.ends("response.completed")[-1]["response"]["output"]
    assert (item["big"], item["nested"]) == (2**70, {"a": [1.5, "é"]})


def test_items_of_unknown_types_are_kept() -> None:
    play = Playbook()
    play >> event("response.output_item.done", item={"type": "dream", "of": "sheep", "id": "x"})
    play >> terminal({"type": "dream", "of": "sheep", "id": "x"})
    events = play.ends("response.completed")
    [item] = events[-1]["response"]["output"]
    assert (item["type"], item["of"]) == ("dream", "sheep")
    assert item["id"].startswith("item_")


def test_arguments_that_are_no_text_become_their_json_text() -> None:
    play = Playbook()
    play >> terminal(call({"zone": "UTC"}))  # type: ignore[arg-type]
    [item] = play.ends("response.completed")[-1]["response"]["output"]
    assert item["arguments"] == '{"zone":"UTC"}'


def test_content_that_is_a_text_becomes_a_part() -> None:
    play = Playbook()
    play >> terminal({"type": "message", "content": "hi"})
    assert deltas(play.ends("response.completed")) == {(0, 0, None): "hi"}


def test_usage_is_numbers_only() -> None:
    details = {"cached_tokens": 1, "cached_tokens_per_turn": [], "cache_write_tokens": None}
    usage = {"input_tokens": 2, "output_tokens": 3, "input_tokens_details": details}
    play = Playbook()
    play >> terminal(usage=usage)
    assert play.ends("response.completed")[-1]["response"]["usage"] == {
        "input_tokens": 2,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


@pytest.mark.parametrize(
    ("kind", "status", "ending"),
    [
        ("response.completed", "completed", "response.completed"),
        ("response.completed", "incomplete", "response.incomplete"),
        ("response.completed", "failed", "response.failed"),
        ("response.completed", "cancelled", "response.failed"),
        ("response.completed", None, "response.completed"),
        ("response.completed", ["odd"], "response.completed"),
        ("response.incomplete", "incomplete", "response.incomplete"),
        ("response.incomplete", "completed", "response.incomplete"),
        ("response.incomplete", "failed", "response.failed"),
        ("response.failed", "failed", "response.failed"),
        ("response.failed", "completed", "response.failed"),
    ],
)
def test_how_it_ended_is_told_by_the_event_and_the_status_in_it(kind: str, status: Any, ending: str) -> None:
    play = Playbook()
    play >> terminal(message("hi"), kind=kind, status=status)
    play.ends(ending)


def test_a_length_stop_says_so() -> None:
    play = Playbook()
    play >> terminal(status="incomplete", incomplete_details={"reason": "content_filter"})
    last = play.ends("response.incomplete")[-1]["response"]
    assert last["incomplete_details"] == {"reason": "content_filter"}


@pytest.mark.parametrize("details", [None, {}, {"reason": None}, {"reason": 7}, "odd"])
def test_a_length_stop_without_a_reason_is_one_of_tokens(details: Any) -> None:
    play = Playbook()
    play >> terminal(status="incomplete", incomplete_details=details)
    last = play.ends("response.incomplete")[-1]["response"]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"message": "It broke.", "code": "rate_limit_exceeded"}, id="flat"),
        pytest.param({"error": {"message": "It broke.", "code": "rate_limit_exceeded"}}, id="nested"),
    ],
)
def test_an_error_event_ends_the_response_as_failed(said: Json) -> None:
    play = Playbook()
    play >> event("response.output_text.delta", delta="hi")
    play >> event("error", **said)
    *_, error, last = play.ends("response.failed")
    assert (error["message"], error["code"]) == ("It broke.", "rate_limit_exceeded")
    assert last["response"]["error"] == {"message": "It broke.", "code": "rate_limit_exceeded"}


def test_a_failed_response_keeps_the_words_of_its_error() -> None:
    play = Playbook()
    play >> terminal(kind="response.failed", error={"message": "It broke.", "code": 500})
    last = play.ends("response.failed")[-1]["response"]
    assert last["error"] == {"message": "It broke.", "code": "server_error"}


def test_items_that_a_failure_cut_are_incomplete() -> None:
    play = Playbook()
    play >> event("response.output_text.delta", delta="hi")
    play >> terminal(kind="response.failed", error={"message": "It broke."})
    [item] = play.ends("response.failed")[-1]["response"]["output"]
    assert item["status"] == "incomplete"


def test_what_follows_the_terminal_event_is_ignored() -> None:
    play = Playbook()
    play >> terminal() >> event("response.output_text.delta", delta="late") >> event("error", message="late")
    assert [each["type"] for each in play.ends("response.completed")] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]


def test_what_follows_done_is_ignored_and_without_an_end_the_response_has_failed() -> None:
    play = Playbook()
    play >> b"data: [DONE]\n\n"
    play.ends("response.failed")


def test_an_end_without_its_last_line_end_counts() -> None:
    play = Playbook()
    play >> terminal(message("hi"))[:-2]
    play.ends("response.completed")


def test_an_event_too_large_ends_the_response_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Playbook()
    monkeypatch.setattr(play.response, "_decoder", sse.Decoder(max_event_bytes=100))
    play >> b"data: " + b"x" * 200
    play.ends("response.failed")


@pytest.mark.parametrize(
    "garbage",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: 7\n\n",
        b'data: {"type": 7}\n\n',
        b'data: {"type":"response.output_text.delta","output_index":"0","delta":"x"}\n\n',
        b'data: {"type":"response.output_item.added"}\n\n',
        b'data: {"type":"response.output_item.added","item":7}\n\n',
        b'data: {"type":"response.completed","response":[]}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"\xff"}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"\xff\xfe\x00data: \x00\n\ndata: \x00\n\n",
        b"<html><body>502 Bad Gateway</body></html>",
    ],
    ids=lambda garbage: repr(garbage[:40]),
)
def test_garbage_ends_the_response_as_failed(garbage: bytes) -> None:
    play = Playbook()
    play >> garbage
    play.ends("response.failed")


@pytest.mark.parametrize(
    "odd",
    [
        event("response.content_part.added", part={"type": []}),
        event("response.content_part.done", part={"type": {}}),
        event("response.output_item.done", item={"type": [], "content": 7}),
        event("response.output_item.done", item={"type": "message", "content": 7, "role": 1, "status": []}),
        event("response.output_item.done", item={"type": "message", "content": [{"type": []}, 7]}),
        event("response.output_item.done", item=message("", content=[{"type": "output_text", "text": 7}])),
        event("response.output_item.done", item={"type": "reasoning", "summary": 7, "content": {}}),
        event("response.output_item.done", item={"type": "function_call", "call_id": [], "name": 1}),
        event("response.output_text.delta", delta=None),
        event("response.output_text.delta", delta=["x"]),
        event("response.output_text.annotation.added", item_id="nobody", annotation={}),
        event("response.completed.but\nnot", x=1),
        event("nothing.we.know", x=1),
        event("", x=1),
    ],
    ids=repr,
)
def test_odd_members_of_events_do_no_harm(odd: bytes) -> None:
    play = Playbook()
    play >> odd >> terminal()
    play.ends("response.completed")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "m", "message"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "text", "content", "status", "delta"]), inner, max_size=4
        )
    ),
    max_leaves=6,
)
ANY_EVENT = st.builds(
    lambda kind, members: event(kind, **members),
    st.sampled_from(
        sorted({each["type"] for each in BASE} | {"error", "response.output_text.annotation.added"})
    ),
    st.dictionaries(
        st.sampled_from(
            ["item", "part", "response", "item_id", "output_index", "content_index", "delta", "text"]
        ),
        JSON,
    ),
)


@given(st.lists(ANY_EVENT, max_size=8))
def test_no_event_makes_it_raise_or_lose_count(events: list[bytes]) -> None:
    told, done = parse_sse(streamed(events))
    assert done
    assert [each["sequence_number"] for each in told] == list(range(len(told)))
    assert told[-1]["type"] in ("response.completed", "response.incomplete", "response.failed")


# --------------------------------------------------------------------------- bytes that may pass


def test_a_delta_that_is_right_already_passes_untouched_but_for_the_id() -> None:
    play = Playbook()
    play >> event("response.output_item.added", output_index=0, item=message("", id="up"))
    play >> event("response.content_part.added", output_index=0, item_id="up", part={"type": "output_text"})
    raw = (
        b'event: response.output_text.delta\ndata: {"content_index":0,'
        b'"delta":"\\u0068i \\"item_id\\":\\"up\\"",'
        b'"item_id":"up","logprobs":[],"output_index":0,"sequence_number":4,'
        b'"type":"response.output_text.delta","obfuscation":"x"}\n\n'
    )
    [told] = play.response.receive(raw)
    assert told == raw.replace(b'"item_id":"up"', b'"item_id":"%b"' % play.response.items[0].id.encode())


@pytest.mark.parametrize(
    "deviation",
    [
        pytest.param((b"\n\n", b"\nid: 7\n\n"), id="has an id line"),
        pytest.param((b"event:", b": ping\nevent:"), id="has a comment"),
        pytest.param((b'"delta"', b'\ndata: "delta"'), id="has several data lines"),
        pytest.param((b"event: response.output_text.delta\n", b""), id="has no event line"),
        pytest.param((b'"sequence_number":4', b'"sequence_number":9'), id="has another number"),
        pytest.param((b'"output_index":0', b'"output_index":1'), id="has another index"),
        pytest.param((b'"logprobs":[]', b'"logprobs":null'), id="has null logprobs"),
        pytest.param((b'"logprobs":[],', b""), id="has no logprobs"),
        pytest.param((b'"item_id":', b'"item_id" : '), id="has spaces"),
    ],
)
def test_a_delta_that_deviates_is_written_anew(deviation: tuple[bytes, bytes]) -> None:
    play = Playbook()
    play >> event("response.output_item.added", item=message("", id="up"))
    play >> event("response.content_part.added", item_id="up", part={"type": "output_text"})
    raw = (
        b'event: response.output_text.delta\ndata: {"content_index":0,"delta":"hi","item_id":"up",'
        b'"logprobs":[],'
        b'"output_index":0,"sequence_number":4,"type":"response.output_text.delta"}\n\n'
    )
    assert deviation[0] in raw
    play >> raw.replace(*deviation)
    play >> terminal(message("hi", id="up"))
    assert deltas(play.ends("response.completed")) == {(0, 0, None): "hi"}


# --------------------------------------------------------------------------- whole answers


def test_a_whole_answer_gets_ids_of_our_own() -> None:
    response = new_response()
    response.receive_json(json.dumps({"status": "completed", "output": [message("hi", id="up")]}).encode())
    [item] = json.loads(response.response())["output"]
    assert item["id"] == "msg_" + "0" * 48


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_a_whole_answer_ends_as_its_status_says(status: str) -> None:
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    response = new_response()
    response.receive_json(json.dumps({"status": status, "output": [], "usage": usage}).encode())
    check_response(response.response(), REQUEST, status=status)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"7", b"{}", b'{"output":7}', b"\xff", b'{"output":' + b"[" * 100_000, b"<html>"],
)
def test_what_is_no_response_is_the_upstreams_failure(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        new_response().receive_json(body)
