"""A fake vLLM: scripted answers over HTTP/1.1, byte for byte in the dialects of real servers.

In a test::

    async with open_fake_upstream() as upstream:
        ...                                   # POST to f"{upstream.url}/v1/responses"
        assert upstream.last.json["input"] == "hi"

By itself (prints its URL)::

    python -m tests.fake_upstream --port 0 --dialect vllm --deltas 208 --interval 0.002

What it answers is a :class:`Script`. The first of these that is there decides: ``upstream.script(fn)``;
a directive in the request's last user text, ``!{"deltas": 5, "cut_after": 7} and the text``; the server's
default. Without an ``output`` the answer is a function of the request, so that a test sees that the
history arrived: ``"echo: <number of input items>; last: <text of the last item>"``, or, when the text
says ``call NAME {...}`` and a tool has that name, a call of it.

``open_raw_upstream`` is for what no script can say: bytes that are not HTTP, or not yet.
"""

from .answers import DATA, Answer, cut_writes, dress, split_events
from .endpoints import render_response, rendered
from .raw import open_raw_upstream
from .requests import Recorded, RequestReader, last_text, text_of
from .script import Call, CustomCall, Dialect, Item, Reasoning, Refusal, Script, Text, Unknown, directive
from .server import FakeUpstream, open_fake_upstream

__all__ = [
    "DATA",
    "Answer",
    "Call",
    "CustomCall",
    "Dialect",
    "FakeUpstream",
    "Item",
    "Reasoning",
    "Recorded",
    "Refusal",
    "RequestReader",
    "Script",
    "Text",
    "Unknown",
    "cut_writes",
    "directive",
    "dress",
    "last_text",
    "open_fake_upstream",
    "open_raw_upstream",
    "render_response",
    "rendered",
    "split_events",
    "text_of",
]
