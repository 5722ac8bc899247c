"""The benchmark works: its smallest form runs, its statistics are right."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from bench.charts import Point, Series, line_chart
from bench.checks import Asker, Wrong
from bench.client import Reply
from bench.stats import median, median_ranks, summarize

ROOT = Path(__file__).resolve().parents[2]


def run_script(name, out, *arguments):
    command = [sys.executable, str(ROOT / "bench" / name), "--tiny", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=out, check=False)


def test_tiny_run_measures_every_group_and_writes_its_report(tmp_path):
    done = run_script("run.py", tmp_path, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "conversation_rehydration/streaming/turns 2" in done.stdout
    found = json.loads((tmp_path / "run.json").read_text())
    assert [group["name"] for group in found["groups"]] == [
        "direct/non_stream",
        "proxy/non_stream",
        "direct/stream",
        "proxy/stream",
        *(
            f"{kind}_rehydration/{mode}/turns {turns}"
            for kind in ("conversation", "response")
            for mode in ("non_streaming", "streaming")
            for turns in (1, 2)
        ),
    ]
    works = ["direct", "store=false", "store=true"]
    load = found["concurrency"]
    assert list(dict.fromkeys(point["name"] for point in load)) == works + [
        f"{name}, stream" for name in works
    ]
    assert all((point["cpu"] > 0) == ("direct" not in point["name"]) for point in load + found["depth"])
    assert all(0 < point["first"] <= point["p99"] for point in load)
    assert found["sizes"]["database, for each byte of items"] > 1
    page = (tmp_path / "run.html").read_text()
    assert page.count("<svg") == 6
    assert "://" not in page


def test_tiny_comparison_runs_with_this_gateway_alone(tmp_path):
    done = run_script("rivals.py", tmp_path, "--ours", "--json", str(tmp_path / "rivals.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rivals.json").read_text())
    assert len(rows) > 10
    assert all(isinstance(row["values"]["agentic-trio"], float) for row in rows), rows


def test_tiny_comparison_of_the_connections_measures_both_apps(tmp_path):
    done = run_script("connection.py", tmp_path, "--json", str(tmp_path / "connection.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "connection.json").read_text())
    assert len(rows) == 4
    for row in rows:
        # The clock of a process's CPU time may be too coarse for so little work.
        assert all(isinstance(value, float) and value >= 0 for value in row["values"].values()), row
        assert row["values"].keys() == {"agentic-trio", "hypercorn"}


def reply(text, status=200):
    return Reply(status, text.encode(), 0.0, 0.0)


def test_answer_that_saw_too_few_items_is_wrong():
    with pytest.raises(Wrong, match="given 3 items, not 5"):
        Asker("tiny").check(reply('{"status":"completed","text":"echo: 3 items; last: hi"}'), items=5)


def test_stream_without_its_end_is_wrong():
    with pytest.raises(Wrong, match="not completed"):
        Asker("tiny").check(reply('event: x\ndata: {"text":"echo: 1 items"}\n\n'))


def test_stream_with_a_delta_lost_is_wrong():
    delta = 'data: {"type":"response.output_text.delta"}\n\n'
    body = delta + 'data: {"type":"response.completed","text":"echo: 1 items"}\n\n'
    with pytest.raises(Wrong, match="1 deltas came, not 2"):
        Asker("tiny").check(reply(body), deltas=2)


def test_refusal_is_wrong():
    with pytest.raises(Wrong, match="status 503"):
        Asker("tiny").check(reply("{}", status=503))


def test_median_ranks_are_those_of_the_binomial():
    # Tabulated: of 20 values the 6th to the 15th (95.9 %), of 100 the 40th to the 61st.
    assert median_ranks(20) == (5, 14)
    assert median_ranks(100) == (39, 60)
    assert median_ranks(1) == (0, 0)
    assert median_ranks(4) == (0, 3)


def test_interval_covers_the_median_as_often_as_it_says():
    chance = random.Random(1)
    covered = 0
    for _ in range(1000):
        found = summarize([chance.random() for _ in range(30)])
        covered += found.low <= 0.5 <= found.high
    assert covered >= 940


def test_median_of_an_even_number_is_the_mean_of_the_middle():
    assert median([4, 1, 3, 2]) == 2.5


def test_chart_of_one_point_has_no_division_by_zero():
    assert "<circle" in line_chart([Series("a", [Point(1, 0)])], x="x", y="y", log_x=True)
