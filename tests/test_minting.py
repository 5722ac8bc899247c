"""Object ids."""

from __future__ import annotations

import os
import re

from agentic_trio import minting
from agentic_trio.minting import mint_id


def test_ids_have_the_shape_of_openais():
    assert re.fullmatch(r"resp_[0-9a-f]{48}", mint_id("resp"))


def test_ids_grow_with_time(monkeypatch):
    seconds = [1.0, 1.5, 255.0, 2e9, 9e9]
    ids = []
    for second in seconds:
        monkeypatch.setattr(minting, "time", lambda second=second: second)
        ids.append(mint_id("msg"))
    assert ids == sorted(ids)


def test_no_id_comes_twice_not_even_at_one_time(monkeypatch):
    monkeypatch.setattr(minting, "time", lambda: 1.0)
    count = 3 * minting._POOLED
    ids = {mint_id("msg") for _ in range(count)}
    assert len(ids) == count
    # All that follows the time is random.
    assert len({id[-2 * minting.RANDOM_BYTES :] for id in ids}) == count


def test_a_forked_process_mints_ids_of_its_own():
    mint_id("msg")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, mint_id("msg").encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    assert theirs[-36:] != mint_id("msg")[-36:]
    os.close(reading)
    os.close(writing)
