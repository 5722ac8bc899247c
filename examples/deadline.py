"""Give a model some seconds, and keep what it says in them: ``python examples/deadline.py [SECONDS]``."""

import os
import sys

import trio

from agentic_trio import Config, open_gateway
from agentic_trio.types import CreateResponse

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0


async def main() -> None:
    config = Config(
        llm_api_base=os.environ.get("LLM_API_BASE", "http://127.0.0.1:8000"), db_url="sqlite://:memory:"
    )
    request: CreateResponse = {
        "model": os.environ.get("MODEL", "gemma-3-270m"),
        "input": "Count to a million.",
        "stream": True,
    }
    async with open_gateway(config) as gateway:
        with trio.move_on_after(SECONDS):
            async with gateway.open_response(request) as response:
                await response.result()
        found = await gateway.get_response(response.id)
        print(found["status"], len(found["output"]))


trio.run(main)
