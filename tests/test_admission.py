"""What one request may take: a slot, and memory."""

from __future__ import annotations

import pytest

from agentic_trio.errors import ServiceUnavailable
from agentic_trio.gateway.admission import UNCOUNTED, Admission, Ticket, TooManyRequests


def test_small_tickets_cost_nothing():
    admission = Admission(max_requests=1, max_bytes=0)
    with Ticket(admission) as ticket:
        for _ in range(UNCOUNTED):
            ticket.reserve(1)
        with pytest.raises(TooManyRequests):
            ticket.reserve(1)


def test_a_ticket_is_given_back_whole_however_it_ends():
    admission = Admission(max_requests=1, max_bytes=1000)
    with Ticket(admission) as ticket:
        ticket.reserve(UNCOUNTED - 1)
        ticket.reserve(301)
        ticket.reserve(200)
        assert admission.bytes_left == 500
        with pytest.raises(TooManyRequests):
            ticket.reserve(501)
        assert admission.bytes_left == 500
    assert admission.bytes_left == 1000
    with pytest.raises(TooManyRequests), Ticket(admission) as ticket:
        ticket.reserve(UNCOUNTED + 1001)
    assert admission.bytes_left == 1000


def test_a_ticket_that_is_used_again_begins_anew():
    admission = Admission(max_requests=1, max_bytes=1000)
    ticket = Ticket(admission)
    for _ in range(3):
        with ticket:
            ticket.reserve(UNCOUNTED + 1000)
    assert admission.bytes_left == 1000


def test_what_a_ticket_held_is_moved_whole():
    admission = Admission(max_requests=1, max_bytes=1000)
    with Ticket(admission) as first:
        first.take_slot()
        first.reserve(UNCOUNTED + 400)
        moved = first.pop_all()
    assert (admission.slots, admission.bytes_left) == (0, 600)
    with moved:
        moved.reserve(100)
        assert admission.bytes_left == 500
    assert (admission.slots, admission.bytes_left) == (1, 1000)


def test_a_ticket_has_one_slot_at_most_and_only_while_it_is_open():
    admission = Admission(max_requests=1, max_bytes=1000)
    with Ticket(admission) as ticket, Ticket(admission) as other:
        ticket.take_slot()
        ticket.take_slot()
        with pytest.raises(TooManyRequests):
            other.take_slot()
        ticket.give_slot_back()
        other.take_slot()
    assert admission.slots == 1


def test_nothing_is_admitted_once_it_is_closed():
    admission = Admission(max_requests=1, max_bytes=1000)
    admission.check()
    admission.closed = True
    with pytest.raises(ServiceUnavailable):
        admission.check()


def test_tickets_are_of_one_admission():
    admission = Admission(max_requests=1, max_bytes=1000)
    with Ticket(admission) as first, Ticket(admission) as second:
        first.reserve(UNCOUNTED + 600)
        with pytest.raises(TooManyRequests):
            second.reserve(UNCOUNTED + 600)
        with Ticket(admission) as third:
            third.reserve(UNCOUNTED + 400)
