"""PyPI ``openai``: both client classes, with strict validation of every answer."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.fake_upstream import Call, CustomCall, Reasoning, Refusal, Script, Text, Unknown

from .blocking import Blocking
from .harness import MODEL, said

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .harness import Served

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(params=["sync", "async"])
def client(served: Served, request: pytest.FixtureRequest) -> Iterator[Any]:
    options: Any = {
        "base_url": served.url,
        "api_key": "key",
        "max_retries": 0,
        "timeout": 10,
        "_strict_response_validation": True,
    }
    if request.param == "sync":
        with OpenAI(**options) as client:
            yield client
    else:
        with asyncio.Runner() as runner, Blocking(AsyncOpenAI(**options), runner) as client:
            yield client


def ask(client: Any, input: Any = "hi", **members: Any) -> Any:
    return client.responses.create(model=MODEL, input=input, **members)


def poll(client: Any, id: str, until: str) -> Any:
    deadline = time.monotonic() + 10
    while (response := client.responses.retrieve(id)).status != until:
        assert time.monotonic() < deadline, response.status
        time.sleep(0.01)
    return response


# --------------------------------------------------------------------------- one response


def test_create_answers_the_models_text_and_its_usage(client: Any, served: Served) -> None:
    response = ask(client, "hello")
    assert response.output_text == "echo: 1 items; last: hello"
    assert response.status == "completed"
    assert response.error is None
    assert response.incomplete_details is None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response._request_id
    assert served.said == [("user", "hello")]


def test_create_echoes_what_was_asked(client: Any, served: Served) -> None:
    settings: Any = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 64,
        "metadata": {"k": "v"},
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
        "truncation": "auto",
        "reasoning": {"effort": "low"},
        "user": "me",
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
    }
    response = ask(client, "hello", **settings)
    echoed = response.model_dump(include=set(settings), exclude_unset=True)
    echoed["reasoning"] = {"effort": response.reasoning.effort}
    assert echoed == settings
    sent = served.requests[-1].json
    assert {name: sent[name] for name in settings if name != "truncation"} == {
        name: value for name, value in settings.items() if name != "truncation"
    }


def test_format_is_echoed_with_what_was_left_out(client: Any) -> None:
    format = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    echoed = ask(client, text={"format": format}).text.format
    assert echoed.model_dump(by_alias=True) == {**format, "description": None, "strict": False}


def test_what_was_created_is_what_is_retrieved(client: Any) -> None:
    created = ask(client, "hello", metadata={"k": "v"}, tools=[WEATHER])
    assert client.responses.retrieve(created.id).model_dump() == created.model_dump()


def test_items_of_all_kinds_are_parsed(client: Any, served: Served) -> None:
    output = (
        Reasoning("Let me think.", summary=("Thinking.",)),
        Call("weather", '{"city": "Oslo"}'),
        CustomCall("shell", "ls"),
        Text("Here it is."),
    )
    served.answers(Script(output=output))
    response = ask(client, tools=[WEATHER, {"type": "custom", "name": "shell"}])
    kinds = [item.type for item in response.output]
    assert kinds == ["reasoning", "function_call", "custom_tool_call", "message"]
    assert response.output[0].content[0].text == "Let me think."
    assert response.output[1].arguments == '{"city": "Oslo"}'
    assert response.output[2].input == "ls"
    assert client.responses.retrieve(response.id).output == response.output


def test_length_stop_is_incomplete(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text("half"),), stop="length"))
    response = ask(client)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.output_text == "half"


def test_null_for_every_optional_member_is_as_if_absent(client: Any, served: Served) -> None:
    acted_on = ["previous_response_id", "conversation", "store", "stream", "background", "truncation"]
    forwarded = ["instructions", "include", "metadata", "tools", "tool_choice", "parallel_tool_calls"]
    forwarded += ["text", "reasoning", "temperature", "top_p", "top_logprobs", "user", "max_output_tokens"]
    forwarded += ["max_tool_calls", "service_tier", "prompt", "prompt_cache_key", "safety_identifier"]
    response = ask(client, "hello", extra_body=dict.fromkeys(acted_on + forwarded))
    assert response.output_text == "echo: 1 items; last: hello"
    assert set(served.requests[-1].json) == {"model", "input", "store", "stream"}


def test_raw_response_gives_headers_and_the_same_object(client: Any) -> None:
    raw = client.responses.with_raw_response.create(model=MODEL, input="hi")
    assert raw.headers["content-type"] == "application/json"
    assert raw.headers["x-request-id"]
    assert raw.parse().output_text == "echo: 1 items; last: hi"


def test_models_are_the_model_servers(client: Any) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_image_goes_to_the_model_as_sent(client: Any, served: Served) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
    content = [{"type": "input_text", "text": "What is it?"}, image]
    ask(client, [{"role": "user", "content": content}])
    assert served.requests[-1].items[0]["content"] == content


# --------------------------------------------------------------------------- streams


def test_events_come_in_order_and_are_numbered(client: Any) -> None:
    events = list(ask(client, "hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == "echo: 1 items; last: hello"


def test_stream_helper_ends_with_what_is_stored(client: Any) -> None:
    with client.responses.stream(model=MODEL, input="hello") as stream:
        texts = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert texts[-1] == final.output_text == "echo: 1 items; last: hello"
    stored = client.responses.retrieve(final.id)
    assert stored.output_text == final.output_text
    assert stored.output[0].id == final.output[0].id


def test_stream_helper_follows_all_kinds_of_items(client: Any, served: Served) -> None:
    output = (
        Reasoning("Let me think.", summary=("One.", "Two.")),
        Text("First."),
        Call("weather", ('{"city":', ' "Oslo"}')),
        CustomCall("shell", ("l", "s")),
        Refusal("No, I won't."),
    )
    served.answers(Script(output=output))
    tools: Any = [WEATHER, {"type": "custom", "name": "shell"}]
    with client.responses.stream(model=MODEL, input="go", tools=tools) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [item.type for item in final.output] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
        "message",
    ]
    assert final.output[2].parsed_arguments == {"city": "Oslo"}
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == ['{"city": "Oslo"}']
    assert client.responses.retrieve(final.id).output[-1].content[0].refusal == "No, I won't."


def test_length_stop_ends_a_stream_as_incomplete(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text("half"),), stop="length"))
    last = list(ask(client, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("fault", [{"fail_after": 6}, {"cut_after": 6}], ids=["fails", "breaks off"])
def test_model_that_fails_in_the_middle_ends_the_stream_as_failed(
    client: Any, served: Served, fault: dict[str, int]
) -> None:
    served.answers(Script(output=(Text("one two three four five"),), **fault))
    events = list(ask(client, stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    response = events[-1].response
    assert response.error.code == "server_error"
    assert response.output_text.startswith("one")
    assert client.responses.retrieve(response.id).status == "failed"


def test_leaving_a_stream_stops_the_model(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text("one two three"),), stall_after=5))
    aborted = served.upstream.aborted
    stream = ask(client, stream=True)
    created = next(iter(stream))
    stream.close()
    served.wait(served.upstream.wait_aborted, aborted + 1)
    assert poll(client, created.response.id, "cancelled").output_text in ("", "one")


# --------------------------------------------------------------------------- parsing


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    unit: Literal["c", "f"] = "c"


def test_parse_gives_the_model_the_schema_and_the_caller_an_object(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text('{"city": "Oslo", "unit": "f"}'),)))
    response = client.responses.parse(model=MODEL, input="hi", text_format=Weather)
    assert response.output_parsed == Weather(city="Oslo", unit="f")
    format = served.requests[-1].json["text"]["format"]
    assert (format["type"], format["name"], format["strict"]) == ("json_schema", "Weather", True)
    assert response.text.format.name == "Weather"


def test_parse_reads_the_arguments_of_a_tool(client: Any, served: Served) -> None:
    served.answers(Script(output=(Call("Weather", '{"city": "Oslo", "unit": "c"}'),)))
    tools = [openai.pydantic_function_tool(Weather)]
    flat: Any = [{"type": "function", **tool["function"]} for tool in tools]
    response = client.responses.parse(model=MODEL, input="hi", tools=flat)
    assert response.output[0].parsed_arguments == {"city": "Oslo", "unit": "c"}


def test_stream_helper_parses(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text('{"city": "Oslo", "unit": "c"}'),)))
    with client.responses.stream(model=MODEL, input="hi", text_format=Weather) as stream:
        assert stream.get_final_response().output_parsed == Weather(city="Oslo")


# --------------------------------------------------------------------------- chains


def test_chain_gives_the_model_all_that_was_said(client: Any, served: Served) -> None:
    first = ask(client, "one", instructions="Be brief.")
    second = ask(client, "two", previous_response_id=first.id)
    third = ask(client, "three", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    assert third.instructions is None
    assert served.said == [
        ("user", "one"),
        ("assistant", "echo: 1 items; last: one"),
        ("user", "two"),
        ("assistant", "echo: 3 items; last: two"),
        ("user", "three"),
    ]
    assert "instructions" not in served.requests[-1].json


def test_branches_do_not_see_each_other(client: Any, served: Served) -> None:
    root = ask(client, "root")
    ask(client, "left", previous_response_id=root.id)
    ask(client, "right", previous_response_id=root.id)
    assert [text for _, text in served.said] == ["root", "echo: 1 items; last: root", "right"]


def test_children_of_a_deleted_response_live(client: Any, served: Served) -> None:
    first = ask(client, "one")
    second = ask(client, "two", previous_response_id=first.id)
    assert client.responses.delete(first.id) is None
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError):
        ask(client, "again", previous_response_id=first.id)
    ask(client, "three", previous_response_id=second.id)
    assert [text for kind, text in served.said if kind == "user"] == ["one", "two", "three"]


def test_input_items_are_all_that_the_model_was_given(client: Any) -> None:
    first = ask(client, "one")
    second = ask(client, "two", previous_response_id=first.id)
    page = client.responses.input_items.list(second.id, limit=2)
    assert page.has_more
    pages = [item.content[0].text for item in client.responses.input_items.list(second.id, limit=1)]
    assert pages == ["two", "echo: 1 items; last: one", "one"]
    ascending = client.responses.input_items.list(
        second.id, order="asc", include=["reasoning.encrypted_content"]
    )
    assert [item.content[0].text for item in ascending] == pages[::-1]


def test_what_is_not_stored_is_not_found(client: Any) -> None:
    response = ask(client, "hello", store=False)
    assert response.output_text == "echo: 1 items; last: hello"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "more", previous_response_id=response.id)
    assert (caught.value.code, caught.value.param) == (
        "previous_response_not_found",
        "previous_response_id",
    )


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_unstored_response_may_continue_a_stored_one(client: Any, served: Served, stream: bool) -> None:
    first = ask(client, "one")
    answer = ask(client, "two", previous_response_id=first.id, store=False, stream=stream)
    response = list(answer)[-1].response if stream else answer
    assert [text for kind, text in served.said if kind == "user"] == ["one", "two"]
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


# --------------------------------------------------------------------------- tools


def test_tool_loop_by_previous_response(client: Any, served: Served) -> None:
    first = ask(client, 'call weather {"city": "Oslo"}', tools=[WEATHER])
    (call,) = first.output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    second = ask(client, [output], previous_response_id=first.id, tools=[WEATHER])
    assert second.output_text == "echo: 3 items; last: rain"
    kinds = [item["type"] for item in served.requests[-1].items]
    assert kinds == ["message", "function_call", "function_call_output"]
    assert served.requests[-1].items[1]["call_id"] == call.call_id


@pytest.mark.parametrize(
    "dump", [{}, {"exclude": {"status"}}, {"exclude": {"id"}}], ids=["whole", "no status", "no id"]
)
def test_tool_loop_by_replaying_what_was_put_out(client: Any, served: Served, dump: Any) -> None:
    served.answers(Script(output=(Reasoning("Hm."), Call("weather", '{"city": "Oslo"}'))))
    context: list[Any] = [{"role": "user", "content": "Weather?"}]
    first = ask(client, context, tools=[WEATHER])
    context += [item.model_dump(exclude_unset=True, **dump) for item in first.output]
    context.append({"type": "function_call_output", "call_id": first.output[1].call_id, "output": "rain"})
    second = ask(client, context, tools=[WEATHER])
    assert second.output_text == "echo: 4 items; last: rain"
    context += [item.model_dump(exclude_unset=True, **dump) for item in second.output]
    third = ask(client, [*context, {"role": "user", "content": "Thanks."}])
    assert third.output_text == "echo: 6 items; last: Thanks."
    again = ask(client, [*context, {"role": "user", "content": "More."}], previous_response_id=third.id)
    assert again.status == "completed"


def test_reference_stands_for_what_was_put_out(client: Any, served: Served) -> None:
    first = ask(client, "hello")
    ask(client, [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "more"}])
    assert served.said == [("assistant", "echo: 1 items; last: hello"), ("user", "more")]
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, [{"type": "item_reference", "id": "msg_nowhere"}])
    assert (caught.value.code, caught.value.param) == (None, "input")


def test_call_without_output_is_refused_before_the_model_is_asked(client: Any, served: Served) -> None:
    first = ask(client, "call weather {}", tools=[WEATHER])
    call_id = first.output[0].call_id
    before = len(served.requests)
    with pytest.raises(openai.BadRequestError, match=f"No tool output found for function call {call_id}"):
        ask(client, "And?", previous_response_id=first.id)
    with pytest.raises(openai.BadRequestError, match="No tool call found for function call output"):
        ask(client, [{"type": "function_call_output", "call_id": "call_x", "output": "rain"}])
    assert len(served.requests) == before


def test_unknown_items_are_kept_and_given_back_to_the_model(client: Any, served: Served) -> None:
    served.answers(Script(output=(Unknown({"type": "hologram", "volume": 3}), Text("There."))))
    raw = client.responses.with_raw_response.create(model=MODEL, input="hi")
    response = json.loads(raw.text() if callable(raw.text) else raw.text)
    ask(client, "again", previous_response_id=response["id"])
    item = served.requests[-1].items[1]
    assert (item["type"], item["volume"]) == ("hologram", 3)


# --------------------------------------------------------------------------- conversations


def test_conversation_is_created_read_updated_and_deleted(client: Any) -> None:
    conversation = client.conversations.create(metadata={"topic": "tea"})
    assert client.conversations.retrieve(conversation.id) == conversation
    updated = client.conversations.update(conversation.id, metadata={"topic": "rye"})
    assert updated.metadata == {"topic": "rye"}
    assert client.conversations.update(conversation.id, metadata=None).metadata == {}
    gone = client.conversations.delete(conversation.id)
    assert (gone.id, gone.deleted, gone.object) == (conversation.id, True, "conversation.deleted")
    for call in (client.conversations.retrieve, client.conversations.delete, client.conversations.items.list):
        with pytest.raises(openai.NotFoundError) as caught:
            call(conversation.id)
        assert caught.value.type == "invalid_request_error"


def test_items_are_added_read_paged_and_deleted(client: Any) -> None:
    message = {"type": "message", "role": "user", "content": "zero"}
    conversation = client.conversations.create(items=[message])
    items = [{"role": "user", "content": [{"type": "input_text", "text": str(n)}]} for n in range(1, 5)]
    added = client.conversations.items.create(conversation.id, items=items)
    assert [item.content[0].text for item in added.data] == ["1", "2", "3", "4"]
    listed = list(client.conversations.items.list(conversation.id, limit=2))
    assert [item.content[0].text for item in listed] == ["4", "3", "2", "1", "zero"]
    ascending = client.conversations.items.list(conversation.id, order="asc", after=listed[-1].id)
    assert [item.id for item in ascending] == [item.id for item in added.data]
    one = client.conversations.items.retrieve(added.data[1].id, conversation_id=conversation.id)
    assert one.content[0].text == "2"
    left = client.conversations.items.delete(added.data[1].id, conversation_id=conversation.id)
    assert left.id == conversation.id
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(added.data[1].id, conversation_id=conversation.id)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_turns_of_a_conversation_add_input_and_output(client: Any, served: Served, stream: bool) -> None:
    first = {"type": "message", "role": "system", "content": "Rhyme."}
    conversation = client.conversations.create(items=[first])
    for text in ("one", "two"):
        answer = ask(client, text, conversation=conversation.id, stream=stream)
        response = list(answer)[-1].response if stream else answer
        assert response.conversation.id == conversation.id
        assert response.previous_response_id is None
    texts = ["Rhyme.", "one", "echo: 2 items; last: one", "two", "echo: 4 items; last: two"]
    assert [text for _, text in served.said] == texts[:-1]
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.content[0].text for item in items] == texts
    assert items[-1].id == response.output[0].id


def test_conversations_response_is_continued_outside_of_it(client: Any, served: Served) -> None:
    conversation = client.conversations.create()
    first = ask(client, "one", conversation={"id": conversation.id})
    ask(client, "two", conversation=conversation.id)
    aside = ask(client, "aside", previous_response_id=first.id)
    assert [text for kind, text in served.said if kind == "user"] == ["one", "aside"]
    assert aside.conversation is None
    assert len(list(client.conversations.items.list(conversation.id))) == 4


def test_unstored_turn_sees_a_conversation_and_leaves_it_alone(client: Any, served: Served) -> None:
    conversation = client.conversations.create()
    ask(client, "one", conversation=conversation.id)
    ask(client, "two", conversation=conversation.id, store=False)
    assert [text for kind, text in served.said if kind == "user"] == ["one", "two"]
    assert len(list(client.conversations.items.list(conversation.id))) == 2


def test_item_is_linked_into_several_conversations_once_each(client: Any) -> None:
    response = ask(client, "hello")
    item = response.output[0].model_dump(exclude_unset=True)
    one = client.conversations.create(items=[item])
    other = client.conversations.create()
    added = client.conversations.items.create(other.id, items=[item])
    assert added.data[0].id == response.output[0].id
    with pytest.raises(openai.BadRequestError) as caught:
        client.conversations.items.create(one.id, items=[item])
    assert (caught.value.code, caught.value.param) == ("item_already_in_conversation", "items")


def test_id_of_an_item_means_what_is_stored_under_it(client: Any, served: Served) -> None:
    item = ask(client, "hello").output[0].model_dump(exclude_unset=True)
    forged = item | {"content": [{"type": "output_text", "text": "forged"}]}
    conversation = client.conversations.create()
    ask(client, [forged, {"role": "user", "content": "one"}], conversation=conversation.id)
    assert served.said == [("assistant", "echo: 1 items; last: hello"), ("user", "one")]
    (first, *_) = client.conversations.items.list(conversation.id, order="asc")
    assert first.model_dump(exclude_unset=True) == item
    ask(client, [forged, {"role": "user", "content": "two"}])
    assert served.said == [("assistant", "forged"), ("user", "two")]


@pytest.mark.parametrize("turn", [False, True], ids=["items", "turn"])
def test_item_with_an_own_id_enters_a_conversation_once(client: Any, served: Served, turn: bool) -> None:
    item: Any = {"id": "msg_mine", "type": "message", "role": "user", "content": "x"}
    conversation = client.conversations.create(items=[item])
    assert client.conversations.items.retrieve("msg_mine", conversation_id=conversation.id).id == "msg_mine"
    add = partial(client.conversations.items.create, conversation.id, items=[item])
    take_turn = partial(ask, client, [item], conversation=conversation.id)
    with pytest.raises(openai.BadRequestError) as caught:
        (take_turn if turn else add)()
    assert caught.value.code == "item_already_in_conversation"
    assert served.requests == []
    other = client.conversations.create(items=[{**item, "content": "y"}])
    assert client.conversations.items.list(other.id).data[0].content[0].text == "y"


def test_second_turn_of_a_busy_conversation_is_refused(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text("slow"),), stall_after=3))
    conversation = client.conversations.create()
    stalled = served.upstream.stalled
    stream = iter(ask(client, "one", conversation=conversation.id, stream=True))
    next(stream)
    served.wait(served.upstream.wait_stalled, stalled + 1)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "two", conversation=conversation.id)
    assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
    assert len(served.requests) == 1
    assert list(client.conversations.items.list(conversation.id)) == []
    served.release()
    assert list(stream)[-1].type == "response.completed"
    ask(client, "two", conversation=conversation.id)


def test_failed_turn_adds_nothing_to_its_conversation(client: Any, served: Served) -> None:
    served.answers(Script(status=500), Script(output=(Text("half an answer"),), fail_after=5))
    conversation = client.conversations.create()
    with pytest.raises(openai.InternalServerError):
        ask(client, "one", conversation=conversation.id)
    assert list(ask(client, "one", conversation=conversation.id, stream=True))[-1].type == "response.failed"
    assert list(client.conversations.items.list(conversation.id)) == []


# --------------------------------------------------------------------------- background and resuming


def test_background_response_is_polled_to_its_end(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text("done"),), hang=True))
    stalled = served.upstream.stalled
    response = ask(client, "go", background=True)
    assert response.status in ("queued", "in_progress")
    assert (response.output, response.usage, response.background) == ([], None, True)
    served.wait(served.upstream.wait_stalled, stalled + 1)
    assert client.responses.retrieve(response.id).status == "in_progress"
    served.release()
    assert poll(client, response.id, "completed").output_text == "done"


def test_background_response_is_cancelled_once_and_for_all(client: Any, served: Served) -> None:
    served.answers(Script(hang=True))
    response = ask(client, "go", background=True)
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(ask(client).id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_nowhere")


def test_background_turn_enters_its_conversation_when_it_is_done(client: Any, served: Served) -> None:
    conversation = client.conversations.create()
    response = ask(client, "go", background=True, conversation=conversation.id)
    poll(client, response.id, "completed")
    items = client.conversations.items.list(conversation.id, order="asc")
    assert [item.role for item in items] == ["user", "assistant"]


def test_broken_background_stream_is_resumed_where_it_was(client: Any, served: Served) -> None:
    served.answers(Script(output=(Text("one two three"),), stall_after=6))
    stalled = served.upstream.stalled
    stream = ask(client, "go", background=True, stream=True)
    events = iter(stream)
    seen = [next(events)]
    while seen[-1].type != "response.output_text.delta":
        seen.append(next(events))
    stream.close()
    served.wait(served.upstream.wait_stalled, stalled + 1)
    id, cursor = seen[0].response.id, seen[-1].sequence_number
    served.release()
    rest = list(client.responses.retrieve(id, stream=True, starting_after=cursor))
    assert [event.sequence_number for event in rest] == list(range(cursor + 1, cursor + 1 + len(rest)))
    assert rest[-1].type == "response.completed"
    with client.responses.stream(response_id=id, starting_after=cursor) as resumed:
        again = list(resumed)
        assert resumed.get_final_response().output_text == "one two three"
    assert [event.sequence_number for event in again] == [event.sequence_number for event in rest]


def test_ended_stream_is_replayed_from_its_start(client: Any) -> None:
    events = list(ask(client, "hello", stream=True))
    replayed = list(client.responses.retrieve(events[0].response.id, stream=True))
    assert [event.model_dump() for event in replayed] == [event.model_dump() for event in events]


# --------------------------------------------------------------------------- errors


REFUSED: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "model of a wrong type": ({"model": 7}, "invalid_type", "model"),
    "no input": ({"input": []}, "missing_required_parameter", None),
    "input of a wrong type": ({"input": 7}, "invalid_type", "input"),
    "role": ({"input": [{"role": "bogus", "content": "x"}]}, "invalid_value", "input[0]"),
    "item without content": (
        {"input": [{"role": "user"}]},
        "missing_required_parameter",
        "input[0].content",
    ),
    "id with a wrong prefix": (
        {"input": [{"id": "item_x", "role": "user", "content": "x"}]},
        "invalid_value",
        "input[0].id",
    ),
    "too few tokens": ({"max_output_tokens": 15}, "integer_below_min_value", "max_output_tokens"),
    "truncation": ({"truncation": "bogus"}, "invalid_value", "truncation"),
    "include": ({"include": ["x"]}, "invalid_value", "include[0]"),
    "metadata": (
        {"metadata": {str(n): "v" for n in range(17)}},
        "object_above_max_properties",
        "metadata",
    ),
    "tool without name": ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
    "effort": ({"reasoning": {"effort": "bogus"}}, "invalid_value", "reasoning.effort"),
    "previous response": (
        {"previous_response_id": "resp_x"},
        "previous_response_not_found",
        "previous_response_id",
    ),
    "both": (
        {"previous_response_id": "resp_x", "conversation": "conv_x"},
        "mutually_exclusive_parameters",
        None,
    ),
    "background without store": ({"background": True, "store": False}, None, "background"),
}


@pytest.mark.parametrize("members", REFUSED.values(), ids=REFUSED)
def test_bad_request_is_told_with_code_and_param(client: Any, served: Served, members: Any) -> None:
    body, code, param = members
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": MODEL, "input": "hi"} | body)
    assert caught.value.param == param
    assert code is None or caught.value.code == code
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id
    assert served.requests == []


def test_unknown_ids_are_not_found(client: Any) -> None:
    responses, conversations = client.responses, client.conversations
    known = conversations.create().id
    calls = {
        "Response with id 'resp_x' not found.": [
            lambda: responses.retrieve("resp_x"),
            lambda: responses.delete("resp_x"),
            lambda: responses.input_items.list("resp_x"),
        ],
        "Conversation with id 'conv_x' not found.": [
            lambda: conversations.retrieve("conv_x"),
            lambda: conversations.update("conv_x", metadata={}),
            lambda: conversations.items.create("conv_x", items=[{"role": "user", "content": "x"}]),
            lambda: ask(client, "hi", conversation="conv_x"),
            lambda: ask(client, "hi", conversation="conv_x", stream=True),
        ],
        "No item found with id 'msg_x'": [lambda: conversations.items.list(known, after="msg_x")],
    }
    for message, each in calls.items():
        for call in each:
            with pytest.raises(openai.NotFoundError) as caught:
                call()
            assert message in caught.value.message
            assert caught.value.code is None


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_model_servers_refusals_keep_their_class(client: Any, served: Served, stream: bool) -> None:
    refusals: list[tuple[int, type[openai.APIStatusError]]] = [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ]
    for status, kind in refusals:
        served.answers(Script(status=status, error="Not now.", headers={"retry-after": "7"}))
        with pytest.raises(kind) as caught:
            ask(client, stream=stream)
        assert "Not now." in caught.value.message
        assert caught.value.status_code == status
        assert caught.value.response.headers["retry-after"] == "7"


def test_sdk_tries_again_after_429_and_gets_its_response(client: Any, served: Served) -> None:
    served.answers(Script(status=429, headers={"retry-after-ms": "1", "retry-after": "0"}))
    response = client.with_options(max_retries=1).responses.create(model=MODEL, input="hi")
    assert response.output_text == "echo: 1 items; last: hi"
    assert len(served.requests) == 2


def test_unknown_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(model="nope", input="hi")
    assert caught.value.code == "model_not_found"


def test_too_long_a_context_is_told_as_such_and_truncation_gets_past_it(client: Any, served: Served) -> None:
    words = "This model's maximum context length is 4096 tokens. However, you requested more."
    first = ask(client, "one " * 400)
    served.answers(Script(status=400, error=words), Script(status=400, error=words))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "two", previous_response_id=first.id)
    assert caught.value.code == "context_length_exceeded"
    response = ask(client, "two", previous_response_id=first.id, truncation="auto")
    assert response.truncation == "auto"
    assert said(served.requests[-1].items)[-1] == ("user", "two")
    assert len(served.requests[-1].items) < 3
