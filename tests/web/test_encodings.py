"""Compressed request bodies: decoded within the bound on bodies, or refused by name."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from .harness import World, open_world, said

if TYPE_CHECKING:
    from collections.abc import Callable

BODY = {"model": "tiny", "input": "hi " * 50}
PLAIN = json.dumps(BODY).encode()


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def zstd_in_pieces(data: bytes) -> bytes:
    """A frame that doesn't say how large its content is."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


def gzip_members(data: bytes) -> bytes:
    return gzip.compress(data[:20]) + gzip.compress(data[20:])


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in capitals": ("GZip", gzip.compress),
    "gzip of two members": ("gzip", gzip_members),
    "x-gzip": ("x-gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstandard.compress),
    "zstd without a size": ("zstd", zstd_in_pieces),
    "identity": ("identity", bytes),
}
every_encoding = pytest.mark.parametrize("name", ENCODINGS)

PATHS: dict[str, dict[str, Any]] = {
    "/v1/responses": BODY,
    "/v1/conversations": {"items": [{"role": "user", "content": "hi " * 50}]},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
}


async def post(world: World, path: str, content: bytes, encoding: str) -> Any:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    return await world.client.post(path, content=content, headers=headers)


@every_encoding
@pytest.mark.parametrize("path", PATHS)
async def test_a_compressed_body_is_read(world: World, path: str, name: str) -> None:
    encoding, compress = ENCODINGS[name]
    content = json.dumps(PATHS[path]).encode()
    answer = await post(world, path, compress(content), encoding)
    assert answer.status_code == 200, answer.text
    if path == "/v1/responses":
        assert said(world.upstream.last) == [("user", BODY["input"])]
    elif path == "/v1/chat/completions":
        assert world.upstream.last.body == content
        assert "content-encoding" not in world.upstream.last.headers


@pytest.mark.parametrize("name", [name for name in ENCODINGS if name != "identity"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_is_cut_short_or_something_else_is_refused(
    world: World, path: str, name: str
) -> None:
    encoding, compress = ENCODINGS[name]
    whole = compress(json.dumps(PATHS[path]).encode())
    for content in (whole[: len(whole) // 2], whole[:1], b"", b"no such thing", PLAIN):
        answer = await post(world, path, content, encoding)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_content_encoding"), content
    assert not world.upstream.requests


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, gzip", "gzip;q=1", "x" * 5000])
@pytest.mark.parametrize("path", PATHS)
async def test_another_encoding_is_refused_by_name(world: World, path: str, encoding: str) -> None:
    answer = await post(world, path, PLAIN, encoding)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_content_encoding")
    assert encoding[:100] in answer.json()["error"]["message"]
    assert len(answer.content) < 500
    assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"


@every_encoding
@pytest.mark.parametrize("path", PATHS)
async def test_a_bomb_is_too_large(path: str, name: str) -> None:
    encoding, compress = ENCODINGS[name]
    async with open_world(max_request_body_size=100_000) as world:
        answer = await post(world, path, compress(b" " * 3_000_000), encoding)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert world.gateway.admission.bytes_left == world.gateway.config.max_held_bytes
