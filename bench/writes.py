"""What recording a turn costs our store, early and late in a thread: seen at the store, without HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentic_trio.store.contract import Ending, Item
from agentic_trio.store.sqlite import open_sqlite_store
from bench.stats import median

if TYPE_CHECKING:
    from agentic_trio.store.contract import Place, Store


@dataclass(frozen=True, slots=True)
class WriteCost:
    """Medians of one turn's write: microseconds of CPU, and bytes written to the log."""

    cpu: float
    written: float


def _own_written() -> int:
    [line] = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("wchar: ")]
    return int(line.removeprefix("wchar: "))


async def _turn(store: Store, name: str, base: Place | None, item_bytes: int) -> WriteCost:
    id = f"resp_{name}"
    data = b'{"type":"message","role":"user","content":"%b"}' % (b"x" * item_bytes)
    ending = Ending(
        owner="",
        id=id,
        created_at=1,
        status="completed",
        base=base,
        conversation=None,
        input=[Item(f"msg_{name}a", data)],
        output=[Item(f"msg_{name}b", data)],
        open_calls=frozenset(),
        body=b'{"id":"%b","object":"response","status":"completed"}' % id.encode(),
    )
    written, cpu = _own_written(), time.process_time()
    await store.end(ending)
    return WriteCost((time.process_time() - cpu) * 1e6, _own_written() - written)


async def write_costs(path: Path, depth: int, samples: int, item_bytes: int = 1024) -> list[WriteCost]:
    """The cost of turn 1 (of ``samples`` new chains), and of ``samples`` turns around turn ``depth``.

    No history is read between two turns: what that costs is measured elsewhere, and here it would empty
    the processor's caches before each write.
    """
    async with open_sqlite_store(str(path)) as store:
        early = [await _turn(store, f"e{n}", None, item_bytes) for n in range(samples)]
        late = [await _turn(store, "l0", None, item_bytes)]
        base = (await store.history("", response="resp_l0")).base
        assert base is not None
        for n in range(1, depth + samples // 2):
            late.append(await _turn(store, f"l{n}", base, item_bytes))
            base = replace(base, position=base.position + 2)
        assert len((await store.history("", response=f"resp_l{n}")).items) == 2 * (n + 1)
        late = late[-samples:]
    return [
        WriteCost(median([cost.cpu for cost in costs]), median([cost.written for cost in costs]))
        for costs in (early, late)
    ]
