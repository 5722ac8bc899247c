"""The bound on bytes in memory."""

from __future__ import annotations

import pytest

from agentic_trio.gateway.admission import TooManyRequests
from agentic_trio.gateway.budget import UNCOUNTED, Budget


def test_small_shares_cost_nothing():
    budget = Budget(0)
    with budget.share() as share:
        for _ in range(UNCOUNTED):
            share.hold(1)
        with pytest.raises(TooManyRequests):
            share.hold(1)


def test_a_share_is_given_back_whole_however_it_ends():
    budget = Budget(1000)
    with budget.share() as share:
        share.hold(UNCOUNTED - 1)
        share.hold(301)
        share.hold(200)
        assert budget.left == 500
        with pytest.raises(TooManyRequests):
            share.hold(501)
        assert budget.left == 500
    assert budget.left == 1000
    with pytest.raises(TooManyRequests), budget.share() as share:
        share.hold(UNCOUNTED + 1001)
    assert budget.left == 1000


def test_a_share_that_is_used_again_begins_anew():
    budget = Budget(1000)
    share = budget.share()
    for _ in range(3):
        with share:
            share.hold(UNCOUNTED + 1000)
    assert budget.left == 1000


def test_what_a_share_gives_away_is_held_by_the_other():
    budget = Budget(1000)
    with budget.share() as later:
        with budget.share() as first:
            first.hold(UNCOUNTED + 400)
            first.give_to(later)
        assert budget.left == 600
        later.hold(100)
        assert budget.left == 500
    assert budget.left == 1000


def test_shares_are_of_one_budget():
    budget = Budget(1000)
    with budget.share() as first, budget.share() as second:
        first.hold(UNCOUNTED + 600)
        with pytest.raises(TooManyRequests):
            second.hold(UNCOUNTED + 600)
        with budget.share() as third:
            third.hold(UNCOUNTED + 400)
