"""The store's contract.

A *thread* is an append-only list of items. A conversation has one; a chain of
``previous_response_id`` runs in one. A history is what a thread holds up to a position. A turn that
continues a thread's head appends to it; any other *forks*: it begins a new thread inside another, at a
position. Nothing is copied and nothing is ever renumbered.

Every read and write names an owner, and never finds what belongs to another. The empty owner is the
single user of an open gateway.

Items travel as the JSON text that goes upstream; no backend decodes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentic_trio.telemetry.figures import Figures, StoredFigures

Order = Literal["asc", "desc"]

ENDED = frozenset({"completed", "incomplete", "failed", "cancelled"})
"""The statuses that a response keeps for good."""

APPENDING = frozenset({"completed", "incomplete"})
"""The endings that may append to the thread they continue; the others always fork."""


SWEEP_LIMIT = 500
"""Rows that one call of ``sweep`` erases, so that the writes of turns don't wait long."""


class StoreError(Exception):
    """The store failed: its disk is full, read-only, locked or broken. The cause is chained."""


class StoreRefusal(Exception):
    """The store works, and what was asked of it can't be done. Nothing was written."""


class ThreadFull(StoreRefusal):
    """A history can't grow beyond 2**24 - 1 positions."""


class HistoryTooLarge(StoreRefusal):
    """A history is larger than one request may load."""


class ItemAlreadyInConversation(StoreRefusal):
    """An item that was to be added is in this conversation already."""


class Missing(StoreRefusal):
    """Nothing of this owner has that id.

    Attributes:
        kind: what was looked for.
        id: the id that was given.
    """

    def __init__(self, kind: Literal["response", "conversation", "item"], id: str) -> None:
        super().__init__(kind, id)
        self.kind = kind
        self.id = id


class NotEnded(StoreRefusal):
    """The response is still under way, so it can't be continued or deleted."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


class KeyInUse(StoreRefusal):
    """The idempotency key belongs to another response.

    Attributes:
        id: that response's.
    """

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


class ApprovalSpent(StoreRefusal):
    """A call was approved that has been answered before.

    Attributes:
        id: the id of the approval request.
    """

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a thread.

    Attributes:
        id: unique if ``issued``; otherwise a name that a client chose.
        data: its JSON text, ``id`` included, as it goes upstream and to clients.
        issued: whether this gateway made the id, which then refers to this content.
        partial: cut off while the model wrote it: in its response's output, but in no history.
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
        input: the turn's own input, kept so that a turn that a crash ended can be continued.
        fingerprint: tells a repeat of the request from another request; None if it has no key.
        key: what ``keyed`` finds it by: a digest of its idempotency key and of whatever else a repeat must
            have in common with it, such as the credentials. None if it can't be repeated.
        output: what the turn has made so far, as it is to be found if the process dies: calls of tools that
            are under way have been interrupted there.
        figures: what the turn knows of itself by now.
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
    key: bytes | None = None
    output: Sequence[Item] = ()
    figures: Figures | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended, and all that it adds.

    Attributes:
        status: one of ``ENDED``.
        base: where its history ended; None begins a new thread.
        conversation: the id of the conversation that the request named, or None.
        open_calls: the calls that have no output once input and output are added.
        body: the final response without ``output``, whose items are in ``output`` below.
        fingerprint: as it was announced.
        key: as it was announced.
        events: the whole stream, one element an event, if it may be read again.
        figures: what the turn knows of itself. Without it the figures stay as they were announced.
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
    key: bytes | None = None
    events: Sequence[bytes] = ()
    figures: Figures | None = None


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was recorded. ``body`` has no ``output``; its items are in ``output`` here."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What is to be erased. Everything that is given must hold; something must be given.

    Attributes:
        owner: whose; None for any owner's.
        conversation: the id of a conversation.
        metadata: a key and a value in the metadata of a conversation or a response.
    """

    owner: str | None = None
    conversation: str | None = None
    metadata: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was, or would be, erased. ``bytes`` counts the JSON text of the items."""

    responses: int = 0
    conversations: int = 0
    streams: int = 0
    items: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Selection:
    """What some criteria select: all that has one of its items in its history goes with it.

    A selection of an owner's whole state has no names and no item ids: the owner says it all.

    Attributes:
        responses, conversations: rows, by keys of the store's own.
        cuts: thread -> the first position that is to go. All after it goes too.
        names: (owner, id) of the responses and conversations.
        items: (owner, id) of the items whose ids this gateway issued.
        erased: how much it is.
    """

    responses: Sequence[int] = ()
    conversations: Sequence[int] = ()
    cuts: Mapping[int, int] = field(default_factory=dict)
    names: frozenset[tuple[str, str]] = frozenset()
    items: frozenset[tuple[str, str]] = frozenset()
    erased: Erased = field(default_factory=Erased)


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list, in the order of the query."""

    items: Sequence[Item]
    has_more: bool


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which part of a list.

    An id may occur more than once in a history. ``after`` then means its last occurrence in the query's
    order, and ``before`` its first, so that paging always advances and ends; it may skip what lies
    between two occurrences.

    Attributes:
        limit: how many items, at least 1.
        order: oldest first, or newest first.
        after: the id of an item; the page holds what follows it in this order.
        before: the id of an item; the page holds what precedes it in this order. Alone, it asks for the
            page that ends there, and ``has_more`` says whether anything precedes that page.
    """

    limit: int = 20
    order: Order = "desc"
    after: str | None = None
    before: str | None = None


class Store(Protocol):
    """Where turns are kept.

    Every write is durable when its call returns, except ``announce`` and ``withdraw``: these survive
    the death of the process, but not the loss of power.

    Cancellation, for every write: the write happens completely or not at all, and the caller doesn't
    learn which. One that the writer had not begun is withdrawn. Reads can be cancelled at any time.

    Raises, everywhere: :class:`StoreError`. A write that fails leaves nothing behind.
    """

    async def history(
        self, owner: str, *, response: str | None = None, conversation: str | None = None
    ) -> History:
        """Read what a turn continues: a response and all before it, or a conversation as it is now.

        If both are named, the response must have been made in that conversation, and the conversation's
        history is read.

        Raises:
            HistoryTooLarge: it is larger than one request may load.
            Missing: there is no such response or conversation, or the response was not made in it.
            NotEnded: the response is under way.
        """

    async def announce(self, announcement: Announcement) -> None:
        """Record a response that is under way.

        A second announcement replaces the first. A response that has ended is left alone.

        Raises:
            KeyInUse: its key belongs to another response.
            Missing: the conversation is gone.
        """

    async def end(self, ending: Ending) -> None:
        """Record how a turn ended: its items, its response and its conversation's new head, or nothing.

        Its items are appended to the thread of ``base`` if that thread's head is still ``base``, the
        status is in ``APPENDING``, and the thread's kind fits: a conversation's thread takes only
        turns that name this conversation, a chain's thread only turns that name none. Otherwise they
        go into a new thread that forks at ``base``, as do those of a turn whose conversation was
        deleted meanwhile. The ending replaces the announcement; a second ending changes nothing.

        A key that belongs to another response stays with it: what the model has written is kept all the
        same, and can't be found by the key.

        Raises:
            ThreadFull: its history is as long as one can be.
        """

    async def withdraw(self, owner: str, response: str) -> None:
        """Forget an announced response. One that has ended, or is unknown, is left alone."""

    async def spend(self, owner: str, approvals: Sequence[str]) -> None:
        """Record that the calls which these approval requests ask for are about to be made, once for all.

        Raises:
            ApprovalSpent: that was recorded for one of them before. Then none is recorded now.
        """

    async def response(self, owner: str, id: str) -> StoredResponse:
        """Read a response. While it is under way it has no output. Raises Missing."""

    async def keyed(self, owner: str, key: bytes) -> StoredResponse | None:
        """Read the response, ended or under way, that has this key; None if there is none.

        A key belongs to the first response that is recorded with it, until that response is withdrawn or
        deleted.
        """

    async def figures(self, owner: str, id: str) -> StoredFigures:
        """Read what a turn knew of itself. Before it has ended only its request is known. Raises Missing."""

    async def events(self, owner: str, id: str) -> Sequence[bytes]:
        """Read the stream of a turn that has ended, one element an event; empty if it isn't kept.

        Raises Missing.
        """

    async def prune_events(self, before: int) -> int:
        """Forget the streams of responses created before this Unix time; returns how many."""

    async def delete_response(self, owner: str, id: str) -> None:
        """Delete a response that has ended. Turns that continue it keep their history.

        Raises Missing, NotEnded.
        """

    async def response_input(self, owner: str, id: str, query: PageQuery) -> Page:
        """List everything that the model was given for a response: its history, then its own input.

        Raises Missing, of kind ``item`` for an unknown ``after`` or ``before``.
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
        """Delete a conversation. Its responses can still be read and continued. Raises Missing."""

    async def delete_responses_of(self, owner: str, conversation: str, limit: int = SWEEP_LIMIT) -> int:
        """Delete ended responses that were made in a conversation, ``limit`` at most; returns how many.

        Raises Missing.
        """

    async def conversation_items(self, owner: str, id: str, query: PageQuery) -> Page:
        """List a conversation's items. Raises Missing, as ``response_input`` does."""

    async def conversation_item(self, owner: str, id: str, item: str) -> Item:
        """Read one item of a conversation, the newest of several with that id. Raises Missing."""

    async def add_items(
        self, owner: str, id: str, items: Sequence[Item], opened: frozenset[str], closed: frozenset[str]
    ) -> None:
        """Append items to a conversation. They add the calls ``opened`` and answer the calls ``closed``.

        An issued id may occur twice among ``items``.

        Raises:
            ItemAlreadyInConversation: an issued id is in the conversation.
            Missing: there is no such conversation.
            ThreadFull: it would be longer than one can be.
        """

    async def delete_item(
        self, owner: str, id: str, item: str, effect: Callable[[bytes], tuple[frozenset[str], frozenset[str]]]
    ) -> Conversation:
        """Drop an item from a conversation. Histories that were read before still hold it.

        ``effect`` takes the item's JSON text and returns the call ids that its removal opens and closes;
        it may run in another thread. If several items have that id, all of them are dropped, oldest
        first. Raises Missing.
        """

    async def find_items(self, owner: str, ids: Sequence[str]) -> dict[str, bytes]:
        """Look up issued ids: the JSON text of each item that is known. Names that clients chose are not.

        An item is known while a response that has not been deleted, or a response under way, has it in its
        history or its output, or while a conversation holds it now. A partial one never is.
        """

    async def in_conversation(self, owner: str, id: str, ids: Sequence[str]) -> frozenset[str]:
        """Which of these item ids are in a conversation now. Raises Missing."""

    async def list_responses(
        self,
        owner: str,
        query: PageQuery,
        *,
        model: str | None = None,
        metadata: dict[str, str] | None = None,
    ) -> tuple[Sequence[StoredResponse], bool]:
        """List the owner's responses in the order they were first recorded, and whether there are more.

        Only those are listed whose body has this ``model`` and all of these ``metadata``. ``after`` and
        ``before`` are response ids. Raises Missing for an unknown one.
        """

    async def list_conversations(
        self, owner: str, query: PageQuery, *, metadata: dict[str, str] | None = None
    ) -> tuple[Sequence[Conversation], bool]:
        """List the owner's conversations, as ``list_responses`` does."""

    async def recover(self, end: Callable[[bytes], bytes]) -> int:
        """Record as ``failed`` every response that a dead process left under way; returns how many.

        Called once, before the first turn. ``end`` turns an announced body into the failed one. The
        announced input and output are kept, as those of any failed turn, unless its row is damaged or its
        history is full or gone: the response then ends where its history did. If ``end`` raises for a body,
        it is called again with one that holds only ``id``, ``object`` and ``created_at``.
        """

    async def fail(self, owner: str, id: str, end: Callable[[bytes], bytes]) -> None:
        """Record one response as ``recover`` does. One that has ended, or is unknown, is left alone."""

    async def deletions(self) -> int:
        """A mark that stands for everything deleted until now, for ``sweep``; 0 if nothing is left of it."""

    async def sweep(self, mark: int, limit: int = SWEEP_LIMIT) -> int:
        """Erase what was deleted before ``mark`` and nothing reaches: from the disk, not only from sight.

        Erases about ``limit`` rows, of which a large one counts as several, and returns how many. Fewer
        than ``limit`` mean that nothing is left to erase.

        The caller sees to it that every turn which was running when the mark was taken has
        been recorded: it may continue a history that was deleted meanwhile.
        """

    async def expire(self, before: int, limit: int = SWEEP_LIMIT) -> int:
        """Delete what is older than this Unix time, ``limit`` rows at most; returns how many.

        These are responses that were created, and conversations that were last used, before it. Newer turns
        that continue them keep their history.
        """

    async def select(self, criteria: Criteria, before: Selection | None = None) -> Selection:
        """Find what some criteria select now, and what has copied or continued it.

        ``before`` is a selection that has been erased meanwhile: whatever refers to it is found as well.
        """

    async def purge(self, selection: Selection, progress: Callable[[int], None] = lambda rows: None) -> None:
        """Erase what was selected, in bounded steps between the writes of others.

        ``progress`` is called with the number of rows that each step has erased. What a step leaves undone
        because the process dies is swept later. The caller sees to it that no turn that runs continues what
        was selected.
        """

    async def compact(self) -> bool:
        """Write the database anew, so that no trace of erased rows is left in its files.

        Writes wait for it. Returns False if a reader still needs the log, which then keeps its traces.
        """

    async def assign_owner(
        self, former: str, owner: str, progress: Callable[[int, int], None]
    ) -> tuple[int, int]:
        """Give all that an owner has to another; returns how many responses and conversations that are.

        In bounded steps, each of which takes some threads whole. A key that the new owner has already stays
        with the response that has it. No turn of the former owner may run.
        """

    async def size(self) -> int:
        """How large the database is, in bytes, with the room in it that is free."""

    async def secret(self, name: str, value: bytes) -> bytes:
        """Return the secret of this name: ``value``, which is kept from now on, if there was none."""

    async def probe(self) -> None:
        """Prove that the store can be written to now."""
