"""What one request may take: a slot at the model server, and memory for its body and its history.

A :class:`Ticket` stands for both. A request opens one when it arrives, reserves what its body declares,
takes a slot once the body is there, and hands the ticket to its turn, which keeps it until it ends.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, Self

from agentic_trio.errors import GatewayError, ServiceUnavailable
from agentic_trio.telemetry.edges import Overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


logger = logging.getLogger(__name__)

RETRY_AFTER = "1"

UNCOUNTED = 64 * 1024
"""Bytes of each ticket that are free: the number of requests bounds their sum."""


class TooManyRequests(GatewayError):
    """The gateway is at one of its own bounds; the same request may succeed a little later."""

    status = 429
    type = "rate_limit_exceeded"
    # Codex takes "server_is_overloaded" for final; it retries this one.
    code: str | None = "rate_limit_exceeded"

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message, headers={"retry-after": RETRY_AFTER})
        self.reason = reason


class Admission:
    """The bounds that all requests share.

    Attributes:
        slots: how many more requests may go to the model server now.
        bytes_left: how many more bytes of bodies, histories and answers may be in memory now; less than
            none while answers take more than there is.
        closed: whether the server is shutting down, so that nothing more is admitted.
        on_close: what is called when that begins.
        no_slots, no_memory: tell of requests that are refused.
    """

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self.slots = max_requests
        self.bytes_left = max_bytes
        self.closed = False
        self.on_close: set[Callable[[], None]] = set()
        self.no_slots = Overload(logger, "slots", "every slot at the model server is taken")
        self.no_memory = Overload(logger, "memory", "there is no memory for more bodies and histories")

    def close(self) -> None:
        """Admit nothing more, and tell those who wait for that."""
        self.closed = True
        for call in list(self.on_close):
            call()

    def check(self) -> None:
        """Refuse a request whose body has not been read, if there is no slot for it now.

        The slot itself is taken when the body is there: a client that sends a head and then nothing must
        not keep others out.

        Raises:
            TooManyRequests: every slot is taken.
            ServiceUnavailable: the server is shutting down.
        """
        if self.closed:
            raise ServiceUnavailable("The server is shutting down.", headers={"retry-after": RETRY_AFTER})
        self.check_slots()

    def check_slots(self) -> None:
        """Refuse a request for which there is no slot. Raises TooManyRequests."""
        if self.slots <= 0:
            self.no_slots.refuse()
            raise TooManyRequests("Too many requests are running. Please retry in a few seconds.", "slots")
        if self.no_slots.refused:
            self.no_slots.admit()

    def take_bytes(self, size: int) -> None:
        """Take memory. Raises TooManyRequests."""
        if size > self.bytes_left:
            self.no_memory.refuse()
            raise TooManyRequests(
                "Too much is being worked on at once. Please retry in a few seconds.", "memory"
            )
        if self.no_memory.refused:
            self.no_memory.admit()
        self.bytes_left -= size


class Place(Protocol):
    """What a request takes of its owner's quotas."""

    def begin_now(self) -> None:
        """Count it among those that run. Raises TooManyRequests if it can't be now."""

    def begin(self) -> bool:
        """Count it among those that run; False, and nothing, if it can't be now."""

    def pause(self) -> None:
        """Count it no longer: it waits, or is over."""

    def use(self, tokens: int) -> None:
        """Count tokens."""


class Ticket:
    """What one request has taken. Leaving its block, or ``close``, gives all of it back."""

    __slots__ = ("_admission", "_counted", "_has_slot", "_place", "_reserved")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._has_slot = False
        self._place: Place | None = None
        self._reserved = 0
        self._counted = 0

    def take_place(self, place: Place) -> None:
        """Take over what a request takes of its owner's quotas."""
        self._place = place

    def begin_now(self) -> None:
        """Count a request among those of its owner that run. Raises TooManyRequests if it can't be now."""
        if self._place is not None:
            self._place.begin_now()

    def begin(self) -> bool:
        """Count a request that waited among those of its owner that run; False if it has to wait on."""
        return self._place is None or self._place.begin()

    def use(self, tokens: int) -> None:
        """Count tokens against the owner's quotas."""
        if self._place is not None:
            self._place.use(tokens)

    def take_slot(self) -> None:
        """Take a slot at the model server; a ticket has one at most. Raises TooManyRequests."""
        if not self._has_slot:
            self._admission.check_slots()
            self._admission.slots -= 1
            self._has_slot = True

    def give_slot_back(self) -> None:
        """Let another request have the slot: this one waits under a bound of its own."""
        if self._has_slot:
            self._has_slot = False
            self._admission.slots += 1
        if self._place is not None:
            self._place.pause()

    def reserve(self, size: int) -> None:
        """Reserve memory for ``size`` more bytes.

        Raises:
            TooManyRequests: there is no room for them. What was reserved before stays reserved.
        """
        counted = self._reserved + size - UNCOUNTED
        if counted > self._counted:
            self._admission.take_bytes(counted - self._counted)
            self._counted = counted
        self._reserved += size

    def charge(self, size: int) -> None:
        """Count ``size`` bytes that are in memory already, even if there was no room for them.

        What a model has generated is never refused: newcomers are, until it has been given back.
        """
        self._reserved += size
        counted = self._reserved - UNCOUNTED
        if counted > self._counted:
            self._admission.bytes_left -= counted - self._counted
            self._counted = counted

    def pop_all(self) -> Ticket:
        """Move everything to a new ticket: whoever has that one gives it back."""
        moved = Ticket(self._admission)
        moved._has_slot, moved._reserved, moved._counted = self._has_slot, self._reserved, self._counted
        moved._place, self._place = self._place, None
        self._has_slot, self._reserved, self._counted = False, 0, 0
        return moved

    def close(self) -> None:
        """Give everything back. The ticket can be used again."""
        self.give_slot_back()
        self._admission.bytes_left += self._counted
        self._reserved = self._counted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
