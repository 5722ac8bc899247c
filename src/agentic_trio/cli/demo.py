"""``agentic-trio demo``: a conversation that remembers, a stream, and a restart that forgets nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import trio

from agentic_trio.cli.local_model import LocalModelError, run_local_model
from agentic_trio.net.nurseries import open_inner_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT = httpx.Timeout(300.0, connect=10.0)

START_TIMEOUT = 60.0
"""Seconds in which a gateway of our own must listen."""

INTRODUCTION = "My name is Ada."
QUESTION = "What is my name?"
STREAMED = "Count from 1 to 10."

ENDINGS = ("response.completed", "response.incomplete", "response.failed")

_LISTENS = re.compile(r"listens on (http://\S+?);")


class DemoFailed(Exception):
    """The demo can't go on. One line that says why."""


async def demo(url: str | None, model: str | None) -> None:
    """Show what the gateway does, in plain lines on stdout.

    Args:
        url: a running gateway; without one a local model and a gateway are started, killed, started
            again and stopped.
        model: who answers; without one the first that the server lists.

    Raises:
        SystemExit: 2 if there is neither a gateway nor the local model, 1 if anything else failed,
            130 for Ctrl-C. One line on stderr says why.
    """
    if url is not None and not _is_url(url):
        _fail(f"--url must be an http:// or https:// URL, not {url!r}", 2)
    try:
        await (_on_own_gateway(model) if url is None else _on_running_gateway(url, model))
    except LocalModelError as error:
        _fail(f"{error}, or name a running gateway with --url", 2)
    except httpx.HTTPError as error:
        words = " ".join(str(error).split()) or type(error).__name__
        _fail(f"the gateway can't be used: {words}", 1)
    except DemoFailed as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        # Trio puts a Ctrl-C into the group of the nursery that waited.
        if isinstance(error, BaseExceptionGroup) and error.split(KeyboardInterrupt)[1] is not None:
            raise
        raise SystemExit(130) from None


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _fail(message: str, code: int) -> None:
    print(f"agentic-trio: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def say(text: str, *, end: str = "\n") -> None:
    """A line of the demo."""
    print(text, end=end, flush=True)


async def _on_running_gateway(url: str, model: str | None) -> None:
    async with _client(url) as client:
        talk = await Talk.begin(client, model)
        await talk.ask(INTRODUCTION)
        await talk.ask(QUESTION)
        await talk.follow(STREAMED)
        await talk.check()


async def _on_own_gateway(model: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="agentic-trio-") as directory:
        async with open_inner_nursery() as nursery:
            say("Starting the local model (Gemma 3 270M on llama.cpp) ...")
            base = await nursery.start(run_local_model)
            start = partial(nursery.start, _run_gateway, base, f"sqlite://{directory}/demo.db")
            gateway = await start()
            async with _client(gateway.url) as client:
                talk = await Talk.begin(client, model)
                await talk.ask(INTRODUCTION)
                await talk.ask(QUESTION)
                await talk.follow(STREAMED)
            say(f"\nKilling the gateway (SIGKILL to process {gateway.process.pid}) and starting it again ...")
            await gateway.kill()
            gateway = await start()
            async with _client(gateway.url) as client:
                talk.client = client
                await talk.check()
                await talk.ask(QUESTION)
            nursery.cancel_scope.cancel()


class Talk:
    """One conversation, and what was answered in it.

    Attributes:
        client: the gateway, which may be another process later.
    """

    def __init__(self, client: httpx.AsyncClient, model: str, conversation: str) -> None:
        self.client = client
        self._model = model
        self._conversation = conversation
        self._answered: list[dict[str, Any]] = []

    @classmethod
    async def begin(cls, client: httpx.AsyncClient, model: str | None) -> Talk:
        """Create a conversation."""
        if model is None:
            listed = _object(await client.get("/v1/models"))
            if not listed.get("data"):
                raise DemoFailed("the server lists no model: name one with --model")
            model = str(listed["data"][0]["id"])
        conversation = _object(await client.post("/v1/conversations"))["id"]
        say(f"\nThe gateway is {client.base_url}, the model {model}.\nConversation {conversation}:")
        return cls(client, model, conversation)

    async def ask(self, text: str) -> None:
        """Say something and show the answer."""
        say(f"  You:   {text}")
        response = _object(await self.client.post("/v1/responses", json=self._request(text)))
        self._keep(response)
        said = [
            part.get("text", "")
            for item in response["output"]
            if item["type"] == "message"
            for part in item["content"]
        ]
        say(f"  Model: {' '.join(' '.join(said).split())}")

    async def follow(self, text: str) -> None:
        """Say something and show the answer as it comes."""
        say(f"  You:   {text}\n  Model, streamed: ", end="")
        deltas, ended = 0, None
        request = {**self._request(text), "stream": True}
        async with self.client.stream("POST", "/v1/responses", json=request) as answer:
            if answer.status_code != 200:
                await answer.aread()
                _object(answer)
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = msgspec.json.decode(line.removeprefix("data: "))
                if event["type"] == "response.output_text.delta":
                    deltas += 1
                    say(event["delta"].replace("\n", " "), end="")
                elif event["type"] in ENDINGS:
                    ended = event["response"]
        say(f" ({deltas} deltas)")
        if ended is None:
            raise DemoFailed("the stream broke off")
        self._keep(ended)

    async def check(self) -> None:
        """Read everything back and compare it with what was answered."""
        for response in self._answered:
            kept = _object(await self.client.get(f"/v1/responses/{response['id']}"))
            if kept != response:
                raise DemoFailed(f"{response['id']} is not what was answered")
        url = f"/v1/conversations/{self._conversation}/items"
        items = _object(await self.client.get(url, params={"limit": 100}))["data"]
        say(
            f"Read back: {len(self._answered)} responses, equal to what was answered; "
            f"{len(items)} items in the conversation."
        )

    def _request(self, text: str) -> dict[str, Any]:
        return {
            "model": self._model,
            "input": text,
            "conversation": self._conversation,
            "temperature": 0,
            "max_output_tokens": 64,
        }

    def _keep(self, response: dict[str, Any]) -> None:
        if response["status"] not in ("completed", "incomplete"):
            raise DemoFailed(f"the response is {response['status']}: {response['error']}")
        self._answered.append(response)


def _client(url: str) -> httpx.AsyncClient:
    key = os.environ.get("OPENAI_API_KEY")
    return httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"),
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=TIMEOUT,
        trust_env=False,
    )


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        body = {}
    if answer.status_code == 200 and body:
        return body
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else answer.reason_phrase
    raise DemoFailed(f"{answer.request.url.path} answers with status {answer.status_code}: {message}")


class _Gateway:
    """A gateway in a child process."""

    def __init__(self, process: trio.Process, url: str) -> None:
        self.process = process
        self.url = url

    async def kill(self) -> None:
        """End it as a crash would: nothing in it gets to run."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


async def _run_gateway(base: str, database: str, *, task_status: trio.TaskStatus[_Gateway]) -> None:
    """Keep a gateway running until it is killed or this is cancelled."""
    command = [sys.executable, "-m", "agentic_trio", "serve", "--llm-api-base", base, "--db-url", database]
    # Its log would stand between the lines of the conversation.
    command += ["--host", "127.0.0.1", "--port", "0", "--log-level", "error"]
    async with _child(command) as process:
        with trio.move_on_after(START_TIMEOUT):
            output = b""
            assert process.stdout is not None
            async for chunk in process.stdout:
                output += chunk
                if found := _LISTENS.search(output.decode(errors="replace")):
                    task_status.started(_Gateway(process, found[1]))
                    await process.wait()
                    return
        raise DemoFailed("the gateway did not start")


@asynccontextmanager
async def _child(command: list[str]) -> AsyncIterator[trio.Process]:
    """A child process, which is gone after the block."""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
