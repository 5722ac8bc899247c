"""``/v1/conversations``."""

from __future__ import annotations

from quart import Blueprint, Response

from agentic_trio.web.dispatch import json_response, require_list_endpoints, this_gateway, this_request
from agentic_trio.web.queries import metadata_filter, page_query

routes = Blueprint("conversations", __name__, url_prefix="/v1/conversations")


@routes.post("")
async def create_conversation() -> Response:
    """Create a conversation; a body is optional."""
    request = this_request()
    body = await request.raw_body()
    return json_response(await this_gateway().conversations.create(request.context.owner, body))


@routes.get("")
async def list_conversations() -> Response:
    """List conversations, where that is allowed."""
    require_list_endpoints()
    owner = this_request().context.owner
    return json_response(
        await this_gateway().conversations.page(owner, page_query(), metadata=metadata_filter())
    )


@routes.get("/<id>")
async def retrieve_conversation(id: str) -> Response:
    """Read a conversation."""
    return json_response(await this_gateway().conversations.read(this_request().context.owner, id))


@routes.post("/<id>")
async def update_conversation(id: str) -> Response:
    """Replace a conversation's metadata."""
    request = this_request()
    body = await request.raw_body()
    return json_response(await this_gateway().conversations.update(request.context.owner, id, body))


@routes.delete("/<id>")
async def delete_conversation(id: str) -> Response:
    """Forget a conversation."""
    return json_response(await this_gateway().conversations.delete(this_request().context.owner, id))


@routes.get("/<id>/items")
async def list_items(id: str) -> Response:
    """List a conversation's items."""
    owner = this_request().context.owner
    return json_response(await this_gateway().conversations.items(owner, id, page_query()))


@routes.post("/<id>/items")
async def create_items(id: str) -> Response:
    """Append items to a conversation."""
    request = this_request()
    body = await request.raw_body()
    return json_response(await this_gateway().conversations.add_items(request.context.owner, id, body))


@routes.get("/<id>/items/<item>")
async def retrieve_item(id: str, item: str) -> Response:
    """Read one item."""
    return json_response(await this_gateway().conversations.item(this_request().context.owner, id, item))


@routes.delete("/<id>/items/<item>")
async def delete_item(id: str, item: str) -> Response:
    """Drop one item; the conversation is the answer."""
    owner = this_request().context.owner
    return json_response(await this_gateway().conversations.delete_item(owner, id, item))
