"""When a call is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from agentic_trio.errors import UpstreamError
from agentic_trio.gateway import retries
from agentic_trio.gateway.retries import FIRST_RETRY_DELAY, JITTER, LONGEST_RETRY_DELAY, Retries

if TYPE_CHECKING:
    from trio.testing import MockClock

NOW = 1_445_412_450.0
"""2015-10-21, 07:27:30 GMT."""

LATER = "Wed, 21 Oct 2015 07:27:37 GMT"


async def waited(retry_after: str | None, tries: int = 1) -> list[float]:
    """The delays before each try, when a server answers like this."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    error = UpstreamError("No.", status=503, headers=headers)
    attempts = Retries([], retries=tries, truncates=False)
    delays = []
    for _ in range(tries):
        before = trio.current_time()
        await attempts.after(error)
        delays.append(trio.current_time() - before)
    with pytest.raises(UpstreamError):
        await attempts.after(error)
    return delays


@pytest.fixture(params=[0.0, 0.5, 0.99])
def chance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(retries, "random", lambda: request.param)
    monkeypatch.setattr(retries, "time", lambda: NOW)
    chance: float = request.param
    return chance


async def test_each_delay_is_twice_the_last_one_with_jitter(chance: float, autojump_clock: MockClock) -> None:
    longer = 1 + JITTER * chance
    expected = [min(FIRST_RETRY_DELAY * 2**n, LONGEST_RETRY_DELAY) * longer for n in range(9)]
    assert await waited(None, 9) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("120", LONGEST_RETRY_DELAY),
        ("9" * 400, LONGEST_RETRY_DELAY),
        (LATER, 7),
        ("Wednesday, 21-Oct-15 07:27:37 GMT", 7),
        ("Wed Oct 21 07:27:37 2015 GMT", 7),
        ("Wed, 21 Oct 2015 09:27:37 GMT", LONGEST_RETRY_DELAY),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 0),
    ],
)
async def test_a_delay_that_is_asked_for_is_kept(
    chance: float, autojump_clock: MockClock, retry_after: str, seconds: float
) -> None:
    [delay] = await waited(retry_after)
    assert seconds <= delay + 1e-6
    assert delay == pytest.approx(seconds * (1 + JITTER * chance))


@pytest.mark.parametrize("retry_after", ["", "-1", "1.5", "soon", "²", "Wed, 21 Oct 99999 07:27:37 GMT"])
async def test_a_delay_that_makes_no_sense_is_ignored(
    chance: float, autojump_clock: MockClock, retry_after: str
) -> None:
    assert await waited(retry_after) == pytest.approx([FIRST_RETRY_DELAY * (1 + JITTER * chance)])
