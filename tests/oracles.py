"""Does an answer keep OpenAI's contract? Checkers that share no code with the gateway.

Each raises :class:`RuleBroken`, whose message names the rule and shows the event (with its neighbours) or
the member that breaks it. Where OpenAI and the Open Responses specification differ, a client of either
must work, so the stricter of both holds.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from openai import omit
from openai._models import construct_type
from openai._utils import is_annotated_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent
from pydantic import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Json = dict[str, Any]

ANY: Any = object()
"""An expectation that anything meets."""


class RuleBroken(AssertionError):
    """A rule of the contract is broken."""


def require(held: object, rule: str, shown: Any = ANY) -> None:
    if not held:
        raise RuleBroken(rule if shown is ANY else f"{rule}\n    {brief(shown)}")


def brief(value: Any, limit: int = 400) -> str:
    """A value on one line of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else f"{text[: limit - 40]} ... {text[-30:]}"


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# --------------------------------------------------------------------------- errors, lists, conversations


def check_error(
    status: int, body: bytes | str | Json, *, code: Any = ANY, param: Any = ANY, type: Any = ANY
) -> Json:
    """An error answer: ``{"error": {"message", "type", "param", "code"}}``, nothing more, nothing less."""
    parsed = json.loads(body) if isinstance(body, bytes | str) else body
    require(400 <= status <= 599, f"an error has an error status, not {status}", parsed)
    require(isinstance(parsed, dict) and list(parsed) == ["error"], "the body holds `error` alone", parsed)
    error: Json = parsed["error"]
    require(isinstance(error, dict), "`error` is an object", parsed)
    require(set(error) == {"message", "type", "param", "code"}, "an error has its four keys", error)
    require(isinstance(error["message"], str) and error["message"], "the message is a text", error)
    for key in ("code", "param"):
        require(error[key] is None or isinstance(error[key], str), f"{key} is a string or null", error)
    expected = type
    if expected is ANY and status < 500 and status != 429:
        expected = "invalid_request_error"
    require(isinstance(error["type"], str), "the type is a string", error)
    for key, wanted in (("type", expected), ("code", code), ("param", param)):
        require(wanted is ANY or error[key] == wanted, f"{key} should be {wanted!r}", error)
    return error


def check_list(body: bytes | str | Json, *, ids: list[str] | None = None, more: Any = ANY) -> list[Json]:
    """A page of items; returns its ``data``."""
    page = json.loads(body) if isinstance(body, bytes | str) else body
    keys = {"object", "data", "first_id", "last_id", "has_more"}
    require(isinstance(page, dict) and set(page) == keys, "a list has its five keys", page)
    require(page["object"] == "list", 'object is "list"', page)
    require(isinstance(page["data"], list), "data is an array", page)
    require(isinstance(page["has_more"], bool), "has_more is a boolean", page)
    data: list[Json] = page["data"]
    for item in data:
        check_item(item)
    found = [item["id"] for item in data]
    require(len(set(found)) == len(found), "no item is listed twice", found)
    ends = (found[0], found[-1]) if found else (None, None)
    require((page["first_id"], page["last_id"]) == ends, "first_id and last_id are the ends of data", page)
    require(ids is None or found == ids, f"the list should be {ids}", found)
    require(more is ANY or page["has_more"] is more, f"has_more should be {more}", page)
    return data


def check_conversation(body: bytes | str | Json, *, metadata: Any = ANY) -> Json:
    conversation = json.loads(body) if isinstance(body, bytes | str) else body
    require(
        {"id", "object", "created_at", "metadata"} <= set(conversation),
        "a conversation has its keys",
        conversation,
    )
    require(conversation["object"] == "conversation", 'object is "conversation"', conversation)
    require(
        str(conversation["id"]).startswith("conv_"), "a conversation's id begins with conv_", conversation
    )
    require(is_int(conversation["created_at"]), "created_at is Unix seconds", conversation)
    require(isinstance(conversation["metadata"], dict), "metadata is an object", conversation)
    require(
        metadata is ANY or conversation["metadata"] == metadata,
        f"metadata should be {metadata}",
        conversation,
    )
    return conversation


# --------------------------------------------------------------------------- items

PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "reasoning": "rs_",
    "custom_tool_call": "ctc_",
    "mcp_call": "mcp_",
    "mcp_list_tools": "mcpl_",
    "mcp_approval_request": "mcpr_",
    "web_search_call": "ws_",
    "file_search_call": "fs_",
    "code_interpreter_call": "ci_",
    "image_generation_call": "ig_",
    "compaction": "cmp_",
}

REQUIRED = {
    "message": ("role", "status", "content"),
    "function_call": ("call_id", "name", "arguments", "status"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
    "reasoning": ("summary",),
}

STATUSES = ("in_progress", "completed", "incomplete")


def check_item(item: Json) -> Json:
    """An item as it is listed, or of an output."""
    require(isinstance(item, dict), "an item is an object", item)
    kind = item.get("type")
    require(isinstance(kind, str), "an item has a type", item)
    require(isinstance(item.get("id"), str) and item["id"], "an item has an id", item)
    prefix = PREFIXES.get(kind, "")
    require(item["id"].startswith(prefix), f"the id of a {kind} begins with {prefix}", item)
    for key in REQUIRED.get(kind, ()):
        require(item.get(key) is not None, f"a {kind} has `{key}`", item)
    if kind in ("message", "function_call"):
        require(item["status"] in STATUSES, f"the status of a {kind} is one of {STATUSES}", item)
    # Of types that are not known here nothing is known of their members either.
    for key in ("call_id", "name", "arguments", "input") if kind in REQUIRED else ():
        require(isinstance(item.get(key, ""), str), f"`{key}` of a {kind} is a string", item)
    # Open Responses has these as "string" where present, not as "string or null".
    for key in ("phase", "encrypted_content"):
        require(item.get(key, "") is not None, f"`{key}` is left out when it is not known", item)
    if kind == "message":
        _check_message(item)
    if kind == "reasoning":
        _check_reasoning(item)
    return item


def _check_message(item: Json) -> None:
    roles = ("user", "assistant", "system", "developer")
    require(item["role"] in roles, f"the role of a message is one of {roles}", item)
    require(isinstance(item["content"], list), "the content of a message is an array of parts", item)
    for part in item["content"]:
        check_part(part)


def _check_reasoning(item: Json) -> None:
    require(isinstance(item["summary"], list), "the summary of a reasoning item is an array", item)
    require(isinstance(item.get("content", []), list), "the content of a reasoning item is an array", item)
    for part in [*item["summary"], *item.get("content", [])]:
        check_part(part)


def check_part(part: Json) -> None:
    """A content part of a message, or a part of a reasoning item."""
    require(isinstance(part, dict) and isinstance(part.get("type"), str), "a part has a type", part)
    if part["type"] in ("input_text", "output_text", "reasoning_text", "summary_text"):
        require(isinstance(part.get("text"), str), f"an {part['type']} has a text", part)
    if part["type"] == "refusal":
        require(isinstance(part.get("refusal"), str), "a refusal has its text in `refusal`", part)
    if part["type"] == "output_text":
        for key in ("annotations", "logprobs"):
            require(isinstance(part.get(key), list), f"an output_text has an array `{key}`", part)


# --------------------------------------------------------------------------- responses

# The 31 members that the Open Responses schema requires, and what may stand there.
_NULLABLE_STR = (str, type(None))
_NULLABLE_INT = (int, type(None))
_NULLABLE_OBJECT = (dict, type(None))
MEMBERS: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "object": str,
    "created_at": int,
    "completed_at": _NULLABLE_INT,
    "status": str,
    "incomplete_details": _NULLABLE_OBJECT,
    "model": str,
    "previous_response_id": _NULLABLE_STR,
    "instructions": (str, list, type(None)),
    "output": list,
    "error": _NULLABLE_OBJECT,
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": (int, float),
    "presence_penalty": (int, float),
    "frequency_penalty": (int, float),
    "top_logprobs": int,
    "temperature": (int, float),
    "reasoning": _NULLABLE_OBJECT,
    "usage": _NULLABLE_OBJECT,
    "max_output_tokens": _NULLABLE_INT,
    "max_tool_calls": _NULLABLE_INT,
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
    "safety_identifier": _NULLABLE_STR,
    "prompt_cache_key": _NULLABLE_STR,
}

# What vLLM adds for itself; no client expects it.
FOREIGN = ("kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages")

# Codes of `response.error` beside those that the SDK lists: clients know them by name.
EXTRA_ERROR_CODES = ("context_length_exceeded", "insufficient_quota", "budget_exceeded")

# What a response says when the request was silent.
DEFAULTS: Json = {
    "background": False,
    "frequency_penalty": 0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1,
    "truncation": "disabled",
}


def check_response(body: bytes | str | Json, request: Json | None = None, *, status: Any = ANY) -> Json:
    """A Response object; with ``request``, also that it repeats what the request said."""
    response = json.loads(body) if isinstance(body, bytes | str) else body
    require(isinstance(response, dict), "a response is an object", response)
    for key, types in MEMBERS.items():
        require(key in response, f"a response has `{key}`", sorted(response))
        good = isinstance(response[key], types) and not (types is int and isinstance(response[key], bool))
        require(good, f"`{key}` has a wrong type", {key: response[key]})
    require(response["object"] == "response", 'object is "response"', response["object"])
    require(response["id"].startswith("resp_"), "a response's id begins with resp_", response["id"])
    for key in FOREIGN:
        require(key not in response, f"`{key}` is the upstream's own business", {key: response.get(key)})
    require(status is ANY or response["status"] == status, f"status should be {status}", response["status"])
    _check_status(response)
    _check_output(response)
    _check_configuration(response)
    if response["usage"] is not None:
        check_usage(response["usage"])
    if request is not None:
        check_echo(response, request)
    validate(Response, sdk_view(response))
    return response


def _check_status(response: Json) -> None:
    status = response["status"]
    known = ("queued", "in_progress", "completed", "failed", "cancelled", "incomplete")
    require(status in known, f"status is one of {known}", status)
    # A turn that a deadline or a shutdown cancelled says so in its error.
    require(
        response["error"] is not None
        if status == "failed"
        else status == "cancelled" or not response["error"],
        "`error` is set when failed, and may be when cancelled",
        {"status": status, "error": response["error"]},
    )
    for key, owner in (("completed_at", "completed"), ("incomplete_details", "incomplete")):
        shown = {"status": status, key: response[key]}
        # What cut a response off before it failed may be said too.
        also = key == "incomplete_details" and status == "failed" and response[key] is not None
        require(
            also or (response[key] is not None) == (status == owner), f"`{key}` is set when {owner}", shown
        )
    if status in ("queued", "in_progress"):
        require(response["usage"] is None, "usage is null until the end", response["usage"])
    if status == "completed":
        require(response["usage"] is not None, "a completed response tells its usage", response["usage"])
        require(response["completed_at"] >= response["created_at"], "it is completed after it was created")
    if error := response["error"]:
        require(isinstance(error.get("message"), str), "an error has a message", error)
        require(isinstance(error.get("code"), str), "an error has a code", error)
    if details := response["incomplete_details"]:
        reasons = ("max_output_tokens", "content_filter", "max_messages", "steered")
        require(details.get("reason") in reasons, f"the reason is one of {reasons}", details)


def _check_output(response: Json) -> None:
    ended = response["status"] == "completed"
    for item in response["output"]:
        check_item(item)
        require(item.get("role", "assistant") == "assistant", "output is the assistant's", item)
        if ended and "status" in item:
            require(item["status"] != "in_progress", "a completed response has no item in progress", item)
    ids = [item["id"] for item in response["output"]]
    require(len(set(ids)) == len(ids), "the items of an output have ids of their own", ids)


def _check_configuration(response: Json) -> None:
    form = response["text"].get("format")
    require(isinstance(form, dict) and "type" in form, "text has a format with a type", response["text"])
    if reasoning := response["reasoning"]:
        require({"effort", "summary"} <= set(reasoning), "reasoning has effort and summary", reasoning)
    for tool in response["tools"]:
        require(isinstance(tool, dict) and "type" in tool, "a tool has a type", tool)
        if tool["type"] == "function":
            keys = {"name", "description", "parameters", "strict"}
            require(keys <= set(tool), f"a function tool has {sorted(keys)}", tool)
    for key, value in response["metadata"].items():
        require(isinstance(value, str), "the values of metadata are strings", {key: value})
    if "conversation" in response:
        named = response["conversation"]
        require(isinstance(named, dict) and "id" in named, 'conversation is {"id"}', named)


def check_usage(usage: Json) -> None:
    """All numbers (@openai/agents refuses anything else), and both detail objects."""
    for key in ("input_tokens", "output_tokens", "total_tokens"):
        require(is_int(usage.get(key)), f"usage has `{key}`", usage)
    details = {"input_tokens_details": ("cached_tokens", "cache_write_tokens")}
    details["output_tokens_details"] = ("reasoning_tokens",)
    for key, members in details.items():
        require(isinstance(usage.get(key), dict), f"usage has `{key}`", usage)
        for member in members:
            require(is_int(usage[key].get(member)), f"{key} has `{member}`", usage)
        for member, value in usage[key].items():
            require(is_number(value), f"`{member}` of the usage is a number", usage)
    total = usage["input_tokens"] + usage["output_tokens"]
    require(usage["total_tokens"] == total, "total_tokens is the sum", usage)


def _shown_tool(tool: Any) -> Any:
    """A tool as it is repeated: an MCP server's secrets are not."""
    if not isinstance(tool, dict) or tool.get("type") != "mcp":
        return tool
    shown = {key: value for key, value in tool.items() if key not in ("authorization", "headers")}
    if tool.get("server_url") is not None:
        parts = urlsplit(tool["server_url"])
        shown["server_url"] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/<redacted>"
    return shown


def check_echo(response: Json, request: Json) -> None:
    """A response repeats the request: what it said, or the default where it was silent or null."""
    given = {key: value for key, value in request.items() if value is not None}
    given["tools"] = [_shown_tool(tool) for tool in given.get("tools", [])]
    for key, default in DEFAULTS.items():
        wanted, found = given.get(key, default), response[key]
        require(_repeats(found, wanted), f"`{key}` repeats the request: {brief(wanted)}", {key: found})
    for key in ("model", "user", "reasoning", "text", "service_tier"):
        if key in given and given[key] not in ("auto", {}):
            found = response.get(key)
            require(_repeats(found, given[key]), f"`{key}` repeats the request: {brief(given[key])}", found)
    if "text" not in given:
        require(response["text"]["format"] == {"type": "text"}, "the format is text", response["text"])
    _check_conversation_echo(response, given)


def _check_conversation_echo(response: Json, given: Json) -> None:
    named = given.get("conversation", given.get("conversation_id"))
    id = named["id"] if isinstance(named, dict) else named
    if id is None:
        require("conversation" not in response, "conversation is absent when none was named", response)
    else:
        require(response.get("conversation") == {"id": id}, f"conversation names {id}", response)
    alias = response.get("conversation_id", id)
    require(alias == id, f"conversation_id is {id}", {"conversation_id": alias})


def _repeats(found: Any, wanted: Any) -> bool:
    """Whether ``found`` says what ``wanted`` says, and maybe more in its objects."""
    if isinstance(wanted, dict) and wanted and isinstance(found, dict):
        return all(key in found and _repeats(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(map(_repeats, found, wanted))
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


# --------------------------------------------------------------------------- the SDK's view


def _members(union: Any) -> list[Any]:
    """The models of a (nested, annotated) union."""
    if is_annotated_type(union):
        return _members(get_args(union)[0])
    arguments = get_args(union)
    return [model for each in arguments for model in _members(each)] if arguments else [union]


def _literal(model: Any) -> str:
    annotation = model.model_fields["type"].annotation
    while get_origin(annotation) is not Literal:
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    return str(get_args(annotation)[0])


EVENT_MODELS: dict[str, Any] = {_literal(model): model for model in _members(ResponseStreamEvent)}
ITEM_TYPES = {_literal(model) for model in _members(ResponseOutputItem)}


def sdk_view(response: Json) -> Json:
    """A response without what the SDK can't know: new item types, error codes of others."""
    view = response | {"output": [item for item in response["output"] if item.get("type") in ITEM_TYPES]}
    error = response.get("error")
    if error and error.get("code") in EXTRA_ERROR_CODES:
        view["error"] = error | {"code": "server_error"}
    return view


def validate(model: Any, value: Json) -> None:
    """The SDK's own types, strictly (nothing is converted)."""
    try:
        model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]]
        raise RuleBroken(f"the SDK's {model.__name__} refuses it:\n    " + "\n    ".join(lines)) from None


def validate_event(event: Json) -> None:
    model = EVENT_MODELS[event["type"]]
    if "response" in event:
        event = event | {"response": sdk_view(event["response"])}
    if event.get("item", {}).get("type", "message") in ITEM_TYPES:
        validate(model, event)


# --------------------------------------------------------------------------- SSE


def parse_sse(raw: bytes) -> tuple[list[Json], bool]:
    """Parse strictly what a gateway should send: the events, and whether ``[DONE]`` came last.

    Every event is one ``event:`` and one ``data:`` line of UTF-8; comments may stand between events.
    """
    text = raw.decode("utf-8")
    require("\r" not in text, "lines end with LF")
    require(text == "" or text.endswith("\n\n"), "the last event has its blank line", text[-200:])
    events: list[Json] = []
    done = False
    for block in text.split("\n\n")[:-1]:
        if block.startswith(":"):
            require("\n" not in block, "a comment stands alone", block)
            continue
        require(not done, "nothing follows [DONE]", block)
        done = block == "data: [DONE]"
        if not done:
            events.append(_parse_event(block, events))
    return events, done


def _parse_event(block: str, before: list[Json]) -> Json:
    where = f"event {len(before)}, after {brief(before[-1], 200) if before else 'nothing'}"
    lines = block.split("\n")
    good = len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: ")
    require(good, f"an event is an `event:` line and a `data:` line ({where})", block)
    try:
        event = json.loads(lines[1].removeprefix("data: "))
    except ValueError:
        raise RuleBroken(f"the data is JSON ({where})\n    {brief(block)}") from None
    require(isinstance(event, dict), f"the data is an object ({where})", block)
    name = lines[0].removeprefix("event: ")
    require(name == event.get("type"), f"`event:` says what `type` says ({where})", block)
    return event


# --------------------------------------------------------------------------- streams

TERMINAL = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}

# Families of events that carry a text in pieces: the part it belongs to, and where the whole stands.
PART_TEXTS = {
    "response.output_text": ("output_text", "text"),
    "response.refusal": ("refusal", "refusal"),
    "response.reasoning_text": ("reasoning_text", "text"),
}
SUMMARY_TEXT = "response.reasoning_summary_text"
ITEM_TEXTS = {
    "response.function_call_arguments": ("function_call", "arguments"),
    "response.custom_tool_call_input": ("custom_tool_call", "input"),
    "response.mcp_call_arguments": ("mcp_call", "arguments"),
    "response.code_interpreter_call_code": ("code_interpreter_call", "code"),
}


@dataclass
class Pieced:
    """A text that comes in deltas."""

    text: str = ""
    said: str | None = None

    def delta(self, piece: Any) -> None:
        require(self.said is None, "no delta follows the `.done` of its text")
        require(isinstance(piece, str), "a delta is a string")
        self.text += piece

    def done(self, whole: Any) -> None:
        require(self.said is None, "a text is done once")
        require(whole == self.text, f"the whole is its deltas: {brief(self.text, 120)}")
        self.said = whole


@dataclass
class Part(Pieced):
    added: Json = field(default_factory=dict)
    annotations: list[Json] = field(default_factory=list)
    closed: Json | None = None


@dataclass
class Open:
    """An item that was added."""

    added: Json
    arguments: Pieced = field(default_factory=Pieced)
    parts: list[Part] = field(default_factory=list)
    summary: list[Part] = field(default_factory=list)
    done: Json | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        return tuple(self.added.get(key) for key in ("type", "id", "call_id", "name"))


class Stream:
    """The rules, one event after the other."""

    def __init__(self, request: Json | None, *, interleaved: bool) -> None:
        self.request = request
        self.interleaved = interleaved
        self.id: str | None = None
        self.created: Json = {}
        self.last = ""
        self.begun = False
        self.items: list[Open] = []
        self.ended: str | None = None

    def receive(self, number: int, event: Json) -> None:
        kind = event["type"]
        require(event.get("sequence_number") == number, f"the sequence_number is {number}")
        require(is_int(event["sequence_number"]), "the sequence_number is an integer")
        require(kind in EVENT_MODELS, "the type is one that the SDK knows")
        require(self.ended is None, f"nothing follows {self.ended}")
        require((number == 0) == (kind == "response.created"), "response.created comes first, and once")
        require(self.last != "error" or kind == "response.failed", "after `error` comes response.failed")
        validate_event(event)
        if "response" in event:
            self.lifecycle(kind, event["response"])
        elif kind == "error":
            self.error(event)
        else:
            require(self.begun, "response.in_progress comes before any item")
            self.of_item(kind, event)
        self.last = kind

    # The response's life.

    def lifecycle(self, kind: str, response: Json) -> None:
        check_response(response, self.request)
        self.id = self.id or response["id"]
        require(response["id"] == self.id, f"the response stays {self.id}")
        self.created = self.created or response
        require(response["created_at"] == self.created["created_at"], "created_at stays what it was")
        if kind in TERMINAL:
            return self.terminal(kind, response)
        require(not self.items and response["output"] == [], "the output is empty at the beginning")
        if kind == "response.created":
            statuses: tuple[str, ...] = ("queued", "in_progress")
        elif kind == "response.queued":
            require(self.last == "response.created", "response.queued follows response.created")
            statuses = ("queued",)
        else:
            require(not self.begun, "response.in_progress comes once")
            self.begun, statuses = True, ("in_progress",)
        require(response["status"] in statuses, f"the status is one of {statuses}", response["status"])
        return None

    def error(self, event: Json) -> None:
        require(
            {"code", "message", "param"} <= set(event), "an error event has code, message and param", event
        )
        nested = event.get("error")
        if nested is not None:
            require(nested.get("message") == event["message"], "both forms of the error say the same", event)

    def terminal(self, kind: str, response: Json) -> None:
        # OpenAI has no event of its own for a response that was cancelled.
        statuses = (TERMINAL[kind], "cancelled") if kind == "response.failed" else (TERMINAL[kind],)
        require(response["status"] in statuses, f"{kind} has its status", response["status"])
        require(self.begun or kind == "response.failed", "only a failure ends what was not in progress")
        output = response["output"]
        ids = [item["id"] for item in output]
        wanted = [item.added["id"] for item in self.items]
        require(ids == wanted, f"the output holds the items that were added, in order: {wanted}", ids)
        for item, final in zip(self.items, output, strict=True):
            if item.done is None:
                require(kind == "response.failed", "every item is done before the end", item.added)
                require(
                    _identity(final) == item.identity[:3], "an item that was cut stays what it was", final
                )
            else:
                require(final == item.done, f"the output repeats the item done: {brief(item.done)}", final)
        self.ended = kind

    # Items.

    def of_item(self, kind: str, event: Json) -> None:
        family, _, step = kind.rpartition(".")
        if kind == "response.output_item.added":
            self.item_added(event)
        elif "output_index" in event:
            item = self.item_of(event)
            if kind == "response.output_item.done":
                self.item_done(item, event["item"])
            elif family == "response.content_part":
                self.part(item.parts, event["content_index"], step, event["part"], item)
            elif family == "response.reasoning_summary_part":
                require(item.added["type"] == "reasoning", "a summary belongs to a reasoning item")
                self.part(item.summary, event["summary_index"], step, event["part"], item)
            elif family == SUMMARY_TEXT:
                part = self.part_at(item.summary, event["summary_index"], "summary_text")
                self.text(part, step, event, "text")
            elif family in PART_TEXTS:
                wanted, key = PART_TEXTS[family]
                self.text(self.part_at(item.parts, event["content_index"], wanted), step, event, key)
            elif family in ITEM_TEXTS:
                wanted, key = ITEM_TEXTS[family]
                require(item.added["type"] == wanted, f"{family} belongs to a {wanted}", item.added)
                self.text(item.arguments, step, event, key)
            elif kind == "response.output_text.annotation.added":
                self.annotation(item, event)

    def item_added(self, event: Json) -> None:
        item = event["item"]
        require(event["output_index"] == len(self.items), f"the output_index is {len(self.items)}", event)
        if not self.interleaved:
            require(all(each.done for each in self.items), "an item is done before the next one is added")
        check_item(item)
        require(item["id"] not in [each.added["id"] for each in self.items], "an item's id is its own", item)
        # Outputs are whole when they are added.
        statuses = STATUSES if item["type"].endswith("_output") else ("in_progress",)
        require(item.get("status", "in_progress") in statuses, "an added item is in progress", item)
        for key in ("content", "summary", "arguments", "input"):
            known = item["type"] in REQUIRED
            require(not (known and item.get(key)), f"an added item has an empty `{key}`", item)
        self.items.append(Open(item))

    def item_of(self, event: Json) -> Open:
        index = event["output_index"]
        require(
            is_int(index) and 0 <= index < len(self.items), "the output_index is of an item that was added"
        )
        item = self.items[index]
        require(item.done is None, f"item {index} is not done yet")
        id = event["item"].get("id") if "item" in event else event.get("item_id")
        require(id == item.added["id"], f"the item's id is {item.added['id']}", id)
        return item

    def item_done(self, item: Open, final: Json) -> None:
        check_item(final)
        require(_identity(final) == item.identity[:3], f"the item stays {item.identity[:3]}", final)
        require(final.get("name") == item.added.get("name"), "the name stays what it was", final)
        require(final.get("status", "completed") != "in_progress", "a done item is not in progress", final)
        for part in (*item.parts, *item.summary):
            require(part.closed is not None, "all parts are done before their item", part.added)
        if final["type"] in ("message", "reasoning"):
            closed = [part.closed for part in item.parts]
            require(final.get("content", []) == closed, f"the content is its parts: {brief(closed)}", final)
        if final["type"] == "reasoning":
            closed = [part.closed for part in item.summary]
            require(final["summary"] == closed, f"the summary is its parts: {brief(closed)}", final)
        for wanted, key in ITEM_TEXTS.values():
            if final["type"] == wanted and (wanted in REQUIRED or item.arguments.text):
                said = item.arguments.said
                require(said is not None, f"the `{key}` are done before their item", final)
                require(final[key] == said, f"the `{key}` are those that were done: {said}", final)
        item.done = final

    # Parts.

    def part(self, parts: list[Part], index: Any, step: str, part: Json, item: Open) -> None:
        if step == "added":
            require(index == len(parts), f"the index of the part is {len(parts)}", index)
            require(all(each.closed for each in parts), "a part is done before the next one is added")
            self.part_added(parts, part, item.added["type"])
            return
        require(is_int(index) and 0 <= index < len(parts), "the part was added", index)
        opened = parts[index]
        require(opened.closed is None, "a part is done once", part)
        require(part["type"] == opened.added["type"], f"the part stays {opened.added['type']}", part)
        require(opened.said is not None, "the text of a part is done before the part", part)
        require(part[_text_key(part)] == opened.said, f"the part holds its text: {brief(opened.said)}", part)
        noted = part.get("annotations", opened.annotations)
        require(noted == opened.annotations, "the part holds the annotations that were added", part)
        check_part(part)
        opened.closed = part

    def part_added(self, parts: list[Part], part: Json, owner: str) -> None:
        check_part(part)
        legal = {"message": ("output_text", "refusal"), "reasoning": ("reasoning_text", "summary_text")}
        require(part["type"] in legal.get(owner, ()), f"a {owner} has no {part['type']}", part)
        require(part[_text_key(part)] == "", "an added part is empty", part)
        require(not part.get("annotations"), "an added part has no annotations", part)
        parts.append(Part(added=part))

    def part_at(self, parts: list[Part], index: Any, wanted: str) -> Part:
        require(is_int(index) and 0 <= index < len(parts), "the index is of a part that was added", index)
        part = parts[index]
        require(part.closed is None, "the part is not done yet", part.added)
        require(part.added["type"] == wanted, f"the part is a {wanted}", part.added)
        return part

    def text(self, text: Pieced, step: str, event: Json, key: str) -> None:
        if step == "delta":
            text.delta(event["delta"])
        else:
            text.done(event[key])

    def annotation(self, item: Open, event: Json) -> None:
        part = self.part_at(item.parts, event["content_index"], "output_text")
        index = event["annotation_index"]
        require(index == len(part.annotations), f"the annotation_index is {len(part.annotations)}", event)
        part.annotations.append(event["annotation"])


def _identity(item: Json) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in ("type", "id", "call_id"))


def _text_key(part: Json) -> str:
    return "refusal" if part["type"] == "refusal" else "text"


def check_event_stream(
    raw: bytes,
    request: Json | None = None,
    *,
    ending: str | None = None,
    cut: bool = False,
    interleaved: bool = False,
) -> list[Json]:
    """A whole event stream, as bytes; returns its events.

    Args:
        raw: the body, after the transfer coding was taken off.
        request: if given, every response in it must repeat this request.
        ending: if given, the type that the terminal event must have.
        cut: the stream may end without a terminal event and ``[DONE]``.
        interleaved: an item may be added before the one before is done.
    """
    events, done = parse_sse(raw)
    check_events(events, request, ending=ending, cut=cut, interleaved=interleaved)
    require(done or cut, "the stream ends with `data: [DONE]`", raw[-200:].decode(errors="replace"))
    return events


def check_events(
    events: list[Json],
    request: Json | None = None,
    *,
    ending: str | None = None,
    cut: bool = False,
    interleaved: bool = False,
) -> None:
    """The events of a stream, already parsed."""
    stream = Stream(request, interleaved=interleaved)
    for number, event in enumerate(events):
        try:
            stream.receive(number, event)
        except RuleBroken as broken:
            raise RuleBroken(f"{broken}\n{transcript(events, number)}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise RuleBroken(f"a member is missing: {error!r}\n{transcript(events, number)}") from error
    rule = f"there is one terminal event ({ending or 'any'}), and it is last"
    at_end = transcript(events, len(events) - 1)
    require(stream.ended or cut, f"{rule}\n{at_end}")
    require(ending in (None, stream.ended), f"{rule}\n{at_end}")
    accumulate(events)


def accumulate(events: list[Json]) -> None:
    """Feed the SDK's stream helper, which raises where the invariants of its own are broken."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=omit, text_format=omit)
    for number, event in enumerate(events):
        parsed: Any = construct_type(type_=ResponseStreamEvent, value=event)
        try:
            with warnings.catch_warnings():
                # An item of a type that the SDK doesn't know makes pydantic warn.
                warnings.filterwarnings("ignore", "Pydantic serializer warnings", UserWarning)
                state.handle_event(parsed)
        except (RuntimeError, AssertionError, LookupError, AttributeError) as error:
            shown = transcript(events, number)
            raise RuleBroken(f"the SDK's stream helper fails: {error!r}\n{shown}") from error


def check_resumed(raw: bytes, whole: list[Json], *, starting_after: int) -> list[Json]:
    """A replay of ``whole`` from behind one sequence number."""
    events, done = parse_sse(raw)
    wanted = whole[starting_after + 1 :]
    for number, (found, event) in enumerate(zip(events, wanted, strict=False)):
        require(found == event, f"the replay says what was said\n{transcript(events, number)}", event)
    require(len(events) == len(wanted), f"the replay has {len(wanted)} events", len(events))
    require(done, "the replay ends with `data: [DONE]`")
    return events


def transcript(events: list[Json], at: int, around: int = 3) -> str:
    """An event and its neighbours."""
    first, last = max(at - around, 0), min(at + around + 1, len(events))
    lines = [f"  of {len(events)} events:"]
    for number in range(first, last):
        mark = ">>" if number == at else "  "
        lines.append(f"  {mark} {number:4d} {brief(events[number], 600 if number == at else 160)}")
    return "\n".join(lines)
