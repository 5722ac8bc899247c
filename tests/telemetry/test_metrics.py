"""What Prometheus reads of a gateway."""

from __future__ import annotations

import gc
import json
import logging
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import wait_all_tasks_blocked

from agentic_trio import Config
from agentic_trio.errors import ConfigError
from agentic_trio.gateway import unrecorded
from agentic_trio.gateway.unrecorded import Unrecorded
from agentic_trio.server.metrics_port import open_metrics_port
from agentic_trio.store.contract import StoreError
from agentic_trio.telemetry.figures import Figures
from agentic_trio.telemetry.lines import Line
from agentic_trio.telemetry.metrics import MAX_REASONS, Metrics
from agentic_trio.telemetry.observer import Observer
from agentic_trio.web.scope import RequestScope
from tests.http_client import open_under_way
from tests.store.records import ending
from tests.turn.stage import Stage, failing
from tests.web.harness import World, open_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]


def values(metrics: Metrics) -> dict[str, float]:
    """Each sample by its name and labels, as a query would write them."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture(params=["direct", "dispatched"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "dispatched":
        monkeypatch.setattr(RequestScope, "direct", False)


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def world(metrics: Metrics) -> AsyncIterator[World]:
    async with open_world(observer=Observer(metrics=metrics)) as world:
        yield world


async def test_turns_tokens_and_requests_are_counted(world: World, metrics: Metrics) -> None:
    response = await world.create()
    await world.stream()
    await world.refused(input=7)
    await world.client.get(f"/v1/responses/{response['id']}")
    await world.client.get("/v1/responses/resp_unknown")
    await world.client.get("/elsewhere")
    seen = values(metrics)
    assert seen['agentic_trio_turns_total{ending="completed",owner="single"}'] == 2
    assert seen['agentic_trio_tokens_total{kind="input"}'] > 0
    assert seen['agentic_trio_requests_total{route="/v1/responses",status="2xx"}'] == 2
    assert seen['agentic_trio_requests_total{route="/v1/responses",status="4xx"}'] == 1
    assert seen['agentic_trio_requests_total{route="/v1/responses/{id}",status="2xx"}'] == 1
    assert seen['agentic_trio_requests_total{route="?",status="4xx"}'] == 1
    assert seen['agentic_trio_refusals_total{reason="unknown_url"}'] == 1
    assert seen["agentic_trio_first_event_seconds_count"] == 1
    assert seen["agentic_trio_gateway_seconds_count"] == seen["agentic_trio_upstream_seconds_count"] == 2
    assert seen["agentic_trio_commit_units_count"] >= 3
    assert seen["agentic_trio_lost_total"] == 0
    for now in ("live_turns", "live_streams", "slots_in_use", "queued_writes", "unrecorded_endings"):
        assert seen[f"agentic_trio_{now}"] == 0


async def test_what_is_under_way_is_shown(world: World, metrics: Metrics) -> None:
    stalled = {"input": '!{"stall_after": 6} hi there'}
    async with open_under_way(world.port, stalled, b"response.output_text.delta"):
        seen = values(metrics)
        assert seen["agentic_trio_live_turns"] == seen["agentic_trio_live_streams"] == 1
        assert seen["agentic_trio_slots_in_use"] == 1
        assert seen["agentic_trio_connections"] >= 1
    with trio.fail_after(5):
        await world.gateway.turns.wait_for_running()
    await wait_all_tasks_blocked(0.01)
    assert not values(metrics)["agentic_trio_live_streams"]
    assert values(metrics)['agentic_trio_turns_total{ending="cancelled",owner="single"}'] == 1


async def test_metrics_are_for_this_machine(world: World) -> None:
    answer = await world.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "agentic_trio_lost_total 0.0" in answer.text
    for header in ("x-forwarded-for", "forwarded", "via", "x-real-ip"):
        refused = await world.client.get("/metrics", headers={header: "203.0.113.9"})
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "metrics_are_local"


async def test_metrics_that_are_off_are_not_there() -> None:
    async with open_world() as world:
        assert (await world.client.get("/metrics")).status_code == 404


async def test_a_port_of_their_own_serves_metrics_alone(metrics: Metrics, unused_tcp_port: int) -> None:
    async with open_world(observer=Observer(metrics=metrics), metrics_port=unused_tcp_port) as world:
        await world.create()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{unused_tcp_port}", trust_env=False
        ) as client:
            answer = await client.get("/metrics")
            assert 'turns_total{ending="completed",owner="single"} 1.0' in answer.text
            assert (await client.head("/metrics")).status_code == 200
            for method, path in (("GET", "/v1/models"), ("POST", "/metrics"), ("POST", "/v1/responses")):
                assert (await client.request(method, path)).status_code == 404


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # hypercorn leaves its socket
async def test_a_port_that_is_taken_is_named(metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = Config(metrics_port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"metrics can't be served on 127.0.0.1"):
            async with open_metrics_port(metrics, config):
                pass
    gc.collect()  # now, while nobody minds


async def test_an_answer_says_what_the_gateway_took(world: World) -> None:
    parts = r"gateway;dur=\d+\.\d, model;dur=\d+\.\d"
    turn = await world.post("/v1/responses", {"model": "tiny", "input": "hi"})
    assert re.fullmatch(rf"{parts}, history;dur=\d+\.\d, commit;dur=\d+\.\d", turn.headers["server-timing"])
    for path in ("/health", "/v1/models", "/elsewhere"):
        answer = await world.client.get(path)
        assert re.fullmatch(parts, answer.headers["server-timing"])


async def test_the_time_of_the_model_server_is_not_the_gateway_s(world: World) -> None:
    turn = await world.post(
        "/v1/responses", {"model": "tiny", "input": '!{"interval": 0.05, "deltas": 4} hi'}
    )
    found = dict(re.findall(r"(\w+);dur=([\d.]+)", turn.headers["server-timing"]))
    assert float(found["model"]) >= 150


def test_a_model_server_s_words_don_t_make_metrics_grow(metrics: Metrics) -> None:
    for number in range(3 * MAX_REASONS):
        metrics.request(Line("request", route="/v1/responses", status=500, code=f"made_up_{number}"))
    reasons = [name for name in values(metrics) if name.startswith("agentic_trio_refusals_total")]
    assert len(reasons) <= MAX_REASONS + 1
    assert values(metrics)['agentic_trio_refusals_total{reason="other"}'] >= 2 * MAX_REASONS


async def test_an_ending_that_is_given_up_is_lost(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unrecorded, "MAX_UNRECORDED", 2)
    kept = Unrecorded(Stage().services.store)
    kept.on_lost = Observer(metrics=metrics).lost
    for id in ("a", "b", "c"):
        kept.keep(ending(id))
    assert values(metrics)["agentic_trio_lost_total"] == 1
    kept.abandon()
    assert values(metrics)["agentic_trio_lost_total"] == 3
    told = [record for record in caplog.records if getattr(record, "event", "") == "turn_lost"]
    assert [record.fields["response_id"] for record in told] == ["a", "b", "c"]


async def test_an_ending_that_is_recorded_late_is_not_lost(metrics: Metrics) -> None:
    stage = Stage()
    stage.services.unrecorded.on_lost = Observer(metrics=metrics).lost
    stage.store.before["end"] = failing(StoreError("the disk is full"))
    await stage.turn().run()
    assert len(stage.services.unrecorded) == 1
    del stage.store.before["end"]
    await stage.services.unrecorded.flush()
    stage.services.unrecorded.abandon()
    assert values(metrics)["agentic_trio_lost_total"] == 0


def test_a_loop_that_stood_still_is_told_of_once_a_minute(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Observer(metrics=metrics)
    for seconds in (0.001, 0.4, 0.9):
        observer.late(seconds)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.event == "loop_stalled"
    assert values(metrics)["agentic_trio_loop_lag_seconds_count"] == 3


def test_a_turn_costs_as_many_additions_as_it_says(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them looks a label up: that would cost more than all the rest."""
    figures = Figures(began=1.0, called=2.0, first=3.0, answered=4.0, ended=5.0, stored=6.0)
    figures.ending = "completed"
    figures.input_tokens = figures.output_tokens = 1
    line = Line("request", route="/v1/responses", status=200)
    metrics.request(line)
    monkeypatch.setattr("prometheus_client.metrics.MetricWrapperBase.labels", None)
    metrics.turn(figures)
    metrics.request(line)


def names() -> set[str]:
    """Every metric that a gateway shows."""
    metrics = Metrics()
    shown = set(
        re.findall(r"show\(\s*\"(\w+)\"", "".join(path.read_text() for path in (ROOT / "src").rglob("*.py")))
    )
    families = {family.name for family in text_string_to_metric_families(metrics.text().decode())}
    ours = {name for name in families if re.match(r"agentic_trio_(?!.*_created$)", name)}
    return ours | {f"agentic_trio_{name}" for name in shown} | {"process_resident_memory_bytes"}


def base(name: str) -> str:
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


def test_the_dashboard_has_every_metric_and_no_other() -> None:
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    named = re.findall(r"\b(?:agentic_trio|process)_\w+", " ".join(expressions))
    assert set(map(base, named)) == names()
