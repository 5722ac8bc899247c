"""Tokens of an OpenID Connect issuer: which are let in, as whom, and what the others cost."""

from __future__ import annotations

import base64
import hmac
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from agentic_trio import Config, ConfigError
from agentic_trio.auth import key_set, oidc
from agentic_trio.auth.authenticator import open_authenticator
from agentic_trio.auth.oidc import owner_of
from agentic_trio.errors import GatewayError

from .issuer import AUDIENCE, Issuer, new_key, open_issuer_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentic_trio.auth.authenticator import Authenticator
    from agentic_trio.context import Identity


@asynccontextmanager
async def opened(issuer: Issuer, **config: Any) -> AsyncIterator[Authenticator]:
    settings = {
        "db_url": "sqlite://:memory:",
        "auth": ("oidc",),
        "oidc_issuer": issuer.url,
        "oidc_audience": AUDIENCE,
    } | config
    async with open_authenticator(Config(**settings), time.time) as authenticator:
        assert authenticator is not None
        yield authenticator


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with open_issuer_server() as issuer:
        yield issuer


async def identify(authenticator: Authenticator, token: str) -> Identity:
    return await authenticator.identify([(b"authorization", b"Bearer " + token.encode())])


async def status(authenticator: Authenticator, token: str) -> int:
    """The status that a token is refused with."""
    with pytest.raises(GatewayError) as caught:
        await identify(authenticator, token)
    assert token not in caught.value.message
    return caught.value.status


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed_with_what_is_public(text: str, secret: str) -> str:
    signature = hmac.digest(secret.encode(), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_a_good_token_lets_its_subject_in(issuer: Issuer):
    async with opened(issuer) as authenticator:
        identity = await identify(authenticator, issuer.token())
        assert (identity.owner, identity.scope, identity.brings_upstream_key) == ("alice", "write", False)


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "EdDSA"])
async def test_a_token_may_be_signed_as_is_configured(algorithm: str):
    async with open_issuer_server(new_key("k", algorithm)) as issuer:
        async with opened(issuer, oidc_algorithms=(algorithm,)) as authenticator:
            assert (await identify(authenticator, issuer.token())).owner == "alice"
        async with opened(issuer, oidc_algorithms=("ES512",)) as authenticator:
            assert await status(authenticator, issuer.token()) == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another"},
        {"aud": None},
        {"aud": ["one", "another"]},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 257},
    ],
    ids=lambda claims: str(claims)[:30],
)
async def test_a_token_that_is_not_for_now_and_here_is_refused(issuer: Issuer, claims: dict[str, Any]):
    async with opened(issuer) as authenticator:
        assert await status(authenticator, issuer.token(**claims)) == 401


async def test_a_token_that_nobody_of_ours_signed_is_refused(issuer: Issuer):
    async with opened(issuer, oidc_algorithms=("ES256", "RS256")) as authenticator:
        good = issuer.token()
        head, payload, signature = good.split(".")
        forged = part({"iss": issuer.url, "aud": AUDIENCE, "sub": "root", "exp": 4_000_000_000})
        public = json.dumps(issuer.keys[0].published())
        wrong = [
            f"{head}.{forged}.{signature}",
            f"{head}.{payload}.",
            f"{head}.{payload}.AAAA",
            f"{part({'alg': 'none'})}.{payload}.",
            f"{part({'alg': 'none', 'kid': 'one'})}.{payload}.",
            f"{part({'alg': 'None', 'kid': 'one'})}.{payload}.{signature}",
            f"{part({'alg': 'RS256', 'kid': 'one'})}.{payload}.{signature}",
            f"{part({'alg': 'ES256', 'kid': ['one']})}.{payload}.{signature}",
            f"{part({'alg': ['ES256'], 'kid': 'one'})}.{payload}.{signature}",
            f"{part([])}.{payload}.{signature}",
            signed_with_what_is_public(f"{part({'alg': 'HS256', 'kid': 'one'})}.{forged}", public),
            issuer.token(header={"crit": ["x"], "x": 1}),
            issuer.token(key=new_key("one")),
            "..",
            "a.b.c",
            "\xff.\xff.\xff",
            f"{'A' * 20_000}..",
            base64.urlsafe_b64encode(b"[" * 11_000).decode() + "..",
        ]
        for token in wrong:
            assert await status(authenticator, token.encode("latin-1").decode("latin-1")) == 401, token[:100]
        assert (await identify(authenticator, good)).owner == "alice"


async def test_the_key_that_a_token_brings_along_is_not_used(issuer: Issuer):
    other = new_key("other")
    async with opened(issuer) as authenticator:
        for header in ({"jwk": other.published()}, {"jku": "http://127.0.0.1:1/"}, {"kid": "one"}):
            assert await status(authenticator, issuer.token(key=other, header=header)) == 401


async def test_the_issuer_s_clock_may_be_a_little_off(issuer: Issuer):
    now = int(time.time())
    async with opened(issuer, oidc_leeway=60) as authenticator:
        for claims in ({"exp": now - 30}, {"nbf": now + 30}, {"iat": now + 30}):
            assert (await identify(authenticator, issuer.token(**claims))).owner == "alice"
        assert await status(authenticator, issuer.token(exp=now - 90)) == 401


async def test_a_checked_token_is_not_checked_again_and_still_expires(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
):
    checked = []
    decode = jwt.decode
    monkeypatch.setattr(oidc.jwt, "decode", lambda *a, **k: (checked.append(a), decode(*a, **k))[1])
    async with opened(issuer, oidc_leeway=0) as authenticator:
        token = issuer.token(exp=int(time.time()) + 20)
        for _ in range(3):
            await identify(authenticator, token)
        assert len(checked) == 1
        later = time.time() + 20
        monkeypatch.setattr(authenticator._issuer, "_now", lambda: later)
        monkeypatch.setattr(oidc.jwt, "decode", decode)
        assert authenticator._issuer is not None
        checked_until = next(iter(authenticator._issuer._checked.values()))[1]
        assert checked_until <= later


# --------------------------------------------------------------------------- the issuer's keys


async def test_a_key_that_is_new_is_fetched_once(issuer: Issuer, monkeypatch: pytest.MonkeyPatch):
    async with opened(issuer) as authenticator:
        await identify(authenticator, issuer.token())
        issuer.keys.append(new_key("two"))
        fetched = issuer.asked.count("/keys")
        # So soon after the last fetch, nobody's unknown key causes another.
        for _ in range(5):
            assert await status(authenticator, issuer.token()) == 401
        assert issuer.asked.count("/keys") == fetched
        monkeypatch.setattr(key_set, "RETRY_INTERVAL", 0.0)
        assert (await identify(authenticator, issuer.token())).owner == "alice"
        assert issuer.asked.count("/keys") == fetched + 1


async def test_an_issuer_that_is_down_ends_nothing_that_is_known(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(key_set, "RETRY_INTERVAL", 0.0)
    async with opened(issuer) as authenticator:
        issuer.down = True
        for number in range(3):
            assert await status(authenticator, issuer.token(key=new_key(f"unknown {number}"))) == 401
            assert (await identify(authenticator, issuer.token(jti=str(number)))).owner == "alice"
        assert [each.levelname for each in caplog.records if "keys of the issuer" in each.message] == [
            "ERROR"
        ]


async def test_a_gateway_starts_without_its_issuer(issuer: Issuer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(key_set, "RETRY_INTERVAL", 0.0)
    issuer.down = True
    async with opened(issuer) as authenticator:
        assert await status(authenticator, issuer.token()) == 503
        issuer.down = False
        assert (await identify(authenticator, issuer.token())).owner == "alice"


async def test_a_key_set_of_a_megabyte_is_not_read(issuer: Issuer):
    issuer.padding = 1_000_000
    async with opened(issuer) as authenticator:
        assert await status(authenticator, issuer.token()) == 503


async def test_a_set_with_too_many_keys_or_with_secrets_is_not_used(issuer: Issuer):
    published = issuer.keys[0].published()
    with pytest.raises(ValueError, match="more than"):
        key_set.usable_keys([published] * (key_set.MAX_KEYS + 1))
    for useless in (
        {"kty": "oct", "k": "AAAA", "kid": "one", "alg": "HS256"},
        {**published, "use": "enc"},
        {**published, "crv": "unknown"},
        {},
    ):
        with pytest.raises(ValueError, match="no key"):
            key_set.usable_keys([useless])


@pytest.mark.parametrize("member", ["alg", "kid", "crv", "x", "y", "kty"])
@pytest.mark.parametrize("value", [5, None, ["a"], {}, "!", "AQAB"])
async def test_a_malformed_key_takes_none_of_the_others_away(issuer: Issuer, member: str, value: Any):
    published = issuer.keys[0].published()
    keys = key_set.usable_keys([{**published, "kid": "other", member: value}, published])
    assert published["kid"] in keys


async def test_a_document_that_is_nested_too_deeply_ends_no_gateway(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
):
    async def fetch(url: str, *, max_bytes: int) -> bytes:
        return b'{"issuer":"","jwks_uri":"","more":' + b"[" * 60_000

    monkeypatch.setattr(key_set, "fetch_document", fetch)
    async with opened(issuer) as authenticator:
        assert await status(authenticator, issuer.token()) == 503


async def test_another_issuer_s_configuration_is_refused(issuer: Issuer):
    async with opened(issuer, oidc_issuer=f"{issuer.url}/") as authenticator:
        assert await status(authenticator, issuer.token()) == 503


# --------------------------------------------------------------------------- owners and scopes


@pytest.mark.parametrize(
    ("template", "owner"),
    [
        ("{sub}", "alice"),
        ("oidc:{sub}", "oidc:alice"),
        ("{tenant}/{sub}", "a%2Fb/alice"),
        ("{missing}", None),
        ("{number}", None),
        ("{list}", None),
    ],
)
def test_an_owner_is_made_of_claims(template: str, owner: str | None):
    claims = {"sub": "alice", "tenant": "a/b", "number": 1, "list": ["x"]}
    assert owner_of(template, claims) == owner


@pytest.mark.parametrize(
    "template", ["", "plain", "{}", "{sub!r}", "{sub:>10}", "{sub", "{sub.__class__}", "{0[x]}"]
)
def test_a_template_is_a_text_with_claims(template: str):
    try:
        Config(oidc_owner=template)
    except ConfigError:
        return
    assert owner_of(template, {"sub": "alice"}) is None


@pytest.mark.parametrize(
    ("claim", "scope"),
    [
        ("read", "read"),
        ("openid profile agentic-trio:write", "write"),
        (["read", "admin"], "admin"),
        ("", 403),
        ("openid", 403),
        ("writer", 403),
        (None, 403),
        (7, 403),
        ([["admin"]], 403),
    ],
    ids=str,
)
async def test_a_claim_says_what_a_holder_may_do(issuer: Issuer, claim: Any, scope: str | int):
    async with opened(issuer, oidc_scope_claim="scp") as authenticator:
        token = issuer.token(scp=claim)
        if isinstance(scope, int):
            assert await status(authenticator, token) == scope
        else:
            assert (await identify(authenticator, token)).scope == scope


async def test_keys_and_tokens_let_in_side_by_side(issuer: Issuer, tmp_path: Any):
    file = str(tmp_path / "some.keys")
    async with opened(issuer, auth=("keys", "oidc"), keys_file=file) as authenticator:
        assert (await identify(authenticator, issuer.token())).owner == "alice"
        assert await status(authenticator, "agt_nothing") == 401
        assert await status(authenticator, "sk-something") == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_issuer": None},
        {"oidc_audience": None},
        {"oidc_issuer": "http://issuer.example"},
        {"oidc_algorithms": ("none",)},
        {"oidc_algorithms": ("HS256",)},
        {"oidc_algorithms": ()},
    ],
    ids=str,
)
def test_what_would_let_anyone_in_can_t_be_configured(wrong: dict[str, Any]):
    good = {"auth": ("oidc",), "oidc_issuer": "https://issuer.example", "oidc_audience": "gateway"}
    Config(**good)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="oidc_"):
        Config(**(good | wrong))
