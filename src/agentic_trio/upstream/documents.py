"""Small documents that are fetched over HTTP: bounded in size and time, and never redirected."""

from __future__ import annotations

from functools import partial

import httpx

from agentic_trio.errors import UpstreamError
from agentic_trio.net.deadlines import open_deadlines
from agentic_trio.net.direct import open_direct_stream
from agentic_trio.upstream.answer import Answer, ReceivedChunks
from agentic_trio.upstream.round_trip import OutgoingRequest
from agentic_trio.upstream.transport import StreamTransport

DOCUMENT_TIMEOUT = 10.0
"""Seconds that connecting may take, and each read."""


class DocumentError(Exception):
    """A document could not be fetched. The message says why, in words that may be logged."""


async def fetch_document(url: str, *, max_bytes: int) -> bytes:
    """Fetch a document.

    Args:
        url: where it is.
        max_bytes: how large it may be; hardly more of it is read.

    Raises:
        DocumentError: it isn't there, is too large, or did not arrive in time.

    Cancellation: the connection is closed.
    """
    try:
        parsed = httpx.URL(url)
        request = httpx.Request(
            "GET",
            parsed,
            headers=[(b"host", parsed.netloc), (b"accept", b"application/json")],
            extensions={"timeout": httpx.Timeout(DOCUMENT_TIMEOUT).as_dict()},
        )
        async with (
            open_deadlines() as deadlines,
            StreamTransport(connect=partial(open_direct_stream, deadlines=deadlines)) as transport,
        ):
            response = await transport.open(OutgoingRequest.of(request))
            try:
                return await _body(
                    Answer(response.status, response.headers, ReceivedChunks(response)), max_bytes
                )
            finally:
                await response.aclose()
    except (httpx.HTTPError, httpx.InvalidURL, UpstreamError) as error:
        raise DocumentError(str(error) or type(error).__name__) from error


async def _body(answer: Answer, max_bytes: int) -> bytes:
    if answer.status != 200:
        raise DocumentError(f"the status is {answer.status}")
    document = bytearray()
    async for chunk in answer.chunks:
        document += chunk
        if len(document) > max_bytes:
            raise DocumentError(f"it is larger than {max_bytes} bytes")
    return bytes(document)
