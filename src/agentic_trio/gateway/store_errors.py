"""What the store refuses, or fails to do, as clients are told of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentic_trio.errors import GatewayError, InvalidRequest, NotFound, ServiceUnavailable
from agentic_trio.store.contract import ItemAlreadyInConversation, Missing, NotEnded, StoreError

if TYPE_CHECKING:
    from types import TracebackType

    from agentic_trio.store.contract import PageQuery

logger = logging.getLogger("agentic_trio")


def item_already_in_conversation(param: str) -> InvalidRequest:
    """An item is in the conversation that it was to be added to."""
    return InvalidRequest("Item already in conversation", code="item_already_in_conversation", param=param)


_NOT_FOUND = {
    "response": "Response with id '{}' not found.",
    "conversation": "Conversation with id '{}' not found.",
    "item": "Item with id '{}' not found.",
}


class StorageErrors:
    """Within this block the store's own failures are told as a client is told of them."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, StoreError):
            logger.error("the store failed", exc_info=error)
            raise ServiceUnavailable("The store can't be used right now.") from error


class StateErrors(StorageErrors):
    """Within this block all that the store refuses is told as a client is told of it.

    Args:
        query: the page that is read, if one is: what is missing may be where it begins.
    """

    def __init__(self, query: PageQuery | None = None) -> None:
        self._query = query

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Missing):
            raise _missing(error, self._query) from None
        if isinstance(error, NotEnded):
            raise InvalidRequest("Cannot delete an in-flight response.") from None
        if isinstance(error, ItemAlreadyInConversation):
            raise item_already_in_conversation("items") from None
        super().__exit__(kind, error, traceback)


def _missing(missing: Missing, query: PageQuery | None) -> GatewayError:
    if query is not None and missing.id in (query.after, query.before):
        param = "before" if missing.id == query.before else "after"
        return NotFound(f"No item found with id '{missing.id}'", param=param)
    return NotFound(_NOT_FOUND[missing.kind].format(missing.id))
