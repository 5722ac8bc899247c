"""The gateway's configuration: every setting, declared once; frozen, and checked when it is made."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import string
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from agentic_trio.errors import ConfigError
from agentic_trio.settings import (
    CONFIG_VARIABLE,
    Found,
    Setting,
    Source,
    printable,
    read_file,
    read_flags,
    read_variables,
    setting,
    settings_of,
    warn_of_unknown_variables,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

SQLITE = "sqlite://"
IN_MEMORY = ":memory:"

WAYS_IN = ("keys", "oidc")
"""What a client can prove who it is by."""

ALGORITHMS = (
    *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)),
    "EdDSA",
)
"""What tokens may be signed with. Not with a secret that the gateway knows as well."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that may be spoken to without TLS."""

MODEL_SERVER = "Model server"
LISTENING = "Listening"
ACCESS = "Access"
STORE = "Store"
TURNS = "Turns"
LIMITS = "Limits"
TOOLS = "Tools"
API = "API"
OPERATIONS = "Operations"


def parse_names(text: str) -> tuple[str, ...]:
    """A comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_origins(text: str) -> tuple[str, ...]:
    """A comma-separated list of origins."""
    return tuple(origin.rstrip("/") for origin in parse_names(text))


def parse_bases(text: str) -> str:
    """One URL as it is; several without the spaces around their commas."""
    return ",".join(parse_names(text)) if "," in text else text


def _check_bases(bases: str) -> str | None:
    problems = [problem for base in bases.split(",") if (problem := _check_base(base))]
    if problems:
        return problems[0]
    origins = _origins(bases)
    return None if len(set(origins)) == len(origins) else "names a model server twice"


def _origins(bases: str) -> tuple[str, ...]:
    return tuple(base.rstrip("/").removesuffix("/v1") for base in bases.split(","))


def parse_root(text: str) -> str:
    """A path without a slash at its end."""
    return text.rstrip("/")


def _check_root(path: str) -> str | None:
    if not path:
        return None
    fine = path.startswith("/") and path.isascii() and path.isprintable()
    if fine and "//" not in path and not set(path) & set(" ?#%"):
        return None
    return "must be a path such as /llm, without spaces, ?, # and %"


def _check_networks(names: tuple[str, ...]) -> str | None:
    for name in names:
        if name not in ("*", "unix"):
            try:
                ipaddress.ip_network(name, strict=False)
            except ValueError:
                return f"must be addresses, networks, unix or *, not {name[:100]!r}"
    return None


def _check_base(base: str) -> str | None:
    # urlsplit() drops tabs and line breaks without a word; httpx then fails on them at each request.
    if not base.isprintable() or " " in base:
        return "must be a URL without spaces, tabs, line breaks and other control characters"
    shown = _redacted(base)
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError:
        return f"is not a URL: {shown!r}"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return f"must be an http:// or https:// URL, not {shown!r}"
    if parts.username is not None or parts.query or parts.fragment:
        return "must be without user, query and fragment"
    return _check_host(parts.hostname)


def _check_host(host: str) -> str | None:
    if not host:
        return "must not be empty"
    try:
        host.encode("idna")
    except UnicodeError:
        return "is not the name of a host"
    return None if host.isprintable() else "is not the name of a host"


def _check_key(key: str | None) -> str | None:
    if key is None or (key.isascii() and key.isprintable() and key == key.strip()):
        return None
    return "has characters that no HTTP header can carry"


def _check_names(names: tuple[str, ...]) -> str | None:
    # They are compared with what a header says.
    if all(each.isascii() and each.isprintable() and " " not in each for each in names):
        return None
    return "must be names in ASCII without spaces, separated by commas"


def _check_auth(ways: tuple[str, ...]) -> str | None:
    for way in ways:
        if way not in WAYS_IN:
            return f"must be {' or '.join(WAYS_IN)}, or both with a comma between them, not {way!r}"
    return None


def _check_issuer(url: str | None) -> str | None:
    problem = None if url is None else _check_base(url)
    if problem is None and url is not None and url.startswith("http://"):
        host = urlsplit(url).hostname
        return None if host in LOOPBACK else "must be an https:// URL"
    return problem


def _check_algorithms(names: tuple[str, ...]) -> str | None:
    wrong = [name for name in names if name not in ALGORITHMS]
    if wrong or not names:
        return f"must be some of {', '.join(ALGORITHMS)}" + (f", not {wrong[0]!r}" if wrong else "")
    return None


def _check_template(template: str) -> str | None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return "must be a text with claims in braces"
    fields = [field for _, field, _, _ in parts if field is not None]
    if not fields or not all(fields) or any(spec or conversion for _, _, spec, conversion in parts):
        return "must have the name of a claim in braces, such as {sub}"
    return _check_path(template)


def _check_database(url: str) -> str | None:
    if not url.startswith(SQLITE) or len(url) == len(SQLITE):
        return f"must be {SQLITE} and a path, not {_redacted(url)!r}"
    if "?" in url or "#" in url:
        return f"must be {SQLITE} and a path, without ? and #: it takes no parameters"
    return None if url.isprintable() else "has characters that can't be printed"


_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def parse_lines(text: str) -> tuple[str, ...]:
    """A list, separated by commas or by line breaks."""
    return parse_names(text.replace("\n", ","))


def _check_mcp_servers(servers: tuple[str, ...]) -> str | None:
    labels = set()
    for each in servers:
        label, separator, url = each.partition("=")
        if not separator or not _LABEL.fullmatch(label):
            return "must be LABEL=URL, where a label is letters, digits, - and _, and begins with a letter"
        if label in labels:
            return f"names two servers {label!r}"
        labels.add(label)
        if problem := _check_tool_url(url):
            return f"{problem} ({label})"
    return None


def _check_tool_url(url: str) -> str | None:
    """What is wrong with the address of an MCP server, which may hold secrets."""
    if not url.isprintable() or " " in url:
        return "must have URLs without spaces and control characters"
    try:
        parts = urlsplit(url)
        wrong = parts.port == 0 or parts.scheme not in ("http", "https") or not parts.hostname
    except ValueError:
        wrong = True
    return "must have http:// or https:// URLs" if wrong else None


def _check_mcp_tokens(tokens: tuple[str, ...]) -> str | None:
    for each in tokens:
        name, separator, value = each.partition("=")
        label, colon, header = name.partition(":")
        if not separator or not value or not _LABEL.fullmatch(label):
            return "must be LABEL=TOKEN or LABEL:HEADER=VALUE"
        if (colon and not _HEADER.fullmatch(header)) or _check_key(value):
            return f"has a value that no HTTP header can carry ({label})"
    return None


def _check_mcp_hosts(hosts: tuple[str, ...]) -> str | None:
    for each in hosts:
        try:
            parts = urlsplit(f"//{each}")
            wrong = (
                not each.isascii()
                or " " in each
                or not each.isprintable()
                or parts.netloc != each
                or "@" in each
                or not parts.hostname
                or parts.port == 0
            )
        except ValueError:
            wrong = True
        if wrong:
            return f"must be names of hosts, with or without a port, or public, not {each!r}"
    return None


def _check_search_server(name: str) -> str | None:
    label = (name or "label").partition("/")[0]
    return None if _LABEL.fullmatch(label) else "must be the label of an MCP server, or LABEL/TOOL"


def _check_path(path: str | None) -> str | None:
    return None if path is None or path.isprintable() else "has characters that can't be printed"


def _redacted(url: str) -> str:
    """A URL as it may be shown: without the user and password that it may hold."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}" if "@" in rest else url


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a gateway needs to know. Times are in seconds, sizes in bytes.

    ``SETTINGS`` has what is declared here, by name; docs/configuration.md shows it.

    Attributes:
        found: what was read from flags, variables and a file; :meth:`source_of` looks there.

    Raises:
        ConfigError: a value can't be used. The message is one line and names the field.
    """

    llm_api_base: str = setting(
        "http://localhost:8000",
        "--llm-api-base",
        group=MODEL_SERVER,
        aliases=("LLM_API_BASE",),
        unit="URL",
        repeatable=True,
        parse=parse_bases,
        check=_check_bases,
        help="the model server, an http:// or https:// URL; several by repeating it",
        more="A trailing `/v1` makes no difference. Several are separated by commas in a variable, and an "
        "array in a file: [Several model servers](upstreams.md#several-model-servers).",
    )
    openai_api_key: str | None = setting(
        None,
        "--openai-api-key",
        group=MODEL_SERVER,
        aliases=("OPENAI_API_KEY",),
        unit="key",
        secret=True,
        check=_check_key,
        help="the bearer token for requests that bring none",
        more="A flag shows in the process list: prefer a variable or a file.",
    )
    client_auth: Literal["forward", "replace"] = setting(
        "forward",
        "--client-auth",
        group=MODEL_SERVER,
        help="what becomes of a client's bearer token",
        more="`forward`: a client's `Authorization` goes to the model server, for that request only. "
        "`replace`: `openai_api_key` goes instead, whatever the client sent; "
        "for SDKs that send a made-up key.",
    )
    connect_timeout: float = setting(
        10.0,
        "--connect-timeout",
        group=MODEL_SERVER,
        above=0,
        unit="seconds",
        help="how long connecting to the model server may take",
    )
    idle_timeout: float = setting(
        600.0,
        "--idle-timeout",
        group=MODEL_SERVER,
        above=0,
        unit="seconds",
        help="how long the model server may be silent",
        more="This holds before its headers and between two reads.",
    )
    upstream_retries: int = setting(
        0,
        "--upstream-retries",
        group=MODEL_SERVER,
        at_least=0,
        unit="times",
        help="how often a call is tried again that failed before any output",
    )
    host: str = setting(
        "127.0.0.1",
        "--host",
        group=LISTENING,
        aliases=("GATEWAY_HOST",),
        check=_check_host,
        help="the address to listen on",
    )
    port: int = setting(
        9000,
        "--port",
        group=LISTENING,
        aliases=("GATEWAY_PORT",),
        at_least=0,
        at_most=65535,
        help="the port to listen on; 0 takes a free one",
        more="The port is printed.",
    )
    uds: str | None = setting(
        None,
        "--uds",
        group=LISTENING,
        unit="path",
        check=_check_path,
        help="a Unix socket to listen on instead, for its user and group alone",
    )
    fd: int = setting(
        0,
        "--fd",
        group=LISTENING,
        at_least=0,
        help="the descriptor of an open socket to listen on instead; 0 is none",
        more="Sockets that systemd passes on (`LISTEN_FDS`) need no setting.",
    )
    certfile: str | None = setting(
        None,
        "--certfile",
        group=LISTENING,
        unit="path",
        check=_check_path,
        reloads=True,
        help="the certificate, with its chain, to serve TLS with",
    )
    keyfile: str | None = setting(
        None,
        "--keyfile",
        group=LISTENING,
        unit="path",
        check=_check_path,
        reloads=True,
        help="the certificate's private key, if that isn't in certfile",
    )
    keyfile_password: str | None = setting(
        None,
        "--keyfile-password",
        group=LISTENING,
        unit="password",
        secret=True,
        reloads=True,
        check=_check_path,
        help="what keyfile is encrypted with",
        more="A flag shows in the process list: prefer a variable or a file.",
    )
    root_path: str = setting(
        "",
        "--root-path",
        group=LISTENING,
        unit="path",
        parse=parse_root,
        check=_check_root,
        help="the path under which a proxy serves the gateway, such as /llm",
        more="Requests are served with it and without it, as a proxy may take it off.",
    )
    forwarded_allow_ips: tuple[str, ...] = setting(
        (),
        "--forwarded-allow-ips",
        group=LISTENING,
        unit="addresses",
        parse=parse_names,
        check=_check_networks,
        help="the proxies whose X-Forwarded-For, -Proto and -Host count",
        more="Addresses and networks, separated by commas; `unix` is whoever connects to a Unix socket, and "
        "`*` is anybody. What others send in these headers is ignored.",
    )
    owner_turns_per_minute: int = setting(
        0,
        "--owner-turns-per-minute",
        group=LIMITS,
        reloads=True,
        at_least=0,
        unit="requests",
        help="how many requests to the model server an owner may begin in any minute; 0 is no limit",
        more="More are refused with 429. For one owner, `agentic-trio owners set` says otherwise.",
    )
    owner_turns_at_once: int = setting(
        0,
        "--owner-turns-at-once",
        group=LIMITS,
        reloads=True,
        at_least=0,
        unit="requests",
        help="how many requests to the model server an owner may have at once; 0 is no limit",
        more="More are refused with 429; background turns wait.",
    )
    owner_tokens_per_day: int = setting(
        0,
        "--owner-tokens-per-day",
        group=LIMITS,
        reloads=True,
        at_least=0,
        unit="tokens",
        help="how many tokens an owner may use in a day of UTC, in and out; 0 is no limit",
        more="Requests that begin later are refused with 429.",
    )
    cache_salt: bool = setting(
        False,
        "--cache-salt",
        group=MODEL_SERVER,
        help="keep the model server's prefix caches of different owners apart",
        more="Each request has a `cache_salt` then, which vLLM knows. Otherwise an owner could find out by "
        "timing what another has sent; with it, owners share no prompt's cache.",
    )
    cors_allowed_origins: tuple[str, ...] = setting(
        (),
        "--cors-allowed-origins",
        group=LISTENING,
        aliases=("CORS_ALLOWED_ORIGINS",),
        unit="origins",
        parse=parse_origins,
        check=_check_names,
        help="the origins whose pages may call, separated by commas; * is any",
        more="In a file it can be an array too.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        "--allowed-hosts",
        group=LISTENING,
        unit="hosts",
        parse=parse_names,
        check=_check_names,
        help="the names by which clients may call, separated by commas",
        more="A gateway on loopback takes loopback's own names too, and refuses every other `Host`: a page "
        "could make its name resolve there. Elsewhere every name is taken unless some are given.",
    )
    auth: tuple[str, ...] = setting(
        (),
        "--auth",
        group=ACCESS,
        unit="ways",
        parse=parse_names,
        check=_check_auth,
        help="how clients prove who they are: keys, oidc, or keys,oidc; without it nobody has to",
        more="`keys`: those that `agentic-trio keys create` makes. `oidc`: the tokens of `oidc_issuer`. "
        "A client's credential never goes to the model server: `openai_api_key` does, or what is stored with "
        "its key.",
    )
    oidc_issuer: str | None = setting(
        None,
        "--oidc-issuer",
        group=ACCESS,
        unit="URL",
        check=_check_issuer,
        help="the issuer of tokens, for auth with oidc, as its tokens name it in iss",
        more="Its keys are found through `/.well-known/openid-configuration`. Needs the extra `oidc`.",
    )
    oidc_audience: str | None = setting(
        None,
        "--oidc-audience",
        group=ACCESS,
        unit="name",
        check=_check_path,
        help="what a token must name in aud",
    )
    oidc_algorithms: tuple[str, ...] = setting(
        ("RS256", "ES256"),
        "--oidc-algorithms",
        group=ACCESS,
        unit="names",
        parse=parse_names,
        check=_check_algorithms,
        help="the algorithms that a token may be signed with, separated by commas",
        more="Those of private and public keys: RS, PS and ES with 256, 384 or 512, and EdDSA.",
    )
    oidc_leeway: float = setting(
        60.0,
        "--oidc-leeway",
        group=ACCESS,
        at_least=0,
        at_most=3600,
        unit="seconds",
        help="how far the issuer's clock may be off",
    )
    oidc_owner: str = setting(
        "{sub}",
        "--oidc-owner",
        group=ACCESS,
        unit="template",
        check=_check_template,
        help="whose state a token's holder sees: a text with claims in braces",
        more="`oidc:{sub}` keeps them apart from the owners of keys. If it has several claims, these are "
        "percent-encoded.",
    )
    oidc_scope_claim: str | None = setting(
        None,
        "--oidc-scope-claim",
        group=ACCESS,
        unit="claim",
        check=_check_path,
        help="the claim that says what a holder may do; without one, all may read and write",
        more="It is a text of words or a list, with `read`, `write` or `admin` among them; each may have "
        "`agentic-trio:` in front. A token without any of them is refused with 403.",
    )
    open: bool = setting(
        False,
        "--open",
        group=ACCESS,
        help="let everyone in who reaches an address that isn't loopback's",
        more="Without it, such a `host` is refused unless there is an `auth`.",
    )
    keys_file: str | None = setting(
        None,
        "--keys-file",
        group=ACCESS,
        unit="path",
        check=_check_path,
        help="the file that keys, and what owners may use, are kept in",
        more="Without it, it is the database's name with `.keys` behind it. Several gateways may share one.",
    )
    graceful_timeout: float = setting(
        20.0,
        "--graceful-timeout",
        group=LISTENING,
        at_least=0,
        unit="seconds",
        help="how long requests may go on after SIGTERM or SIGINT",
        more="What still runs then is recorded as `cancelled`, and its client is told.",
    )
    db_url: str = setting(
        "sqlite://./agentic_api.db",
        "--db-url",
        group=STORE,
        aliases=("DATABASE_URL",),
        unit="URL",
        check=_check_database,
        help="the database, sqlite:// and a path",
        more="The path is relative (`sqlite://./here.db`) or absolute (`sqlite:///var/lib/there.db`). "
        "`sqlite://:memory:` keeps nothing after the end.",
    )
    seal_keys_file: str | None = setting(
        None,
        "--seal-keys-file",
        group=STORE,
        unit="path",
        check=_check_path,
        help="the keys that seal what clients carry, one a line",
        more="The first one seals, all of them open, so that a key can be replaced. A key is 32 random bytes "
        "in URL-safe base64. Without a file, one key is made and kept in the database. Needs the extra "
        "`seal`.",
    )
    replay_retention: float = setting(
        86_400.0,
        "--replay-retention",
        group=STORE,
        at_least=0,
        unit="seconds",
        help="how long the events of an ended stream can be read again; 0 keeps none",
        more="They are read with `GET /v1/responses/{id}?stream=true`. The response itself stays.",
    )
    migration_backup: bool = setting(
        True,
        "--migration-backup",
        group=STORE,
        help="copy a database of an older version before it is migrated",
        more="The copy is `<file>.schema-<version>`. Without room for it, the gateway doesn't start.",
    )
    retention_days: float = setting(
        0.0,
        "--retention-days",
        group=STORE,
        at_least=0,
        unit="days",
        help="how long responses and unused conversations are kept; 0 keeps them for ever",
        more="A response goes that many days after it was created, a conversation after it was last used. "
        "What a newer response or conversation has in its history stays as long as that does.",
    )
    erase_after: float = setting(
        60.0,
        "--erase-after",
        group=STORE,
        above=0,
        unit="seconds",
        help="how long what was deleted stays in the database's files, at least",
        more="It may take twice as long, and as long as the turns take that were running then: these may "
        "continue what was deleted.",
    )
    turn_timeout: float = setting(
        3600.0,
        "--turn-timeout",
        group=TURNS,
        above=0,
        unit="seconds",
        help="how long a turn may take",
        more="The time runs from the call of the model server on.",
    )
    commit_timeout: float = setting(
        30.0,
        "--commit-timeout",
        group=TURNS,
        above=0,
        unit="seconds",
        help="how long a turn that has ended waits for its commit",
        more="After that its client is sent no ending; `GET` returns it.",
    )
    on_disconnect: Literal["cancel", "finish"] = setting(
        "cancel",
        "--on-disconnect",
        group=TURNS,
        help="what becomes of a stored turn whose client disconnects",
        more="`cancel`: the call of the model server is closed and what had arrived is kept. "
        "`finish`: the turn goes on and can be fetched. "
        "The header `X-On-Disconnect` decides for one request.",
    )
    conversation_wait: float = setting(
        0.0,
        "--conversation-wait",
        group=TURNS,
        at_least=0,
        unit="seconds",
        help="how long a request waits for a busy conversation; 0 refuses at once",
        more="The refusal has the code `conversation_locked`.",
    )
    max_background: int = setting(
        100,
        "--max-background",
        group=TURNS,
        above=0,
        unit="turns",
        help="how many background turns run at once",
        more="The others are `queued`.",
    )
    keep_alive_interval: float = setting(
        15.0,
        "--keep-alive-interval",
        group=TURNS,
        above=0,
        unit="seconds",
        help="how long a stream may be silent before it is sent a comment",
        more="A proxy would cut a stream that is silent for long.",
    )
    bridge_silence: bool = setting(
        True,
        "--bridge-silence",
        group=TURNS,
        help="begin a stream whose model server is silent for keep_alive_interval",
        more="Otherwise a proxy may cut it before the first token. What it costs: a refusal that comes "
        "later is told as events, without a status and `retry-after`.",
    )
    max_request_body_size: int = setting(
        10 * 1024 * 1024,
        "--max-request-body-size-bytes",
        group=LIMITS,
        above=0,
        unit="bytes",
        help="how large a request's body may be",
        more="Larger bodies are refused with 413.",
    )
    max_concurrent_requests: int = setting(
        1000,
        "--max-concurrent-requests",
        group=LIMITS,
        above=0,
        unit="requests",
        help="how many requests may be at the model server at once",
        more="More are refused with 429 and `retry-after`.",
    )
    max_held_bytes: int = setting(
        1024 * 1024 * 1024,
        "--max-held-bytes",
        group=LIMITS,
        above=0,
        unit="bytes",
        help="how much of bodies and histories may be in memory at once",
        more="What would be more is refused with 429 and `retry-after`.",
    )
    max_connections: int = setting(
        10_000,
        "--max-connections",
        group=LIMITS,
        above=0,
        unit="clients",
        help="how many clients may be connected at once",
    )
    write_timeout: float = setting(
        30.0,
        "--write-timeout",
        group=LIMITS,
        above=0,
        unit="seconds",
        help="how long a client may take nothing of what it is sent",
    )
    mcp_servers: tuple[str, ...] = setting(
        (),
        "--mcp-server",
        group=TOOLS,
        unit="label=url",
        secret=True,
        repeatable=True,
        parse=parse_lines,
        check=_check_mcp_servers,
        help="an MCP server whose tools requests may use by its label; may be given again",
        more="A variable or a file has several, separated by commas or line breaks. Needs the extra `mcp`.",
    )
    mcp_tokens: tuple[str, ...] = setting(
        (),
        "--mcp-token",
        group=TOOLS,
        unit="label=token",
        secret=True,
        repeatable=True,
        parse=parse_lines,
        check=_check_mcp_tokens,
        help="the bearer token of an MCP server, or with LABEL:HEADER=VALUE a header",
        more="It is sent to that server only. A flag shows in the process list: prefer a variable or a file.",
    )
    mcp_allow_hosts: tuple[str, ...] = setting(
        (),
        "--mcp-allow-host",
        group=TOOLS,
        unit="host[:port]",
        repeatable=True,
        parse=parse_names,
        check=_check_mcp_hosts,
        help="a host on which requests may name MCP servers of their own; may be given again",
        more="`public` is every host whose addresses are all public. A host without a port stands for the "
        "scheme's own. Unless some are allowed, a request can't send the gateway anywhere.",
    )
    web_search_server: str = setting(
        "",
        "--web-search-server",
        group=TOOLS,
        unit="label[/tool]",
        check=_check_search_server,
        help="the MCP server that runs the tool web_search",
        more="Without a tool's name, its first tool is taken whose name holds `search`.",
    )
    mcp_list_timeout: float = setting(
        10.0,
        "--mcp-list-timeout",
        group=TOOLS,
        above=0,
        unit="seconds",
        help="how long connecting to an MCP server and listing its tools may take",
    )
    mcp_call_timeout: float = setting(
        60.0,
        "--mcp-call-timeout",
        group=TOOLS,
        above=0,
        unit="seconds",
        help="how long one call of a tool may take",
        more="The model is told that the tool did not answer.",
    )
    mcp_list_age: float = setting(
        300.0,
        "--mcp-list-age",
        group=TOOLS,
        at_least=0,
        unit="seconds",
        help="how long the list of a server's tools is used again",
        more="A list that is in the history is used whatever its age.",
    )
    max_mcp_tools: int = setting(
        128,
        "--max-mcp-tools",
        group=TOOLS,
        above=0,
        unit="tools",
        help="how many tools of one MCP server a request may offer",
        more="With more, the request is refused with 424: it can choose some with `allowed_tools`.",
    )
    max_mcp_list_bytes: int = setting(
        64 * 1024,
        "--max-mcp-list-bytes",
        group=TOOLS,
        above=0,
        unit="bytes",
        help="how much the descriptions and schemas of one server's tools may take",
        more="With more, the request is refused with 424.",
    )
    max_mcp_answer_bytes: int = setting(
        4 * 1024 * 1024,
        "--max-mcp-answer-bytes",
        group=TOOLS,
        above=0,
        unit="bytes",
        help="how much an MCP server may send in one answer",
        more="With more, the call fails.",
    )
    max_tool_result_bytes: int = setting(
        256 * 1024,
        "--max-tool-result-bytes",
        group=TOOLS,
        above=0,
        unit="bytes",
        help="how much of one call's result the model and the client get",
        more="The rest is cut off, with a note.",
    )
    max_turn_results_bytes: int = setting(
        1024 * 1024,
        "--max-turn-results-bytes",
        group=TOOLS,
        above=0,
        unit="bytes",
        help="how much all results of one response may take",
        more="Then further results are cut to nothing, with a note.",
    )
    max_parallel_calls: int = setting(
        8,
        "--max-parallel-calls",
        group=TOOLS,
        above=0,
        unit="calls",
        help="how many calls of one response run at once",
    )
    max_tool_rounds: int = setting(
        16,
        "--max-tool-rounds",
        group=TOOLS,
        above=0,
        unit="rounds",
        help="how often the model is asked in one response",
        more="The last time it is asked to call nothing.",
    )
    strict_parameters: bool = setting(
        False,
        "--strict-parameters",
        group=API,
        help="refuse unknown members of a request, as OpenAI does",
        more="Otherwise they are sent on or, for conversations, ignored.",
    )
    list_endpoints: bool = setting(
        False,
        "--list-endpoints",
        group=API,
        help="serve lists of responses and conversations",
        more="`GET /v1/responses` and `GET /v1/conversations` are not in OpenAI's API.",
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        "--log-format",
        group=OPERATIONS,
        help="how lines of the log look: for people or for programs",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        "--log-level",
        group=OPERATIONS,
        reloads=True,
        help="the least that the log tells",
        more="A line for each request is `info`.",
    )
    log_requests: bool = setting(
        True,
        "--log-requests",
        group=OPERATIONS,
        help="write a line of the log for each request",
    )
    log_probes: bool = setting(
        False,
        "--log-probes",
        group=OPERATIONS,
        help="write one also for /health, /ready and /metrics",
    )
    metrics: bool = setting(
        True,
        "--metrics",
        group=OPERATIONS,
        help="count what happens, for Prometheus",
        more="`/metrics` answers programs of this machine, or with `--auth` an admin's key.",
    )
    metrics_port: int = setting(
        0,
        "--metrics-port",
        group=OPERATIONS,
        at_least=0,
        at_most=65535,
        unit="port",
        help="serve the metrics on this port too, to whoever reaches it; 0 is none",
    )
    metrics_host: str = setting(
        "127.0.0.1",
        "--metrics-host",
        group=OPERATIONS,
        check=_check_host,
        help="the address that metrics_port is on",
    )
    found: dict[str, Found] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, each in SETTINGS.items():
            if problem := each.problem(getattr(self, name)):
                setter = self.source_of(name).name
                raise ConfigError(f"{problem} (set by {printable(setter)})" if setter else problem)
        if self.client_auth == "replace" and not self.openai_api_key:
            raise ConfigError("client_auth is replace, but there is no openai_api_key to replace with")
        if "oidc" in self.auth and not (self.oidc_issuer and self.oidc_audience):
            raise ConfigError("auth has oidc, which needs oidc_issuer and oidc_audience")
        if self.uds is not None and self.fd:
            raise ConfigError("uds and fd are both given: give one of them")
        if "keys" in self.auth:
            # Raises, where there is no such path.
            _ = self.keys_path

    def check_tools(self) -> None:
        """Refuse what is configured for an MCP server that isn't there. Raises ConfigError."""
        labels = {each.partition("=")[0] for each in self.mcp_servers}
        tokens = {each.partition("=")[0].partition(":")[0] for each in self.mcp_tokens}
        searched = {self.web_search_server.partition("/")[0]} if self.web_search_server else set()
        for name, used in (("mcp_tokens", tokens), ("web_search_server", searched)):
            if unknown := used - labels:
                raise ConfigError(f"{name} is for {min(unknown)!r}, but mcp_servers has no such label")

    @property
    def upstream_origins(self) -> tuple[str, ...]:
        """Each model server's URL without a trailing ``/v1``: what a path is put behind."""
        return _origins(self.llm_api_base)

    @property
    def database_path(self) -> str:
        """The database's file: what follows ``sqlite://``."""
        return self.db_url.removeprefix(SQLITE)

    @property
    def keys_path(self) -> str:
        """The file of keys. Raises ConfigError if the database, which it would be beside, is in memory."""
        if self.keys_file:
            return self.keys_file
        if self.database_path == IN_MEMORY:
            raise ConfigError("the database is in memory, so keys need a keys_file")
        return f"{self.database_path}.keys"

    def source_of(self, name: str) -> Source:
        """Where the value of a setting came from."""
        value, found = getattr(self, name), self.found.get(name)
        # dataclasses.replace() may have put another value in its place.
        if found is not None and found.value is value:
            return found.source
        return Source("default" if value == SETTINGS[name].default else "program")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, /, **overrides: Any) -> Config:
        """The configuration that the environment gives; ``overrides`` that are not None win.

        Raises:
            ConfigError: a value can't be read or used.
        """
        given = {
            name: Found(value, Source("program")) for name, value in overrides.items() if value is not None
        }
        return cls._read(os.environ if environ is None else environ, None, given)

    @classmethod
    def from_command(
        cls, flags: Mapping[str, Any], file: str | None = None, environ: Mapping[str, str] | None = None
    ) -> Config:
        """The configuration of a command: flags win over variables, these over the file.

        Args:
            flags: field -> text; None for a flag that was not given.
            file: the configuration file; None for the one that ``AGENTIC_TRIO_CONFIG`` names, if any.
            environ: the environment; None for the process's.

        Raises:
            ConfigError: a value can't be read or used.
        """
        return cls._read(os.environ if environ is None else environ, file, read_flags(SETTINGS, flags))

    @classmethod
    def _read(cls, environ: Mapping[str, str], file: str | None, given: Mapping[str, Found]) -> Config:
        warn_of_unknown_variables(SETTINGS, environ)
        file = file or environ.get(CONFIG_VARIABLE)
        in_file = read_file(SETTINGS, file) if file else {}
        found = {**in_file, **read_variables(SETTINGS, environ), **given}
        return cls(**{name: each.value for name, each in found.items()}, found=found)


SETTINGS: Mapping[str, Setting] = MappingProxyType(settings_of(Config))
"""Field -> what is declared of it."""

ENVIRONMENT = {alias: name for name, each in SETTINGS.items() for alias in each.aliases}
"""Environment variable -> field. The names that users of such gateways set already."""


def log_sources(config: Config) -> None:
    """Log which variables and which file a configuration came from: their names, no values.

    Nothing is logged if it came from neither.
    """
    used = {config.source_of(name) for name in config.found}
    names = sorted(f"{kind} {printable(name)}" for kind, name in used if kind in ("variable", "file"))
    if names:
        logging.getLogger(__name__).info("settings come from %s", ", ".join(names))
