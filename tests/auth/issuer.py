"""A small OpenID Connect issuer on a real socket: its configuration, its key set, and a token endpoint."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import jwt
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AUDIENCE = "gateway"


@dataclass
class SigningKey:
    """A private key, and what the set says of its public half."""

    kid: str
    algorithm: str
    private: Any

    def published(self) -> dict[str, Any]:
        kinds = {"RS": RSAAlgorithm, "PS": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}
        public = kinds[self.algorithm[:2]].to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig"}


def new_key(kid: str, algorithm: str = "ES256") -> SigningKey:
    makers = {
        "ES": lambda: ec.generate_private_key(ec.SECP256R1()),
        "Ed": ed25519.Ed25519PrivateKey.generate,
        "RS": lambda: rsa.generate_private_key(65537, 2048),
        "PS": lambda: rsa.generate_private_key(65537, 2048),
    }
    return SigningKey(kid, algorithm, makers[algorithm[:2]]())


@dataclass
class Issuer:
    """The issuer, and what a test may change of it.

    Attributes:
        url: its ``iss``.
        keys: those that it publishes; it signs with the last.
        asked: the paths that were requested.
        down: whether it answers nothing but 503.
        padding: bytes that its key set is longer by.
    """

    url: str
    keys: list[SigningKey] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    down: bool = False
    padding: int = 0

    def token(self, *, key: SigningKey | None = None, header: Any = None, **claims: Any) -> str:
        """A token as the token endpoint issues it; claims that are None are left out."""
        now = int(time.time())
        standard = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300}
        payload = {name: value for name, value in (standard | claims).items() if value is not None}
        signing = key or self.keys[-1]
        return jwt.encode(
            payload, signing.private, signing.algorithm, headers={"kid": signing.kid} | (header or {})
        )

    def document(self, path: str) -> Any:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", "token_endpoint": f"{self.url}/token"}
        if path == "/keys":
            return {"keys": [each.published() for each in self.keys], "padding": " " * self.padding}
        return {"access_token": self.token(), "token_type": "Bearer", "expires_in": 300}

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += (part := await stream.receive_some())
                if not part:
                    return
            path = head.split(b" ")[1].decode()
            body = b"" if self.down else json.dumps(self.document(path)).encode()
            status = b"503 Unavailable" if self.down else b"200 OK"
            lines = [b"HTTP/1.1 " + status, b"content-type: application/json", b"connection: close"]
            lines += [b"content-length: %d" % len(body), b"", body]
            await stream.send_all(b"\r\n".join(lines))


@asynccontextmanager
async def open_issuer_server(*keys: SigningKey) -> AsyncIterator[Issuer]:
    async with trio.open_nursery() as nursery:
        issuer = Issuer("", list(keys) or [new_key("one")])

        async def answer(stream: trio.SocketStream) -> None:
            try:
                await issuer.serve(stream)
            except trio.BrokenResourceError:
                return

        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        issuer.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield issuer
        nursery.cancel_scope.cancel()
