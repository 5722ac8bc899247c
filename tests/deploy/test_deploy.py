"""The samples in ``deploy/``: as far as they can be tried without a cluster or a GPU."""

from __future__ import annotations

import os
import re
import shutil
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import yaml

from agentic_trio import Config, Gateway, open_gateway, serve
from agentic_trio.config import SETTINGS
from agentic_trio.net.nurseries import open_inner_nursery
from tests.fake_upstream import FakeUpstream, Script, open_fake_upstream
from tests.http_client import open_under_way
from tests.oracles import parse_sse
from tests.scripts.programs import PATIENCE, ROOT, run_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DEPLOY = ROOT / "deploy"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
VARIABLES = {variable for each in SETTINGS.values() for variable in each.variables}


def needs(program: str) -> str:
    found = shutil.which(program, path=PATH)
    if found is None:
        pytest.skip(f"there is no {program}")
    return found


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_every_variable_that_a_sample_sets_is_a_setting() -> None:
    own = {"PATH", "PYTHONDONTWRITEBYTECODE"}
    dockerfile = set(re.findall(r"([A-Z_]+)=\S", (DEPLOY / "Dockerfile").read_text()))
    unit = re.findall(r"^Environment=([A-Z_]+)=", (DEPLOY / "agentic-trio.service").read_text(), re.M)
    (compose,) = documents("compose.yaml")
    (pod, _, _) = documents("kubernetes/gateway.yaml")
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    named = {
        *(dockerfile - own),
        *unit,
        *compose["services"]["gateway"]["environment"],
        *(each["name"] for each in container["env"]),
    }
    assert named <= VARIABLES, named - VARIABLES


def test_the_container_is_of_a_user_without_rights_and_needs_no_writable_root() -> None:
    (compose,) = documents("compose.yaml")
    gateway = compose["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.M)
    assert "HEALTHCHECK" in text
    assert not re.search(r"^(ADD|RUN .*curl)", text, re.M)


def test_each_supervisor_waits_longer_than_the_gateway_s_grace() -> None:
    grace = Config().graceful_timeout
    (compose,) = documents("compose.yaml")
    (pod, _, budget) = documents("kubernetes/gateway.yaml")
    waits = [
        float(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s")),
        float(pod["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]),
        float(re.findall(r"TimeoutStopSec=(\d+)", (DEPLOY / "agentic-trio.service").read_text())[0]),
    ]
    assert min(waits) >= grace + 5
    assert pod["spec"]["replicas"] == 1
    assert budget["kind"] == "PodDisruptionBudget"


def test_the_probes_ask_what_is_there_on_the_port_that_is_open() -> None:
    pod, service, _ = documents("kubernetes/gateway.yaml")
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    asked = {name: each["httpGet"] for name, each in container.items() if name.endswith("Probe")}
    assert {name: each["path"] for name, each in asked.items()} == {
        "startupProbe": "/health",
        "livenessProbe": "/health",
        "readinessProbe": "/ready",
    }
    assert {each["port"] for each in asked.values()} == {port["name"]}
    assert port["containerPort"] == service["spec"]["ports"][0]["port"] == Config().port
    labels = pod["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == pod["spec"]["selector"]["matchLabels"] == labels


async def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    unit = (DEPLOY / "agentic-trio.service").read_text()
    file = tmp_path / "agentic-trio.service"
    file.write_text(unit.replace("/opt/agentic-trio/bin/agentic-trio", "/bin/true"))
    ran = await run_program([analyze, "verify", str(file)])
    assert (ran.code, ran.out + ran.err) == (0, "")
    ran = await run_program([analyze, "security", "--offline=yes", "--no-pager", str(file)])
    (exposure,) = re.findall(r"exposure level for \S+: ([\d.]+)", ran.out)
    assert float(exposure) < 2


async def test_caddy_takes_its_sample() -> None:
    ran = await run_program(
        [needs("caddy"), "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
    )
    assert ran.code == 0, ran.err


@pytest.fixture
async def behind_nginx(tmp_path: Path) -> AsyncIterator[tuple[str, Gateway, FakeUpstream]]:
    """A gateway behind a real nginx with the sample: nginx's URL, the gateway, its model server."""
    nginx = needs("nginx")
    async with open_fake_upstream() as upstream:
        config = Config(llm_api_base=upstream.url, db_url="sqlite://:memory:", port=0, graceful_timeout=0)
        async with open_gateway(config) as gateway, open_inner_nursery() as nursery:
            (url,) = await nursery.start(serve, gateway)
            port, file = write_nginx(tmp_path, url.removeprefix("http://"))
            process = await trio.lowlevel.open_process([nginx, "-p", str(tmp_path), "-c", str(file)])
            try:
                await until_listens(port)
                yield f"http://127.0.0.1:{port}", gateway, upstream
            finally:
                process.terminate()
                await process.wait()
            nursery.cancel_scope.cancel()


def write_nginx(folder: Path, gateway: str) -> tuple[int, Path]:
    """The sample with its addresses changed, in the frame that a distribution has around it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sample = (DEPLOY / "nginx.conf").read_text()
    sample = sample.replace("gateway:9000", gateway).replace("listen 8080", f"listen 127.0.0.1:{port}")
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}} "
        f"http {{ access_log off; {paths} {sample} }}"
    )
    return port, file


async def until_listens(port: int) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.05)
            else:
                await stream.aclose()
                return


ASK = {"model": "tiny", "input": "hi", "stream": True}


async def test_a_stream_goes_through_nginx_as_it_comes(
    behind_nginx: tuple[str, Gateway, FakeUpstream],
) -> None:
    url, _, upstream = behind_nginx
    upstream.script(Script(stall_after=6))
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        async with client.stream("POST", f"{url}/v1/responses", json=ASK) as answer:
            chunks = answer.aiter_bytes()
            raw = b""
            # The model server has said no more, so this waits for ever if nginx holds anything back.
            while b"response.output_text.delta" not in raw:
                raw += await anext(chunks)
            upstream.release()
            async for chunk in chunks:
                raw += chunk
        events, done = parse_sse(raw)
        assert done
        assert events[-1]["type"] == "response.completed"
        kept = await client.get(f"{url}/v1/responses/{events[-1]['response']['id']}")
        assert kept.json() == events[-1]["response"]


async def test_a_client_that_leaves_nginx_stops_the_model(
    behind_nginx: tuple[str, Gateway, FakeUpstream],
) -> None:
    url, gateway, upstream = behind_nginx
    upstream.script(Script(stall_after=6))
    async with open_under_way(int(url.rpartition(":")[2]), {"input": "hi"}, b"output_text.delta") as client:
        pass
    with trio.fail_after(PATIENCE):
        await upstream.wait_aborted(1)
        await gateway.turns.wait_for_running()
    assert (await gateway.get_response(client.id))["status"] == "cancelled"
