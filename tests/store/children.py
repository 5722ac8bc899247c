"""Other processes for the tests.

``python -m tests.store.children`` reads lines ``<what> <path>`` and runs each in a fork, so that the
imports are paid for once. It says ``pid <n>`` when one begins and ``gone`` when it has ended.
"""

from __future__ import annotations

import os
import sys

import trio

from agentic_trio.errors import ConfigError
from agentic_trio.store.contract import Conversation
from agentic_trio.store.sqlite import open_sqlite_store
from tests.store.records import OWNER, announcement, ending, items

NOBODY = 65534


def say(line: str) -> None:
    """One write, so that a kill can't leave half a line; ``print`` makes several."""
    os.write(1, f"{line}\n".encode())


async def write(path: str) -> None:
    """Write for ever, eight at once; say the id of what is durable as soon as it is."""
    async with open_sqlite_store(path) as store, trio.open_nursery() as nursery:
        for lane in range(8):
            nursery.start_soon(write_lane, store, f"{os.getpid()}_{lane}")


async def write_lane(store: object, name: str) -> None:
    conversation = f"conv_{name}"
    await store.create_conversation(OWNER, Conversation(conversation, 1, b"{}"), [], frozenset())
    base = (await store.history(OWNER, conversation=conversation)).base
    for n in range(1_000_000):
        id = f"resp_{name}_{n}"
        await store.announce(announcement(id, base, items(f"in_{id}"), conversation=conversation))
        say(f"announced {id}")
        await store.end(ending(id, base, items(f"in_{id}"), items(f"out_{id}"), conversation=conversation))
        say(f"ended {id}")
        base = type(base)(base.thread, base.position + 2)


async def hold(path: str) -> None:
    """Hold the store until killed."""
    async with open_sqlite_store(path):
        say("open")
        await trio.sleep_forever()


async def try_to_open(path: str) -> None:
    """Say whether the store can be opened, or why not."""
    try:
        async with open_sqlite_store(path):
            say("open")
    except ConfigError as error:
        say(str(error))


async def try_as_nobody(path: str) -> None:
    os.setuid(NOBODY)
    await try_to_open(path)


def main() -> None:
    for line in sys.stdin:
        what, path = line.rstrip("\n").split(" ", 1)
        pid = os.fork()
        if pid == 0:
            say(f"pid {os.getpid()}")
            trio.run(globals()[what], path)
            os._exit(0)
        os.waitpid(pid, 0)
        say("gone")


if __name__ == "__main__":
    main()
