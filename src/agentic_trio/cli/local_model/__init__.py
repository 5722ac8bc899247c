"""The local model: llama.cpp with Gemma 3 270M, in a child process.

It lets a machine without a GPU or a vLLM do the whole job. Both the engine and the weights come
from the ``[local]`` extra; the weights are under the Gemma terms.
"""

from agentic_trio.cli.local_model.child import MODEL, STOP
from agentic_trio.cli.local_model.parent import LocalModelError, run_local_model

__all__ = ["MODEL", "STOP", "LocalModelError", "run_local_model"]
