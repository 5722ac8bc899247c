"""A stream that outlasts every default timeout on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.fake_upstream import open_fake_upstream
from tests.http_client import open_under_way
from tests.oracles import check_event_stream

from .harness import open_server

if TYPE_CHECKING:
    from pathlib import Path

LONG = 62.0
"""Seconds; Quart cuts a response after 60 unless told otherwise."""


@pytest.mark.slow
async def test_stream_that_is_silent_for_more_than_a_minute_is_completed(tmp_path: Path) -> None:
    async with open_fake_upstream() as upstream, open_server(tmp_path, upstream.url) as server:
        body = {"input": '!{"stall_after": 6} hi'}
        async with open_under_way(server.port, body, b"response.output_text.delta") as client:
            await trio.sleep(LONG)  # the behaviour is about real time
            upstream.release()
            check_event_stream(await client.read(), ending="response.completed")
