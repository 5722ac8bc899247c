"""The OpenAPI document of what is served, at ``/openapi.json``. A test holds it against the routes."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.web.dispatch import Routes
from agentic_trio.web.reply import Reply
from agentic_trio.wire.checks import INCLUDABLE, MAX_METADATA_PAIRS
from agentic_trio.wire.conversations import MAX_ITEMS
from agentic_trio.wire.create_response import MAX_INPUT_LENGTH

if TYPE_CHECKING:
    from agentic_trio.web.scope import RequestScope

Json = dict[str, Any]

routes = Routes("openapi")


@routes.handle("GET", "/openapi.json")
async def openapi(request: RequestScope) -> Reply:
    """Serve the document."""
    return Reply(_encoded())


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> Json:
    """The document, as an object."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "agentic-trio",
            "version": version("agentic-trio"),
            "description": "OpenAI's stateful Responses and Conversations APIs over a stateless server.",
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


def _paths() -> Json:
    page = ("limit", "order", "after", "before", "include")
    return {
        "/v1/responses": {
            "post": _operation(
                "Create a response",
                body="CreateResponse",
                answer="Response",
                headers=("Idempotency-Key", "X-On-Disconnect"),
                events=True,
                # With "store": false a refusal is the model server's own.
                error="Relayed",
            ),
            "get": _operation(
                "List responses, where that is switched on",
                answer="List",
                query=(*page, "model"),
            ),
        },
        "/v1/responses/{id}": {
            "get": _operation(
                "Read a response, or its stream",
                answer="Response",
                path=("id",),
                query=("include", "stream", "starting_after"),
                events=True,
            ),
            "delete": _operation("Forget a response", answer="Deleted", path=("id",)),
        },
        "/v1/responses/{id}/cancel": {
            "post": _operation("End a background response", answer="Response", path=("id",)),
        },
        "/v1/responses/{id}/input_items": {
            "get": _operation("List what the model was given", answer="List", path=("id",), query=page),
        },
        "/v1/conversations": {
            "post": _operation(
                "Create a conversation", body="CreateConversation", answer="Conversation", optional_body=True
            ),
            "get": _operation("List conversations, where that is switched on", answer="List", query=page),
        },
        "/v1/conversations/{id}": {
            "get": _operation("Read a conversation", answer="Conversation", path=("id",)),
            "post": _operation(
                "Replace a conversation's metadata",
                body="UpdateConversation",
                answer="Conversation",
                path=("id",),
            ),
            "delete": _operation("Forget a conversation", answer="Deleted", path=("id",)),
        },
        "/v1/conversations/{id}/items": {
            "get": _operation("List a conversation's items", answer="List", path=("id",), query=page),
            "post": _operation(
                "Append items", body="CreateItems", answer="List", path=("id",), query=("include",)
            ),
        },
        "/v1/conversations/{id}/items/{item}": {
            "get": _operation("Read an item", answer="Item", path=("id", "item"), query=("include",)),
            "delete": _operation("Drop an item", answer="Conversation", path=("id", "item")),
        },
        "/v1/models": {"get": _operation("The model server's models", answer="Relayed", error="Relayed")},
        "/v1/models/{model}": {
            "get": _operation(
                "One of the model server's models", answer="Relayed", path=("model",), error="Relayed"
            )
        },
        **{
            path: {
                "post": _operation(
                    "Relayed as it is", body="Relayed", answer="Relayed", events=True, error="Relayed"
                )
            }
            for path in (
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/embeddings",
                "/v1/messages",
                "/v1/messages/count_tokens",
            )
        },
        "/health": {"get": _operation("Whether the process serves", answer="Relayed")},
        "/ready": {
            "get": _operation(
                "Whether it can work: 503 with the reason if not", answer="Relayed", error="Relayed"
            )
        },
        "/openapi.json": {"get": _operation("This document", answer="Relayed")},
        "/": {"get": _operation("Whether anyone is there", answer="Relayed")},
    }


_QUERY: dict[str, Json] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    "order": {"enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string", "maxLength": 256},
    "before": {"type": "string", "maxLength": 256},
    "include": {"type": "array", "items": {"enum": list(INCLUDABLE)}},
    "model": {"type": "string"},
    "stream": {"enum": ["true", "false"]},
    "starting_after": {"type": "integer", "minimum": 0},
}

_HEADERS: dict[str, Json] = {
    "Idempotency-Key": {"type": "string", "maxLength": 256},
    "X-On-Disconnect": {"enum": ["cancel", "finish"]},
}


def _operation(
    summary: str,
    *,
    answer: str,
    body: str | None = None,
    optional_body: bool = False,
    path: tuple[str, ...] = (),
    query: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    events: bool = False,
    error: str = "Error",
) -> Json:
    content: Json = {"application/json": {"schema": _ref(answer)}}
    if events:
        content["text/event-stream"] = {}
    operation: Json = {
        "summary": summary,
        "parameters": [
            *({"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in path),
            *({"name": n, "in": "query", "schema": _QUERY[n]} for n in query),
            *({"name": n, "in": "header", "schema": _HEADERS[n]} for n in headers),
        ],
        "responses": {
            "200": {"description": "Success", "content": content},
            "default": {
                "description": "What was refused, and why",
                "content": {"application/json": {"schema": _ref(error)}},
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {
            "required": not optional_body,
            "content": {"application/json": {"schema": _ref(body)}},
        }
    return operation


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json, required: tuple[str, ...] = ()) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _nullable(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas() -> Json:
    text: Json = {"type": "string"}
    count: Json = {"type": "integer"}
    metadata: Json = {
        "type": "object",
        "maxProperties": MAX_METADATA_PAIRS,
        "additionalProperties": {"type": "string", "maxLength": 512},
    }
    items: Json = {"type": "array", "items": _ref("Item")}
    return {
        "Item": _object({"id": text, "type": text}),
        "Relayed": {"type": "object"},
        "CreateResponse": _object(
            {
                "model": text,
                "input": {"anyOf": [{"type": "string", "maxLength": MAX_INPUT_LENGTH}, items]},
                "instructions": _nullable(text),
                "previous_response_id": _nullable(text),
                "conversation": {"anyOf": [text, _object({"id": text}, ("id",)), {"type": "null"}]},
                "conversation_id": _nullable(text),
                "store": _nullable({"type": "boolean", "default": True}),
                "stream": _nullable({"type": "boolean", "default": False}),
                "background": _nullable({"type": "boolean", "default": False}),
                "truncation": _nullable({"enum": ["auto", "disabled"]}),
                "metadata": _nullable(metadata),
                "max_output_tokens": _nullable({"type": "integer", "minimum": 16}),
                "max_tool_calls": _nullable({"type": "integer", "minimum": 1}),
                "temperature": _nullable({"type": "number", "minimum": 0, "maximum": 2}),
                "top_p": _nullable({"type": "number", "minimum": 0, "maximum": 1}),
                "tools": _nullable({"type": "array", "items": _object({"type": text}, ("type",))}),
                "include": _nullable({"type": "array", "items": {"enum": list(INCLUDABLE)}}),
            },
            ("model",),
        ),
        "Response": _object(
            {
                "id": text,
                "object": {"const": "response"},
                "created_at": count,
                "status": {
                    "enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
                },
                "output": items,
                "conversation": _object({"id": text}, ("id",)),
            },
            ("id", "object", "created_at", "status", "output"),
        ),
        "CreateConversation": _object(
            {
                "items": _nullable({**items, "maxItems": MAX_ITEMS}),
                "metadata": _nullable(metadata),
                "store": _nullable({"const": True}),
            }
        ),
        "UpdateConversation": _object({"metadata": metadata}, ("metadata",)),
        "CreateItems": _object({"items": {**items, "minItems": 1, "maxItems": MAX_ITEMS}}, ("items",)),
        "Conversation": _object(
            {"id": text, "object": {"const": "conversation"}, "created_at": count, "metadata": metadata},
            ("id", "object", "created_at", "metadata"),
        ),
        "Deleted": _object(
            {"id": text, "object": text, "deleted": {"const": True}}, ("id", "object", "deleted")
        ),
        "List": _object(
            {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"type": "object"}},
                "first_id": _nullable(text),
                "last_id": _nullable(text),
                "has_more": {"type": "boolean"},
            },
            ("object", "data", "first_id", "last_id", "has_more"),
        ),
        "Error": _object(
            {
                "error": _object(
                    {"message": text, "type": text, "param": _nullable(text), "code": _nullable(text)},
                    ("message", "type", "param", "code"),
                )
            },
            ("error",),
        ),
    }
