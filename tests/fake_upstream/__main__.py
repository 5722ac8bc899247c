"""The fake upstream in a process of its own."""

from __future__ import annotations

import argparse
import json

import msgspec
import trio

from .endpoints import DIALECTS
from .script import Script
from .server import open_fake_upstream


async def main() -> None:
    parser = argparse.ArgumentParser(description="A fake vLLM.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dialect", default="vllm", choices=list(DIALECTS))
    parser.add_argument("--deltas", type=int)
    parser.add_argument("--interval", type=float, default=0.0)
    parser.add_argument("--script", default="{}", help="further members of the script, as JSON")
    options = parser.parse_args()
    given = {"dialect": options.dialect, "deltas": options.deltas, "interval": options.interval}
    script = msgspec.convert(given | json.loads(options.script), Script)
    async with open_fake_upstream(script, port=options.port, record=False) as upstream:
        print(upstream.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
