"""The oracles take what is legal and catch what is not."""

import copy
import json

import pytest

from tests.oracles import (
    DEFAULTS,
    RuleBroken,
    check_conversation,
    check_error,
    check_event_stream,
    check_item,
    check_list,
    check_response,
    check_resumed,
    parse_sse,
)

USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 5,
}


def response(status="completed", output=(), **members):
    """A legal Response object."""
    extra = {
        "completed": {"completed_at": 11, "usage": USAGE},
        "failed": {"error": {"code": "server_error", "message": "It broke."}},
        "incomplete": {"incomplete_details": {"reason": "max_output_tokens"}, "usage": USAGE},
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 10,
        "completed_at": None,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "usage": None,
        "model": "tiny",
        "output": list(output),
        "reasoning": None,
        "text": {"format": {"type": "text"}},
        "service_tier": "default",
        **copy.deepcopy(DEFAULTS),
        **extra.get(status, {}),
        **members,
    }


def output_text(text, **members):
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": [], **members}


def message(text="hello", id="msg_1", **members):
    content = [output_text(text)]
    return {
        "type": "message",
        "id": id,
        "role": "assistant",
        "status": "completed",
        "content": content,
        **members,
    }


class Story:
    """A legal stream, told event by event."""

    def __init__(self):
        self.events = []
        self.output = []
        self.add("response.created", response=response("in_progress"))
        self.add("response.in_progress", response=response("in_progress"))

    def add(self, kind, **members):
        self.events.append({"type": kind, "sequence_number": len(self.events), **members})
        return self

    def item(self, item, *steps, **empty):
        """An item: added (with ``empty`` over it), its steps, done."""
        index = {"output_index": len(self.output)}
        started = item | empty | ({"status": "in_progress"} if "status" in item else {})
        self.add("response.output_item.added", item=started, **index)
        for kind, members in steps:
            self.add(f"response.{kind}", item_id=item["id"], **index, **members)
        self.output.append(item)
        return self.add("response.output_item.done", item=item, **index)

    def text(self, *pieces, id="msg_1"):
        text, at = "".join(pieces), {"content_index": 0}
        steps = [("content_part.added", {"part": output_text(""), **at})]
        steps += [("output_text.delta", {"delta": piece, "logprobs": [], **at}) for piece in pieces]
        steps += [
            ("output_text.done", {"text": text, "logprobs": [], **at}),
            ("content_part.done", {"part": output_text(text), **at}),
        ]
        return self.item(message(text, id), *steps, content=[])

    def noted(self):
        """A text with an annotation."""
        note = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
        at, part = {"content_index": 0}, output_text("a", annotations=[note])
        steps = [
            ("content_part.added", {"part": output_text(""), **at}),
            ("output_text.delta", {"delta": "a", "logprobs": [], **at}),
            ("output_text.annotation.added", {"annotation": note, "annotation_index": 0, **at}),
            ("output_text.done", {"text": "a", "logprobs": [], **at}),
            ("content_part.done", {"part": part, **at}),
        ]
        return self.item(message("a", "msg_n", content=[part]), *steps, content=[])

    def refusal(self):
        at = {"content_index": 0}
        part = {"type": "refusal", "refusal": "no way"}
        steps = [
            ("content_part.added", {"part": part | {"refusal": ""}, **at}),
            ("refusal.delta", {"delta": "no ", **at}),
            ("refusal.delta", {"delta": "way", **at}),
            ("refusal.done", {"refusal": "no way", **at}),
            ("content_part.done", {"part": part, **at}),
        ]
        return self.item(message("", "msg_r", content=[part]), *steps, content=[])

    def call(self):
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f"}
        item |= {"arguments": '{"a":1}', "status": "completed"}
        steps = [("function_call_arguments.delta", {"delta": piece}) for piece in ('{"a"', ":1}")]
        steps.append(("function_call_arguments.done", {"arguments": '{"a":1}', "name": "f"}))
        return self.item(item, *steps, arguments="")

    def custom(self):
        item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "sh", "input": "ls"}
        steps = [("custom_tool_call_input.delta", {"delta": "ls"})]
        steps.append(("custom_tool_call_input.done", {"input": "ls"}))
        return self.item(item, *steps, input="")

    def reasoning(self):
        at, by = {"content_index": 0}, {"summary_index": 0}
        part = {"type": "reasoning_text", "text": "hm"}
        sum_ = {"type": "summary_text", "text": "thought"}
        steps = [
            ("content_part.added", {"part": part | {"text": ""}, **at}),
            ("reasoning_text.delta", {"delta": "hm", **at}),
            ("reasoning_text.done", {"text": "hm", **at}),
            ("content_part.done", {"part": part, **at}),
            ("reasoning_summary_part.added", {"part": sum_ | {"text": ""}, **by}),
            ("reasoning_summary_text.delta", {"delta": "thought", **by}),
            ("reasoning_summary_text.done", {"text": "thought", **by}),
            ("reasoning_summary_part.done", {"part": sum_, **by}),
        ]
        item = {"type": "reasoning", "id": "rs_1", "summary": [sum_], "content": [part]}
        return self.item(item | {"status": "completed"}, *steps, summary=[], content=[])

    def unknown(self):
        return self.item({"type": "hologram", "id": "holo_1", "beam": [1, 2], "status": "completed"})

    def end(self, status="completed", output=None, **members):
        whole = self.output if output is None else output
        return self.add(f"response.{status}", response=response(status, whole, **members))

    @property
    def raw(self):
        return wire(self.events)


def wire(events, tail="data: [DONE]\n\n"):
    return "".join([*(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events), tail]).encode()


def everything():
    story = Story().reasoning().text("hel", "lo").noted().refusal().call().custom().unknown()
    return story.end()


def cut_by_failure():
    story = Story().text("a")
    part = {"part": output_text(""), "content_index": 0}
    open_item = message("", "msg_2", status="in_progress", content=[])
    story.add("response.output_item.added", item=open_item, output_index=1)
    story.add("response.content_part.added", item_id="msg_2", output_index=1, **part)
    story.add("error", code="server_error", message="It broke.", param=None)
    return story.end("failed", [*story.output, message("", "msg_2", status="incomplete", content=[])])


# ------------------------------------------------------------- what is legal


@pytest.mark.parametrize(
    "story",
    [
        Story().end(),
        Story().text("a").end(),
        Story().text().end(),
        Story().text("a").end("incomplete"),
        Story().text("a").end("failed"),
        Story().text("a").end("failed", error={"code": "context_length_exceeded", "message": "m"}),
        cut_by_failure(),
        everything(),
    ],
    ids=["empty", "text", "no deltas", "incomplete", "failed", "too long", "cut", "everything"],
)
def test_legal_streams_pass(story):
    assert check_event_stream(story.raw) == story.events


def test_queued_stream_passes():
    story = Story()
    story.events.insert(1, {"type": "response.queued", "response": response("queued")})
    story.events[0]["response"] = response("queued")
    for number, event in enumerate(story.events):
        event["sequence_number"] = number
    check_event_stream(story.text("a").end().raw)


def test_comments_may_stand_between_events():
    raw = Story().text("a").end().raw
    check_event_stream(b": ping\n\n" + raw.replace(b"\n\nevent", b"\n\n: ping\n\nevent", 2))


def test_cut_stream_passes_only_when_it_may_be_cut():
    raw = wire(Story().text("a").events, tail="")
    check_event_stream(raw, cut=True)
    with pytest.raises(RuleBroken, match="one terminal event"):
        check_event_stream(raw)


def test_wanted_ending():
    raw = Story().end("incomplete").raw
    check_event_stream(raw, ending="response.incomplete")
    with pytest.raises(RuleBroken, match="one terminal event"):
        check_event_stream(raw, ending="response.completed")


def test_failure_shows_the_rule_the_event_and_its_neighbours():
    story = everything()
    story.events[6]["sequence_number"] = 99
    with pytest.raises(RuleBroken) as caught:
        check_event_stream(story.raw)
    lines = str(caught.value).split("\n")
    assert lines[0] == "the sequence_number is 6"
    assert [line.split()[0] for line in lines[2:]] == ["3", "4", "5", ">>", "7", "8", "9"]


# ------------------------------------------------------------- what is not: streams


def apart(events):
    """A copy in which no two events share an object."""
    return json.loads(json.dumps(events))


def find(events, kind, nth=0):
    return [event for event in events if event["type"] == f"response.{kind}"][nth]


def renumber(events):
    for number, event in enumerate(events):
        event["sequence_number"] = number


def change(kind, nth=0, **members):
    """A mutation that changes members of an event (``a__b`` reaches into ``a``; ... drops it)."""

    def mutate(events):
        for path, value in members.items():
            target = find(events, kind, nth)
            *outer, last = path.split("__")
            for key in outer:
                target = target[int(key) if key.isdigit() else key]
            if value is ...:
                del target[last]
            else:
                target[last] = value

    return mutate


def drop(kind, nth=0, count=1):
    def mutate(events):
        at = events.index(find(events, kind, nth))
        del events[at : at + count]
        renumber(events)

    return mutate


def double(kind, nth=0):
    def mutate(events):
        event = find(events, kind, nth)
        events.insert(events.index(event) + 1, copy.deepcopy(event))
        renumber(events)

    return mutate


def move(kind, by, nth=0):
    def mutate(events):
        event = find(events, kind, nth)
        at = events.index(event)
        events.insert(at + by, events.pop(at))
        renumber(events)

    return mutate


MUTATIONS = {
    "sequence starts at 1": lambda events: [
        e.update(sequence_number=e["sequence_number"] + 1) for e in events
    ],
    "sequence has a gap": lambda events: [
        e.update(sequence_number=e["sequence_number"] + 1) for e in events[9:]
    ],
    "sequence repeats": lambda events: events[5].update(sequence_number=4),
    "sequence is a string": lambda events: events[5].update(sequence_number="5"),
    "sequence is missing": lambda events: events[5].pop("sequence_number"),
    "no created": drop("created"),
    "created twice": double("created"),
    "no in_progress": drop("in_progress"),
    "in_progress twice": double("in_progress"),
    "in_progress late": move("in_progress", 4),
    "queued after in_progress": lambda events: (
        events.insert(2, {"type": "response.queued", "sequence_number": 2, "response": response("queued")})
        or renumber(events)
    ),
    "created is completed": change("created", response__status="completed"),
    "created has output": change("created", response__output=[message()]),
    "created has usage": change("created", response__usage=USAGE),
    "response id changes": change("completed", response__id="resp_2"),
    "created_at changes": change("completed", response__created_at=9),
    "created_at is a float": change("completed", response__created_at=10.5),
    "no terminal": drop("completed"),
    "two terminals": double("completed"),
    "event after the terminal": move("completed", -1),
    "terminal says incomplete": change("completed", type="response.incomplete"),
    "terminal status differs": change("completed", response__status="incomplete"),
    "no completed_at": change("completed", response__completed_at=None),
    "no usage": change("completed", response__usage=None),
    "usage per turn": change("completed", response__usage__input_tokens_details__input_tokens_per_turn=[]),
    "usage without cache_write_tokens": change(
        "completed", response__usage__input_tokens_details__cache_write_tokens=...
    ),
    "response lacks a member": change("completed", response__truncation=...),
    "response text is null": change("completed", response__text=None),
    "response metadata is null": change("completed", response__metadata=None),
    "vLLM's own member": change("completed", response__kv_transfer_params=None),
    "output lacks an item": lambda events: events[-1]["response"]["output"].pop(),
    "output has one more": lambda events: events[-1]["response"]["output"].append(message("x", "msg_9")),
    "output is reordered": lambda events: events[-1]["response"]["output"].reverse(),
    "output item differs from done": change("completed", response__output__0__summary=[]),
    "output item has another id": change("completed", response__output__1__id="msg_7"),
    "event type unknown": change("output_text.delta", type="response.output_text.piece"),
    "output_index skips": lambda events: [
        e.update(output_index=e["output_index"] + 1) for e in events if "output_index" in e
    ],
    "output_index reused": change("output_item.added", 1, output_index=0),
    "output_index of another item": change("output_text.delta", output_index=0),
    "output_index of no item": change("output_text.delta", output_index=17),
    "output_index is missing": change("output_text.delta", output_index=...),
    "item never added": drop("output_item.added", 1),
    "item never done": drop("output_item.done", 1),
    "item done twice": double("output_item.done", 1),
    "item added twice": double("output_item.added", 1),
    "items overlap": move("output_item.done", 1, nth=0),
    "added item is completed": change("output_item.added", 1, item__status="completed"),
    "added item has content": change("output_item.added", 1, item__content=[output_text("x")]),
    "added item has no id": change("output_item.added", 1, item__id=...),
    "id of a wrong kind": lambda events: [
        e.update(json.loads(json.dumps(e).replace('"msg_1"', '"item_1"'))) for e in events
    ],
    "same id for two items": lambda events: [
        e.update(json.loads(json.dumps(e).replace('"msg_n"', '"msg_1"'))) for e in events
    ],
    "done item changes id": change("output_item.done", 1, item__id="msg_7"),
    "done item changes type": change("output_item.done", 1, item__type="reasoning", item__summary=[]),
    "done item in progress": change("output_item.done", 1, item__status="in_progress"),
    "done item lacks role": change("output_item.done", 1, item__role=...),
    "done item has null phase": change("output_item.done", 1, item__phase=None),
    "done content differs": change("output_item.done", 1, item__content__0__text="hello!"),
    "done part differs": change("content_part.done", 1, part__text="hello!"),
    "done text differs": change("output_text.done", text="hello!"),
    "delta is lost": drop("output_text.delta"),
    "delta twice": double("output_text.delta"),
    "deltas swapped": move("output_text.delta", 1),
    "delta is a number": change("output_text.delta", delta=1),
    "delta of another item": change("output_text.delta", item_id="msg_7"),
    "delta without logprobs": change("output_text.delta", logprobs=...),
    "delta before its part": move("output_text.delta", -1),
    "delta after done": move("output_text.delta", 1, nth=1),
    "content_index skips": change("content_part.added", 1, content_index=1),
    "content_index of no part": change("output_text.delta", content_index=1),
    "part never added": drop("content_part.added", 1),
    "part never done": drop("content_part.done", 1),
    "part done twice": double("content_part.done", 1),
    "part added twice": double("content_part.added", 1),
    "part not empty": change("content_part.added", 1, part__text="x"),
    "part lacks annotations": change("content_part.added", 1, part__annotations=...),
    "part has null logprobs": change("content_part.done", 1, part__logprobs=None),
    "part of a wrong kind": change("content_part.added", 1, part={"type": "reasoning_text", "text": ""}),
    "text never done": drop("output_text.done"),
    "text done twice": double("output_text.done"),
    "annotation is lost": drop("output_text.annotation.added"),
    "annotation_index starts at 1": change("output_text.annotation.added", annotation_index=1),
    "annotation differs": change("output_text.annotation.added", annotation__url="v"),
    "refusal text under text": change("refusal.done", refusal=..., text="no way"),
    "refusal differs": change("refusal.done", refusal="no"),
    "refusal delta is a text delta": change("refusal.delta", type="response.output_text.delta", logprobs=[]),
    "call without arguments done": drop("function_call_arguments.done"),
    "call arguments differ": change("function_call_arguments.done", arguments='{"a":2}'),
    "call arguments of the item differ": change("output_item.done", 4, item__arguments='{"a":2}'),
    "call added with arguments": change("output_item.added", 4, item__arguments='{"a":1}'),
    "call_id changes": change("output_item.done", 4, item__call_id="call_9"),
    "call name changes": change("output_item.done", 4, item__name="g"),
    "call without call_id": lambda events: [e["item"].pop("call_id", None) for e in events if "item" in e],
    "call delta is lost": drop("function_call_arguments.delta"),
    "custom input differs": change("custom_tool_call_input.done", input="rm"),
    "custom input never done": drop("custom_tool_call_input.done"),
    "custom input as arguments": change(
        "custom_tool_call_input.delta", type="response.function_call_arguments.delta"
    ),
    "reasoning text differs": change("reasoning_text.done", text="h"),
    "reasoning without its part": drop("content_part.added", 0),
    "reasoning content is null": change("output_item.done", 0, item__content=None),
    "summary part never added": drop("reasoning_summary_part.added"),
    "summary part never done": drop("reasoning_summary_part.done"),
    "summary text differs": change("reasoning_summary_text.done", text="x"),
    "summary_index starts at 1": change("reasoning_summary_part.added", summary_index=1),
    "summary of the item differs": change("output_item.done", 0, item__summary=[]),
    "unknown item changes": change("output_item.done", 6, item__id="holo_2"),
    "unknown item differs at the end": change("completed", response__output__6__beam=[]),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_stream_is_caught(name):
    events = apart(everything().events)
    MUTATIONS[name](events)
    with pytest.raises(RuleBroken) as caught:
        check_event_stream(wire(events))
    assert ">>" in str(caught.value)


FAILURE_MUTATIONS = {
    "error without message": lambda events: events[-2].pop("message"),
    "error without param": lambda events: events[-2].pop("param"),
    "no failed after error": lambda events: events.pop(),
    "completed after error": lambda events: events[-1].update(
        type="response.completed", response=response("completed", events[-1]["response"]["output"])
    ),
    "delta after error": lambda events: events.insert(-1, events.pop(5)) or renumber(events),
    "failed without error": lambda events: events[-1]["response"].update(error=None),
    "failed with an unknown code": lambda events: events[-1]["response"]["error"].update(code="oops"),
    "open item is forgotten": lambda events: events[-1]["response"]["output"].pop(),
    "failed is completed": lambda events: events[-1]["response"].update(completed_at=11),
}


@pytest.mark.parametrize("name", FAILURE_MUTATIONS)
def test_mutated_failure_is_caught(name):
    events = apart(cut_by_failure().events)
    FAILURE_MUTATIONS[name](events)
    with pytest.raises(RuleBroken):
        check_event_stream(wire(events))


WIRE_MUTATIONS = {
    "no DONE": lambda raw: raw.replace(b"data: [DONE]\n\n", b""),
    "DONE twice": lambda raw: raw + b"data: [DONE]\n\n",
    "event after DONE": lambda raw: raw + b'event: x\ndata: {"type": "x"}\n\n',
    "DONE with a name": lambda raw: raw.replace(b"data: [DONE]", b"event: done\ndata: [DONE]"),
    "no blank line": lambda raw: raw[:-1],
    "CRLF": lambda raw: raw.replace(b"\n", b"\r\n"),
    "id line": lambda raw: raw.replace(b"\ndata: {", b"\nid: 1\ndata: {", 1),
    "no event line": lambda raw: raw.replace(b"event: response.created\n", b""),
    "another event name": lambda raw: raw.replace(b"event: response.created", b"event: message"),
    "not JSON": lambda raw: raw.replace(b"data: {", b"data: {{", 1),
    "not an object": lambda raw: b"event: x\ndata: []\n\n" + raw,
    "data in two lines": lambda raw: raw.replace(b"data: {", b"data: {\ndata: ", 1),
    "garbage": lambda raw: b"hello\n\n" + raw,
    "empty": lambda raw: b"",
}


@pytest.mark.parametrize("name", WIRE_MUTATIONS)
def test_mutated_wire_is_caught(name):
    with pytest.raises(RuleBroken):
        check_event_stream(WIRE_MUTATIONS[name](everything().raw))


def test_not_utf8_is_caught():
    with pytest.raises(UnicodeDecodeError):
        parse_sse(b"\xff\n\n")


def test_overlapping_items_pass_where_they_may():
    events = apart(everything().events)
    move("output_item.done", 1, nth=0)(events)
    check_event_stream(wire(events), interleaved=True)


def test_resumed_stream_is_the_rest():
    events = everything().events
    assert check_resumed(wire(events[5:]), events, starting_after=4) == events[5:]
    for wrong in (events[4:], events[5:-1], [*events[5:], events[-1]]):
        with pytest.raises(RuleBroken):
            check_resumed(wire(wrong), events, starting_after=4)


# ------------------------------------------------------------- responses

REQUEST = {
    "model": "tiny",
    "input": "hi",
    "temperature": 0.5,
    "metadata": {"a": "b"},
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "name": "f"},
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_object"}},
    "instructions": None,
    "conversation": "conv_1",
}
ANSWER = response(
    output=[message()],
    temperature=0.5,
    metadata={"a": "b"},
    tools=[
        {
            "type": "function",
            "name": "f",
            "parameters": {"type": "object"},
            "description": None,
            "strict": None,
        }
    ],
    tool_choice={"type": "function", "name": "f"},
    reasoning={"effort": "low", "summary": None},
    text={"format": {"type": "json_object"}},
    conversation={"id": "conv_1"},
    conversation_id="conv_1",
)


def test_legal_responses_pass():
    check_response(ANSWER, REQUEST)
    check_response(json.dumps(ANSWER).encode(), REQUEST, status="completed")
    check_response(response(), {"model": "tiny", "input": "hi"})
    for status in ("queued", "in_progress", "failed", "incomplete", "cancelled"):
        check_response(response(status), status=status)


@pytest.mark.parametrize(
    "members",
    [
        {"temperature": 1},
        {"metadata": {}},
        {"metadata": {"a": "c"}},
        {"tools": []},
        {"tool_choice": "auto"},
        {"reasoning": {"effort": "high", "summary": None}},
        {"reasoning": None},
        {"text": {"format": {"type": "text"}}},
        {"model": "large"},
        {"instructions": "be"},
        {"store": False},
        {"background": True},
        {"conversation": {"id": "conv_2"}},
        {"conversation": None},
        {"conversation_id": None},
        {"previous_response_id": "resp_0"},
    ],
)
def test_response_that_says_other_than_the_request_is_caught(members):
    with pytest.raises(RuleBroken):
        check_response(ANSWER | members, REQUEST)


def test_conversation_that_nobody_named_is_caught():
    with pytest.raises(RuleBroken, match="conversation is absent"):
        check_response(response(conversation={"id": "conv_1"}), {"model": "tiny", "input": "hi"})


@pytest.mark.parametrize("key", sorted(set(response()) - {"user"}))
def test_each_member_of_a_response_is_required(key):
    with pytest.raises(RuleBroken, match=f"`{key}`"):
        check_response({name: value for name, value in response().items() if name != key})


@pytest.mark.parametrize(
    "members",
    [
        {"id": "msg_1"},
        {"object": "list"},
        {"created_at": 10.5},
        {"created_at": True},
        {"completed_at": 9},
        {"status": "done"},
        {"error": {"code": "server_error", "message": "m"}},
        {"incomplete_details": {"reason": "max_output_tokens"}},
        {"top_p": None},
        {"text": {}},
        {"metadata": {"a": 1}},
        {"tools": [{"type": "function", "name": "f"}]},
        {"reasoning": {"effort": "low"}},
        {"service_tier": None},
        {"truncation": "maybe"},
        {"output": [message(), message()]},
        {"output": [message(role="user")]},
        {"output": [message(status="in_progress")]},
        {"output": [message(content="hello")]},
        {"output": [{"id": "x_1"}]},
        {"usage": USAGE | {"total_tokens": 6}},
        {"usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}},
        {"input_messages": None},
    ],
)
def test_illegal_response_is_caught(members):
    with pytest.raises(RuleBroken):
        check_response(response() | members)


# ------------------------------------------------------------- items, lists, errors, conversations


@pytest.mark.parametrize(
    "item",
    [
        message(),
        message(role="user", content=[{"type": "input_text", "text": "hi"}]),
        {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "1"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "hologram", "id": "h", "beam": None},
    ],
)
def test_legal_items_pass(item):
    check_item(item)


@pytest.mark.parametrize(
    "item",
    [
        message(id=""),
        message(id="item_1"),
        message(role="robot"),
        message(status=None),
        message(content=[{"type": "output_text", "text": "a"}]),
        message(content=[{"type": "refusal", "text": "a"}]),
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c",
            "name": "f",
            "arguments": {},
            "status": "completed",
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "id": "rs_1"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None},
        {"id": "msg_1"},
    ],
)
def test_illegal_items_are_caught(item):
    with pytest.raises(RuleBroken):
        check_item(item)


def page(*ids, **members):
    data = [message(id=id) for id in ids]
    ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return {"object": "list", "data": data, **ends, "has_more": False, **members}


def test_legal_lists_pass():
    assert check_list(page()) == []
    assert len(check_list(json.dumps(page("msg_1", "msg_2")), ids=["msg_1", "msg_2"], more=False)) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        page("msg_1", object="array"),
        page("msg_1", first_id=None),
        page("msg_1", "msg_2", last_id="msg_1"),
        page("msg_1", "msg_1"),
        page(first_id=""),
        page("msg_1", has_more=None),
        page("msg_1", total=1),
        page("msg_1", data=[{"role": "user", "content": "hi"}]),
        {"data": []},
    ],
)
def test_illegal_lists_are_caught(wrong):
    with pytest.raises(RuleBroken):
        check_list(wrong)


def test_list_of_other_items_is_caught():
    with pytest.raises(RuleBroken, match="should be"):
        check_list(page("msg_1"), ids=["msg_2"])
    with pytest.raises(RuleBroken, match="has_more"):
        check_list(page("msg_1"), more=True)


ERROR = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}


def test_legal_errors_pass():
    check_error(404, {"error": ERROR}, code=None, param=None)
    check_error(500, json.dumps({"error": ERROR | {"type": "server_error"}}))
    check_error(400, {"error": ERROR | {"code": "invalid_type", "param": "store"}}, code="invalid_type")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"error": ERROR}),
        (400, {"error": ERROR, "detail": "x"}),
        (400, {"detail": "x"}),
        (400, {"error": "No."}),
        (400, {"error": ERROR | {"status": 400}}),
        (400, {"error": {"message": "No.", "type": "invalid_request_error", "code": None}}),
        (400, {"error": ERROR | {"code": 400}}),
        (400, {"error": ERROR | {"message": ""}}),
        (400, {"error": ERROR | {"type": "BadRequestError"}}),
        (400, {"error": ERROR | {"param": "input"}}),
        (400, []),
    ],
)
def test_illegal_errors_are_caught(status, body):
    with pytest.raises(RuleBroken):
        check_error(status, body, param=None)


def test_conversations():
    legal = {"id": "conv_1", "object": "conversation", "created_at": 1, "metadata": {}}
    check_conversation(legal, metadata={})
    for wrong in (
        {"id": "c"},
        {"object": "x"},
        {"created_at": 1.5},
        {"metadata": None},
        {"metadata": {"a": "b"}},
    ):
        with pytest.raises(RuleBroken):
            check_conversation(legal | wrong, metadata={})
