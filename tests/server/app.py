"""An ASGI app with a path for each behaviour of a server."""

import json
from typing import Any

import trio

BIG = 3 * 1024 * 1024


class App:
    """Records what it saw in ``log``."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._logged = trio.Event()
        self.release = trio.Event()
        self.bodies: list[bytes] = []

    def record(self, entry: str) -> None:
        self.log.append(entry)
        self._logged.set()
        self._logged = trio.Event()

    async def has_seen(self, *entries: str, patience: float = 5) -> None:
        with trio.fail_after(patience):
            while not all(self.log.count(entry) >= entries.count(entry) for entry in entries):
                await self._logged.wait()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.record(scope["path"])
        name = scope["path"].strip("/").replace("-", "_") or "echo"
        await getattr(self, name)(scope, receive, send)

    async def echo(self, scope: Any, receive: Any, send: Any) -> None:
        body = await read_body(receive)
        self.bodies.append(body)
        await respond(send, 200, body)

    async def scope(self, scope: Any, receive: Any, send: Any) -> None:
        shown = {**scope, "headers": [[n.decode(), v.decode()] for n, v in scope["headers"]]}
        shown = {k: v.decode() if isinstance(v, bytes) else v for k, v in shown.items()}
        await respond(send, 200, json.dumps(shown).encode())

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def big(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(BIG // 65536):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def bidirectional(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async def refuse(self, scope: Any, receive: Any, send: Any) -> None:
        await respond(send, 413, b"too large")

    async def no_content(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def not_modified(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"etag", b'"1"')]
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def close(self, scope: Any, receive: Any, send: Any) -> None:
        await respond(send, 200, b"bye", (b"connection", b"close"))

    async def fail(self, scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("before the response")

    async def fail_late(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("after the response began")

    async def stop_early(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})

    async def silent(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    async def wait(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer when released, unless the client goes first."""
        try:
            await read_body(receive)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, receive, nursery.cancel_scope)
                await self.release.wait()
                nursery.cancel_scope.cancel()
            if "disconnect" not in self.log:
                await respond(send, 200, b"released")
        except (trio.Cancelled, BaseExceptionGroup):
            self.record("cancelled")
            raise

    async def _watch(self, receive: Any, scope: trio.CancelScope) -> None:
        message = await receive()
        assert message["type"] == "http.disconnect"
        self.record("disconnect")
        scope.cancel()

    async def flood(self, scope: Any, receive: Any, send: Any) -> None:
        """Send for ever."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        except OSError:
            self.record("gone")
            raise
        except trio.Cancelled:
            self.record("cancelled")
            raise

    async def early_head(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await self.release.wait()
        await send({"type": "http.response.body", "body": b"late", "more_body": False})


class Disconnected(Exception):
    pass


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message["body"]
        if not message["more_body"]:
            return body


async def respond(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
