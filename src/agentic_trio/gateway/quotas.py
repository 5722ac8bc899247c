"""What owners and keys may use: turns a minute, turns at once, tokens a day."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

import trio

from agentic_trio.context import Identity, Limits
from agentic_trio.gateway.admission import TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MINUTE = 60.0
DAY = 86_400

MAX_IDLE_ACCOUNTS = 1000
"""How many accounts are kept before those without anything under way, or to remember, are dropped."""

BYTES_PER_TOKEN = 4
"""For what the model server has not counted: a turn that was cut off, a relayed stream without usage."""


class Account:
    """What one owner, or one key, has used."""

    __slots__ = ("began", "day", "running", "tokens")

    def __init__(self) -> None:
        self.began: deque[float] = deque()
        self.running = 0
        self.day = 0
        self.tokens = 0

    def forget(self, now: float, day: int) -> None:
        """Drop what is no longer of this minute and this day."""
        while self.began and self.began[0] <= now - MINUTE:
            self.began.popleft()
        if day != self.day:
            self.day, self.tokens = day, 0

    @property
    def idle(self) -> bool:
        return not (self.began or self.running or self.tokens)


class Standing(NamedTuple):
    """An account, and what bounds it.

    Attributes:
        whose: ``owner`` or ``key``, for messages.
        account: what was used.
        limits: what may be.
    """

    whose: str
    account: Account
    limits: Limits


class Place:
    """What one request takes of its owner's and its key's quotas."""

    __slots__ = ("__weakref__", "_identity", "_paused", "_quotas", "standings")

    def __init__(self, quotas: Quotas, identity: Identity, standings: list[Standing]) -> None:
        self._quotas = quotas
        self._identity = identity
        self.standings = standings
        self._paused = True

    def begin(self) -> bool:
        """Count the request among those that run; False, and nothing, if it can't be now."""
        for _, account, limits in self.standings:
            if limits.turns_at_once is not None and account.running >= limits.turns_at_once:
                return False
        if self._paused:
            self._paused = False
            for standing in self.standings:
                standing.account.running += 1
        return True

    def begin_now(self) -> None:
        """Count the request among those that run. Raises TooManyRequests if it can't be now."""
        if self._paused and not self.begin():
            raise self._quotas.too_many_at_once(self.standings)

    def pause(self) -> None:
        """Count it no longer: it waits, or is over."""
        if not self._paused:
            self._paused = True
            for standing in self.standings:
                standing.account.running -= 1
            self._quotas.freed()

    def use(self, tokens: int) -> None:
        """Count tokens."""
        counted = [account for _, account, limits in self.standings if limits.tokens_per_day is not None]
        for account in counted:
            account.tokens += tokens
        if counted and tokens > 0:
            self._quotas.keep(self._identity, tokens)


class Quotas:
    """The accounts of all owners and keys.

    Held in memory, but for the tokens of the day: :meth:`take_unwritten` gives them to whoever keeps them.

    Args:
        defaults: what an owner may use that has no limits of its own; may be changed.
        now: Unix time in seconds.
        owner_limits: those that have, by name; may change.
    """

    def __init__(
        self, defaults: Limits, now: Callable[[], float], owner_limits: Mapping[str, Limits] | None = None
    ) -> None:
        self.defaults = defaults
        self._now = now
        self._owner_limits = {} if owner_limits is None else owner_limits
        self._accounts: dict[tuple[str, str | None], Account] = {}
        # Those that somebody still has.
        self._places: WeakSet[Place] = WeakSet()
        self._dropped_at = MAX_IDLE_ACCOUNTS
        self._unwritten: dict[tuple[str, str, int], int] = {}
        self.freed: Callable[[], None] = lambda: None

    def enter(self, identity: Identity) -> Place | None:
        """Let a request to the model server in, and count it; None for one that nothing bounds.

        It is not among those that run at once before its place's ``begin``.

        Raises:
            TooManyRequests: a quota is used up. It says which, and when there is room again.
        """
        standings = self._standings(identity)
        if not standings:
            return None
        for standing in standings:
            self._check(standing)
        now = trio.current_time()
        for _, account, limits in standings:
            if limits.turns_per_minute is not None:
                account.began.append(now)
        place = Place(self, identity, standings)
        self._places.add(place)
        return place

    def _standings(self, identity: Identity) -> list[Standing]:
        own = self._owner_limits.get(identity.owner)
        of_owner = self.defaults if own is None else _merged(own, self.defaults)
        found = []
        if of_owner != _UNLIMITED:
            found.append(Standing("owner", self._account(identity.owner, None), of_owner))
        if identity.limits != _UNLIMITED and identity.key:
            found.append(Standing("key", self._account(identity.owner, identity.key), identity.limits))
        return found

    def _account(self, owner: str, key: str | None) -> Account:
        account = self._accounts.get((owner, key))
        if account is None:
            if len(self._accounts) >= self._dropped_at:
                self._drop_idle()
            account = self._accounts[owner, key] = Account()
        account.forget(trio.current_time(), self._today())
        return account

    def _drop_idle(self) -> None:
        now, day = trio.current_time(), self._today()
        # A request that waits will count in the account that it has, and not in another of the same name.
        held = {id(standing.account) for place in self._places for standing in place.standings}
        for name, account in list(self._accounts.items()):
            account.forget(now, day)
            if account.idle and id(account) not in held:
                del self._accounts[name]
        # With many that aren't idle, looking at all of them for each new one would take ever longer.
        self._dropped_at = max(MAX_IDLE_ACCOUNTS, 2 * len(self._accounts))

    def _today(self) -> int:
        return int(self._now()) // DAY

    def _check(self, standing: Standing) -> None:
        whose, account, limits = standing
        most = limits.turns_per_minute
        if most is not None and len(account.began) >= most:
            wait = account.began[0] + MINUTE - trio.current_time()
            raise _refused(
                f"{whose}'s requests per minute: limit {most}", "requests", wait, self.headers([standing])
            )
        tokens = limits.tokens_per_day
        if tokens is not None and account.tokens >= tokens:
            wait = (account.day + 1) * DAY - self._now()
            used = f"{whose}'s tokens per day: limit {tokens}, used {account.tokens}"
            raise _refused(used, "tokens", wait, self.headers([standing]))

    def too_many_at_once(self, standings: list[Standing]) -> TooManyRequests:
        """The refusal of a request beside which as many run as may."""
        for whose, account, limits in standings:
            if limits.turns_at_once is not None and account.running >= limits.turns_at_once:
                said = f"{whose}'s requests at once: limit {limits.turns_at_once}"
                return _refused(said, "requests", 1.0, self.headers(standings))
        raise AssertionError("nothing is used up")

    def keep(self, identity: Identity, tokens: int) -> None:
        """Have the tokens written that an owner has used."""
        written = identity.owner, identity.key, self._today()
        self._unwritten[written] = self._unwritten.get(written, 0) + tokens

    def restore(self, owner: str, key: str, tokens: int) -> None:
        """Count tokens that were used today, before this process began."""
        for each in (None, key) if key else (None,):
            self._account(owner, each).tokens += tokens

    def take_unwritten(self) -> dict[tuple[str, str, int], int]:
        """The tokens that were used since the last call, by owner, key and day."""
        unwritten, self._unwritten = self._unwritten, {}
        return unwritten

    def put_back(self, unwritten: Mapping[tuple[str, str, int], int]) -> None:
        """Tokens that could not be written."""
        for name, tokens in unwritten.items():
            self._unwritten[name] = self._unwritten.get(name, 0) + tokens

    def headers(self, standings: Iterable[Standing]) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers that clients know: of each kind, the one with the least left."""
        least: dict[str, tuple[int, int, float]] = {}
        for _, account, limits in standings:
            rows = []
            if (most := limits.turns_per_minute) is not None:
                oldest = account.began[0] if account.began else -math.inf
                rows.append(
                    ("requests", most, most - len(account.began), oldest + MINUTE - trio.current_time())
                )
            if (most := limits.tokens_per_day) is not None:
                rows.append(("tokens", most, most - account.tokens, (account.day + 1) * DAY - self._now()))
            for kind, limit, left, reset in rows:
                if kind not in least or left < least[kind][1]:
                    least[kind] = limit, left, reset
        found = {}
        for kind, (limit, left, reset) in least.items():
            found[f"x-ratelimit-limit-{kind}"] = str(limit)
            found[f"x-ratelimit-remaining-{kind}"] = str(max(left, 0))
            found[f"x-ratelimit-reset-{kind}"] = f"{max(math.ceil(reset), 0) if reset > 0 else 0}s"
        return found


_UNLIMITED = Limits()


def _merged(limits: Limits, defaults: Limits) -> Limits:
    return Limits(
        defaults.turns_per_minute if limits.turns_per_minute is None else limits.turns_per_minute,
        defaults.turns_at_once if limits.turns_at_once is None else limits.turns_at_once,
        defaults.tokens_per_day if limits.tokens_per_day is None else limits.tokens_per_day,
    )


def _refused(said: str, type: str, wait: float, headers: dict[str, str]) -> TooManyRequests:
    seconds = max(math.ceil(wait), 1)
    error = TooManyRequests(f"Rate limit reached for the {said}. Please try again in {seconds}s.", "quota")
    error.type = type
    error.headers = headers | {"retry-after": str(seconds)}
    return error
