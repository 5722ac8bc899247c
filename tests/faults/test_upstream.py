"""A model server that fails in every way we know, under each kind of request: one outcome each."""

from __future__ import annotations

import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.fake_upstream import FakeUpstream, Script, Text, open_raw_upstream
from tests.http_client import open_exchange
from tests.oracles import check_error, check_event_stream, check_response
from tests.web.harness import MODEL, NOWHERE

from .ledger import ledger
from .world import (
    UNDER_WAY,
    check_ended_early,
    check_told_why,
    ended,
    open_file_world,
    status_on_disk,
    streamed,
    until_ready,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.web.harness import World

Json = dict[str, Any]

IDLE = 0.5
"""Seconds that the model server may be silent in these tests."""

HELLO = Script(output=(Text(("Hel", "lo", ", you", "!")),))


@dataclass(frozen=True)
class Raw:
    """What a server sends that isn't a scripted one."""

    answer: bytes = b""
    endless: bytes = b""
    ends: str = "close"


@dataclass(frozen=True)
class Fault:
    """
    Attributes:
        does: how the model server answers; None where nobody listens.
        status, code, says: of the error that a client is told; ``says`` is a part of its message.
        headers: that come with it.
    """

    does: Script | Raw | None
    status: int
    code: str
    says: str
    headers: dict[str, str] = field(default_factory=dict)


def silent(does: Script | Raw) -> Fault:
    return Fault(does, 504, "upstream_timeout", "did not answer in time")


def broken(does: Script | Raw, says: str = "broke off") -> Fault:
    return Fault(does, 502, "upstream_error", says)


def refusing(status: int, **headers: str) -> Fault:
    code = "rate_limit_exceeded" if status == 429 else "upstream_error"
    kept = {name: value for name, value in headers.items() if name == "retry-after"}
    return Fault(Script(status=status, headers=headers), status, code, "refuses", kept)


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
CHUNKED = EVENTS.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n")
CREATED = b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{}}\n\n'
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"

BEFORE_THE_HEAD = {
    "does not listen": Fault(None, 502, "upstream_unreachable", "can't be reached"),
    "hangs": silent(Script(hang=True)),
    "closes": broken(Raw()),
    "resets": broken(Raw(ends="reset")),
    "closes in its head": broken(Raw(b"HTTP/1.1 200 OK\r\ncontent-ty")),
    "hangs in its head": silent(Raw(b"HTTP/1.1 200 OK\r\ncontent-ty", ends="stay")),
    "speaks no HTTP": broken(Raw(b"SSH-2.0-OpenSSH_9.6\r\n", ends="stay")),
    "sends an endless header": broken(Raw(b"HTTP/1.1 200 OK\r\nx: ", endless=b"x")),
    "sends headers without end": broken(Raw(b"HTTP/1.1 200 OK\r\n", endless=b"x: y\r\n")),
    "sends a broken chunk": broken(Raw(CHUNKED + b"nonsense\r\n", ends="stay")),
    "redirects": broken(Raw(b"HTTP/1.1 307 Go\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"), ""),
    "refuses with 429": refusing(429, **{"retry-after": "7"}),
    "refuses with 500": refusing(500),
    "refuses with 503": refusing(503, **{"retry-after": "7", "x-else": "no"}),
    "refuses with a page": Fault(
        Script(status=503, body="<html>", content_type="text/html"), 503, "upstream_error", ""
    ),
    "refuses and breaks off": Fault(
        Raw(b"HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\n{"), 503, "upstream_error", ""
    ),
    "refuses without end": Fault(
        Raw(b"HTTP/1.1 503 No\r\ncontent-length: 999999999\r\n\r\n", endless=b"no "),
        503,
        "upstream_error",
        "",
    ),
}

IN_A_STREAM = {
    "stalls at once": silent(HELLO.varied(stall_after=0)),
    "stalls between events": silent(HELLO.varied(stall_after=6)),
    "stalls in an event": silent(HELLO.varied(stall_after=6, cut_bytes=30)),
    "cuts between events": broken(HELLO.varied(cut_after=6)),
    "cuts in an event": broken(HELLO.varied(cut_after=6, cut_bytes=30)),
    "resets": broken(HELLO.varied(reset_after=6)),
    "ends too early": broken(HELLO.varied(terminal=False)),
    "closes a body without length": broken(Raw(EVENTS + CREATED)),
    "sends garbage": broken(HELLO.varied(insert_after=6, insert="data: \x01{no\n\n"), "not an event"),
    "sends what is no text": broken(
        HELLO.varied(insert_after=6, insert='data: {"type":"\udcff\udcfe"}\n\n'), "not an event"
    ),
    "sends an endless line": broken(HELLO.varied(endless_after=6), "too large"),
    "fails in its own words": Fault(
        HELLO.varied(fail_after=6, failure=("error",), error="CUDA is gone."),
        200,
        "server_error",
        "CUDA is gone.",
    ),
    "fails as a response": Fault(
        HELLO.varied(fail_after=6, error="CUDA is gone."), 200, "server_error", "CUDA is gone."
    ),
}

IN_A_WHOLE_ANSWER = {
    "stalls at once": silent(HELLO.varied(stall_after=0)),
    "stalls in it": silent(HELLO.varied(stall_after=0, cut_bytes=30)),
    "cuts it": broken(HELLO.varied(cut_after=0, cut_bytes=30)),
    "resets it": broken(HELLO.varied(reset_after=0, cut_bytes=30)),
    "sends garbage": broken(Script(body='{"id": '), "not a response"),
    "sends what is no text": broken(Script(raw=b'{"output": ["\xff\xfe"]}'), ""),
    "sends other JSON": broken(Script(body='{"ok": true}'), "not a response"),
    "sends a page": broken(Script(body="<html>", content_type="text/html"), "not a response"),
    "sends an answer without end": broken(Raw(JSON + b'{"', endless=b"x"), "too large"),
}


@asynccontextmanager
async def open_faulty(database: Path, fault: Fault, **config: Any) -> AsyncIterator[World]:
    """A gateway before a model server that fails."""
    async with AsyncExitStack() as stack:
        base = None
        if fault.does is None:
            base = NOWHERE
        elif isinstance(fault.does, Raw):
            raw = fault.does
            base = await stack.enter_async_context(
                open_raw_upstream(raw.answer, endless=raw.endless, ends=raw.ends)
            )
        script = fault.does if isinstance(fault.does, Script) else None
        settings = {"idle_timeout": IDLE, "list_endpoints": True} | config
        async with open_file_world(database, script, llm_api_base=base, **settings) as world:
            yield world
            if not isinstance(fault.does, Raw):
                await world.upstream.wait_live(0)


async def responses(world: World) -> list[Json]:
    found: list[Json] = (await world.client.get("/v1/responses")).json()["data"]
    return found


async def check_background(world: World, fault: Fault, *, stream: bool) -> Json:
    """In the background the id was told, so there is a record that says what happened."""
    body = {"model": MODEL, "input": "hi", "background": True, "stream": stream}
    answer = await world.post("/v1/responses", body)
    ledger.fault()
    assert answer.status_code == 200
    if stream:
        events = check_event_stream(answer.content, body)
        told = events[-1]["response"]
        assert (events[-2]["type"], events[-2]["code"]) == ("error", fault.code)
    else:
        told = check_response(answer.content, body)
        assert told["status"] in UNDER_WAY
    response = await ended(world.client, told["id"], "failed")
    assert fault.says in response["error"]["message"]
    ledger.check(not stream or response == told, (told, response))
    return response


@pytest.mark.parametrize("kind", ["stream", "whole", "background", "background stream"])
@pytest.mark.parametrize("name", BEFORE_THE_HEAD)
async def test_a_failure_before_the_head_is_an_error_and_leaves_nothing(
    database: Path, name: str, kind: str
) -> None:
    fault = BEFORE_THE_HEAD[name]
    async with open_faulty(database, fault) as world:
        if kind.startswith("background"):
            response = await check_background(world, fault, stream=kind != "background")
            assert response["output"] == []
            return
        conversation = await world.converse()
        body = {"model": MODEL, "input": "hi", "stream": kind == "stream", "conversation": conversation}
        answer = await world.post("/v1/responses", body)
        ledger.fault()
        assert answer.status_code == fault.status, answer.text
        error = check_error(answer.status_code, answer.content, code=fault.code)
        assert fault.says in error["message"]
        assert {name: answer.headers.get(name) for name in ("retry-after", "x-else")} == {
            "retry-after": None,
            "x-else": None,
        } | fault.headers
        assert await responses(world) == []
        assert await world.items(f"/v1/conversations/{conversation}/items") == []


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", IN_A_STREAM)
async def test_a_failure_in_a_stream_is_told_and_recorded_with_what_had_arrived(
    database: Path, name: str, background: bool
) -> None:
    fault = IN_A_STREAM[name]
    async with open_faulty(database, fault) as world:
        if background:
            await check_background(world, fault, stream=True)
            return
        body = streamed()
        answer = await world.post("/v1/responses", body)
        ledger.fault()
        assert answer.status_code == 200, answer.text
        events = check_event_stream(answer.content, body)
        *told, error, failed = events
        assert (error["type"], failed["type"]) == ("error", "response.failed")
        assert error["code"] == fault.code
        assert fault.says in error["message"]
        if isinstance(fault.does, Raw):
            response = await ended(world.client, failed["response"]["id"], "failed")
        else:
            response = await check_ended_early(world, failed["response"]["id"], told, status="failed")
        ledger.check(response == failed["response"], (failed, response))
        again = await world.client.get(f"/v1/responses/{response['id']}?stream=true")
        ledger.check(again.content == answer.content, (answer.content, again.content))
        assert status_on_disk(database, response["id"]) == "failed"


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("name", IN_A_WHOLE_ANSWER)
async def test_a_failure_in_a_whole_answer_is_an_error_and_recorded(
    database: Path, name: str, background: bool
) -> None:
    fault = IN_A_WHOLE_ANSWER[name]
    async with open_faulty(database, fault) as world:
        if background:
            await check_background(world, fault, stream=False)
            return
        answer = await world.post("/v1/responses", {"model": MODEL, "input": "hi"})
        ledger.fault()
        assert answer.status_code == fault.status, answer.text
        error = check_error(answer.status_code, answer.content, code=fault.code)
        assert fault.says in error["message"]
        # Nobody was told its id; it is there for those who list.
        [response] = await responses(world)
        ledger.check((response["status"], response["output"]) == ("failed", []), response)


@pytest.mark.parametrize("background", [False, True])
async def test_an_answer_to_a_stream_that_is_no_stream_is_an_error(database: Path, background: bool) -> None:
    fault = broken(Script(body='{"ok": true}', content_type="application/json"), "an event stream")
    async with open_faulty(database, fault) as world:
        if background:
            await check_background(world, fault, stream=True)
            return
        answer = await world.post("/v1/responses", streamed())
        ledger.fault()
        assert answer.status_code == 502
        assert fault.says in check_error(502, answer.content, code="upstream_error")["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_in_an_answer_with_status_200_keeps_its_words(database: Path, stream: bool) -> None:
    script = Script(body='{"error": {"message": "boom", "code": 429}}', content_type="application/json")
    async with open_file_world(database, script) as world:
        answer = await world.post("/v1/responses", {"model": MODEL, "input": "hi", "stream": stream})
        ledger.fault()
        error = check_error(429, answer.content, code="rate_limit_exceeded")
        assert (answer.status_code, error["message"]) == (429, "boom")


@pytest.mark.parametrize("kind", ["stream", "whole", "background"])
async def test_a_model_server_that_dies_and_comes_back_is_used_again(database: Path, kind: str) -> None:
    body = {"model": MODEL, "input": "hi", "stream": kind == "stream", "background": kind == "background"}
    script = HELLO.varied(stall_after=6) if kind == "stream" else Script(hang=True)
    async with open_file_world(database, script) as world:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await world.post("/v1/responses", body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await world.upstream.wait_stalled(1)
            world.upstream.kill()
            ledger.fault()
        [answer] = answers
        await check_cut(world, kind, answer, body)
        await until_ready(world.client, 503)
        assert (await world.refused())[0] == 502
        async with revived(world.upstream):
            await until_ready(world.client, 200)
            await world.create(conversation=await world.converse())


async def check_cut(world: World, kind: str, answer: Any, body: Json) -> None:
    if kind == "whole":
        check_error(answer.status_code, answer.content, code="upstream_error")
        assert answer.status_code == 502
    elif kind == "stream":
        events = check_event_stream(answer.content, body)
        response = await ended(world.client, events[-1]["response"]["id"], "failed")
        ledger.check(response == events[-1]["response"], response)
        assert response["output"]
    else:
        ledger.check(await ended(world.client, answer.json()["id"], "failed"), answer)


@asynccontextmanager
async def revived(upstream: FakeUpstream) -> AsyncIterator[None]:
    """The same server on the same port again."""
    port = int(upstream.url.rpartition(":")[2])
    upstream.script(Script())
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.listen, port)
        yield
        nursery.cancel_scope.cancel()


async def test_a_model_server_that_only_says_that_it_is_alive_is_left_when_the_turn_s_time_is_over(
    database: Path,
) -> None:
    fault = Fault(Raw(EVENTS + CREATED, endless=b": still here\n\n"), 200, "turn_timeout", "took longer")
    async with open_faulty(database, fault, turn_timeout=0.5) as world:
        body = streamed()
        answer = await world.post("/v1/responses", body)
        ledger.fault()
        await check_told_why(world.client, answer.content, fault.code)


async def test_a_gateway_that_is_its_own_model_server_says_so(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    own = f"http://127.0.0.1:{port}"
    async with open_file_world(database, llm_api_base=own, port=port, max_concurrent_requests=10) as world:
        for body in ({}, {"stream": True}, {"store": False}):
            status, error = await world.refused(**body)
            ledger.fault()
            assert status == 508
            assert "leads back to this gateway" in error["message"]
        answer = await world.client.get("/ready")
        assert answer.status_code == 503
        assert "508" in answer.json()["reason"]
        assert world.gateway.admission.slots == 10
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert said == [f"the model server's address, 127.0.0.1:{port}, leads back to this gateway"]


# Retries


async def tries(world: World, body: Json) -> tuple[int, Any]:
    """How often the model server is asked for one request, and the answer."""
    before = len(world.upstream.requests)
    answer = await world.post("/v1/responses", body)
    ledger.fault()
    return len(world.upstream.requests) - before, answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_refusal_that_may_pass_is_tried_again_as_often_as_was_asked(
    database: Path, status: int, stream: bool
) -> None:
    script = Script(status=status, headers={"retry-after": "0"})
    body = {"model": MODEL, "input": "hi", "stream": stream}
    async with open_file_world(database, script, upstream_retries=2) as world:
        count, answer = await tries(world, body)
        assert (count, answer.status_code) == (3, status)
        answers = iter([script, script, HELLO])
        world.upstream.script(lambda _: next(answers))
        count, answer = await tries(world, body)
        assert (count, answer.status_code) == (3, 200)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_got_no_answer_is_tried_again(database: Path, stream: bool) -> None:
    answers = iter([Script(hang=True), HELLO])
    async with open_file_world(database, upstream_retries=1, idle_timeout=0.3) as world:
        world.upstream.script(lambda _: next(answers))
        count, answer = await tries(world, {"model": MODEL, "input": "hi", "stream": stream})
        assert (count, answer.status_code) == (2, 200)
        await world.upstream.wait_aborted(1)


async def test_nothing_is_tried_again_unless_that_was_asked_for(database: Path) -> None:
    async with open_file_world(database, Script(status=503, headers={"retry-after": "0"})) as world:
        count, answer = await tries(world, streamed())
        assert (count, answer.status_code) == (1, 503)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_a_refusal_that_will_not_pass_is_not_tried_again(database: Path, status: int) -> None:
    async with open_file_world(database, Script(status=status), upstream_retries=2) as world:
        count, answer = await tries(world, streamed())
        assert (count, answer.status_code) == (1, status)


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        (HELLO.varied(cut_after=0), True),
        (HELLO.varied(reset_after=4), True),
        (HELLO.varied(fail_after=4), True),
        (HELLO.varied(cut_after=0), False),
    ],
)
async def test_an_answer_that_has_begun_is_not_tried_again(
    database: Path, script: Script, stream: bool
) -> None:
    async with open_file_world(database, script, upstream_retries=2) as world:
        count, _ = await tries(world, {"model": MODEL, "input": "hi", "stream": stream})
        assert count == 1


async def test_a_retry_waits_as_long_as_it_was_told(database: Path) -> None:
    answers = iter([Script(status=503, headers={"retry-after": "1"}), HELLO])
    async with open_file_world(database, upstream_retries=1) as world:
        world.upstream.script(lambda _: next(answers))
        began = trio.current_time()
        count, answer = await tries(world, streamed())
        assert (count, answer.status_code) == (2, 200)
        assert trio.current_time() - began >= 1


async def test_leaving_while_a_retry_is_waited_for_ends_the_turn(database: Path) -> None:
    script = Script(status=503, headers={"retry-after": "30"})
    async with open_file_world(database, script, upstream_retries=1) as world:
        conversation = await world.converse()
        body = streamed(conversation=conversation)
        async with open_exchange(world.port) as client:
            await client.request("POST", "/v1/responses", body)
            await world.upstream.wait_requests(1)
            await client.reset()
            ledger.fault()
        with trio.fail_after(10):
            while (await world.refused(conversation=conversation))[1]["code"] == "conversation_locked":
                world.upstream.script(Script(status=400))


async def test_a_relay_shows_a_broken_answer_as_broken(database: Path) -> None:
    """The client of a relay must not take half an answer for whole."""
    async with (
        open_file_world(database, HELLO.varied(cut_after=6)) as world,
        open_exchange(world.port) as client,
    ):
        await client.request("POST", "/v1/responses", streamed(store=False))
        with pytest.raises(Exception, match="without sending complete message body"):
            await client.read()
        ledger.fault()
        assert json.loads(client.body.split(b"data: ")[1].split(b"\n")[0])["type"] == "response.created"
