"""What the store refuses, or fails to do, as clients are told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from agentic_trio.errors import GatewayError, InvalidRequest, NotFound, ServiceUnavailable
from agentic_trio.gateway.idempotency import key_in_use
from agentic_trio.store.contract import (
    ApprovalSpent,
    HistoryTooLarge,
    ItemAlreadyInConversation,
    KeyInUse,
    Missing,
    NotEnded,
    StoreError,
    StoreRefusal,
    ThreadFull,
)
from agentic_trio.wire.checks import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from agentic_trio.store.contract import PageQuery

    Translations = Mapping[type[StoreRefusal], Callable[[Any], GatewayError]]


def item_already_in_conversation(param: str) -> InvalidRequest:
    """An item is in the conversation that it was to be added to."""
    return InvalidRequest("Item already in conversation", code="item_already_in_conversation", param=param)


def _not_found(missing: Missing) -> GatewayError:
    return NotFound(f"{missing.kind.capitalize()} with id '{shortened(missing.id)}' not found.")


def _previous_not_found(missing: Missing) -> GatewayError:
    if missing.kind != "response":
        return _not_found(missing)
    return InvalidRequest(
        f"Previous response with id '{shortened(missing.id)}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def _previous_not_ended(refusal: NotEnded) -> GatewayError:
    return InvalidRequest(
        f"Previous response with id '{shortened(refusal.id)}' is still in progress.",
        code="previous_response_not_ended",
        param="previous_response_id",
    )


def _history_too_large(_: HistoryTooLarge) -> GatewayError:
    return InvalidRequest(
        "The history is larger than any model's context.", code="context_length_exceeded", param="input"
    )


def _thread_full(_: ThreadFull) -> GatewayError:
    return InvalidRequest(
        "The conversation can't hold any more items.", code="context_length_exceeded", param="items"
    )


def _cannot_delete(_: NotEnded) -> GatewayError:
    return InvalidRequest("Cannot delete an in-flight response.")


def _approval_spent(refusal: ApprovalSpent) -> GatewayError:
    return InvalidRequest(
        f"The approval request '{shortened(refusal.id)}' has been answered before. "
        "Its call is not made a second time.",
        code="approval_already_used",
        param="input",
    )


REFUSALS: Translations = {
    Missing: _not_found,
    NotEnded: _cannot_delete,
    KeyInUse: lambda _: key_in_use(),
    ItemAlreadyInConversation: lambda _: item_already_in_conversation("items"),
    ThreadFull: _thread_full,
    ApprovalSpent: _approval_spent,
}
"""Where a resource is read or changed. Of these, only a deletion needs a response that has ended."""

HISTORY_REFUSALS: Translations = {
    Missing: _previous_not_found,
    NotEnded: _previous_not_ended,
    HistoryTooLarge: _history_too_large,
}
"""Where a turn reads the history that it continues."""


class StorageErrors:
    """Inside this block a failure of the store is a 503, and refusals pass as they are.

    Attributes:
        translations: how each refusal is told to a client, in a subclass.
    """

    translations: ClassVar[Translations] = {}

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, StoreError):
            # The store has logged it.
            raise ServiceUnavailable("The store can't be used right now.") from error
        if isinstance(error, StoreRefusal) and type(error) in self.translations:
            raise self.told(error) from None

    def told(self, refusal: StoreRefusal) -> GatewayError:
        return self.translations[type(refusal)](refusal)


class StateErrors(StorageErrors):
    """Inside this block everything that the store refuses is told as ``REFUSALS`` has it.

    Args:
        query: the page that is read, if one is: a missing item may be where it begins.
    """

    translations = REFUSALS

    def __init__(self, query: PageQuery | None = None) -> None:
        self._query = query

    def told(self, refusal: StoreRefusal) -> GatewayError:
        query = self._query
        if isinstance(refusal, Missing) and query is not None and refusal.id in (query.after, query.before):
            param = "before" if refusal.id == query.before else "after"
            return NotFound(f"No item found with id '{shortened(refusal.id)}'", param=param)
        return super().told(refusal)


class HistoryErrors(StorageErrors):
    """Inside this block everything that the store refuses is told as ``HISTORY_REFUSALS`` has it."""

    translations = HISTORY_REFUSALS
