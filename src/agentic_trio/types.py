"""What the gateway's methods take and return, as types.

``scripts/typed_dicts.py`` writes this module from the OpenAPI document. At run time all of these are plain
dictionaries. ``event["type"]`` and ``item["type"]`` tell the members of the unions apart.
"""

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict


class InputText(TypedDict):
    type: Literal["input_text"]
    text: str


class InputImage(TypedDict):
    type: Literal["input_image"]
    image_url: NotRequired[str | None]
    file_id: NotRequired[str | None]
    detail: NotRequired[str | None]


class InputFile(TypedDict):
    type: Literal["input_file"]
    file_data: NotRequired[str | None]
    file_id: NotRequired[str | None]
    file_url: NotRequired[str | None]
    filename: NotRequired[str | None]


class InputAudio(TypedDict):
    type: Literal["input_audio"]
    input_audio: NotRequired[dict[str, Any]]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[dict[str, Any]]


class Refusal(TypedDict):
    type: Literal["refusal"]
    refusal: str


class InputOutputText(TypedDict):
    type: Literal["output_text"]
    text: str


class InputMessage(TypedDict):
    """A message. ``output_text`` and ``refusal`` are the parts of an assistant's, the others are
    everyone else's."""

    type: NotRequired[Literal["message"] | None]
    id: NotRequired[str | None]
    role: Literal["assistant", "system", "developer", "user"]
    content: (
        str | list[InputText | InputImage | InputFile | InputAudio | OutputText | Refusal | InputOutputText]
    )
    status: NotRequired[str | None]
    phase: NotRequired[str | None]


class InputFunctionCall(TypedDict):
    type: Literal["function_call"]
    id: NotRequired[str | None]
    call_id: str
    name: str
    arguments: str
    status: NotRequired[str | None]


class InputFunctionCallOutput(TypedDict):
    type: Literal["function_call_output"]
    id: NotRequired[str | None]
    call_id: str
    output: str | list[dict[str, Any]]
    status: NotRequired[str | None]


class InputCustomToolCall(TypedDict):
    type: Literal["custom_tool_call"]
    id: NotRequired[str | None]
    call_id: str
    name: str
    input: str
    status: NotRequired[str | None]


class InputCustomToolCallOutput(TypedDict):
    type: Literal["custom_tool_call_output"]
    id: NotRequired[str | None]
    call_id: str
    output: str | list[dict[str, Any]]
    status: NotRequired[str | None]


class InputReasoning(TypedDict):
    type: Literal["reasoning"]
    id: NotRequired[str | None]
    summary: NotRequired[list[dict[str, Any]]]
    content: NotRequired[list[dict[str, Any]] | None]
    encrypted_content: NotRequired[str | None]
    status: NotRequired[str | None]


class ItemReference(TypedDict):
    """Stands for a stored item with this id."""

    type: NotRequired[Literal["item_reference"] | None]
    id: str


class OtherInputItem(TypedDict):
    type: Literal[
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "computer_call_output",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    ]
    id: NotRequired[str | None]


class OtherPart(TypedDict):
    """A part of another type, kept as the model server sent it."""

    type: Literal["computer_screenshot", "reasoning_text", "summary_text", "text"]


MessagePart: TypeAlias = InputText | InputImage | InputFile | InputAudio | OutputText | Refusal | OtherPart


class Message(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant", "system", "developer", "user"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[MessagePart]
    phase: NotRequired[str]


class FunctionCall(TypedDict):
    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""
    status: Literal["in_progress", "completed", "incomplete"]
    namespace: NotRequired[str]


class FunctionCallOutput(TypedDict):
    id: str
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[dict[str, Any]]
    status: str


class CustomToolCall(TypedDict):
    id: str
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    status: Literal["in_progress", "completed", "incomplete"]
    namespace: NotRequired[str]


class CustomToolCallOutput(TypedDict):
    id: str
    type: Literal["custom_tool_call_output"]
    call_id: str
    output: str | list[dict[str, Any]]
    status: str


class SummaryText(TypedDict):
    type: Literal["summary_text"]
    text: str


class ReasoningText(TypedDict):
    type: Literal["reasoning_text"]
    text: str


class Reasoning(TypedDict):
    id: str
    type: Literal["reasoning"]
    summary: list[SummaryText]
    content: NotRequired[list[ReasoningText]]
    encrypted_content: NotRequired[str]
    status: NotRequired[Literal["in_progress", "completed", "incomplete"]]


class OtherItem(TypedDict):
    """An item of another type (``mcp_call``, ``web_search_call``, ...), kept as it came."""

    id: str
    type: Literal[
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "computer_call_output",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    ]


OutputItem: TypeAlias = (
    Message
    | FunctionCall
    | FunctionCallOutput
    | CustomToolCall
    | CustomToolCallOutput
    | Reasoning
    | OtherItem
)

InputItem: TypeAlias = (
    InputMessage
    | InputFunctionCall
    | InputFunctionCallOutput
    | InputCustomToolCall
    | InputCustomToolCallOutput
    | InputReasoning
    | ItemReference
    | OtherInputItem
    | OutputItem
)


class ConversationReference(TypedDict):
    id: str


class CreateResponseContextManagement(TypedDict):
    type: Literal["compaction"]
    compact_threshold: NotRequired[int | None]


class Tool(TypedDict):
    """A tool. ``function`` and ``custom`` tools need a ``name``; all other members go to the model
    server as they are."""

    type: str
    name: NotRequired[str]
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]


class ToolChoiceObject(TypedDict):
    type: str
    name: NotRequired[str]


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | ToolChoiceObject


class TextFormat(TypedDict):
    """``json_schema`` needs ``name`` and ``schema``."""

    type: Literal["text", "json_object", "json_schema", "grammar", "python"]
    name: NotRequired[str]
    schema: NotRequired[dict[str, Any]]
    description: NotRequired[str | None]
    strict: NotRequired[bool | None]


class TextConfig(TypedDict):
    format: NotRequired[TextFormat | None]
    verbosity: NotRequired[Literal["low", "medium", "high"] | None]


class ReasoningConfig(TypedDict):
    effort: NotRequired[Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None]
    summary: NotRequired[Literal["auto", "concise", "detailed"] | None]


Metadata: TypeAlias = dict[str, str]
"""Up to 16 pairs of strings, kept with the object and returned with it."""


class CreateResponse(TypedDict):
    """Members that are not listed here go to the model server as they are (vLLM has ``seed``, ``top_k``
    and more), unless ``--strict-parameters`` refuses them. ``null`` is the same as leaving a member
    out."""

    model: str
    """The model server's name for the model."""
    input: NotRequired[str | list[InputItem] | None]
    """What is new. A string is one user message. May be left out where a history is named."""
    previous_response_id: NotRequired[str | None]
    """Continue this response: its input and output, and all before it, come first."""
    conversation: NotRequired[str | ConversationReference | None]
    """Continue this conversation and add to it. Excludes ``previous_response_id``."""
    conversation_id: NotRequired[str | None]
    """The same as ``conversation``, as an id. If both are there they must agree."""
    store: NotRequired[bool | None]
    """Keep the response. With ``false``, and no state named, the request is passed to the model server
    as it is."""
    stream: NotRequired[bool | None]
    """Answer with server-sent events."""
    stream_options: NotRequired[dict[str, Any] | None]
    """Accepted and ignored: nothing here is obfuscated."""
    background: NotRequired[bool | None]
    """Answer at once, and go on without a client. Needs ``store``."""
    context_management: NotRequired[list[CreateResponseContextManagement] | None]
    """Sums the context up before it is answered, if it has more tokens than this."""
    truncation: NotRequired[Literal["auto", "disabled"] | None]
    """``auto`` drops the oldest items of a context that is too long."""
    instructions: NotRequired[str | None]
    """Not inherited from an earlier response."""
    include: NotRequired[
        list[
            Literal[
                "file_search_call.results",
                "web_search_call.results",
                "web_search_call.action.sources",
                "message.input_image.image_url",
                "computer_call_output.output.image_url",
                "code_interpreter_call.outputs",
                "reasoning.encrypted_content",
                "message.output_text.logprobs",
            ]
        ]
        | None
    ]
    """Goes to the model server."""
    tools: NotRequired[list[Tool] | None]
    """The gateway runs tools of MCP servers only. Calls of function and custom tools are returned, and
    other hosted tools are refused or left out: see docs/fields.md."""
    tool_choice: NotRequired[ToolChoice | None]
    parallel_tool_calls: NotRequired[bool | None]
    max_tool_calls: NotRequired[int | None]
    max_output_tokens: NotRequired[int | None]
    temperature: NotRequired[float | None]
    top_p: NotRequired[float | None]
    presence_penalty: NotRequired[float | None]
    frequency_penalty: NotRequired[float | None]
    top_logprobs: NotRequired[int | None]
    text: NotRequired[TextConfig | None]
    reasoning: NotRequired[ReasoningConfig | None]
    metadata: NotRequired[Metadata | None]
    user: NotRequired[str | None]
    safety_identifier: NotRequired[str | None]
    prompt_cache_key: NotRequired[str | None]
    prompt_cache_retention: NotRequired[str | None]
    prompt_cache_options: NotRequired[dict[str, Any] | None]
    service_tier: NotRequired[str | None]


class CreateConversation(TypedDict):
    items: NotRequired[list[InputItem] | None]
    metadata: NotRequired[Metadata | None]
    store: NotRequired[Literal[True] | None]
    """A conversation is always stored."""


class UpdateConversation(TypedDict):
    metadata: Metadata | None
    """Replaces what was there; ``null`` removes it."""


class CreateItems(TypedDict):
    items: list[InputItem]


class ResponseError(TypedDict):
    code: str
    message: str


class ResponseIncompleteDetails(TypedDict):
    reason: str


class UsageInputTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class UsageOutputTokensDetails(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    """Token counts. Other numbers that the model server sent, such as costs, are kept beside them."""

    input_tokens: int
    input_tokens_details: UsageInputTokensDetails
    output_tokens: int
    output_tokens_details: UsageOutputTokensDetails
    total_tokens: int


class ResponseText(TypedDict):
    format: TextFormat
    verbosity: NotRequired[str]


class ResponseReasoning(TypedDict):
    effort: str | None
    summary: str | None
    context: NotRequired[str]
    """As the model server reported it."""


class Response(TypedDict):
    """The response: what the request asked for, and what came of it."""

    id: str
    object: Literal["response"]
    created_at: int
    """Unix seconds."""
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    completed_at: int | None
    """Unix seconds; null unless ``completed``."""
    error: ResponseError | None
    """Why it ``failed``, or what cancelled it."""
    incomplete_details: ResponseIncompleteDetails | None
    """Why it is ``incomplete``."""
    usage: Usage | None
    output: list[OutputItem]
    model: str
    """As the request named it."""
    background: bool
    store: bool
    previous_response_id: str | None
    conversation: NotRequired[ConversationReference]
    """There only if the request named one."""
    conversation_id: str | None
    instructions: str | None
    tools: list[Tool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    max_tool_calls: int | None
    max_output_tokens: int | None
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    truncation: Literal["auto", "disabled"]
    text: ResponseText
    reasoning: ResponseReasoning
    metadata: Metadata
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    service_tier: str
    prompt_cache_options: NotRequired[dict[str, Any]]
    """There only if the request had it."""
    tool_usage: NotRequired[dict[str, Any] | list[dict[str, Any]]]
    """There only if the model server sent it."""
    content_filters: NotRequired[dict[str, Any] | list[dict[str, Any]]]
    """There only if the model server sent it."""


class CreatedEvent(TypedDict):
    type: Literal["response.created"]
    sequence_number: int
    response: Response


class QueuedEvent(TypedDict):
    type: Literal["response.queued"]
    sequence_number: int
    response: Response


class InProgressEvent(TypedDict):
    type: Literal["response.in_progress"]
    sequence_number: int
    response: Response


class CompletedEvent(TypedDict):
    type: Literal["response.completed"]
    sequence_number: int
    response: Response


class IncompleteEvent(TypedDict):
    type: Literal["response.incomplete"]
    sequence_number: int
    response: Response


class FailedEvent(TypedDict):
    type: Literal["response.failed"]
    sequence_number: int
    response: Response


class ErrorEvent(TypedDict):
    """Something failed after the stream began. ``response.failed`` follows, but for
    ``stream_fell_behind``: that one has no number, and the stream can be read again."""

    type: Literal["error"]
    sequence_number: NotRequired[int]
    message: str
    code: str | None
    param: NotRequired[str | None]


class OutputItemAddedEvent(TypedDict):
    type: Literal["response.output_item.added"]
    sequence_number: int
    output_index: int
    item: OutputItem


class OutputItemDoneEvent(TypedDict):
    type: Literal["response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


StreamedPart: TypeAlias = OutputText | Refusal | ReasoningText | SummaryText


class ContentPartAddedEvent(TypedDict):
    type: Literal["response.content_part.added"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: StreamedPart


class ContentPartDoneEvent(TypedDict):
    type: Literal["response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: StreamedPart


class ReasoningSummaryPartAddedEvent(TypedDict):
    type: Literal["response.reasoning_summary_part.added"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    part: StreamedPart


class ReasoningSummaryPartDoneEvent(TypedDict):
    type: Literal["response.reasoning_summary_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    part: StreamedPart


class OutputTextDeltaEvent(TypedDict):
    type: Literal["response.output_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: list[dict[str, Any]]


class OutputTextDoneEvent(TypedDict):
    type: Literal["response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: list[dict[str, Any]]


class RefusalDeltaEvent(TypedDict):
    type: Literal["response.refusal.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


class RefusalDoneEvent(TypedDict):
    type: Literal["response.refusal.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    refusal: str


class ReasoningTextDeltaEvent(TypedDict):
    type: Literal["response.reasoning_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str


class ReasoningTextDoneEvent(TypedDict):
    type: Literal["response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str


class ReasoningSummaryTextDeltaEvent(TypedDict):
    type: Literal["response.reasoning_summary_text.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    delta: str


class ReasoningSummaryTextDoneEvent(TypedDict):
    type: Literal["response.reasoning_summary_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int
    text: str


class FunctionCallArgumentsDeltaEvent(TypedDict):
    type: Literal["response.function_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class FunctionCallArgumentsDoneEvent(TypedDict):
    type: Literal["response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


class CustomToolCallInputDeltaEvent(TypedDict):
    type: Literal["response.custom_tool_call_input.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class CustomToolCallInputDoneEvent(TypedDict):
    type: Literal["response.custom_tool_call_input.done"]
    sequence_number: int
    item_id: str
    output_index: int
    input: str


class McpCallArgumentsDeltaEvent(TypedDict):
    type: Literal["response.mcp_call_arguments.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class McpCallArgumentsDoneEvent(TypedDict):
    type: Literal["response.mcp_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    arguments: str


class CodeInterpreterCallCodeDeltaEvent(TypedDict):
    type: Literal["response.code_interpreter_call_code.delta"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class CodeInterpreterCallCodeDoneEvent(TypedDict):
    type: Literal["response.code_interpreter_call_code.done"]
    sequence_number: int
    item_id: str
    output_index: int
    code: str


class OtherEvent(TypedDict):
    """An event of another type that the model server sent, with the stream's own number."""

    type: Literal[
        "response.audio.delta",
        "response.audio.done",
        "response.audio.transcript.delta",
        "response.audio.transcript.done",
        "response.code_interpreter_call.completed",
        "response.code_interpreter_call.in_progress",
        "response.code_interpreter_call.interpreting",
        "response.compaction.compacting",
        "response.file_search_call.completed",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.image_generation_call.completed",
        "response.image_generation_call.generating",
        "response.image_generation_call.in_progress",
        "response.image_generation_call.partial_image",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "response.mcp_call.in_progress",
        "response.mcp_list_tools.completed",
        "response.mcp_list_tools.failed",
        "response.mcp_list_tools.in_progress",
        "response.output_text.annotation.added",
        "response.shell_call_command.added",
        "response.shell_call_command.delta",
        "response.shell_call_command.done",
        "response.shell_call_output_content.delta",
        "response.shell_call_output_content.done",
        "response.web_search_call.completed",
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
    ]
    sequence_number: int


ResponseStreamEvent: TypeAlias = (
    CreatedEvent
    | QueuedEvent
    | InProgressEvent
    | CompletedEvent
    | IncompleteEvent
    | FailedEvent
    | ErrorEvent
    | OutputItemAddedEvent
    | OutputItemDoneEvent
    | ContentPartAddedEvent
    | ContentPartDoneEvent
    | ReasoningSummaryPartAddedEvent
    | ReasoningSummaryPartDoneEvent
    | OutputTextDeltaEvent
    | OutputTextDoneEvent
    | RefusalDeltaEvent
    | RefusalDoneEvent
    | ReasoningTextDeltaEvent
    | ReasoningTextDoneEvent
    | ReasoningSummaryTextDeltaEvent
    | ReasoningSummaryTextDoneEvent
    | FunctionCallArgumentsDeltaEvent
    | FunctionCallArgumentsDoneEvent
    | CustomToolCallInputDeltaEvent
    | CustomToolCallInputDoneEvent
    | McpCallArgumentsDeltaEvent
    | McpCallArgumentsDoneEvent
    | CodeInterpreterCallCodeDeltaEvent
    | CodeInterpreterCallCodeDoneEvent
    | OtherEvent
)
"""The ``data`` of one event; its ``event`` line repeats ``type``. ``sequence_number`` counts from
0. The stream ends with ``data: [DONE]``."""


class Conversation(TypedDict):
    id: str
    object: Literal["conversation"]
    created_at: int
    """Unix seconds."""
    metadata: Metadata


class DeletedResponse(TypedDict):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class DeletedConversation(TypedDict):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


Item: TypeAlias = OutputItem


class ItemList(TypedDict):
    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    """The ``after`` of the next page."""
    has_more: bool


class UnreadableResponse(TypedDict):
    """A response of which nothing else could be read after a crash."""

    id: str
    object: Literal["response"]
    created_at: int
    """Unix seconds."""
    status: Literal["failed"]
    error: ResponseError
    output: list[dict[str, Any]]


StoredResponse: TypeAlias = Response | UnreadableResponse


class ResponseList(TypedDict):
    object: Literal["list"]
    data: list[StoredResponse]
    first_id: str | None
    last_id: str | None
    """The ``after`` of the next page."""
    has_more: bool


class ConversationList(TypedDict):
    object: Literal["list"]
    data: list[Conversation]
    first_id: str | None
    last_id: str | None
    """The ``after`` of the next page."""
    has_more: bool


class Model(TypedDict):
    """A model of the model server's, with whatever else that tells of it."""

    id: str
    """The name that requests use."""
    object: NotRequired[Literal["model"]]
    created: NotRequired[int]
    """Unix seconds."""
    owned_by: NotRequired[str]


class ModelList(TypedDict):
    object: NotRequired[Literal["list"]]
    data: list[Model]


__all__ = [
    "CodeInterpreterCallCodeDeltaEvent",
    "CodeInterpreterCallCodeDoneEvent",
    "CompletedEvent",
    "ContentPartAddedEvent",
    "ContentPartDoneEvent",
    "Conversation",
    "ConversationList",
    "ConversationReference",
    "CreateConversation",
    "CreateItems",
    "CreateResponse",
    "CreateResponseContextManagement",
    "CreatedEvent",
    "CustomToolCall",
    "CustomToolCallInputDeltaEvent",
    "CustomToolCallInputDoneEvent",
    "CustomToolCallOutput",
    "DeletedConversation",
    "DeletedResponse",
    "ErrorEvent",
    "FailedEvent",
    "FunctionCall",
    "FunctionCallArgumentsDeltaEvent",
    "FunctionCallArgumentsDoneEvent",
    "FunctionCallOutput",
    "InProgressEvent",
    "IncompleteEvent",
    "InputAudio",
    "InputCustomToolCall",
    "InputCustomToolCallOutput",
    "InputFile",
    "InputFunctionCall",
    "InputFunctionCallOutput",
    "InputImage",
    "InputItem",
    "InputMessage",
    "InputOutputText",
    "InputReasoning",
    "InputText",
    "Item",
    "ItemList",
    "ItemReference",
    "McpCallArgumentsDeltaEvent",
    "McpCallArgumentsDoneEvent",
    "Message",
    "MessagePart",
    "Metadata",
    "Model",
    "ModelList",
    "OtherEvent",
    "OtherInputItem",
    "OtherItem",
    "OtherPart",
    "OutputItem",
    "OutputItemAddedEvent",
    "OutputItemDoneEvent",
    "OutputText",
    "OutputTextDeltaEvent",
    "OutputTextDoneEvent",
    "QueuedEvent",
    "Reasoning",
    "ReasoningConfig",
    "ReasoningSummaryPartAddedEvent",
    "ReasoningSummaryPartDoneEvent",
    "ReasoningSummaryTextDeltaEvent",
    "ReasoningSummaryTextDoneEvent",
    "ReasoningText",
    "ReasoningTextDeltaEvent",
    "ReasoningTextDoneEvent",
    "Refusal",
    "RefusalDeltaEvent",
    "RefusalDoneEvent",
    "Response",
    "ResponseError",
    "ResponseIncompleteDetails",
    "ResponseList",
    "ResponseReasoning",
    "ResponseStreamEvent",
    "ResponseText",
    "StoredResponse",
    "StreamedPart",
    "SummaryText",
    "TextConfig",
    "TextFormat",
    "Tool",
    "ToolChoice",
    "ToolChoiceObject",
    "UnreadableResponse",
    "UpdateConversation",
    "Usage",
    "UsageInputTokensDetails",
    "UsageOutputTokensDetails",
]
