"""Ask several follow-ups at once, in one Trio program: ``python examples/branches.py [MODEL]``.

The branches share the story on disk; none of them changes what the others see.
"""

import os
import sys

import trio

from agentic_trio import Config, open_gateway
from agentic_trio.types import Response

MODEL = sys.argv[1] if len(sys.argv) > 1 else "gemma-3-270m"


def text_of(response: Response) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


async def main() -> None:
    config = Config(
        llm_api_base=os.environ.get("LLM_API_BASE", "http://127.0.0.1:8000"), db_url="sqlite://:memory:"
    )
    async with open_gateway(config) as gateway:
        story = await gateway.create_response({"model": MODEL, "input": "Begin a story."})

        async def end(mood: str) -> None:
            response = await gateway.create_response(
                {
                    "model": MODEL,
                    "input": f"End it, and make it {mood}.",
                    "previous_response_id": story["id"],
                }
            )
            print(f"{mood}: {text_of(response)}")

        async with trio.open_nursery() as nursery:
            for mood in ("happy", "sad", "strange"):
                nursery.start_soon(end, mood)


trio.run(main)
