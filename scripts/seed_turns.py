#!/usr/bin/env python3
"""Seed turns: fill a gateway's database with chains or conversations of a known length.

Through a running gateway, or into a database without one::

    .venv/bin/python scripts/seed_turns.py --url http://127.0.0.1:9000 --turns 100
    .venv/bin/python scripts/seed_turns.py --db-url sqlite://./agentic_api.db --llm-api-base http://127.0.0.1:8000

Progress goes to stderr. stdout has what continues the turns, one line a chain: ``response=resp_...`` or
``conversation=conv_...``; with ``--json`` one object for all. Exit codes: 0, 1 when a turn failed (stdout
then names what was seeded before), 2 for bad usage.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

try:
    import httpx
    import msgspec
    import trio

    from agentic_trio import Config, ConfigError, Gateway, GatewayError, open_gateway
except ImportError as error:
    sys.exit(f"seed_turns: {error}: run it with the Python of the gateway's environment, .venv/bin/python")

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import TextIO

DEFAULT_URL = "http://127.0.0.1:9000"
TIMEOUT = httpx.Timeout(600.0, connect=10.0)
FILLER = "The quick brown fox jumps over the lazy dog. "


class TurnFailed(Exception):
    """A turn could not be made. One line that says why."""


class SeedFailed(Exception):
    """Seeding stopped early. One line that says where and why.

    Attributes:
        seeded: the chains as far as they got, those without a turn left out.
    """

    def __init__(self, message: str, seeded: list[Seeded]) -> None:
        super().__init__(message)
        self.seeded = seeded


@dataclass(slots=True)
class Seeded:
    """One chain or conversation, and what continues it.

    Attributes:
        turns: how many were added to it.
        conversation: its conversation, or None for a chain.
        response: its last response, or None before the first turn.
    """

    turns: int = 0
    conversation: str | None = None
    response: str | None = None

    def __str__(self) -> str:
        """What continues it."""
        return f"conversation={self.conversation}" if self.conversation else f"response={self.response}"

    def reference(self) -> dict[str, str]:
        """The members of a request that continue it."""
        if self.conversation is not None:
            return {"conversation": self.conversation}
        return {} if self.response is None else {"previous_response_id": self.response}


class Target(Protocol):
    """What turns are seeded through. All of it raises TurnFailed."""

    async def first_model(self) -> str:
        """The first model that the server lists."""

    async def create_response(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make a turn; answers the Response object."""

    async def create_conversation(self) -> dict[str, Any]:
        """Create an empty conversation."""


class HttpTarget:
    """A running gateway."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def first_model(self) -> str:
        return _first_model(await self._call("GET", "/v1/models"))

    async def create_response(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self._call("POST", "/v1/responses", request)

    async def create_conversation(self) -> dict[str, Any]:
        return await self._call("POST", "/v1/conversations", {})

    async def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise TurnFailed(f"{self._client.base_url}: {words}") from error
        if answer.status_code != 200:
            raise TurnFailed(f"status {answer.status_code}: {_message(answer)}")
        return _object(answer.content)


class EmbeddedTarget:
    """A gateway in this process, without HTTP between."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def first_model(self) -> str:
        try:
            async with self._gateway.upstream.forward(
                "GET", "/v1/models", b"", [], b"", self._gateway.own_context()
            ) as answer:
                body = await answer.body()
        except GatewayError as error:
            raise TurnFailed(error.message) from error
        return _first_model(_object(body))

    async def create_response(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._gateway.create_response(request)
        except GatewayError as error:
            raise TurnFailed(error.message) from error

    async def create_conversation(self) -> dict[str, Any]:
        try:
            return await self._gateway.create_conversation()
        except GatewayError as error:
            raise TurnFailed(error.message) from error


def _first_model(listed: dict[str, Any]) -> str:
    try:
        return str(listed["data"][0]["id"])
    except (LookupError, TypeError):
        raise TurnFailed("the server lists no model: name one with --model") from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise TurnFailed("the answer is not a JSON object: is this a gateway?") from None


def _message(answer: httpx.Response) -> str:
    try:
        return " ".join(str(answer.json()["error"]["message"]).split())
    except (ValueError, LookupError, TypeError):
        return answer.reason_phrase


@asynccontextmanager
async def open_url(url: str, key: str | None = None) -> AsyncIterator[Target]:
    """The gateway at a URL, with or without a trailing ``/v1``."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = url.rstrip("/").removesuffix("/v1")
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=TIMEOUT, trust_env=False) as client:
        yield HttpTarget(client)


@asynccontextmanager
async def open_database(config: Config) -> AsyncIterator[Target]:
    """A gateway of our own on a database that no other process has open. Raises ConfigError."""
    async with open_gateway(config) as gateway:
        yield EmbeddedTarget(gateway)


def user_text(turn: int, size: int) -> str:
    """A text of ``size`` bytes that says which turn it belongs to."""
    text = f"Turn {turn}. "
    return (text + FILLER * (size // len(FILLER) + 1))[:size]


async def seed(
    target: Target,
    turns: int,
    *,
    model: str,
    conversation: bool | str = False,
    after: str | None = None,
    chains: int = 1,
    item_bytes: int = 64,
    max_output_tokens: int = 16,
    on_turn: Callable[[], None] = lambda: None,
) -> list[Seeded]:
    """Seed ``turns`` turns into each of ``chains`` chains; the chains grow concurrently.

    Args:
        target: where to; see :func:`open_url` and :func:`open_database`.
        turns: how many in each chain, at least 1.
        model: who answers.
        conversation: whether each chain is a new conversation, or the id of one that is there.
        after: the response that the chain continues.
        chains: how many; 1 with an id.
        item_bytes: size of each user text.
        max_output_tokens: bound of each answer.
        on_turn: called after each turn.

    Raises:
        SeedFailed: a turn failed. The others were ended.

    Cancellation: the turns that are under way are recorded as ``cancelled``.
    """
    seeded: list[Seeded] = []
    failures: list[str] = []

    async def grow(chain: Seeded) -> None:
        try:
            if conversation is True:
                chain.conversation = (await target.create_conversation())["id"]
            for turn in range(1, turns + 1):
                request = {
                    "model": model,
                    "input": user_text(turn, item_bytes),
                    "max_output_tokens": max_output_tokens,
                    **chain.reference(),
                }
                chain.response = _ended(await target.create_response(request))
                chain.turns = turn
                on_turn()
        except TurnFailed as error:
            failures.append(f"turn {chain.turns + 1} of {turns} failed: {error}")
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(chains):
            named = conversation if isinstance(conversation, str) else None
            seeded.append(Seeded(conversation=named, response=after))
            nursery.start_soon(grow, seeded[-1])
    if failures:
        raise SeedFailed(failures[0], [chain for chain in seeded if chain.turns])
    return seeded


def _ended(response: dict[str, Any]) -> str:
    """The id of a response that the next turn may continue. A length stop is a good end."""
    if response.get("status") not in ("completed", "incomplete"):
        raise TurnFailed(f"the response is {response.get('status')}: {response.get('error')}")
    return str(response["id"])


class Progress:
    """A bar for a terminal; elsewhere a line at each tenth of the way."""

    WIDTH = 30

    def __init__(self, total: int, out: TextIO) -> None:
        self._total = total
        self._out = out
        self._live = out.isatty()
        self._done = 0
        self._shown_at = 0.0
        self._began = time.monotonic()

    def advance(self) -> None:
        """One turn more."""
        self._done += 1
        now = time.monotonic()
        if self._live:
            due = now - self._shown_at >= 0.1 or self._done == self._total
        else:
            due = self._done * 10 // self._total > (self._done - 1) * 10 // self._total
        if due:
            self._shown_at = now
            self._show(now - self._began)

    def _show(self, elapsed: float) -> None:
        rate = self._done / elapsed if elapsed else 0.0
        left = (self._total - self._done) / rate if rate else 0.0
        filled = self.WIDTH * self._done // self._total
        bar = "#" * filled + "." * (self.WIDTH - filled)
        line = f"[{bar}] {self._done}/{self._total} turns  {rate:.0f}/s  {left:.0f} s left"
        self._out.write(f"\r\x1b[K{line}" if self._live else f"{line}\n")
        self._out.flush()

    def end(self) -> None:
        """Leave the bar's line."""
        if self._live and self._shown_at:
            self._out.write("\n")
            self._out.flush()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SystemExit(_say(message, 2))


def _say(message: str, code: int) -> int:
    print(f"seed_turns: {message}", file=sys.stderr)
    return code


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = _Parser(prog="seed_turns.py", description="Seed turns and print what continues them.")
    where = top.add_argument_group("where").add_mutually_exclusive_group()
    where.add_argument("--url", help=f"a running gateway (default {DEFAULT_URL})")
    where.add_argument("--db-url", metavar="URL", help="a database that no gateway has open")
    top.add_argument(
        "--llm-api-base", metavar="URL", help="the model server, with --db-url (default: as for the gateway)"
    )
    kind = top.add_argument_group("what").add_mutually_exclusive_group()
    kind.add_argument(
        "--chain",
        nargs="?",
        const=True,
        metavar="RESPONSE",
        help="a chain of previous_response_id: a new one (default), or on from this response",
    )
    kind.add_argument(
        "--conversation",
        nargs="?",
        const=True,
        default=False,
        metavar="CONVERSATION",
        help="a conversation: a new one, or this",
    )
    top.add_argument("--turns", type=_count, default=10, metavar="N", help="in each chain (default 10)")
    top.add_argument("--chains", type=_count, default=1, metavar="N", help="at the same time (default 1)")
    top.add_argument("--model", help="default: the first that the server lists")
    top.add_argument(
        "--item-bytes", type=_count, default=64, metavar="N", help="size of each user text (default 64)"
    )
    top.add_argument(
        "--max-output-tokens", type=_count, default=16, metavar="N", help="bound of each answer (default 16)"
    )
    top.add_argument("--json", action="store_true", help="print one JSON object")
    top.epilog = "OPENAI_API_KEY is sent as the bearer token."
    return top


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _checked(arguments: Sequence[str] | None) -> argparse.Namespace:
    grammar = parser()
    options = grammar.parse_args(arguments)
    if options.url is not None and not _is_url(options.url):
        grammar.error(f"--url must be an http:// or https:// URL, not {options.url!r}")
    if options.llm_api_base and not options.db_url:
        grammar.error("--llm-api-base goes with --db-url; a running gateway has its own")
    named = isinstance(options.chain, str) or isinstance(options.conversation, str)
    if named and options.chains > 1:
        grammar.error("--chains makes new ones: it can't go with the id of one that is there")
    return options


async def run(options: argparse.Namespace, progress: Progress) -> tuple[str, list[Seeded]]:
    """Seed as the options say; answers the model and the chains."""
    if options.db_url:
        opened = open_database(Config.from_env(db_url=options.db_url, llm_api_base=options.llm_api_base))
    else:
        opened = open_url(options.url or DEFAULT_URL, os.environ.get("OPENAI_API_KEY"))
    async with opened as target:
        try:
            model = options.model or await target.first_model()
        except TurnFailed as error:
            raise SeedFailed(str(error), []) from error
        seeded = await seed(
            target,
            options.turns,
            model=model,
            conversation=options.conversation,
            after=options.chain if isinstance(options.chain, str) else None,
            chains=options.chains,
            item_bytes=options.item_bytes,
            max_output_tokens=options.max_output_tokens,
            on_turn=progress.advance,
        )
        return model, seeded


def main(arguments: Sequence[str] | None = None) -> int:
    """Seed as the command line says; returns the exit code."""
    options = _checked(arguments)
    # What went wrong is said once, by the line at the end.
    logging.getLogger("agentic_trio").addHandler(logging.NullHandler())
    progress = Progress(options.turns * options.chains, sys.stderr)
    model: str | None = options.model
    seeded: list[Seeded] = []
    failure: str | None = None
    try:
        model, seeded = trio.run(run, options, progress)
    except ConfigError as error:
        return _say(str(error), 2)
    except SeedFailed as error:
        seeded, failure = error.seeded, str(error)
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        # Trio puts a Ctrl-C into the group of the nursery that waited.
        if isinstance(error, BaseExceptionGroup) and error.split(KeyboardInterrupt)[1] is not None:
            raise
        return 130
    finally:
        progress.end()
    if options.json:
        chains = [asdict(chain) for chain in seeded]
        print(msgspec.json.encode({"model": model, "chains": chains}).decode())
    else:
        for chain in seeded:
            print(chain)
    return _say(failure, 1) if failure else 0


if __name__ == "__main__":
    sys.exit(main())
