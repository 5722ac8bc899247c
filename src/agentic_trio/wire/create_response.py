"""``POST /v1/responses``, from its body: how it is served, whether it is valid, and what goes upstream.

The body is decoded shallowly. Its members stay JSON text and are copied as text into the upstream's
request and into the Response object. Only members that the gateway depends on are decoded further.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.errors import InvalidRequest
from agentic_trio.wire import checks
from agentic_trio.wire.bodies import bounded, decode_value, invalid_json, members_of, split_list
from agentic_trio.wire.compaction import COMPACTION_TRIGGER
from agentic_trio.wire.dialect import JsonObject, encode
from agentic_trio.wire.hosting import McpTool, parse_mcp_tools
from agentic_trio.wire.items import (
    MAX_INPUT_ITEMS,
    InputItem,
    needs_gateway,
    parse_input,
    parse_item,
)
from agentic_trio.wire.rendering import REFUSED, rendered_context
from agentic_trio.wire.sealed_items import INCLUDED
from agentic_trio.wire.tools import hosted_type, refuse_unhosted, sent_tools, shown_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence

    from agentic_trio.wire.bodies import Members
    from agentic_trio.wire.checks import Check
    from agentic_trio.wire.ids import MintId
    from agentic_trio.wire.sealing import Seal

MAX_INPUT_LENGTH = 10_485_760

DEFAULT_THRESHOLD = 100_000
"""The tokens from which on a context is compacted, where ``context_management`` doesn't say."""

MAX_NAME_LENGTH = 512
"""How long the id of a response or conversation may be that a request names, in characters."""

FIELDS: dict[str, Check] = {
    "include": checks.include,
    "tools": checks.tools,
    "tool_choice": checks.tool_choice,
    "metadata": checks.metadata,
    "text": checks.text,
    "temperature": checks.number(0, 2),
    "top_p": checks.number(0, 1),
    "presence_penalty": checks.number(-2, 2),
    "frequency_penalty": checks.number(-2, 2),
    "parallel_tool_calls": checks.boolean,
    "stream": checks.boolean,
    "stream_options": checks.mapping,
    "background": checks.boolean,
    "max_output_tokens": checks.integer(16),
    "max_tool_calls": checks.integer(1),
    "reasoning": checks.reasoning,
    "user": checks.string(),
    "safety_identifier": checks.string(128),
    "prompt_cache_key": checks.string(),
    "prompt_cache_retention": checks.string(),
    "truncation": checks.one_of("auto", "disabled"),
    "instructions": checks.string(),
    "store": checks.boolean,
    "service_tier": checks.string(),
    "top_logprobs": checks.integer(0, 20),
    "previous_response_id": checks.string(MAX_NAME_LENGTH),
    "conversation_id": checks.string(MAX_NAME_LENGTH),
    "context_management": checks.context_management,
}
"""Member -> its check, in the order in which OpenAI checks them."""

OURS = frozenset(
    {
        "input",
        "store",
        "stream",
        "background",
        "previous_response_id",
        "conversation",
        "conversation_id",
        "stream_options",
        "truncation",
        "context_management",
    }
)
"""The members that the gateway itself acts on. They never go upstream as they came."""

ECHO_DEFAULTS: Members = {
    "background": b"false",
    "frequency_penalty": b"0.0",
    "instructions": b"null",
    "max_output_tokens": b"null",
    "max_tool_calls": b"null",
    "metadata": b"{}",
    "model": b"null",
    "parallel_tool_calls": b"true",
    "presence_penalty": b"0.0",
    "previous_response_id": b"null",
    "prompt_cache_key": b"null",
    "prompt_cache_retention": b"null",
    "reasoning": b'{"effort":null,"summary":null}',
    "safety_identifier": b"null",
    "service_tier": b'"default"',
    "store": b"true",
    "temperature": b"1.0",
    "text": b'{"format":{"type":"text"}}',
    "tool_choice": b'"auto"',
    "tools": b"[]",
    "top_logprobs": b"0",
    "top_p": b"1.0",
    "truncation": b'"disabled"',
    "user": b"null",
}
"""The members of a Response object that repeat the request -> their values where it has none."""

ECHOED_IF_GIVEN = frozenset({"prompt_cache_options"})
"""The members that a Response object repeats, and doesn't have where the request is silent."""

_ECHO_DEFAULTS: Members = {
    name: b'"%b":%b' % (name.encode(), default) for name, default in ECHO_DEFAULTS.items()
}

HOSTED_FIELDS = frozenset(
    {
        "access_programs",
        "background_options",
        "image",
        "moderation",
        "personality",
        "prompt",
    }
)
"""The members for features that only OpenAI hosts. They are refused, since ignoring one would change
what the request means."""

OTHER_FIELDS = frozenset({"model", "input", "conversation", "prompt_cache_options"})
"""The members that OpenAI knows beside ``FIELDS`` and ``HOSTED_FIELDS``."""

AGENT_FIELDS = frozenset({"client_metadata", "internal_chat_message_metadata_passthrough"})
"""Members that OpenAI's own agents send and its API accepts without documenting them."""

KNOWN_FIELDS = FIELDS.keys() | HOSTED_FIELDS | OTHER_FIELDS | AGENT_FIELDS


class Routing(msgspec.Struct, gc=False):
    """The members that decide how a request is served."""

    store: bool | None = None
    stream: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    conversation_id: Any = None
    background: Any = None
    input: msgspec.Raw = msgspec.Raw(b"")
    tools: msgspec.Raw = msgspec.Raw(b"")
    include: msgspec.Raw = msgspec.Raw(b"")
    context_management: Any = None

    @property
    def asks_for_sealed_reasoning(self) -> bool:
        """Whether it may ask for what only a gateway that seals can answer."""
        return INCLUDED.encode() in bytes(self.include)

    def offers(self, hosted: Collection[str]) -> bool:
        """Whether it offers a tool of one of the types that are run here."""
        if not hosted or not self.tools:
            return False
        try:
            types = _decode_types(self.tools)
        except (msgspec.DecodeError, RecursionError):
            return False
        return any(hosted_type(each.type) in hosted for each in types if isinstance(each.type, str))

    @property
    def relayed(self) -> bool:
        """Whether the client gets the upstream's own answer, byte for byte, if nothing need be sealed.

        A word in a tool's text that looks like a grammar costs no more than that the answer is made legal.
        """
        return (
            self.store is False
            and self.previous_response_id is None
            and self.conversation is None
            and self.conversation_id is None
            and self.background is not True
            and self.context_management is None
            and not _GRAMMAR.search(bytes(self.tools))
            and not needs_gateway(bytes(self.input), REFUSED)
        )


_GRAMMAR = re.compile(rb'"grammar"|\\u00')
"""A tool's grammar, or a letter spelt so that it might be one. A false alarm costs little."""


class _Typed(msgspec.Struct, gc=False):
    type: Any = None


_decode_routing = msgspec.json.Decoder(Routing).decode
_decode_types = msgspec.json.Decoder(list[_Typed]).decode


@dataclass(frozen=True, slots=True)
class CreateResponse:
    """A request that is valid as far as that can be decided without the store.

    Attributes:
        members: the JSON text of each member that was not null.
        rewritten: the members that go upstream in other words -> those; empty for one that doesn't go.
        shown: the members that are echoed in other words -> those.
        input: the new items. References are not resolved yet.
        conversation: the id, from ``conversation`` or ``conversation_id``.
        store: whether the turn is stored.
        servers: the MCP servers whose tools are run here.
        searches: whether it offers a web search that is run here.
        answers: whether its input says whether a call may be made.
        seals: whether reasoning is to be sealed for the client.
        compacts: whether the context is to be compacted instead of answered.
        compact_threshold: the tokens of a context from which on it is compacted before it is answered.
    """

    members: Members
    rewritten: Members
    shown: Members
    input: Sequence[InputItem]
    model: str
    store: bool
    stream: bool
    background: bool
    truncates: bool
    previous_response_id: str | None
    conversation: str | None
    servers: Sequence[McpTool] = ()
    searches: bool = False
    answers: bool = False

    @property
    def runs_tools(self) -> bool:
        """Whether the gateway may have to run some of its tools."""
        return bool(self.servers) or self.searches or self.answers

    def value(self, name: str) -> Any:
        """A member, decoded; None if it is absent."""
        text = self.members.get(name)
        return None if text is None else decode_value(text)

    seals: bool = False
    compacts: bool = False
    compact_threshold: int | None = None

    def echo(self) -> bytes:
        """Return the Response object's members that repeat this request, as JSON text without braces."""
        parts = _ECHO_DEFAULTS.copy()
        for name, value in self.members.items():
            if name in parts or name in ECHOED_IF_GIVEN:
                parts[name] = b'"%b":%b' % (name.encode(), self.shown.get(name, value))
        echo = b",".join(parts.values())
        if self.conversation is None:
            return echo + b',"conversation_id":null'
        id = encode(self.conversation)
        return b'%b,"conversation":{"id":%b},"conversation_id":%b' % (echo, id, id)

    def upstream_body(
        self,
        items: Sequence[bytes],
        *,
        stream: bool,
        seal: Seal | None = None,
        changed: Members | None = None,
    ) -> bytes:
        """Return the stateless request for the upstream, with the whole context as its input.

        Args:
            items: the history's items, then the new ones.
            stream: whether to ask for a stream.
            changed: members with other values than the request's; one that is empty is left out.
            seal: opens what the context holds sealed.

        Raises:
            InvalidRequest: the context holds an item that can't be rendered.
        """
        context = rendered_context(items, seal)
        rest = b"".join(
            b'"%b":%b,' % (encode(name)[1:-1], value)
            for name, value in (self.members | self.rewritten | (changed or {})).items()
            if value and name not in OURS
        )
        return b'{%b"input":[%b],"store":false,"stream":%b}' % (
            rest,
            context,
            b"true" if stream else b"false",
        )


def _echo_text(text: JsonObject) -> JsonObject:
    given = {name: value for name, value in text.items() if value is not None}
    format = given.get("format", {"type": "text"})
    if format["type"] == "json_schema":
        format = {"description": None, "strict": False, **format}
    return {**given, "format": format}


def _echo_reasoning(reasoning: JsonObject) -> JsonObject:
    return {"effort": None, "summary": None, **reasoning}


_ECHOED: dict[str, Callable[[Any], Any]] = {
    "tools": shown_tools,
    "text": _echo_text,
    "reasoning": _echo_reasoning,
}


def route(body: bytes) -> Routing:
    """Read the members of a body that decide how it is served.

    Raises:
        InvalidRequest: the body is not a JSON object in UTF-8, or ``store`` is not a boolean.
    """
    body = bounded(body)
    try:
        body.decode()
        return _decode_routing(body)
    except msgspec.ValidationError:
        check_member("store", members_of(body))
        raise invalid_json() from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid_json() from None


def check_member(name: str, members: Members) -> Any:
    """Decode and check a member. Returns None if it is absent. Raises InvalidRequest."""
    text = members.get(name)
    if text is None:
        return None
    value = decode_value(text)
    FIELDS[name](value, name)
    return value


def parse_create_response(
    body: bytes, mint: MintId, *, strict: bool = False, hosted: Collection[str] = (), seals: bool = False
) -> CreateResponse:
    """Parse and check a request that needs state, at once. See :func:`parse_steps`."""
    steps = parse_steps(body, mint, strict=strict, hosted=hosted, seals=seals)
    while True:
        try:
            next(steps)
        except StopIteration as parsed:
            call: CreateResponse = parsed.value
            return call


def parse_steps(
    body: bytes, mint: MintId, *, strict: bool = False, hosted: Collection[str] = (), seals: bool = False
) -> Generator[None, None, CreateResponse]:
    """Parse and check a request that needs state, item by item, so that others can run in between.

    Checks run in OpenAI's order. The request is the generator's value.

    Args:
        body: the request's bytes.
        mint: makes ids for the items that have none.
        strict: refuse members that OpenAI doesn't know; otherwise they go upstream.
        hosted: the types of hosted tools that are run for clients.
        seals: whether reasoning can be sealed here. Otherwise ``include`` goes upstream as it came.

    Raises:
        InvalidRequest: worded as OpenAI's API words it.
    """
    members = members_of(body)
    model = _model(members, body)
    _require_input(members)
    if strict:
        checks.known(members, KNOWN_FIELDS)
    items: list[InputItem] = []
    compacts = False
    for item in _input_items(members.get("input", b"[]"), mint, strict=strict):
        if item.type == COMPACTION_TRIGGER:
            compacts = True
        else:
            items.append(item)
        yield
    members.pop("input", None)  # the items hold its text now
    values = _checked(members, hosted)
    conversation = _conversation(members, values)
    previous = values.get("previous_response_id")
    if not items and previous is None and conversation is None:
        raise nothing_to_answer()
    return CreateResponse(
        members=members,
        rewritten=_rewritten(values, seals=seals),
        shown=_shown(values),
        input=items,
        model=model,
        store=values.get("store") is not False,
        stream=values.get("stream", False),
        background=values.get("background", False),
        truncates=values.get("truncation") == "auto",
        previous_response_id=previous,
        conversation=conversation,
        servers=parse_mcp_tools(values.get("tools", ())) if "mcp" in hosted else (),
        answers="mcp" in hosted and any(item.type == "mcp_approval_response" for item in items),
        searches=any(_searches(tool, hosted) for tool in values.get("tools", ())),
        seals=seals and INCLUDED in values.get("include", ()),
        compacts=compacts,
        compact_threshold=_threshold(values.get("context_management") or ()),
    )


def _searches(tool: JsonObject, hosted: Collection[str]) -> bool:
    return tool["type"].startswith("web_search") and hosted_type(tool["type"]) in hosted


def _threshold(managements: Iterable[JsonObject]) -> int | None:
    """The tokens from which on a context is compacted; None if it never is."""
    given = [each.get("compact_threshold") or DEFAULT_THRESHOLD for each in managements]
    return min(given, default=None)


def _checked(members: Members, hosted: Collection[str]) -> JsonObject:
    """Decode and check the members that a request has, apart from its input and its conversation."""
    _refuse_hosted(members)
    values = {name: check_member(name, members) for name in FIELDS if name in members}
    refuse_unhosted(values.get("tools", ()), values.get("tool_choice"), hosted)
    if values.get("background") and values.get("store") is False:
        # Nobody could ever read it: a background response is only available by its id.
        raise InvalidRequest(
            "A background response must be stored: 'background' can't be true when 'store' is false.",
            code="invalid_value",
            param="background",
        )
    return values


def _conversation(members: Members, values: JsonObject) -> str | None:
    """Return the id of the conversation, which excludes a previous response under its own name only."""
    conversation = conversation_id(members, values.get("conversation_id"))
    if values.get("previous_response_id") is not None and "conversation" in members:
        raise InvalidRequest(
            "Mutually exclusive parameters: ''. Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'.",
            code="mutually_exclusive_parameters",
        )
    return conversation


def _input_items(text: bytes, mint: MintId, *, strict: bool) -> Iterator[InputItem]:
    """Parse the ``input`` member item by item, each decoded only when it is asked for."""
    if not text.startswith(b"["):
        yield from parse_input(decode_value(text), mint, strict=strict)
        return
    values = split_list(text)
    checks.array(values, "input", MAX_INPUT_ITEMS)
    for index, value in enumerate(values):
        yield parse_item(decode_value(value), f"input[{index}]", mint, strict=strict)


def _rewritten(values: JsonObject, *, seals: bool) -> Members:
    """The members that go upstream in other words than the client's, or not at all."""
    rewritten: Members = {}
    tools = values.get("tools", [])
    sent = sent_tools(tools)
    if len(sent) != len(tools) or any(new is not old for new, old in zip(sent, tools, strict=True)):
        rewritten["tools"] = encode(sent)
    if seals and INCLUDED in values.get("include", ()):
        others = [name for name in values["include"] if name != INCLUDED]
        rewritten["include"] = encode(others) if others else b""
    return rewritten


def _shown(values: JsonObject) -> Members:
    """The members that are echoed in other words than the client's."""
    try:
        return {name: encode(show(values[name])) for name, show in _ECHOED.items() if name in values}
    except RecursionError:
        raise invalid_json() from None


def _refuse_hosted(members: Members) -> None:
    for name in members:
        if name in HOSTED_FIELDS:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}' is not supported by this server.",
                code="unsupported_parameter",
                param=name,
            )


def nothing_to_answer() -> InvalidRequest:
    """The error for a request with neither input nor history."""
    return InvalidRequest(
        "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be provided.",
        code="missing_required_parameter",
    )


def _model(members: Members, body: bytes) -> str:
    if "model" in members:
        model = decode_value(members["model"])
        if not isinstance(model, str):
            raise checks.invalid_type("model", "a string", model)
        if model:
            return model
    elif "model" in members_of(body, nulls=True):
        raise checks.invalid_type("model", "a string", None)
    raise checks.missing("model")


def _require_input(members: Members) -> None:
    if {"input", "previous_response_id", "conversation", "conversation_id"} & members.keys():
        return
    if "messages" in members:
        raise InvalidRequest(
            "Unsupported parameter: 'messages'. In the Responses API, this parameter has moved to 'input'.",
            code="unsupported_parameter",
        )
    raise checks.missing("input")


def conversation_id(members: Members, alias: str | None) -> str | None:
    """Return the id of the conversation that a request names: ``conversation``, or its alias.

    Args:
        members: the request's members. ``conversation`` is an id or ``{"id"}``.
        alias: the value of ``conversation_id``.

    Raises:
        InvalidRequest: ``conversation`` has neither form, or the two members disagree.
    """
    id: str | None = None
    if "conversation" in members:
        named = decode_value(members["conversation"])
        given = named.get("id") if isinstance(named, dict) else named
        if given is None:
            raise checks.missing("conversation.id")
        if not isinstance(given, str):
            raise checks.invalid_type("conversation", "one of a conversation ID or object", given)
        checks.string(MAX_NAME_LENGTH)(given, "conversation")
        id = given
    if id is not None and alias is not None and id != alias:
        raise InvalidRequest(
            "'conversation' and 'conversation_id' name different conversations.",
            code="invalid_value",
            param="conversation_id",
        )
    return id if id is not None else alias
