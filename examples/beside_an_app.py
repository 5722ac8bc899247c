"""Serve the gateway from your own nursery, beside other work: ``python examples/beside_an_app.py``.

The work here is a report of how many responses there are; it stops after the first one.
"""

import os

import trio

from agentic_trio import Config, Gateway, open_gateway, serve


async def report(gateway: Gateway) -> None:
    while True:
        found = await gateway.list_responses(limit=100)
        print(f"{len(found['data'])} responses", flush=True)
        if found["data"]:
            return
        await trio.sleep(0.2)


async def main() -> None:
    config = Config(
        llm_api_base=os.environ.get("LLM_API_BASE", "http://127.0.0.1:8000"),
        db_url="sqlite://:memory:",
        port=int(os.environ.get("PORT", "9000")),
    )
    async with open_gateway(config) as gateway, trio.open_nursery() as nursery:
        (url,) = await nursery.start(serve, gateway)
        print(f"listening on {url}", flush=True)
        await report(gateway)
        nursery.cancel_scope.cancel()


trio.run(main)
