"""``/v1/conversations``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.web.dispatch import Routes
from agentic_trio.web.queries import boolean_argument, check_lists_are_served, metadata_filter, page_query

if TYPE_CHECKING:
    from agentic_trio.web.reply import Reply
    from agentic_trio.web.scope import RequestScope

routes = Routes("conversations")


@routes.handle("POST", "/v1/conversations")
async def create_conversation(request: RequestScope) -> Reply:
    """Create a conversation; a body is optional."""
    body = await request.body()
    return request.reply(await request.gateway.conversations.create(request.context.owner, body))


@routes.handle("GET", "/v1/conversations")
async def list_conversations(request: RequestScope) -> Reply:
    """List conversations, where that is switched on."""
    check_lists_are_served(request)
    query, metadata = page_query(request), metadata_filter(request)
    conversations = request.gateway.conversations
    return request.reply(await conversations.page(request.context.owner, query, metadata=metadata))


@routes.handle("GET", "/v1/conversations/<id>")
async def retrieve_conversation(request: RequestScope, id: str) -> Reply:
    """Read a conversation."""
    return request.reply(await request.gateway.conversations.read(request.context.owner, id))


@routes.handle("POST", "/v1/conversations/<id>")
async def update_conversation(request: RequestScope, id: str) -> Reply:
    """Replace a conversation's metadata."""
    body = await request.body()
    return request.reply(await request.gateway.conversations.update(request.context.owner, id, body))


@routes.handle("DELETE", "/v1/conversations/<id>")
async def delete_conversation(request: RequestScope, id: str) -> Reply:
    """Forget a conversation; with ``responses=true``, its responses too."""
    conversations = request.gateway.conversations
    with_responses = boolean_argument(request, "responses")
    delete = conversations.delete_with_responses if with_responses else conversations.delete
    return request.reply(await delete(request.context.owner, id))


@routes.handle("GET", "/v1/conversations/<id>/items")
async def list_items(request: RequestScope, id: str) -> Reply:
    """List a conversation's items."""
    query = page_query(request)
    return request.reply(await request.gateway.conversations.items(request.context.owner, id, query))


@routes.handle("POST", "/v1/conversations/<id>/items")
async def create_items(request: RequestScope, id: str) -> Reply:
    """Append items to a conversation."""
    body = await request.body()
    return request.reply(await request.gateway.conversations.add_items(request.context.owner, id, body))


@routes.handle("GET", "/v1/conversations/<id>/items/<item>")
async def retrieve_item(request: RequestScope, id: str, item: str) -> Reply:
    """Read one item."""
    return request.reply(await request.gateway.conversations.item(request.context.owner, id, item))


@routes.handle("DELETE", "/v1/conversations/<id>/items/<item>")
async def delete_item(request: RequestScope, id: str, item: str) -> Reply:
    """Drop one item; the reply is the conversation."""
    return request.reply(await request.gateway.conversations.delete_item(request.context.owner, id, item))
