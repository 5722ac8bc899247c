"""The model servers: whether they can be reached, take our key, have models, and answer."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx

from agentic_trio.cli.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentic_trio.config import Config

CHECK = "upstream"

SKEW = 30.0
"""Seconds by which two clocks may differ."""

INFERENCE_TIMEOUT = 60.0


def examine_model_servers(config: Config, *, infer: bool) -> Iterator[Finding]:
    """Ask each model server for its models and, if ``infer``, its first model for a few tokens."""
    for origin in config.upstream_origins:
        headers = {"authorization": f"Bearer {config.openai_api_key}"} if config.openai_api_key else {}
        timeout = httpx.Timeout(10.0, connect=config.connect_timeout)
        with httpx.Client(base_url=origin, headers=headers, timeout=timeout, trust_env=False) as client:
            yield from _examine(client, origin, infer)


def _examine(client: httpx.Client, origin: str, infer: bool) -> Iterator[Finding]:
    try:
        answer = client.get("/v1/models")
    except httpx.HTTPError as error:
        yield problem(CHECK, f"{origin} can't be reached: {_words(error)}.", "Start it, or set llm_api_base.")
        return
    yield from _examine_clock(answer)
    if answer.status_code in (401, 403):
        says = f"{origin} doesn't take the key ({answer.status_code})."
        yield problem(CHECK, says, "Set openai_api_key, or OPENAI_API_KEY_FILE, to the one that it asks for.")
        return
    models = _models(answer)
    if models is None:
        says = f"{origin} answers GET /v1/models with {answer.status_code} and no list of models."
        yield problem(CHECK, says, "Set llm_api_base to the root of an OpenAI-compatible server.")
        return
    if not models:
        yield problem("model", f"{origin} has no model.", "Load one there.")
        return
    yield ok(CHECK, f"{origin} serves {', '.join(models[:5])}{' and others' if len(models) > 5 else ''}.")
    if infer:
        yield _examine_model(client, models[0])


def _models(answer: httpx.Response) -> list[str] | None:
    try:
        listed: Any = answer.json()
        return [str(each["id"]) for each in listed["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _examine_model(client: httpx.Client, model: str) -> Finding:
    body = {"model": model, "input": "Say yes.", "max_output_tokens": 16, "store": False}
    began = time.monotonic()
    try:
        answer = client.post("/v1/responses", json=body, timeout=INFERENCE_TIMEOUT)
    except httpx.HTTPError as error:
        says = f"{model} doesn't answer: {_words(error)}."
        return problem("model", says, "Look at the model server's log: it may be loading, or out of memory.")
    if answer.status_code == 404:
        says = "The model server has no /v1/responses."
        return problem("model", says, "Use a version that has the Responses API (vLLM 0.10 or newer).")
    if answer.status_code != 200:
        says = f"{model} refuses a small request with {answer.status_code}."
        return problem("model", says, "Look at the model server's log.")
    return ok("model", f"{model} has answered in {time.monotonic() - began:.1f} s.")


def _examine_clock(answer: httpx.Response) -> Iterator[Finding]:
    try:
        theirs = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return
    skew = time.time() - theirs
    if abs(skew) > SKEW:
        where = "ahead of" if skew > 0 else "behind"
        says = f"This machine's clock is {abs(skew):.0f} s {where} the model server's."
        yield warning("clock", says, "Have both set by NTP.")
    else:
        yield ok("clock", "It agrees with the model server's.")


def _words(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "it doesn't answer in time"
    return str(error) or type(error).__name__
