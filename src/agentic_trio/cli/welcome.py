"""What ``agentic-trio serve`` says to a person once it listens: a first command, to be run as it stands."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import trio

from agentic_trio.errors import GatewayError

if TYPE_CHECKING:
    from agentic_trio.gateway.gateway import Gateway

LOOK = 2.0
"""Seconds that the model server has to say which models it has; without an answer nothing is printed."""

WARM_UP = 60.0
"""Seconds that the first token may take. If it takes longer, the first request waits for the rest."""


async def first_command(gateway: Gateway, url: str) -> str | None:
    """A command that asks the first model something; None if no model could be found in time.

    Cancellation: the model server's answer is not waited for.
    """
    with trio.move_on_after(LOOK):
        try:
            models = (await gateway.list_models())["data"]
        except GatewayError:
            return None
        if models:
            body = json.dumps({"model": models[0]["id"], "input": "My name is Ada."}, ensure_ascii=False)
            return f"curl {url}/v1/responses -H 'content-type: application/json' -d {shlex.quote(body)}"
    return None


async def warm_up(gateway: Gateway, model: str) -> None:
    """Let the model generate one token, so that the first answer doesn't wait for what is loaded lazily.

    Cancellation: the call is closed.
    """
    with trio.move_on_after(WARM_UP):
        try:
            await gateway.create_response(
                {"model": model, "input": "Hi", "store": False, "max_output_tokens": 16}
            )
        except GatewayError:
            # It is only a courtesy: whoever asks next gets this error, or an answer.
            return
