"""The store's contract.

A *thread* is an append-only list of items. A conversation names one; a chain of
``previous_response_id`` runs in one. A history is what a thread holds up to a position. Continuing
from a thread's head appends to it; anything else *forks*: a new thread that begins inside another
at a position. Nothing is copied and nothing is ever renumbered.

Every read and write is by owner: what belongs to another owner is not found. The empty owner is the
single user of an open gateway.

Items travel as the JSON text that goes upstream; no backend decodes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Order = Literal["asc", "desc"]

ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
"""The statuses that a response keeps for good."""

APPENDING = frozenset({"completed", "incomplete"})
"""The endings that may append to the thread they continue; the others always fork."""


class StoreError(Exception):
    """The store can't do it now: disk full, read-only, locked, or broken. The cause is chained."""


class ThreadFull(Exception):
    """A history can't grow beyond 2**24 - 1 positions. Nothing was written."""


class HistoryTooLarge(Exception):
    """A history is larger than one request may load."""


class ItemAlreadyInConversation(Exception):
    """An item that was to be linked is in this conversation already."""


class Missing(Exception):
    """What was named isn't there, for this owner.

    Attributes:
        kind: what was looked for.
        id: the id that was given.
    """

    def __init__(self, kind: Literal["response", "conversation", "item"], id: str) -> None:
        super().__init__(kind, id)
        self.kind = kind
        self.id = id


class NotEnded(Exception):
    """The response named is still under way, so it can't be continued or deleted."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a thread.

    Attributes:
        id: unique if ``issued``; otherwise only a name that a client chose.
        data: its JSON text, ``id`` included, as it goes upstream and to clients.
        issued: whether this gateway made the id, which is then a reference to this content.
        partial: cut off while it was being made: part of its response's output, never of a history.
    """

    id: str
    data: bytes
    issued: bool = True
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a thread: the end of a history."""

    thread: int
    position: int


@dataclass(frozen=True, slots=True)
class History:
    """What a turn continues.

    Attributes:
        base: where it ends; None for the history of a turn that begins a chain.
        items: the JSON text of each item, oldest first.
        open_calls: ``call_id`` of each call in it that has no output yet.
    """

    base: Place | None = None
    items: Sequence[bytes] = ()
    open_calls: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Announcement:
    """A response whose id is about to be sent while its turn still runs.

    Attributes:
        body: the response as it is now, without ``output``.
        input: the turn's own input, kept so that a turn which a crash ended can be continued.
        fingerprint: tells a repeat of the request from another request; None if it can't be repeated.
    """

    owner: str
    id: str
    created_at: int
    status: str
    base: Place | None
    conversation: str | None
    input: Sequence[Item]
    open_calls: frozenset[str]
    body: bytes
    fingerprint: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended, and all that it adds.

    Attributes:
        status: one of ``ENDED``.
        base: where its history ended; None begins a new thread.
        conversation: id of the conversation that was named, or None.
        open_calls: the calls without an output after input and output were added.
        body: the final response without its ``output``; ``output``'s items follow it in ``output``.
        fingerprint: as it was announced.
        events: the turn's whole stream, one element an event, if it can be streamed again.
    """

    owner: str
    id: str
    created_at: int
    status: str
    base: Place | None
    conversation: str | None
    input: Sequence[Item]
    output: Sequence[Item]
    open_calls: frozenset[str]
    body: bytes
    fingerprint: bytes | None = None
    events: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was recorded: ``body`` is without ``output``, whose items are beside it."""

    id: str
    status: str
    body: bytes
    output: Sequence[bytes]
    fingerprint: bytes | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. ``metadata`` is the JSON text of an object; ``created_at`` is in Unix seconds."""

    id: str
    created_at: int
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, in the order that was asked for."""

    items: Sequence[Item]
    has_more: bool


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which part of a list.

    An id may occur more than once in a history. Then ``after`` means its last occurrence in the order
    that is asked for, and ``before`` its first, so that paging by them always gets on and ends; what
    lies between two occurrences may be passed over.

    Attributes:
        limit: how many items, at least 1.
        order: oldest first, or newest first.
        after: the id of an item; the page holds what follows it in this order.
        before: the id of an item; the page holds what precedes it in this order. Alone, it asks for the
            page that ends there, and ``has_more`` says whether there is one before that.
    """

    limit: int = 20
    order: Order = "desc"
    after: str | None = None
    before: str | None = None


class Store(Protocol):
    """Where turns are kept. Every write is durable when its call returns, but for ``announce`` and
    ``withdraw``: those survive the process, not the power.

    Cancellation, for every write: one that had not been taken by the writer is withdrawn and leaves
    nothing; the outcome of one that had been taken is unknown to the caller, and is either whole or
    nothing. Reads can be cancelled at any time.

    Raises, everywhere: :class:`StoreError`. A failed write leaves nothing behind.
    """

    async def history(
        self, owner: str, *, response: str | None = None, conversation: str | None = None
    ) -> History:
        """Read what a turn continues: a response with all before it, or a conversation as it is now.

        With both, the response must have been made in that conversation, and the conversation's
        history is read.

        Raises:
            HistoryTooLarge: it can't be read into memory.
            Missing: no such response or conversation; with both, kind ``response`` also when the
                response was made elsewhere. A response that has not ended is ``NotEnded``.
        """

    async def announce(self, announcement: Announcement) -> None:
        """Record a response that is under way.

        Announcing it again replaces the announcement; one that has ended is left alone.

        Raises:
            Missing: the conversation is gone.
        """

    async def end(self, ending: Ending) -> None:
        """Record how a turn ended: its items, its response, and its conversation's new head, or nothing.

        Its items are appended to the thread of ``base`` if that thread's head is still ``base``, the
        status is in ``APPENDING``, and the thread's kind fits (a conversation's thread takes only
        turns that name this conversation, a chain's thread only turns that name none). Otherwise they
        go into a new thread that forks at ``base``. A turn of a conversation that was deleted
        meanwhile forks too. An announced response is replaced; ending one twice changes nothing.

        Raises:
            ThreadFull: its history is as long as one can be.
        """

    async def withdraw(self, owner: str, response: str) -> None:
        """Forget an announced response that has not ended. Unknown or ended ones are left alone."""

    async def response(self, owner: str, id: str) -> StoredResponse:
        """Read a response. One that is under way has no output yet. Raises Missing."""

    async def events(self, owner: str, id: str) -> Sequence[bytes]:
        """Read an ended turn's stream, event by event; nothing if it is not kept. Raises Missing."""

    async def prune_events(self, before: int) -> int:
        """Forget the streams of responses created before this Unix time; answers how many."""

    async def delete_response(self, owner: str, id: str) -> None:
        """Forget an ended response. Turns that continue it are untouched. Raises Missing, NotEnded."""

    async def response_input(self, owner: str, id: str, query: PageQuery) -> Page:
        """List all that the model was given for a response: history, then its own input.

        Raises Missing, with kind ``item`` for an unknown ``after`` or ``before``.
        """

    async def create_conversation(
        self, owner: str, conversation: Conversation, items: Sequence[Item], open_calls: frozenset[str]
    ) -> None:
        """Create a conversation with its first items."""

    async def conversation(self, owner: str, id: str) -> Conversation:
        """Read a conversation. Raises Missing."""

    async def update_conversation(self, owner: str, id: str, metadata: bytes) -> Conversation:
        """Replace a conversation's metadata. Raises Missing."""

    async def delete_conversation(self, owner: str, id: str) -> None:
        """Forget a conversation. Its responses can still be read and continued. Raises Missing."""

    async def conversation_items(self, owner: str, id: str, query: PageQuery) -> Page:
        """List a conversation's items. Raises Missing, as ``response_input`` does."""

    async def conversation_item(self, owner: str, id: str, item: str) -> Item:
        """Read one item of a conversation, the newest of several with that id. Raises Missing."""

    async def add_items(
        self, owner: str, id: str, items: Sequence[Item], opened: frozenset[str], closed: frozenset[str]
    ) -> None:
        """Append items to a conversation. ``opened`` and ``closed`` are call ids that they leave or answer.

        Raises Missing; ItemAlreadyInConversation when an issued id is in it already, and then nothing
        is added; ThreadFull. An issued id may occur twice among ``items``.
        """

    async def delete_item(
        self, owner: str, id: str, item: str, effect: Callable[[bytes], tuple[frozenset[str], frozenset[str]]]
    ) -> Conversation:
        """Drop an item from a conversation's later histories; earlier ones still hold it.

        ``effect`` is given the item's JSON text and answers the call ids that its going opens and
        closes; it may run in another thread. Of several items with that id all go, oldest first, so
        that it is gone afterwards. Raises Missing.
        """

    async def find_items(self, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
        """Look up issued ids: the JSON text of each that is known. Names that clients chose never are.

        An item is known as long as any history holds it, whatever response or conversation was deleted;
        a partial one never is.
        """

    async def in_conversation(self, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
        """Which of these item ids a conversation holds now. Raises Missing."""

    async def list_responses(
        self,
        owner: str,
        query: PageQuery,
        *,
        model: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Sequence[StoredResponse], bool]:
        """List the owner's responses in the order they were first recorded, and whether there are more.

        ``model`` and ``metadata`` keep those whose body has that model and all of these pairs.
        ``after`` and ``before`` are response ids. Raises Missing for an unknown one.
        """

    async def list_conversations(
        self, owner: str, query: PageQuery, *, metadata: dict[str, str] | None = None
    ) -> tuple[Sequence[Conversation], bool]:
        """List the owner's conversations, as ``list_responses`` does."""

    async def recover(self, end: Callable[[bytes], bytes]) -> int:
        """Record every response that a dead process left under way as ``failed``; answers how many.

        ``end`` turns the announced body into the failed one. Their input is kept, as ``end`` keeps a
        failed turn's. One whose input can't be kept, because its row is damaged or its history is full or
        gone, ends where its history did; a body that ``end`` raises for is replaced by one that holds
        ``id``, ``object`` and ``created_at``. Called once, before the first turn.
        """

    async def fail(self, owner: str, id: str, end: Callable[[bytes], bytes]) -> None:
        """Record one response as ``recover`` does. Unknown or ended ones are left alone."""

    async def probe(self) -> None:
        """Prove that the store can be written to now."""
