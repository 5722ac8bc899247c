"""What model servers send that is not quite right costs no turn, and their errors keep their words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentic_trio.errors import UpstreamError
from agentic_trio.wire.dialect import MAX_ERROR_TEXT, refusal
from agentic_trio.wire.mending import decode_mended, split_half, whole_characters
from tests.playbook import Playbook, event, new_response, terminal

Json = dict[str, Any]


def raw(kind: str, text: str) -> bytes:
    """An event whose JSON text is given."""
    return f'event: {kind}\ndata: {{"type":"{kind}",{text}}}\n\n'.encode()


def delta(text: str, members: str = "") -> bytes:
    return raw("response.output_text.delta", f'"output_index":0,"content_index":0,"delta":"{text}"{members}')


def message(text: str, **members: Any) -> Json:
    part = {"type": "output_text", "text": text}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part], **members}


def answered(**members: Any) -> Json:
    """A whole answer, as the client gets it."""
    response = new_response()
    response.receive_json(json.dumps(members).encode())
    answer: Json = json.loads(response.response())
    return answer


# --------------------------------------------------------------------------- characters and numbers


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["go \\ud83d", "\\ude80!"], "go 🚀!"),
        (["go ", "\\ud83d", "\\ude80", "!"], "go 🚀!"),
        (["\\ud83d", "", "\\ude80"], "🚀"),
        (["\\uD83D", "\\uDE80\\ud83d", "\\ude81"], "🚀🚁"),
        (["go \\ud83d", "!"], "go \ufffd!"),
        (["go \\ud83d"], "go \ufffd"),
        (["\\ude80 go"], "\ufffd go"),
        (["\\ud83d", "\\ud83d\\ude80"], "\ufffd🚀"),
        (["a\\ud83db", "c"], "a\ufffdbc"),
    ],
)
@pytest.mark.parametrize("final", [True, False])
def test_halves_of_a_character_are_joined_and_a_lone_one_is_replaced(
    pieces: list[str], text: str, final: bool
) -> None:
    play = Playbook()
    for piece in pieces:
        play >> delta(piece)
    play >> (terminal(message(text)) if final else terminal())
    events = play.ends("response.completed")
    assert "".join(each["delta"] for each in events if each["type"].endswith(".delta")) == text
    [item] = events[-1]["response"]["output"]
    assert item["content"][0]["text"] == text


def test_half_a_character_of_a_call_is_joined() -> None:
    play = Playbook()
    call = {"type": "function_call", "id": "f", "call_id": "c", "name": "now", "arguments": ""}
    play >> event("response.output_item.added", output_index=0, item=call)
    for piece in ('{\\"a\\":\\"\\ud83d', '\\ude80\\"}'):
        play >> raw(
            "response.function_call_arguments.delta", f'"output_index":0,"item_id":"f","delta":"{piece}"'
        )
    play >> terminal()
    [item] = play.ends("response.completed")[-1]["response"]["output"]
    assert item["arguments"] == '{"a":"🚀"}'


def test_half_a_character_is_not_kept_of_a_turn_that_was_cut() -> None:
    play = Playbook()
    play >> delta("go ") >> delta("\\ud83d")
    [item] = play.ends("response.failed")[-1]["response"]["output"]
    assert item["content"][0]["text"] == "go "


@given(st.lists(st.text(st.sampled_from("a🚀é\ud83d\ude80"), max_size=4), max_size=6))
def test_however_a_text_is_cut_its_pieces_make_the_whole(pieces: list[str]) -> None:
    half, out = "", ""
    for piece in pieces:
        whole, half = split_half(half + piece)
        out += whole
    assert out + whole_characters(half) == whole_characters("".join(pieces))
    out.encode()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400 + ".0"])
def test_a_number_that_json_does_not_have_is_null_or_the_least_logprob(number: str) -> None:
    play = Playbook()
    one = f'"token":"a","bytes":[97],"logprob":{number}'
    logprob = f'{{{one},"top_logprobs":[{{{one}}}]}}'
    part = f'{{"type":"output_text","text":"a","annotations":[],"logprobs":[{logprob}],"score":{number}}}'
    play >> raw(
        "response.output_text.delta", f'"output_index":0,"content_index":0,"delta":"a","logprobs":[{logprob}]'
    )
    item = f'{{"type":"message","id":"m","role":"assistant","content":[{part}]}}'
    play >> raw(
        "response.completed",
        f'"response":{{"status":"completed","output":[{item}],"usage":{{"input_tokens":1,"output_tokens":1,"cost":{number}}}}}',
    )
    events = play.ends("response.completed")
    [sent] = [each for each in events if each["type"].endswith(".delta")]
    assert sent["logprobs"][0]["logprob"] == sent["logprobs"][0]["top_logprobs"][0]["logprob"] == -9999.0
    [kept] = events[-1]["response"]["output"][0]["content"]
    assert (kept["logprobs"][0]["logprob"], kept["score"]) == (-9999.0, None)
    assert "cost" not in events[-1]["response"]["usage"]


@pytest.mark.parametrize("body", [b'{"a":NaN', b"[NaN]", b"NaN", b'{"a":nan}', b'{"a":"\xff",b:NaN}'])
def test_what_is_no_json_at_all_is_not_mended(body: bytes) -> None:
    with pytest.raises((Exception,)) as caught:
        decode_mended(body)
    assert type(caught.value).__name__ in ("DecodeError", "UnicodeDecodeError")


def test_a_whole_answer_is_mended_too() -> None:
    response = new_response()
    response.receive_json(
        b'{"status":"completed","usage":{"input_tokens":1,"output_tokens":1},"output":[{"type":"message","content":'
        b'[{"type":"output_text","text":"go \\ud83d","logprobs":[{"token":"x","logprob":-Infinity}]}]}]}'
    )
    [part] = json.loads(response.response())["output"][0]["content"]
    assert (part["text"], part["logprobs"][0]["logprob"]) == ("go \ufffd", -9999.0)


def test_bytes_that_are_no_text_do_not_pass_in_members_that_nothing_looks_at() -> None:
    play = Playbook()
    play >> event("response.output_item.added", output_index=0, item=message("", id="up"))
    play >> event("response.content_part.added", output_index=0, item_id="up", part={"type": "output_text"})
    play >> (
        b'event: response.output_text.delta\ndata: {"content_index":0,"delta":"x","item_id":"up",'
        b'"logprobs":[],"output_index":0,"sequence_number":4,"type":"response.output_text.delta","obfuscation":"\xff"}\n\n'
    )
    play.ends("response.failed")


# --------------------------------------------------------------------------- errors


ERRORS = [
    ({"error": {"message": "boom", "code": 500}}, "boom", "upstream_error", "server_error"),
    (
        {"error": {"message": "boom", "type": "InternalServerError", "code": 500}},
        "boom",
        "upstream_error",
        "server_error",
    ),
    (
        {"error": {"message": "boom", "code": "insufficient_quota"}},
        "boom",
        "insufficient_quota",
        "insufficient_quota",
    ),
    (
        {"error": {"message": "boom", "type": "budget_exceeded", "code": "400"}},
        "boom",
        "budget_exceeded",
        "budget_exceeded",
    ),
    ({"error": {"message": "boom", "code": 429}}, "boom", "rate_limit_exceeded", "rate_limit_exceeded"),
    ({"error": "boom"}, "boom", "upstream_error", "server_error"),
    (
        {"object": "error", "message": "boom", "type": "BadRequestError", "code": 400},
        "boom",
        None,
        "server_error",
    ),
    ({"error": {"detail": "boom"}}, "boom", "upstream_error", "server_error"),
]


@pytest.mark.parametrize(("said", "message", "code", "kept"), ERRORS, ids=str)
@pytest.mark.parametrize("later", [False, True])
def test_an_error_inside_a_stream_keeps_its_words(
    said: Json, message: str, code: str | None, kept: str, later: bool
) -> None:
    play = Playbook()
    if later:
        play >> delta("hi")
    play >> f"data: {json.dumps(said)}\n\n".encode()
    *_, error, last = play.ends("response.failed")
    assert (error["message"], error["code"]) == (message, code)
    assert last["response"]["error"] == {"code": kept, "message": message}


@pytest.mark.parametrize(("said", "message", "code", "kept"), ERRORS, ids=str)
def test_an_error_inside_a_whole_answer_keeps_its_words(
    said: Json, message: str, code: str | None, kept: str
) -> None:
    with pytest.raises(UpstreamError) as caught:
        new_response().receive_json(json.dumps(said).encode())
    assert (caught.value.message, caught.value.code) == (message, code)


@pytest.mark.parametrize(
    "chunk",
    [
        b'event: error\ndata: {"message":"boom","code":"budget_exceeded"}\n\n',
        b'event: error\ndata: {"error":{"message":"boom","code":"budget_exceeded"}}\n\n',
        event("error", error={"message": "boom", "code": "budget_exceeded"}),
        event("error", message="boom", code="budget_exceeded"),
        event("response.error", error={"message": "boom", "code": "budget_exceeded"}),
        event("server_error", error={"message": "boom", "code": "budget_exceeded"}),
        terminal(kind="response.failed", error={"message": "boom", "code": "budget_exceeded"}),
        terminal(status="failed", error={"message": "boom", "code": "budget_exceeded"}),
    ],
    ids=repr,
)
def test_an_error_is_one_however_its_event_is_named(chunk: bytes) -> None:
    play = Playbook()
    play >> chunk
    last = play.ends("response.failed")[-1]["response"]
    assert last["error"] == {"code": "budget_exceeded", "message": "boom"}


def test_an_event_may_be_named_only_in_its_event_line() -> None:
    play = Playbook()
    (
        play
        >> b'event: response.output_text.delta\ndata: {"delta":"hi","sequence_number":2,"output_index":0}\n\n'
    )
    (
        play
        >> b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    )
    [item] = play.ends("response.completed")[-1]["response"]["output"]
    assert item["content"][0]["text"] == "hi"


TOO_LONG = {
    "vLLM": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
    "vLLM, prompt": "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "vLLM, input": "Input prompt (5000 tokens) is too long and exceeds limit of 4096",
    "llama.cpp": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "SGLang": "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "SGLang, strict": "Input length (5000 tokens) exceeds the maximum allowed length (4095 tokens).",
    "LM Studio": "The number of tokens to keep from the initial prompt is greater than the context length.",
    "LM Studio, old": "Trying to keep the first 5000 tokens when context the overflows.",
    "Ollama": "the input length exceeds the context length",
    "Ollama, new": "prompt too long; exceeded max context length by 904 tokens",
    "LiteLLM": "litellm.ContextWindowExceededError: litellm.BadRequestError: 5000 tokens",
    "TensorRT-LLM": "default_max_tokens (-904) must be greater than 0, it is max_seq_len (4096) - 5000",
    "TensorRT-LLM, input": "The prompt length 5000 should not exceed max_input_len 4096",
    "TensorRT-LLM, sum": "The sum of prompt length (5000) and query length should not exceed max_num_tokens",
    "OpenAI": "Your input exceeds the context window of this model. Please adjust your input and try again.",
}


@pytest.mark.parametrize("words", TOO_LONG.values(), ids=TOO_LONG)
def test_a_context_that_is_too_long_is_recognised_wherever_it_is_said(words: str) -> None:
    for chunk in (
        event("error", message=words),
        event("error", error={"message": words, "code": 400, "type": "BadRequestError"}),
        terminal(kind="response.failed", error={"message": words, "code": "server_error"}),
        f"data: {json.dumps({'error': {'message': words, 'code': 500}})}\n\n".encode(),
    ):
        play = Playbook()
        play >> chunk
        *_, error, last = play.ends("response.failed")
        assert (error["code"], error["message"]) == ("context_length_exceeded", words)
        assert last["response"]["error"] == {"code": "context_length_exceeded", "message": words}
    for status in (400, 413, 422, 500):
        error_body = json.dumps({"error": {"message": words}}).encode()
        refused = refusal(status, error_body)
        assert (refused.status, refused.code, refused.param) == (400, "context_length_exceeded", "input")


def test_a_code_alone_says_that_the_context_is_too_long() -> None:
    body = b'{"error":{"code":400,"message":"no","type":"exceed_context_size_error"}}'
    assert refusal(400, body).code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":{"message":"no","code":"insufficient_quota"}}', "insufficient_quota"),
        (b'{"error":{"message":"no","type":"budget_exceeded","code":"429"}}', "budget_exceeded"),
        (b'{"error":{"message":"no","type":"rate_limit_error"}}', "rate_limit_exceeded"),
        (b'{"error":{"message":"no","code":"with spaces"}}', "rate_limit_exceeded"),
        (b'{"error":{"message":"no","code":"%b"}}' % (b"x" * 1000), "rate_limit_exceeded"),
    ],
)
def test_a_code_of_a_refusal_is_kept_if_it_is_one(body: bytes, code: str) -> None:
    assert refusal(429, body).code == code


@pytest.mark.parametrize("code", ["x", "500", "", "a b_c", "_____", None, 7])
def test_a_code_that_is_no_word_is_a_server_error_in_the_response(code: Any) -> None:
    play = Playbook()
    play >> terminal(kind="response.failed", error={"message": "no", "code": code})
    last = play.ends("response.failed")[-1]["response"]
    assert last["error"] == {"code": "server_error", "message": "no"}


def test_the_words_of_an_error_are_bounded() -> None:
    assert len(refusal(500, json.dumps({"error": "x" * 60_000}).encode()).message) == MAX_ERROR_TEXT + 3


# --------------------------------------------------------------------------- items


def test_the_output_of_a_program_is_completed_when_it_is_added() -> None:
    for type in ("program_output", "shell_call_output"):
        item = {"type": type, "id": "x", "call_id": "c", "status": "completed", "output": [], "result": "1"}
        play = Playbook()
        play >> event("response.output_item.added", output_index=0, item=item)
        play << [f"output_item.added 0 {type} completed"]
        play >> event("response.output_item.done", output_index=0, item=item) >> terminal(item)
        play.ends("response.completed")


def test_an_item_that_was_never_added_is_in_progress_first() -> None:
    play = Playbook()
    play >> event(
        "response.output_item.done", item={"type": "web_search_call", "id": "w", "status": "completed"}
    )
    play << [
        "output_item.added 0 web_search_call in_progress",
        "output_item.done 0 web_search_call completed",
    ]


@pytest.mark.parametrize(
    ("arguments", "ending", "status"),
    [
        ('{"a":1}', "response.completed", "completed"),
        ("", "response.completed", "completed"),
        ('{"a', "response.completed", "incomplete"),
        ('{"a', "response.incomplete", "incomplete"),
        ('{"a":1}', "response.incomplete", "incomplete"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_that_was_left_in_progress(arguments: str, ending: str, status: str, streamed: bool) -> None:
    call = {"type": "function_call", "id": "f", "call_id": "c", "name": "now", "arguments": arguments}
    call["status"] = "in_progress"
    if streamed:
        play = Playbook()
        play >> terminal(call, kind=ending)
        [item] = play.ends(ending)[-1]["response"]["output"]
        unusable = play.response.items[0].unusable
    else:
        response = new_response()
        response.receive_json(json.dumps({"status": ending[9:], "output": [call]}).encode())
        [item] = json.loads(response.response())["output"]
        unusable = response.items[0].unusable
    assert (item["status"], item["arguments"]) == (status, arguments)
    assert unusable is (status == "incomplete")


def test_a_summary_part_may_be_announced_without_it() -> None:
    play = Playbook()
    place = {"item_id": "r", "output_index": 0, "summary_index": 0}
    play >> event("response.output_item.added", output_index=0, item={"type": "reasoning", "id": "r"})
    play >> event("response.reasoning_summary_part.added", **place)
    play >> event("response.reasoning_summary_text.delta", **place, delta="hm")
    play >> event("response.reasoning_summary_part.done", **place, part=None)
    play >> terminal()
    [item] = play.ends("response.completed")[-1]["response"]["output"]
    assert item["summary"] == [{"type": "summary_text", "text": "hm"}]


@pytest.mark.parametrize("type", ["message", "reasoning"])
def test_a_content_part_may_be_announced_without_it(type: str) -> None:
    play = Playbook()
    place = {"item_id": "x", "output_index": 0, "content_index": 0}
    play >> event("response.content_part.added", **place)
    play >> event("response.output_item.added", output_index=0, item={"type": type, "id": "x"})
    play >> event("response.content_part.added", **place) >> event("response.content_part.done", **place)
    play >> terminal()
    [item] = play.ends("response.completed")[-1]["response"]["output"]
    assert [part["text"] for part in item["content"]] == [""]


@pytest.mark.parametrize("output", [{}, {"output": None}])
@pytest.mark.parametrize("status", ["incomplete", "completed", "failed"])
def test_an_answer_may_have_no_output(output: Json, status: str) -> None:
    answer = answered(status=status, **output)
    assert (answer["status"], answer["output"]) == (status, [])
    play = Playbook()
    play >> event(f"response.{status}", response={"status": status, "usage": {}, **output})
    play.ends(f"response.{status}")


@pytest.mark.parametrize(
    "item",
    [
        {
            "type": "tool_search_call",
            "call_id": None,
            "execution": "server",
            "arguments": {},
            "status": "completed",
        },
        {"type": "file_search_call", "queries": ["q"], "results": None, "status": "completed"},
        {
            "type": "mcp_call",
            "name": "n",
            "arguments": "{}",
            "error": None,
            "output": "x",
            "server_label": "l",
        },
        {"type": "dream", "of": None},
    ],
    ids=lambda item: item["type"],
)
def test_null_members_of_other_types_stay(item: Json) -> None:
    play = Playbook()
    play >> event("response.output_item.added", output_index=0, item={"id": "x", **item})
    play >> event("response.output_item.done", output_index=0, item={"id": "x", **item})
    play >> terminal({"id": "x", **item})
    [kept] = play.ends("response.completed")[-1]["response"]["output"]
    assert kept == {**item, "id": kept["id"]}
    [whole] = answered(status="completed", output=[item])["output"]
    assert whole == {**item, "id": whole["id"]}


# --------------------------------------------------------------------------- what is kept of an answer


def test_numbers_and_objects_of_the_usage_are_kept() -> None:
    usage = {
        "input_tokens": 2,
        "output_tokens": 3,
        "input_tokens_details": {
            "cached_tokens": 1,
            "input_tokens_per_turn": [],
            "audio_tokens": 4,
            "x": {"y": 1},
        },
        "output_tokens_details": {"reasoning_tokens": 1, "tool_output_tokens": 2, "odd": "x"},
        "cost": 0.25,
        "cost_details": {"upstream": 0.5, "why": None, "per_turn": [1]},
        "num_tool_calls": 1,
        "per_turn": [1],
        "is_byok": False,
        "note": "x",
        "none": None,
    }
    play = Playbook()
    play >> terminal(usage=usage)
    assert play.ends("response.completed")[-1]["response"]["usage"] == {
        "input_tokens": 2,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0, "audio_tokens": 4},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1, "tool_output_tokens": 2},
        "total_tokens": 5,
        "cost": 0.25,
        "cost_details": {"upstream": 0.5},
        "num_tool_calls": 1,
    }


def test_what_the_server_reports_beside_the_output_is_kept() -> None:
    reported = {
        "content_filters": [{"blocked": False}],
        "reasoning": {"effort": "high", "context": "all_turns"},
        "kv_transfer_params": {},
    }
    play = Playbook()
    play >> terminal(message("hi"), **reported)
    response = play.ends("response.completed")[-1]["response"]
    assert response["content_filters"] == [{"blocked": False}]
    assert response["reasoning"] == {"effort": None, "summary": None, "context": "all_turns"}
    assert "kv_transfer_params" not in response
    assert "content_filters" not in json.loads(play.response.snapshot.under_way().body())


def test_the_usage_of_tools_is_kept() -> None:
    tokens = {"image_tokens": 0, "text_tokens": 0}
    images = {"input_tokens": 0, "input_tokens_details": tokens, "output_tokens": 0, "total_tokens": 0}
    used = {"image_gen": images, "web_search": {"num_requests": 1}}
    answer = answered(status="completed", output=[], usage={}, tool_usage=used)
    assert answer["tool_usage"] == used


def test_what_cut_a_failed_response_off_is_kept() -> None:
    play = Playbook()
    play >> terminal(
        kind="response.failed", error={"message": "no"}, incomplete_details={"reason": "content_filter"}
    )
    assert play.ends("response.failed")[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}
