"""Ten thousand owners cost what ten do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.context import Identity, Limits
from agentic_trio.gateway.quotas import MAX_IDLE_ACCOUNTS, Quotas

if TYPE_CHECKING:
    from types import FrameType


def enter(quotas: Quotas, owner: str) -> None:
    place = quotas.enter(Identity(owner))
    assert place is not None
    place.begin_now()
    place.use(1)
    place.pause()


@pytest.mark.parametrize("owners", [10, 10_000])
async def test_a_request_takes_the_same_work_however_many_owners_there_are(owners: int) -> None:
    quotas = Quotas(Limits(100, 100, 100), lambda: 0.0)
    for number in range(owners):
        enter(quotas, f"owner {number}")
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        for number in range(10):
            enter(quotas, f"owner {number}")
    finally:
        sys.setprofile(None)
    assert calls <= 10 * 30
    await trio.lowlevel.checkpoint()


async def test_a_request_that_waits_keeps_its_account_among_many_owners() -> None:
    quotas = Quotas(Limits(turns_at_once=1), lambda: 0.0)
    waiting = quotas.enter(Identity("alice"))
    assert waiting is not None
    for number in range(3 * MAX_IDLE_ACCOUNTS):
        enter(quotas, f"owner {number}")
    assert waiting.begin()
    second = quotas.enter(Identity("alice"))
    assert second is not None
    assert not second.begin()
    await trio.lowlevel.checkpoint()


async def test_accounts_that_nobody_has_are_dropped() -> None:
    quotas = Quotas(Limits(turns_at_once=1), lambda: 0.0)
    for number in range(3 * MAX_IDLE_ACCOUNTS):
        enter(quotas, f"owner {number}")
    assert len(quotas._accounts) <= MAX_IDLE_ACCOUNTS + 1
    await trio.lowlevel.checkpoint()


async def test_newcomers_do_not_look_at_all_who_are_there() -> None:
    quotas = Quotas(Limits(100, 100, 100), lambda: 0.0)
    looks = 0
    drop = quotas._drop_idle

    def counting() -> None:
        nonlocal looks
        looks += len(quotas._accounts)
        drop()

    quotas._drop_idle = counting  # type: ignore[method-assign]
    for number in range(20_000):
        enter(quotas, f"owner {number}")
    assert looks <= 2 * 20_000
    await trio.lowlevel.checkpoint()
